"""What a server inherits from the process that starts it: calls run all the same, or a message says at once why not."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys

import pytest

_CALL = """
import asyncio, signal
from ctpo.sandbox import Limits, SandboxClient, SandboxServer, SandboxUnavailable
async def main():
    server = SandboxServer(1, modules="")
    try:
        server.ready()
        client = SandboxClient(Limits(wall_s=60.0), 1, server=server)
        code = "import os, signal; print(oct(os.umask(0)), signal.pthread_sigmask(0, []), signal.getsignal(17).value)"
        print((await client.run(code, limits=Limits(wall_s=30.0))).stdout)
        print((await client.run("import time; time.sleep(99)", limits=Limits(wall_s=0.5))).reason)
    except SandboxUnavailable as error:
        print(error)
    server.close()
asyncio.run(main())
"""
_RUNS = ["0o22", "set()", "0", "timeout"]


def _said(before: str, *command: str) -> str:
    program = f"import os, signal, sys\n{before}\n{_CALL}"
    done = subprocess.run([*command, sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    return done.stdout


@pytest.mark.parametrize(
    "before",
    [
        "os.umask(0o077)",
        "os.umask(0o777)",
        "signal.signal(signal.SIGCHLD, signal.SIG_IGN)",
        "for s in signal.valid_signals() - {9, 19}: signal.signal(s, signal.SIG_IGN)",
        "signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())",
        "os.close(0); os.close(2)",
        "os.nice(19); os.chdir('/')",
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))",
        "import resource; resource.setrlimit(resource.RLIMIT_CORE, (-1, -1))",
    ],
)
def test_neither_mask_nor_signals_nor_limits_of_the_owner_reach_a_call(before: str) -> None:
    assert _said(before).split() == _RUNS


@pytest.mark.skipif(os.geteuid() != 0, reason="about root with fewer rights")
@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("unshare -Ur", "root here is the only user there is and cannot drop its rights: run as an ordinary user"),
        ("setpriv --bounding-set -setuid --inh-caps -setuid", "give the container CAP_SETUID and CAP_SETGID"),
        ("setpriv --bounding-set -setgid --inh-caps -setgid", "give the container CAP_SETUID and CAP_SETGID"),
        ("setpriv --bounding-set -sys_admin --inh-caps -sys_admin", "give the container CAP_SYS_ADMIN"),
        ("setpriv --bounding-set -all --inh-caps -all", "give the container CAP_SYS_ADMIN"),
    ],
)
def test_root_that_lacks_a_right_is_told_which(command: str, message: str) -> None:
    said = _said("", *command.split())
    assert said.startswith("sandbox: ")
    assert message in said


_TWO_CALLS = """
import asyncio
from ctpo.sandbox import Limits, SandboxClient, SandboxServer
BUSY = '''
import os, time
for i in range(20):
    if os.fork() == 0:
        try: os.setsid()
        except OSError: pass
        while True: pass
print("busy", flush=True)
time.sleep(100)
'''
HONEST = '''
import time
begun = time.process_time()
while time.process_time() < begun + 0.5: pass
print("done")
'''
async def main():
    server = SandboxServer(2, modules="")
    print("cgroup v" in server.ready())
    client = SandboxClient(Limits(wall_s=60.0), 2, server=server)
    await asyncio.gather(client.run("1"), client.run("1"))
    hostile = asyncio.ensure_future(client.run(BUSY, limits=Limits(wall_s=12.0)))
    await asyncio.sleep(1.0)
    print((await client.run(HONEST, limits=Limits(wall_s=4.0))).reason, hostile.done())
    hostile.cancel()
    server.close()
asyncio.run(main())
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone may take the cgroups away")
@pytest.mark.parametrize(
    ("command", "cgroup"), [("", "True"), ("unshare -m sh -c 'umount -a -t cgroup,cgroup2 && exec \"$@\"' -", "False")]
)
def test_a_call_of_many_busy_processes_takes_no_other_calls_time(command: str, cgroup: str) -> None:
    call = [*shlex.split(command), sys.executable, "-c", _TWO_CALLS]
    done = subprocess.run(call, capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == [cgroup, "ok", "False"], done.stderr
