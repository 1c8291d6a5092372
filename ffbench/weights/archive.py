"""Archives of weights: take out what is expected, refuse the rest, and pack so that equal files give equal bytes."""

from __future__ import annotations

import json
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import IO, Any

from ffbench.errors import UserError
from ffbench.progress import track

MOST_BYTES = 8 << 30
"""Cap for one member whose size nobody published."""
MOST_MEMBERS = 1000


def unzip(archive: Path, wanted: Mapping[str, int], folder: Path, inside: str) -> dict[str, Path]:
    """Take the wanted files out of a zip, wherever they lie in it under folders called `inside`.

    No name from the archive becomes a path, so nothing can land outside `folder`.

    Args:
        archive: the zip file.
        wanted: file name -> its size in bytes, 0 where unknown.
        folder: where the files are put.
        inside: name of the folders that may stand around them, as in `antelopev2/antelopev2/x.onnx`.

    Returns:
        file name -> path.

    Raises:
        UserError: damaged archive; a wanted file missing, there twice, or of another size.
    """
    found: dict[str, zipfile.ZipInfo] = {}
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with zipfile.ZipFile(archive) as source:
            for info in source.infolist():
                *around, name = PurePosixPath(info.filename).parts or ("",)
                if name not in wanted or info.is_dir() or any(part != inside for part in around):
                    continue
                if name in found:
                    raise _refused(archive, f"holds {name} twice")
                if info.file_size > MOST_BYTES or (wanted[name] and info.file_size != wanted[name]):
                    raise _refused(archive, f"holds {name} of {info.file_size} bytes, expected {wanted[name]}")
                found[name] = info
            lacking = sorted(set(wanted) - set(found))
            if lacking:
                raise _refused(archive, f"lacks {', '.join(lacking)}")
            for name, info in found.items():
                with source.open(info) as stream, (folder / name).open("wb") as out:
                    _copy(stream, out, info.file_size, archive)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise _refused(archive, f"is damaged: {error}") from error
    return {name: folder / name for name in wanted}


def write_tar(out: Path, members: Sequence[tuple[str, Path]], manifest: bytes) -> None:
    """Pack files under their names, with `manifest.json` first; the same files give the same bytes.

    The tar is not compressed: weights do not shrink.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(out.name + ".part")
    try:
        with tarfile.open(part, "w", format=tarfile.PAX_FORMAT) as tar:
            tar.addfile(_plain("manifest.json", len(manifest)), BytesIO(manifest))
            for name, path in track(sorted(members), "pack", "file"):
                with path.open("rb") as stream:
                    tar.addfile(_plain(name, path.stat().st_size), stream)
        part.replace(out)
    finally:
        part.unlink(missing_ok=True)


def untar(archive: Path, known: Mapping[str, int], folder: Path) -> dict[str, Path]:
    """Take everything out of a tar that `write_tar` made; one unknown member and nothing of it is used.

    Args:
        archive: an uncompressed tar.
        known: names that may be in it -> their size in bytes, 0 where unknown.
        folder: an empty folder for the files.

    Returns:
        name -> path, in the archive's order.

    Raises:
        UserError: damaged archive; a member that is unknown, no plain file, there twice, too large or too many.
    """
    found: dict[str, Path] = {}
    room = shutil.disk_usage(folder).free
    try:
        with tarfile.open(archive, "r:") as tar:
            for member in tar:
                name = member.name
                if name not in known or not member.isreg() or member.issparse():
                    raise _refused(archive, f"holds {name!r}, which is no file of weights that ffbench knows")
                if name in found or len(found) >= MOST_MEMBERS:
                    raise _refused(archive, f"holds {name} twice, or too many files")
                if member.size > MOST_BYTES or (known[name] and member.size != known[name]):
                    raise _refused(archive, f"holds {name} of {member.size} bytes, expected {known[name]}")
                room -= member.size
                if room < 0:
                    raise UserError(f"no room in {folder.parent} for what {archive} holds", "free some space")
                tar.extract(member, folder, set_attrs=False, filter="data")
                found[name] = folder / name
    except tarfile.TarError as error:
        raise _refused(archive, f"is damaged or no plain tar: {error}") from error
    except FileNotFoundError as error:
        raise UserError(f"there is no archive {archive}", "give the file that `ffbench weights pack` made") from error
    return found


def read_manifest(archive: Path, found: Mapping[str, Path]) -> dict[str, str]:
    """The sha256 that the manifest among the files of an archive states for each of the others.

    Raises:
        UserError: no manifest, one of another form, or one that leaves a file out.
    """
    try:
        if found["manifest.json"].stat().st_size > 1 << 20:
            raise _refused(archive, "has a manifest of more than 1 MiB")
        data: Any = json.loads(found["manifest.json"].read_bytes())
        stated = {str(name): str(facts["sha256"]) for name, facts in data["files"].items() if data["format"] == 1}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise _refused(archive, "has no manifest that this version reads") from error
    lacking = sorted(set(found) - set(stated) - {"manifest.json"})
    if lacking:
        raise _refused(archive, f"does not state the sha256 of {', '.join(lacking)}")
    return stated


def _copy(stream: IO[bytes], out: IO[bytes], size: int, archive: Path) -> None:
    left = size
    while chunk := stream.read(min(1 << 20, left + 1)):
        left -= len(chunk)
        if left < 0:
            raise _refused(archive, "holds more than it says")
        out.write(chunk)


def _plain(name: str, size: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size = size
    info.mode = 0o644
    return info


def _refused(archive: Path, why: str) -> UserError:
    return UserError(f"{archive} {why}", "get the archive again; nothing of it was used")
