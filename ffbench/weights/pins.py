"""The pins of weights: the registry, which holds what was published, and the lock, which holds what was trusted."""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ffbench.download import sha256_of, waiting_lock
from ffbench.durable import write_atomic
from ffbench.errors import UserError
from ffbench.progress import note

REGISTRY = Path(__file__).with_name("weights.toml")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_SHA256 = re.compile(r"[0-9a-f]{64}|")


@dataclass(frozen=True)
class File:
    """One file: its name on disk, addresses in the order they are tried, and its pins."""

    name: str
    urls: tuple[str, ...] = ()
    sha256: str = ""
    """64 hex digits; empty where nobody published them."""
    bytes: int = 0
    """0 where unknown."""


@dataclass(frozen=True)
class Entry:
    """Weights that are pulled together: one file, or a pack."""

    name: str
    purpose: str
    licence: str
    research_only: bool
    source: str
    """The publisher's page."""
    evidence: str
    """What the addresses and pins were read from."""
    files: tuple[File, ...]
    archive: File | None = None
    """The zip that holds the files, where they are published as one."""
    about_mb: int = 0

    @property
    def bytes(self) -> int:
        """What a pull fetches; 0 where unknown."""
        sizes = [self.archive.bytes] if self.archive else [file.bytes for file in self.files]
        return sum(sizes) if all(sizes) else 0

    @property
    def facts(self) -> str:
        """What to know before pulling, such as `(research only, 289 MB)`."""
        use = "research only" if self.research_only else ""
        size = f"{self.bytes / 1e6:.0f} MB" if self.bytes else f"about {self.about_mb} MB" if self.about_mb else ""
        return f"({', '.join(filter(None, (use, size)))})"


def weights_dir() -> Path:
    """The folder of the weights: FFBENCH_WEIGHTS, else ffbench/weights in the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("FFBENCH_WEIGHTS") or f"{cache}/ffbench/weights").expanduser().absolute()


def place(entry: Entry, file: File) -> Path:
    """Where a file of weights belongs."""
    return weights_dir() / entry.name / file.name


def registry() -> Mapping[str, Entry]:
    """Every entry by name: those that come with ffbench, or those of the file FFBENCH_WEIGHTS_REGISTRY.

    Raises:
        UserError: the file is missing or not of the registry's form.
    """
    path = Path(os.environ.get("FFBENCH_WEIGHTS_REGISTRY") or REGISTRY)
    try:
        tables = tomllib.loads(path.read_text("utf-8"))
        return {name: _entry(name, dict(table)) for name, table in tables.items()}
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path}: {error}", f"write it like {REGISTRY}") from error


def expected(entry: Entry, file: File) -> str:
    """The sha256 a file must have: published, else trusted on first use, else empty."""
    return file.sha256 or str(trusted().get(f"{entry.name}/{file.name}", {}).get("sha256", ""))


def trusted() -> dict[str, dict[str, Any]]:
    """What the lock holds: `entry/file` -> sha256, bytes, url, utc."""
    path = weights_dir() / "weights.lock.json"
    try:
        return dict(json.loads(path.read_text("utf-8")))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}", "restore it, or delete it and pull again") from error


def trust(entry: Entry, file: File, path: Path, origin: str) -> str:
    """Record the sha256 of a file that has no pin and return it; a notice on stderr says so.

    Args:
        entry: the entry of `file`.
        file: a file without a published sha256.
        path: where its bytes are now.
        origin: where they came from.
    """
    root, name, got = weights_dir(), f"{entry.name}/{file.name}", sha256_of(path)
    utc = datetime.now(UTC).isoformat(timespec="seconds")
    with waiting_lock(root / ".incoming" / "weights.lock", "weights.lock.json"):
        lock = trusted() | {name: {"sha256": got, "bytes": path.stat().st_size, "url": origin, "utc": utc}}
        write_atomic(root / "weights.lock.json", (json.dumps(lock, indent=1, sort_keys=True) + "\n").encode())
    note(f"notice: nobody published a sha256 of {name}; {got} is trusted from now on (weights.lock.json)")
    return got


def allow(entries: Iterable[Entry], commercial_ok: bool) -> None:
    """Refuse weights for research only, where the caller or FFBENCH_COMMERCIAL_OK (which workers inherit) asks for it.

    Raises:
        UserError: naming those that are refused and those that are not.
    """
    if not commercial_ok and os.environ.get("FFBENCH_COMMERCIAL_OK", "").lower() not in {"1", "true", "yes", "on"}:
        return
    refused = {entry.name: entry.licence for entry in entries if entry.research_only}
    if refused:
        free = ", ".join(entry.name for entry in registry().values() if not entry.research_only)
        raise UserError(
            f"weights {', '.join(refused)} are for research only ({next(iter(refused.values()))})",
            f"use other networks, or for research drop --commercial-ok and FFBENCH_COMMERCIAL_OK; not refused: {free}",
        )


def _entry(name: str, table: dict[str, Any]) -> Entry:
    files = tuple(_file(f"{name}.files", item) for item in table.pop("files", ()))
    archive = _file(f"{name}.archive", table.pop("archive")) if "archive" in table else None
    if not _NAME.fullmatch(name) or not files:
        raise ValueError(f"entry {name!r} needs a plain name and at least one file")
    if not archive and not all(file.urls for file in files):
        raise ValueError(f"entry {name!r} has a file without an address")
    return Entry(name=name, files=files, archive=archive, **table)


def _file(where: str, table: dict[str, Any]) -> File:
    file = File(**{**table, "urls": tuple(table.get("urls", ()))})
    if not _NAME.fullmatch(file.name) or not _SHA256.fullmatch(file.sha256):
        raise ValueError(f"{where}: {file.name!r} needs a plain name, and 64 hex digits or none")
    return file
