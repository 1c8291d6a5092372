"""Run folders: the only file that knows their layout.

    <out>/<suite>@<version>/<method>/
        cases.jsonl        every Case of the suite, also those not made yet
        run.json           method card, settings and provenance of the last command that wrote here
        generations.jsonl  one Generation a line; the last line of a key counts
        scores.jsonl       one Score a line; the last line of a key counts
        generations.TIME-I-of-N.jsonl, scores.TIME-I-of-N.jsonl
                           lines of a shard, read after those above, in the order of their names
        videos/<key>.mp4
        tracks/<track key>.npz
        logs/
        state/             what a method keeps between two commands, such as a journal of paid jobs

Lines are appended whole and synced, so a killed process leaves at most one torn last line, which the next writer cuts
off and readers skip. Files are written beside their place and moved there: what exists is complete.

Shards of one run may write at the same time, also from several machines: every command with a shard appends to files of
its own, named by the moment at which it began, and the next command without one puts their lines into the main files.
No two processes ever append to one file. Locks keep a shard from being run twice at a time and beside a command without
one; where a file system has no locks that reach other machines, the shards still do not hurt each other.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

from ffbench.durable import append, cut_torn_line, write_atomic
from ffbench.errors import UserError
from ffbench.records import Case, Generation, Score, from_json, to_json
from ffbench.shard import Shard

R = TypeVar("R", Case, Generation, Score)
_PASSING = 20.0
"""Seconds that a shard waits for others that begin at the same moment."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@~+-]{0,127}")


class Run:
    """One run folder: the videos and scores of one method on one suite."""

    def __init__(self, root: Path, shard: Shard | None = None) -> None:
        self.root = root
        self.shard = shard
        self._stamp = ""

    def sharded(self, shard: Shard | None) -> Run:
        """The same run, written to as a shard of it."""
        return Run(self.root, shard)

    def _own(self, name: str) -> Path:
        """The file that this process appends to."""
        if self.shard is None:
            return self.root / f"{name}.jsonl"
        if not self._stamp:
            raise RuntimeError("a shard writes inside `lock`")
        return self.root / f"{name}.{self._stamp}-{self.shard}.jsonl"

    def _parts(self, name: str) -> list[Path]:
        return sorted(self.root.glob(f"{name}.*-of-*.jsonl"))

    def _all(self, name: str, cls: type[R]) -> Iterator[R]:
        for path in (self.root / f"{name}.jsonl", *self._parts(name)):
            yield from _read(path, cls)

    def generations(self) -> dict[str, Generation]:
        """Every Generation by key, the newest of each, in order of first appearance."""
        return {record.key: record for record in self._all("generations", Generation)}

    def scores(self, protocol: str | None = None) -> dict[tuple[str, str, str, int], Score]:
        """Every Score by key, the newest of each; of one protocol id if given."""
        records = self._all("scores", Score)
        return {record.key: record for record in records if protocol in (None, record.protocol)}

    def cases(self) -> dict[str, Case]:
        """Every Case of the run's suite by case_id."""
        return {record.case_id: record for record in _read(self.root / "cases.jsonl", Case)}

    def write_cases(self, cases: Iterable[Case]) -> None:
        """Replace cases.jsonl; call inside `lock`."""
        write_atomic(self.root / "cases.jsonl", "".join(to_json(case) + "\n" for case in cases).encode())

    def append_generations(self, records: Iterable[Generation]) -> None:
        """Add records durably; call inside `lock`."""
        _append(self._own("generations"), records)

    def append_scores(self, records: Iterable[Score]) -> None:
        """Add records durably in one write; call inside `lock`."""
        _append(self._own("scores"), records)

    def new_video(self, key: str) -> Path:
        """Where the video of a generation key belongs; its folder exists."""
        path = self.root / "videos" / f"{safe_name(key)}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def video(self, generation: Generation) -> Path:
        """The video file of an ok record."""
        return self.root / generation.video

    def track(self, key: str) -> Path:
        """Where a FaceTrack is cached."""
        return self.root / "tracks" / f"{safe_name(key)}.npz"

    def log(self, name: str) -> Path:
        """A log file; its folder exists."""
        path = self.root / "logs" / safe_name(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def state(self) -> Path:
        """The folder that a method may keep things in between two commands; the method makes it."""
        return self.root / "state"

    def meta(self) -> dict[str, Any]:
        """What run.json holds; empty before the first command."""
        path = self.root / "run.json"
        return dict(json.loads(path.read_text("utf-8"))) if path.is_file() else {}

    def write_meta(self, meta: dict[str, Any]) -> None:
        """Replace run.json."""
        write_atomic(self.root / "run.json", (json.dumps(meta, indent=2, ensure_ascii=False) + "\n").encode())

    def change_meta(self, change: Callable[[dict[str, Any]], None]) -> None:
        """Read run.json, let `change` change it, and replace it; shards do so one after the other."""
        with FileLock(self.root / ".lock-meta") if self.shard else nullcontext():
            meta = self.meta()
            change(meta)
            self.write_meta(meta)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder for writing; torn lines and leftovers of a killed writer are cleared first.

        Raises:
            UserError: if another process holds it.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        with ExitStack() as locks:
            whole = FileLock(self.root / ".lock")
            if self.shard is None:
                self._acquire(whole, 0, locks)
                for path in self.root.glob(".lock-*-of-*"):
                    with ExitStack() as passing:
                        self._acquire(FileLock(path), 0, passing)
                for name in ("generations", "scores"):
                    self._gather(name)
                leftovers = self.root.glob("**/.part-*")
            else:
                self._acquire(FileLock(self.root / f".lock-{self.shard}"), 0, locks)
                with ExitStack() as passing:
                    self._acquire(whole, _PASSING, passing)  # other shards hold it for a moment
                self._stamp = f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}"
                leftovers = self.root.glob(f".part-{self.shard}-*")
            for leftover in leftovers:
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
            yield

    def _acquire(self, lock: FileLock, timeout: float, locks: ExitStack) -> None:
        try:
            lock.acquire(timeout=timeout)
        except Timeout as error:
            raise UserError(
                f"another ffbench is writing to {self.root}",
                "wait for it to end, or give another folder with --out",
            ) from error
        locks.callback(lock.release)

    def _gather(self, name: str) -> None:
        """Put the lines of shards that have ended behind those of the main file."""
        main = self.root / f"{name}.jsonl"
        cut_torn_line(main)
        if not (parts := self._parts(name)):
            return
        # a process killed between the two steps below has left lines in both places
        known = set(main.read_bytes().splitlines(keepends=True)) if main.is_file() else set()
        for path in parts:
            cut_torn_line(path)
            if lines := [line for line in path.read_bytes().splitlines(keepends=True) if line not in known]:
                append(main, b"".join(lines))
            path.unlink()

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A folder on the same disk as the run, removed at the end and, after a kill, by the next `lock`."""
        folder = Path(tempfile.mkdtemp(prefix=f".part-{self.shard}-" if self.shard else ".part-", dir=self.root))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def run_folder(out: Path, suite: str, version: str, method: str) -> Run:
    """The run of a method on a suite under `out`."""
    return Run(out / f"{safe_name(suite)}@{safe_name(version)}" / safe_name(method))


def find_runs(root: Path) -> list[Run]:
    """Every run at or below `root`, by path."""
    found = {
        path.parent for pattern in ("generations.jsonl", "generations.*-of-*.jsonl") for path in root.rglob(pattern)
    }
    return [Run(folder) for folder in sorted(found)]


def safe_name(name: str) -> str:
    """`name` itself, if it is fit to be one path component.

    Raises:
        ValueError: otherwise. Ids are checked before they come here; this is the last fence.
    """
    if not _NAME.fullmatch(name) or ".." in name:
        raise ValueError(f"{name!r} cannot be a file name")
    return name


def _read(path: Path, cls: type[R]) -> Iterator[R]:
    try:
        stream = path.open("rb")
    except FileNotFoundError:
        return
    with stream:
        for number, line in enumerate(stream, 1):
            if not line.endswith(b"\n"):
                return  # torn by a kill, or being written just now
            try:
                yield from_json(cls, line.decode())
            except ValueError as error:
                raise UserError(
                    f"{path}:{number}: {error}",
                    "restore the file, or delete the line to have its work done again",
                ) from error


def _append(path: Path, records: Iterable[Generation] | Iterable[Score]) -> None:
    if lines := "".join(to_json(record) + "\n" for record in records):
        append(path, lines.encode())
