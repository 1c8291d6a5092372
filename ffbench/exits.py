"""How a command line ends: its exit codes, in one place for `ffbench` and `faithfulfaces`."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Callable
from typing import Any

import typer

from ffbench.errors import UserError

_DISK = {
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.EEXIST, errno.EISDIR,
}  # fmt: skip
"""What a disk says that is full, not ours, or has a file where a folder should be; the program could do no better."""
_USAGE = typer.BadParameter.__mro__[1]
"""Everything that is wrong with the words of a command; Typer names but this kind of it."""
_STOPPED = 130
_MEND = "choose a folder that you may write to and that has room (df -h); {again}"


def run_app(app: Callable[..., object], again: str) -> None:
    """Call a Typer application; two lines and 2 for what the user can mend, a traceback and 3 for a bug.

    Args:
        app: a `typer.Typer`; where it is called with `standalone_mode=False`, it returns its exit code.
        again: said after Ctrl-C, which ends with 130: how to go on.
    """
    try:
        code = app(standalone_mode=False)
        if code == _STOPPED:
            raise KeyboardInterrupt
        sys.exit(code if isinstance(code, int) else 0)
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)
    except (KeyboardInterrupt, typer.Abort):
        sys.stderr.write(f"stopped; {again}\n")
        sys.exit(_STOPPED)
    except BrokenPipeError:
        # the reader of a pipe went away: nothing to say, and nothing to flush at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:  # noqa: BLE001 - the last fence: a bug leaves with its traceback and its own exit code
        if isinstance(error, _USAGE):
            if wrong := _of_usage(error):
                sys.stderr.write(f"{wrong}\n")
            sys.exit(2)
        if isinstance(error, OSError) and error.errno in _DISK:
            where = error.filename or "a file"
            sys.stderr.write(
                f"{UserError(f'{where} cannot be written: {error.strerror}', _MEND.format(again=again))}\n"
            )
            sys.exit(2)
        import traceback

        from ffbench.provenance import provenance

        traceback.print_exc()
        sys.stderr.write(f"this is a bug; please report it with: {json.dumps(provenance('cpu'))}\n")
        sys.exit(3)


def _of_usage(error: Any) -> UserError | None:
    """What Typer says of an unknown option, a value out of range or a missing argument; None where it gave help."""
    if not error.format_message():
        return None
    where = error.ctx.command_path if error.ctx else "the command"
    return UserError(" ".join(error.format_message().split()), f"{where} --help lists what it takes")
