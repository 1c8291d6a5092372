"""Journals: one JSON object a line, appended whole and synced, so that a kill leaves at most one torn last line."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock

from ffbench.errors import UserError


def append(path: Path, record: Mapping[str, Any]) -> None:
    """Add one record; it is on the disk when this returns. Several threads and processes may append.

    Raises:
        OSError: when the disk is full or the folder cannot be written; the journal is then as it was.
    """
    line = (json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n").encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    # unbuffered: a buffer would be flushed once more on closing, after the cut
    with FileLock(path.with_name(f".{path.name}.lock")), path.open("ab+", buffering=0) as stream:
        end = _cut(stream.fileno())
        try:
            rest = memoryview(line)
            while rest:
                rest = rest[stream.write(rest) :]
            os.fsync(stream.fileno())
        except OSError:
            with suppress(OSError):
                os.ftruncate(stream.fileno(), end)  # a full disk must not leave half a line
            raise


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a journal, none where there is no file; a torn last line is left out.

    Raises:
        UserError: for a line that is no JSON object; names file and line.
    """
    return Follower(path).news()


class Follower:
    """Reads a journal as it grows, whoever appends to it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.line = 0
        """Number of the line that was given last."""
        self._done = self._end = 0

    def news(self) -> Iterator[dict[str, Any]]:
        """The records that came since the last call; a torn last line counts once it is whole.

        Raises:
            UserError: for a line that is no JSON object; names file and line.
        """
        if not self.path.is_file():
            return
        with self.path.open("rb") as stream:
            stream.seek(self._end)
            for line in stream:
                if not line.endswith(b"\n"):
                    return
                self.line = self._done + 1
                try:
                    record = json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise _damaged(self.path, self.line, str(error)) from error
                if not isinstance(record, dict):
                    raise _damaged(self.path, self.line, "it is no JSON object")
                yield record
                # only now: a line that the caller refuses is given again
                self._done, self._end = self.line, self._end + len(line)


def _damaged(path: Path, number: int, why: str) -> UserError:
    return UserError(f"{path}:{number}: {why}", "restore the file, or delete that line to have its work done again")


def _cut(file: int) -> int:
    """Cut off a last line that a killed writer left torn.

    Returns:
        The length of what stays, bytes.
    """
    end = os.fstat(file).st_size
    if not end or os.pread(file, 1, end - 1) == b"\n":
        return end
    whole = end
    while whole:
        begin = max(0, whole - 65536)
        found = os.pread(file, whole - begin, begin).rfind(b"\n")
        if found >= 0:
            os.ftruncate(file, begin + found + 1)
            return begin + found + 1
        whole = begin
    os.ftruncate(file, 0)
    return 0
