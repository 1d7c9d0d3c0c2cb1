"""What the commands share: their arguments, and how they end."""

from __future__ import annotations

import argparse
import errno
import sys
from collections.abc import Callable, Sequence

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ctpo.records import Stopped
from experiments.compose import GROUPS, choices, composed_sweep
from experiments.errors import BadRequest

# Exit codes: 0 done, 1 what was started failed, 2 the request is wrong (nothing was started), 3 stopped as asked.
FAILED, USAGE, STOPPED, INTERRUPTED = 1, 2, 3, 130
#: Of the file system, and a person's to mend: no right to write, a read-only disk, no room, a file for a folder.
_PLACES = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.EISDIR,
           errno.EEXIST, errno.ENOENT, errno.ENAMETOOLONG, errno.ELOOP)  # fmt: skip


class RunFailed(RuntimeError):
    """Something was started and ended badly; the message names the log."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C; the message says what was done and how it goes on."""


def refuse(problems: Sequence[str]) -> None:
    """Raises BadRequest if there are any."""
    if problems:
        raise BadRequest(*problems)


def parsed(text: str, arguments: Sequence[str], *flags: tuple[str, str]) -> argparse.Namespace:
    """The arguments of a command that takes `name=value`, as `overrides`.

    Args:
        text: what --help says before it lists groups and options; its second line shows how the command is called.
        arguments: of the command line.
        flags: further options without a value, each with its help.
    """
    groups = "\n".join(f"  {name}: {', '.join(choices(name))}" for name in GROUPS)
    parser = argparse.ArgumentParser(
        usage="%(prog)s [option ...] [group=choice ...] [field=value ...]",
        description=f"{text.strip()}\n\nGroups:\n{groups}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for flag, said in flags:
        parser.add_argument(*flag.split(), action="store_true", help=said)
    parser.add_argument("--cfg", choices=["job"], help="print the configuration of each run and stop")
    parser.add_argument("overrides", nargs="*", metavar="name=value", help="a group's choice or a field's value")
    options = parser.parse_intermixed_args(arguments)
    if options.cfg:
        for _, config in composed_sweep(options.overrides):
            print(OmegaConf.to_yaml(config), end="")
        sys.exit(0)
    return options


def ended(main: Callable[[list[str]], int]) -> int:
    """The exit code of `main` for this process' arguments.

    What a person can bring about ends in one line on stderr; any other exception is a fault of the program and keeps
    its traceback.
    """
    try:
        return main(sys.argv[1:])
    except BadRequest as error:
        return _said(error.report(), USAGE)
    except OmegaConfBaseException as error:
        return _said(f"error: {error.full_key}: {str(error).splitlines()[0]}", USAGE)
    except Stopped as stop:
        return _said(str(stop), STOPPED)
    except RunFailed as failure:
        return _said(str(failure), FAILED)
    except KeyboardInterrupt as interrupt:
        return _said(str(interrupt) or "interrupted; the same command again goes on", INTERRUPTED)
    except BrokenPipeError:
        return FAILED  # whoever read the output has gone
    except OSError as error:
        if error.errno not in _PLACES or error.filename is None:
            raise
        return _said(f"error: {error.filename}: {error.strerror}; name a place that can be written to", FAILED)


def _said(message: str, code: int) -> int:
    print(message, file=sys.stderr)
    return code
