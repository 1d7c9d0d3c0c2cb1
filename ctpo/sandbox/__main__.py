"""`python -m ctpo.sandbox doctor`."""

from __future__ import annotations

import argparse
import sys

from ctpo.sandbox.doctor import doctor


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: give a whole number of calls, at least 1")
    return int(text)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m ctpo.sandbox", description="The sandbox that runs the model's Python code."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("doctor", help="say what isolates calls on this host, attack it, time it (about 15 s)")
    check.add_argument("--calls", type=_positive, default=50, help="calls to time (default: %(default)s)")
    return doctor(parser.parse_args().calls)


if __name__ == "__main__":
    sys.exit(main())
