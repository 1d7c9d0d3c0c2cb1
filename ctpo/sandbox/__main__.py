"""`python -m ctpo.sandbox doctor` and `python -m ctpo.sandbox serve`."""

from __future__ import annotations

import argparse
import os
import sys
from typing import NoReturn

from ctpo.sandbox.doctor import doctor
from ctpo.sandbox.limits import Limits
from ctpo.sandbox.results import SandboxUnavailable


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: give a whole number, at least 1")
    return int(text)


def _port(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r}: give a port from 1 to 65535")
    return int(text)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line; --help has the rest."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}\n")


def _serve(host: str, port: int, workers: int) -> int:
    from ctpo.sandbox.client import SandboxClient, require_isolation
    from ctpo.sandbox.http_front import serve

    try:
        require_isolation()
        serve(SandboxClient(Limits(), workers), host, port)
    except (ValueError, OSError, SandboxUnavailable) as error:
        print(f"FAILED: {error}", file=sys.stderr)
        return 1
    return 0


def main() -> int:
    parser = _Parser(prog="python -m ctpo.sandbox", description="The sandbox that runs the model's Python code.")
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("doctor", help="say what isolates calls on this host, attack it, time it (about 40 s)")
    check.add_argument("--calls", type=_positive, default=100, help="calls to time (default: %(default)s)")
    front = commands.add_parser("serve", help="answer SandboxFusion's POST /run_code on loopback until interrupted")
    front.add_argument("--host", default="127.0.0.1", help="a loopback address (default: %(default)s)")
    front.add_argument("--port", type=_port, default=8080, help="(default: %(default)s)")
    cores = len(os.sched_getaffinity(0))
    front.add_argument("--workers", type=_positive, default=cores, help="calls at once (default: one per core)")
    options = parser.parse_args()
    if options.command == "doctor":
        return doctor(options.calls)
    return _serve(options.host, options.port, options.workers)


if __name__ == "__main__":
    sys.exit(main())
