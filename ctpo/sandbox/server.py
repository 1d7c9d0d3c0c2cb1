"""The small process between a run and its sandboxed calls: prepares the isolation once, keeps workers alive.

Started as `python -I -S` with a control socket and a listening Unix socket, it stages the tree (as root), finds
the cgroups, forks one worker per concurrent call, and then only waits: for a worker that dies, which it
replaces, or for its owner to go, which ends everything. It holds nothing of the run: no environment, no
descriptor but these two.
"""

from __future__ import annotations

import contextlib
import gc
import json
import mmap
import os
import resource
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from ctpo.sandbox import cgroups, system
from ctpo.sandbox.bubblewrap import ColdStart, layout_arguments, staged_arguments
from ctpo.sandbox.calls import Ends
from ctpo.sandbox.cgroups import Cgroup
from ctpo.sandbox.limits import Limits
from ctpo.sandbox.memory_watch import children_of
from ctpo.sandbox.protocol import Request
from ctpo.sandbox.results import SandboxUnavailable
from ctpo.sandbox.runtime import Layout, build_layout
from ctpo.sandbox.supply import Starter
from ctpo.sandbox.warm import WARM, WarmStart
from ctpo.sandbox.worker import Worker

_RESPAWN_PAUSE_S = 0.1
_MOST_FAILED_STARTS = 5
_IGNORED = (signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ)


@dataclass
class _Prepared:
    """What every worker is made from, and one line that says what isolates."""

    starter: Callable[[Cgroup | None], Starter]
    groups: list[Cgroup | None]  # one per worker
    summary: str


def main(argv: list[str]) -> int:
    """`argv`: descriptors of the control and the listening socket, configuration as JSON (see `hosting`)."""
    control, listener = (socket.socket(fileno=int(fd)) for fd in argv[:2])
    for own in (control, listener):
        own.set_inheritable(False)
    config = json.loads(argv[2])
    owner = os.getppid()
    _forget_the_owner()
    try:
        prepared = _prepare(config)
    except (SandboxUnavailable, OSError) as error:
        control.send(json.dumps({"error": str(error)}).encode())
        return 1
    control.send(json.dumps({"summary": prepared.summary}).encode())
    try:
        _keep_workers(prepared, control, listener, owner)
    finally:
        for group in filter(None, prepared.groups):
            group.remove()
    return 0


def _forget_the_owner() -> None:
    """What a process inherits and the sandbox' processes would too: the mask of files, of signals, what is ignored.

    A crash dumps no core: at 0 the kernel would still feed a handler that is a pipe, and no file is of 1 byte.
    """
    os.umask(0o022)
    with contextlib.suppress(ValueError):  # an ordinary user may not raise a hard limit of 0
        resource.setrlimit(resource.RLIMIT_CORE, (1, 1))
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_IGN if number in _IGNORED else signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _prepare(config: dict[str, Any]) -> _Prepared:
    workers, limits = config["concurrency"], Limits()
    bpf = bytes.fromhex(config["filter"])
    layout = build_layout(config["packages"])
    # Before the private mount namespace, so that the host's view of the hierarchy counts.
    home = cgroups.find_home()
    groups: list[Cgroup | None] = [None] * workers
    if home:
        cgroups.sweep(home)
        groups = [cgroups.make(home, f"{slot}", limits) for slot in range(workers)]
    tree = _staged(layout) if os.geteuid() == 0 else layout
    obstacle = "" if config["warm"] else "as asked"
    if not obstacle:
        obstacle = _obstacle(tree, bpf)
    if obstacle.startswith("sandbox: ") or (obstacle and not config["bubblewrap"]):
        raise SandboxUnavailable(obstacle)

    for group in filter(None, groups if obstacle else ()):  # a warm parent is to outlive a call in its group
        group.die_as_one()

    def starter(group: Cgroup | None) -> Starter:
        if not obstacle:
            return WarmStart(tree, bpf, config["modules"], group)
        return ColdStart(config["bubblewrap"][0], _bubblewrap_arguments(tree), bpf, group)

    how = f"a process per call, by bubblewrap {config['bubblewrap'][1]} ({obstacle})" if obstacle else WARM
    memory = (
        f"cgroup v{home.version} memory, pids{' and cpu' * bool(home.cpu)}"
        if home
        else "memory summed 20 times a second (no cgroup: weaker)"
    )
    who = "an unprivileged uid" if os.geteuid() == 0 else f"uid {os.geteuid()}"
    namespaces = "new user, pid, mount, ipc, uts namespaces; an empty network and no sockets"
    summary = f"{how} as {who}; {namespaces}; {config['calls']} system calls allowed; {memory}"
    return _Prepared(starter, groups, summary)


def _staged(layout: Layout) -> str:
    try:
        return system.stage(layout)
    except OSError as error:
        raise SandboxUnavailable(
            f"sandbox: root may not mount here ({error}): give the container CAP_SYS_ADMIN, or run as an ordinary user"
        ) from error


def _bubblewrap_arguments(tree: str | Layout) -> list[str]:
    return staged_arguments(tree) if isinstance(tree, str) else layout_arguments(tree)


def _obstacle(tree: str | Layout, bpf: bytes) -> str:
    """Why no warm parent can fork a call on this host; empty if one can. Takes a tenth of a second."""
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        status = b"died"
        try:
            system.give_up_root()
            status = _try_warm(WarmStart(tree, bpf, "")).encode()
        except BaseException as error:
            status = str(error).encode() or b"died"
        finally:
            theirs.sendall(status)
            os._exit(0)
    theirs.close()
    with ours:
        said = b"".join(iter(lambda: ours.recv(4096), b""))
    os.waitpid(pid, 0)
    return said.decode("utf-8", "replace")


def _try_warm(starter: WarmStart) -> str:
    system.adopt_orphans()
    ours, theirs = socket.socketpair()
    read, write = os.pipe()
    request = Request(b"", Limits())
    try:
        started = starter.start(Ends(theirs.fileno(), write, write), request)
    except OSError as error:
        return str(error)
    finally:
        theirs.close()
        os.close(write)
    ours.settimeout(20)
    ours.sendall(request.order(started.data_mb, started.address_mb))
    works = ours.recv(1) == b"R"
    said = os.read(read, 4096).decode("utf-8", "replace")
    return "" if works else said or "a forked call died at its start"


def _keep_workers(prepared: _Prepared, control: socket.socket, listener: socket.socket, owner: int) -> None:
    """Replace workers that die, until the owner's end of the control socket closes or the owner is gone.

    Gives up when they no longer start: callers would wait in line for ever.
    """
    system.adopt_orphans()
    wake_read, wake_write = os.pipe()
    for end in (wake_read, wake_write):
        os.set_blocking(end, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    gc.freeze()
    serving = mmap.mmap(-1, len(prepared.groups))  # a byte per slot, that its worker sets
    failed_starts = [0] * len(prepared.groups)
    workers = {_spawn(prepared, listener, slot, serving): slot for slot in range(len(prepared.groups))}
    poll = select.poll()
    poll.register(control, select.POLLIN)
    poll.register(wake_read, select.POLLIN)
    try:
        while os.getppid() == owner:
            events = dict(poll.poll(1000))
            if control.fileno() in events:  # nothing is ever sent: its end
                return
            if wake_read in events:
                os.read(wake_read, 4096)
            for slot in [workers.pop(pid) for pid in _dead_children() if pid in workers]:
                failed_starts[slot] = 0 if serving[slot] else failed_starts[slot] + 1
                serving[slot] = 0
                if failed_starts[slot] >= _MOST_FAILED_STARTS and not any(serving[:]):
                    return
                _kill(set(children_of(os.getpid())) - set(workers))  # what a dead worker has left
                time.sleep(_RESPAWN_PAUSE_S)
                workers[_spawn(prepared, listener, slot, serving)] = slot
    finally:
        listener.close()
        _kill_all()


def _spawn(prepared: _Prepared, listener: socket.socket, slot: int, serving: mmap.mmap) -> int:
    server, user = os.getpid(), os.geteuid()
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        system.give_up_root()
        system.adopt_orphans()
        system.die_with(server)
        group = prepared.groups[slot]
        starter = prepared.starter(group)
        worker = Worker(starter, group, user)
        starter.ready()
        # A call makes hardly any cycles, and each collection would go through all that was imported.
        gc.freeze()
        gc.set_threshold(50_000)
        serving[slot] = 1
        worker.serve(listener)
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


def _kill(pids: Iterable[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _kill_all() -> None:
    """Kill the workers, whose deaths the kernel answers with their calls' (see `die_with`), and whatever is left."""
    with contextlib.suppress(ChildProcessError):
        while True:
            _kill(children_of(os.getpid()))
            os.waitpid(-1, 0)
