"""Whether a worker sees what the caller sees: on another machine of a cluster it may not."""

from __future__ import annotations

import socket
from pathlib import Path

from ffbench.errors import UserError


def must_see(folder: Path) -> None:
    """Check that a folder of the caller is here too.

    Raises:
        UserError: if it is not; otherwise every file of it would seem to be gone.
    """
    if not folder.is_dir():
        raise UserError(
            f"a worker on {socket.gethostname()} does not see {folder}",
            "give --out on a file system that every node sees under one path, or run --shard I/N on each machine",
        )
