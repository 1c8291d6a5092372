"""Writing that outlives a kill: lines appended whole, files that are absent, old or complete."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file so that it is either absent, old or complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(prefix=".part-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        Path(part).chmod(0o644)
        Path(part).replace(path)
    except BaseException:
        Path(part).unlink(missing_ok=True)
        raise


def append(path: Path, lines: bytes) -> None:
    """Add whole lines; they are on the disk when this returns. The caller is the only writer meanwhile.

    A last line that a killed writer left torn is cut off first.

    Raises:
        OSError: when the disk is full or the folder cannot be written; the file is then as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # unbuffered: a buffer would be flushed once more on closing, after the cut
    with path.open("ab+", buffering=0) as stream:
        end = _cut(stream.fileno())
        try:
            rest = memoryview(lines)
            while rest:
                rest = rest[stream.write(rest) :]
            os.fsync(stream.fileno())
        except OSError:
            with suppress(OSError):
                os.ftruncate(stream.fileno(), end)  # a full disk must not leave half a line
            raise


def move_lines(parts: Sequence[Path], target: Path) -> None:
    """Put the whole lines of files behind those of another file, in order, and remove the files.

    Of equal lines among them the last one is kept. Called again after a kill it goes on where that one was: what it had
    put at the target's end is not put there twice. Nobody writes to any of the files meanwhile.

    Raises:
        OSError: when the disk is full or the folder cannot be written; nothing is lost then.
    """
    for path in (*parts, target):
        cut_torn_line(path)
    lines = [line for part in parts for line in part.read_bytes().splitlines(keepends=True)]
    lines = list(dict.fromkeys(reversed(lines)))[::-1]
    if rest := lines[_moved(lines, target) :]:
        append(target, b"".join(rest))
    for part in parts:
        part.unlink()
    # a file that comes back after the machine has lost power would put its old lines behind newer ones
    with suppress(OSError):
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _moved(lines: Sequence[bytes], target: Path) -> int:
    """How many lines, from the first, are the end of a file already."""
    if not lines or not target.is_file():
        return 0
    with target.open("rb") as stream:
        stream.seek(max(0, target.stat().st_size - sum(map(len, lines))))
        tail = stream.read()
    last = tail[tail.rfind(b"\n", 0, -1) + 1 :]
    # no line comes twice, so that at most one beginning of them can end with the file's last line
    begun = b"".join(lines[: lines.index(last) + 1]) if last in lines else b""
    return begun.count(b"\n") if tail.endswith(begun) else 0


def cut_torn_line(path: Path) -> None:
    """Cut off a last line without an end; nothing where there is no file."""
    if path.is_file():
        with path.open("rb+", buffering=0) as stream:
            _cut(stream.fileno())


def _cut(file: int) -> int:
    """Length in bytes of what stays."""
    end = os.fstat(file).st_size
    if not end or os.pread(file, 1, end - 1) == b"\n":
        return end
    whole = end
    while whole:
        begin = max(0, whole - 65536)
        found = os.pread(file, whole - begin, begin).rfind(b"\n")
        if found >= 0:
            whole = begin + found + 1
            break
        whole = begin
    os.ftruncate(file, whole)
    return whole
