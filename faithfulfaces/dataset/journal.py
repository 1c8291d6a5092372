"""Journals: one JSON object a line, appended whole and synced, so that a kill leaves at most one torn last line."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from ffbench import durable
from ffbench.errors import UserError


def append(path: Path, record: Mapping[str, Any]) -> None:
    """Add one record; it is on the disk when this returns. Several threads and processes may append.

    Raises:
        OSError: when the disk is full or the folder cannot be written; the journal is then as it was.
    """
    line = (json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n").encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):
        durable.append(path, line)


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
