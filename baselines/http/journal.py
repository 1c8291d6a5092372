"""What was ordered, under which mark, and what came of it: kept on disk, so that no kill makes one pay twice.

Each line is written and synced before the step that it announces: an order's mark before the order is sent, the task id
before the first question about it, the video's hash once the video lies there. A torn last line is cut off.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ffbench.durable import append, cut_torn_line
from ffbench.errors import UserError
from ffbench.records import Scalar


@dataclass(frozen=True)
class Entry:
    """How an order stands."""

    mark: str
    """The text that the vendor keeps with the task; unique to this order."""
    utc: str
    """When the order was announced."""
    task: str = ""
    sha256: str = ""
    """Of the video in `Journal.video(mark)`; empty before it is there."""
    facts: Mapping[str, Scalar] = field(default_factory=dict)
    ended: str = ""
    """Why nothing more can come of it: refused, failed or lost at the vendor. The next order gets another mark."""


class Journal:
    """The orders of one run folder by key; one process at a time."""

    def __init__(self, folder: Path, name: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._path = folder / f"{name}.jsonl"
        self._lock = FileLock(folder / f"{name}.lock")
        try:
            self._lock.acquire(timeout=10)
        except Timeout as error:
            raise UserError(f"another process uses {self._path}", "wait for it to end") from error
        self._entries: dict[str, Entry] = {}
        self._orders = 0
        self._nonce = ""
        for line in self._read():
            self._apply(line)
        if not self._nonce:
            # two run folders order apart: the mark tells their tasks from each other at the vendor
            self._write({"nonce": secrets.token_hex(4)})

    def close(self) -> None:
        """Let another process have it."""
        self._lock.release()

    def entry(self, key: str) -> Entry | None:
        """The newest order of a key."""
        return self._entries.get(key)

    def tasks(self) -> set[str]:
        """Every task id that belongs to an order."""
        return {entry.task for entry in self._entries.values() if entry.task}

    def video(self, mark: str) -> Path:
        """Where the video of an order is kept."""
        return self._folder / f"{mark}.mp4"

    def announce(self, key: str) -> Entry:
        """Note that an order is about to be sent."""
        mark = f"ffb-{self._nonce}-{key}-{self._orders}"
        self._write({"key": key, "mark": mark, "utc": datetime.now(UTC).isoformat(timespec="seconds")})
        return self._entries[key]

    def accepted(self, key: str, task: str) -> Entry:
        """Note the vendor's task id."""
        self._write({"key": key, "task": task})
        return self._entries[key]

    def arrived(self, key: str, sha256: str, facts: Mapping[str, Scalar]) -> Entry:
        """Note that the video is there."""
        self._write({"key": key, "sha256": sha256, "facts": dict(facts)})
        return self._entries[key]

    def ended(self, key: str, why: str) -> None:
        """Note that nothing more can come of an order."""
        self._write({"key": key, "ended": why or "unknown"})

    def _write(self, line: Mapping[str, Any]) -> None:
        append(self._path, (json.dumps(line, ensure_ascii=True) + "\n").encode())
        self._apply(line)

    def _apply(self, line: Mapping[str, Any]) -> None:
        if "nonce" in line:
            self._nonce = str(line["nonce"])
            return
        key = line["key"]
        if "mark" in line:
            self._entries[key] = Entry(line["mark"], line["utc"])
            self._orders += 1
        else:
            self._entries[key] = replace(self._entries[key], **{k: v for k, v in line.items() if k != "key"})

    def _read(self) -> list[dict[str, Any]]:
        if not self._path.is_file():
            return []
        cut_torn_line(self._path)
        try:
            return [json.loads(line) for line in self._path.read_bytes().splitlines()]
        except ValueError as error:
            raise UserError(
                f"{self._path} is damaged: {error}",
                "restore it; without it ffbench cannot know what has been paid for",
            ) from error
