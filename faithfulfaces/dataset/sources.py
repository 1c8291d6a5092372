"""Which videos a build reads, and the names of the clips cut from them."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import NamedTuple

from ffbench.errors import UserError

SUFFIXES = frozenset({".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".gif", ".ts", ".flv"})


class Source(NamedTuple):
    """One video file."""

    name: str
    """Path below the folder, or as the list has it; what records call it."""
    path: Path


def find(videos: Path) -> list[Source]:
    """Videos below a folder, by suffix, or those that a text file lists, a path a line relative to that file.

    Returns:
        In the order of their names.

    Raises:
        UserError: when there are none, or a list cannot be read or names a file twice.
    """
    if videos.is_dir():
        paths = [p for p in videos.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file()]
        found = [Source(p.relative_to(videos).as_posix(), p) for p in paths]
    elif videos.is_file() and videos.suffix.lower() not in SUFFIXES:
        try:
            lines = [line.strip() for line in videos.read_text("utf-8").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(
                f"--videos {videos} is no list: {error}", "give a text file, UTF-8, of a path a line"
            ) from error
        # a listed file that is missing becomes a record, like any other that cannot be read
        found = [Source(line, videos.parent / line) for line in lines if line and not line.startswith("#")]
    else:
        raise UserError(f"--videos {videos} is no folder and no list", "give a folder, or a text file of a path a line")
    if not found:
        raise UserError(f"--videos {videos} holds no video", f"suffixes that count: {', '.join(sorted(SUFFIXES))}")
    names = [source.name for source in found]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"--videos {videos} names {twice} twice", "remove one of the lines")
    return sorted(found)


def base(videos: Path) -> Path:
    """The folder that names of sources are relative to, for a folder of videos or a list.

    Raises:
        UserError: there is neither.
    """
    if not videos.exists():
        raise UserError(f"--videos {videos} is not there", "give the folder, or the list, that the build read")
    return videos if videos.is_dir() else videos.parent


def clip_key(source: str, piece: int) -> str:
    """Name of a clip: letters, digits, `-` and `_` of its source's stem, a digest of the whole name, the piece."""
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", Path(source).stem)[:40].strip("-") or "clip"
    return f"{stem}-{hashlib.sha256(source.encode()).hexdigest()[:10]}-{piece:03d}"
