"""The small process between a run and its sandboxed calls: prepares the isolation once, keeps workers alive.

Started as `python -I -S` with a control socket, it stages the tree (as root), finds the cgroups, forks one
worker per concurrent call, and then only waits: for a worker that dies, which it replaces, or for its
client to go, which ends everything. It holds nothing of the run: no environment, no descriptor but its end
of the socket.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import signal
import socket
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

from ctpo.sandbox import bubblewrap, cgroups, seccomp, system
from ctpo.sandbox.limits import Limits
from ctpo.sandbox.results import SandboxUnavailable
from ctpo.sandbox.runtime import build_layout
from ctpo.sandbox.worker import Worker

_RESPAWN_PAUSE_S = 0.1


@dataclass
class _Prepared:
    """What every worker is made from, and one line that says what isolates."""

    arguments: list[str]
    bpf: bytes
    limits: Limits
    groups: list[cgroups.Cgroup]
    root: bool
    summary: str


def main(argv: list[str]) -> int:
    """`argv`: descriptor of the control socket, configuration as JSON (see `client`)."""
    control = socket.socket(fileno=int(argv[0]))
    control.set_inheritable(False)
    config = json.loads(argv[1])
    limits = Limits(**config["limits"])
    client = os.getppid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the client's to handle
    try:
        prepared = _prepare(config["bubblewrap"], config["packages"], limits, config["concurrency"])
    except (SandboxUnavailable, OSError) as error:
        control.send(json.dumps({"error": str(error)}).encode())
        return 1
    control.send(json.dumps({"summary": prepared.summary}).encode())
    try:
        _keep_workers(prepared, control, config["concurrency"], client)
    finally:
        for group in prepared.groups:
            group.remove()
    return 0


def _prepare(bwrap: tuple[str, str], packages: dict[str, str], limits: Limits, concurrency: int) -> _Prepared:
    path, version = bwrap
    bpf = seccomp.filter_program()
    layout = build_layout(packages)
    root = os.geteuid() == 0
    # Before the private mount namespace, so that the host's view of the hierarchy counts.
    home = cgroups.find_home()
    groups = []
    if home:
        cgroups.sweep(home)
        groups = [cgroups.make(home, str(slot), limits) for slot in range(concurrency)]
    tree = bubblewrap.staged_arguments(system.stage(layout)) if root else bubblewrap.layout_arguments(layout)
    memory = (
        f"cgroup v{home.version} memory and pids" if home else "memory summed 20 times a second (no cgroup: weaker)"
    )
    who = "an unprivileged uid" if root else f"uid {os.geteuid()}"
    summary = f"bubblewrap {version} as {who}; no network; {len(seccomp.DENIED)} system calls denied; {memory}"
    return _Prepared(bubblewrap.command(path, tree, limits), bpf, limits, groups, root, summary)


def _keep_workers(prepared: _Prepared, control: socket.socket, concurrency: int, client: int) -> None:
    """Replace workers that die, until the client's end of the control socket closes or the client is gone."""
    system.adopt_orphans()
    wake_read, wake_write = os.pipe()
    for end in (wake_read, wake_write):
        os.set_blocking(end, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    gc.freeze()
    workers = {_spawn(prepared, control, slot): slot for slot in range(concurrency)}
    poll = select.poll()
    poll.register(control, 0)  # hang-up is always reported; what is readable belongs to the workers
    poll.register(wake_read, select.POLLIN)
    try:
        while os.getppid() == client:
            events = dict(poll.poll(1000))
            if control.fileno() in events:
                return
            if wake_read in events:
                os.read(wake_read, 4096)
            for pid in _dead_children():
                if pid in workers:
                    time.sleep(_RESPAWN_PAUSE_S)
                    slot = workers.pop(pid)
                    workers[_spawn(prepared, control, slot)] = slot
    finally:
        _kill_all(workers)


def _spawn(prepared: _Prepared, control: socket.socket, slot: int) -> int:
    launcher = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        group = prepared.groups[slot] if prepared.groups else None
        if group:
            group.enter()
        if prepared.root:
            # The kernel must never pick the supervisor when a call fills the group's memory.
            with contextlib.suppress(OSError):
                Path("/proc/self/oom_score_adj").write_text("-1000")
            system.become(system.unprivileged_uid(os.getpid()))
        system.adopt_orphans()
        system.die_with(launcher)
        Worker(prepared.arguments, prepared.bpf, prepared.limits, group).serve(control)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _dead_children() -> list[int]:
    dead = []
    with contextlib.suppress(ChildProcessError):
        while pid := os.waitpid(-1, os.WNOHANG)[0]:
            dead.append(pid)
    return dead


def _kill_all(workers: dict[int, int]) -> None:
    """Kill the workers; bubblewrap's own ties kill their calls; wait for the last process."""
    for pid in workers:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)
