"""Files of face networks that are loaded by other people's code: known by their hash before they are opened."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

from ffbench.errors import UserError

SCRFD = "5838f7fe053675b1c7a08b633df49e7af5495cee0493c7dcf6697200b85b5b91"
"""antelopev2's detector, scrfd_10g_bnkps.onnx."""
BISENET = "468e13ca13a9b43cc0881a9f99083a430e9c0a38abd935431d1c28ee94b26567"
"""facexlib v0.2.0, parsing_bisenet.pth."""

LIST = "SHA256SUMS"
"""A user's own list of hashes beside the files, as the program sha256sum writes it."""
_LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")


def own(folder: Path, published: Mapping[str, str], sha256: str) -> dict[str, str]:
    """The hashes that files must have, where a user vouches for others than the published ones.

    A folder cannot vouch for itself, so its list counts only under the hash that the user gives for it. What the list
    does not name stays as published.

    Args:
        folder: holds `SHA256SUMS`, and the files.
        published: file below the folder -> sha256.
        sha256: of `SHA256SUMS`, 64 hex digits.

    Raises:
        UserError: a list that is missing, another one, not of that form, or naming a file that nothing opens.
    """
    path = folder / LIST
    if not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise UserError(f"pins = {sha256!r} is no sha256", f"give the one of {path}: --set pins=64 hex digits")
    if not path.is_file():
        raise UserError(
            f"{path}, which pins={sha256[:12]} stands for, is not there", f"write it: sha256sum ... > {LIST}"
        )
    listed = path.read_bytes()
    if (found := hashlib.sha256(listed).hexdigest()) != sha256:
        raise UserError(
            f"{path} has sha256 {found[:12]}, not {sha256[:12]}", f"if you trust what it lists: --set pins={found}"
        )
    hashes = dict(published)
    for line in listed.decode("utf-8", "replace").splitlines():
        match = _LINE.fullmatch(line)
        name = match[2].removeprefix("./") if match else ""
        if match is None or name not in published:
            raise UserError(f"{path}: {line[:120]!r} is no sha256 of {', '.join(published)}", f"mend the list, {LIST}")
        hashes[name] = match[1]
    return hashes


def check(files: Mapping[Path, str], fix: str) -> None:
    """Make sure that files are there and are what is expected.

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
