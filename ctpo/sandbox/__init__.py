"""Runs the model's Python code where it can harm nothing: a fresh isolated process per call, or none.

How a call travels: `SandboxClient` (in the run) hands the code over a socket to a worker of its launcher, a
small process that has prepared the isolation once and has given root up. The worker starts bubblewrap, which
makes new user, pid, mount, network, ipc and uts namespaces around a bare interpreter; see `runtime` for the
files in it, `seccomp` for the system calls it may not make, `inside` for its limits.

Guaranteed: no network, no file of the host but the interpreter, its libraries and five packages (read-only),
no environment, no descriptor but the three standard ones, no capability, no way to gain one, no process that
outlives its call, no call that outlives its client. Limits on time, memory, processes, files and output end
the call with a reason. Not guaranteed: protection from a kernel bug or from CPU side channels. Without
cgroups (an ordinary user on most hosts) the memory of several processes together is bounded by looking 20
times a second, and kernel memory (such as the inodes of empty files) only by the time limits.
"""

from ctpo.sandbox.client import SandboxClient, require_isolation
from ctpo.sandbox.limits import Limits
from ctpo.sandbox.results import ExecutionResult, Reason, SandboxUnavailable

__all__ = ["ExecutionResult", "Limits", "Reason", "SandboxClient", "SandboxUnavailable", "require_isolation"]
