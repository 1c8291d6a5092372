"""Run folders: the only file that knows their layout.

    <out>/<suite>@<version>/<method>/
        cases.jsonl        every Case of the suite, also those not made yet
        run.json           method card, settings and provenance of the last command that wrote here
        generations.jsonl  one Generation a line; the last line of a key counts
        scores.jsonl       one Score a line; the last line of a key counts
        videos/<key>.mp4
        tracks/<track key>.npz
        logs/
        state/             what a method keeps between two commands, such as a journal of paid jobs

Lines are appended whole and synced, so a killed process leaves at most one torn last line, which the next writer cuts
off and readers skip. Files are written beside their place and moved there: what exists is complete.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

from ffbench.durable import append, cut_torn_line, write_atomic
from ffbench.errors import UserError
from ffbench.records import Case, Generation, Score, from_json, to_json

R = TypeVar("R", Case, Generation, Score)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@~+-]{0,127}")


class Run:
    """One run folder: the videos and scores of one method on one suite."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def _generations(self) -> Path:
        return self.root / "generations.jsonl"

    @property
    def _scores(self) -> Path:
        return self.root / "scores.jsonl"

    def generations(self) -> dict[str, Generation]:
        """Every Generation by key, the newest of each, in order of first appearance."""
        return {record.key: record for record in _read(self._generations, Generation)}

    def scores(self, protocol: str | None = None) -> dict[tuple[str, str, str, int], Score]:
        """Every Score by key, the newest of each; of one protocol id if given."""
        records = _read(self._scores, Score)
        return {record.key: record for record in records if protocol in (None, record.protocol)}

    def cases(self) -> dict[str, Case]:
        """Every Case of the run's suite by case_id."""
        return {record.case_id: record for record in _read(self.root / "cases.jsonl", Case)}

    def write_cases(self, cases: Iterable[Case]) -> None:
        """Replace cases.jsonl; call inside `lock`."""
        write_atomic(self.root / "cases.jsonl", "".join(to_json(case) + "\n" for case in cases).encode())

    def append_generations(self, records: Iterable[Generation]) -> None:
        """Add records durably; call inside `lock`."""
        _append(self._generations, records)

    def append_scores(self, records: Iterable[Score]) -> None:
        """Add records durably in one write; call inside `lock`."""
        _append(self._scores, records)

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

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder for writing; torn lines and leftovers of a killed writer are cleared first.

        Raises:
            UserError: if another process holds it.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.root / ".lock", timeout=0)
        try:
            lock.acquire()
        except Timeout as error:
            raise UserError(
                f"another ffbench is writing to {self.root}",
                "wait for it to end, or give another folder with --out",
            ) from error
        try:
            for path in (self._generations, self._scores):
                cut_torn_line(path)
            for leftover in self.root.glob("**/.part-*"):
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
            yield
        finally:
            lock.release()

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A folder on the same disk as the run, removed at the end and, after a kill, by the next `lock`."""
        folder = Path(tempfile.mkdtemp(prefix=".part-", dir=self.root))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def run_folder(out: Path, suite: str, version: str, method: str) -> Run:
    """The run of a method on a suite under `out`."""
    return Run(out / f"{safe_name(suite)}@{safe_name(version)}" / safe_name(method))


def find_runs(root: Path) -> list[Run]:
    """Every run at or below `root`, by path."""
    return [Run(path.parent) for path in sorted(root.glob("**/generations.jsonl"))]


def safe_name(name: str) -> str:
    """`name` itself, if it is fit to be one path component.

    Raises:
        ValueError: otherwise. Ids are checked before they come here; this is the last fence.
    """
    if not _NAME.fullmatch(name) or ".." in name:
        raise ValueError(f"{name!r} cannot be a file name")
    return name


def _read(path: Path, cls: type[R]) -> Iterator[R]:
    if not path.is_file():
        return
    with path.open("rb") as stream:
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
