"""Runs the model's Python code where it can harm nothing: each call in a fresh isolated process, or not at all.

How a call travels: `SandboxClient` (in each process of the run) connects to the node's server over a Unix socket;
a free worker of the server takes the call on. The worker has a warm parent, an interpreter that has imported
numpy, sympy and friends inside a tree that holds nothing else (`runtime`) and in a network without a device, and has
it fork a child into new user, pid, mount, ipc and uts namespaces, with a scratch file system of its own (`warm`,
`warm_inside`), one ahead of the next call (`supply`). The child gives up its capabilities, gets its limits and a system
call filter (`inside`, `seccomp`) and runs the code; the worker watches it, kills it at a
limit, and reaps it (`worker`, `calls`). Where a host allows namespaces to bubblewrap alone, a call is a bubblewrap
process of its own (`bubblewrap`).

Guaranteed: no network, no file of the host but the interpreter, its libraries and five packages (read-only),
no environment, no descriptor but the three standard ones, no capability, no way to gain one, no process that
outlives its call, no call that outlives its client, nothing of a call that another one sees. Limits on time,
memory, processes, files and output end the call with a reason. Not guaranteed: protection from a kernel bug, from
CPU side channels or from programs that conspire through futexes on library pages while both run; secrecy of the address
layout and of the hash seed, which the calls of a warm parent share.
Without cgroups (an ordinary user on most hosts) the memory of several processes together is bounded by looking 20
times a second, and kernel memory (such as pipes) only by the time limits.
"""

from ctpo.sandbox.client import SandboxClient, require_isolation
from ctpo.sandbox.hosting import SandboxServer, node_server
from ctpo.sandbox.limits import Limits
from ctpo.sandbox.results import ExecutionResult, Reason, SandboxUnavailable

__all__ = [
    "ExecutionResult",
    "Limits",
    "Reason",
    "SandboxClient",
    "SandboxServer",
    "SandboxUnavailable",
    "node_server",
    "require_isolation",
]
