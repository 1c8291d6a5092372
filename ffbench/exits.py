"""How a command line ends: its exit codes, in one place for `ffbench` and `faithfulfaces`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable

from ffbench.errors import UserError


def run_app(app: Callable[[], object], again: str) -> None:
    """Call a Typer application; two lines and 2 for what the user can mend, a traceback and 3 for a bug.

    Args:
        app: leaves by `SystemExit` itself when all is well.
        again: said after Ctrl-C, which ends with 130: how to go on.
    """
    try:
        app()
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.stderr.write(f"stopped; {again}\n")
        sys.exit(130)
    except BrokenPipeError:
        # the reader of a pipe went away: nothing to say, and nothing to flush at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception:  # noqa: BLE001 - the last fence: a bug leaves with its traceback and its own exit code
        import traceback

        from ffbench.provenance import provenance

        traceback.print_exc()
        sys.stderr.write(f"this is a bug; please report it with: {json.dumps(provenance('cpu'))}\n")
        sys.exit(3)
