"""Files of face networks that are loaded by other people's code: known by their hash before they are opened."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from ffbench.errors import UserError

SCRFD = "5838f7fe053675b1c7a08b633df49e7af5495cee0493c7dcf6697200b85b5b91"
"""antelopev2's detector, scrfd_10g_bnkps.onnx."""
BISENET = "468e13ca13a9b43cc0881a9f99083a430e9c0a38abd935431d1c28ee94b26567"
"""facexlib v0.2.0, parsing_bisenet.pth."""


def check(files: Mapping[Path, str], fix: str) -> None:
    """Make sure that files are there and are the published ones.

    Args:
        files: path -> sha256.
        fix: where to get them, for the message.

    Raises:
        UserError: naming the first file that is missing or another one.
    """
    absent = [path for path in files if not path.is_file()]
    if absent:
        more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
        raise UserError(f"{absent[0]} is not on this machine{more}", fix)
    for path, wanted in files.items():
        with path.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        if found != wanted:
            raise UserError(f"{path} has sha256 {found[:12]}, not {wanted[:12]}", fix)
