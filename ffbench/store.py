"""Run folders: the only file that knows their layout.

    <out>/<suite>@<version>/<method>/
        cases.jsonl        every Case of the suite, also those not made yet
        run.json           method card, settings and provenance of the last command that wrote here
        generations.jsonl  one Generation a line; the last line of a key counts
        scores.jsonl       one Score a line; the last line of a key counts
        generations.TIME-I-of-N.jsonl, scores.TIME-I-of-N.jsonl
                           lines of a shard, read after those above, in the order of their names
        generations.TIME.wID.jsonl, generations.TIME-I-of-N.wID.jsonl, scores...
                           lines of one worker of a command or of a shard, read likewise
        videos/<key>.mp4
        tracks/<track key>.npz
        logs/
        state/             what a method keeps between two commands, such as a journal of paid jobs

Lines are appended whole and synced, so a killed process leaves at most one torn last line, which the next writer cuts
off and readers skip. Files are written beside their place and moved there: what exists is complete.

Workers write the records of what they made themselves, so that a caller that hangs or dies costs no finished work.
Shards of one run may write at the same time, also from several machines. So that no two processes ever append to one
file, every worker, and every command with a shard, has files of its own, named by the moment at which the command
began. The lines of workers come to those of their command when it ends, or after a kill when the next one begins; the
next command without a shard puts those of shards into the main files.

Locks keep a shard from being run twice at a time and beside a command without one; where a file system has no locks
that reach other machines, the shards still do not hurt each other. A worker writes only while the file `.part-...` of
its command is there: one that outlives a killed command, on a far node, can touch nothing of the next.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
import uuid
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

from ffbench.durable import append, cut_torn_line, move_lines, write_atomic
from ffbench.errors import UserError
from ffbench.records import Case, Generation, Score, from_json, to_json
from ffbench.shard import Shard

R = TypeVar("R", Case, Generation, Score)
_PASSING = 20.0
"""Seconds that a shard waits for others that begin at the same moment."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@~+-]{0,127}")
_KINDS = ("generations", "scores")
_FILE = re.compile(
    r"(generations|scores)(?:\.(?P<command>\d{8}T\d+(?:-(?P<shard>\d+-of-\d+))?)(?P<worker>\.w\w+)?)?\.jsonl"
)
"""A file of records: a run's own, a shard's, or a worker's."""


class Run:
    """One run folder: the videos and scores of one method on one suite."""

    def __init__(self, root: Path, shard: Shard | None = None) -> None:
        self.root = root
        self.shard = shard
        self._stamp = ""
        self._worker = ""

    def sharded(self, shard: Shard | None) -> Run:
        """The same run, written to as a shard of it."""
        return Run(self.root, shard)

    def by_worker(self, name: str) -> Run:
        """The same run, written to by one worker of the command that is inside `lock`; for names see `worker_name`."""
        run = Run(self.root, self.shard)
        run._stamp, run._worker = self._stamp, name
        return run

    def _own(self, name: str) -> Path:
        """The file that this process appends to."""
        if self.shard is None and not self._worker:
            return self.root / f"{name}.jsonl"
        if not self._stamp:
            raise RuntimeError("shards and workers write inside `lock`")
        if self._worker and not self._token().exists():
            raise UserError(
                f"the command that this worker of {self.root} belongs to is over", "run one command at a time on a run"
            )
        return self.root / f"{name}.{self._command()}{'.w' * bool(self._worker)}{self._worker}.jsonl"

    def _command(self) -> str:
        return f"{self._stamp}-{self.shard}" if self.shard else self._stamp

    def _token(self) -> Path:
        """A file that is there as long as the command is the one that holds the folder, or its shard of it."""
        return self.root / (f".part-{self.shard}-{self._stamp}" if self.shard else f".part-{self._stamp}")

    def _parts(self, name: str) -> list[tuple[Path, re.Match[str]]]:
        """The files of shards and workers in the order of their commands, and what their names say."""
        found = ((path, _FILE.fullmatch(path.name)) for path in sorted(self.root.glob(f"{name}.*.jsonl")))
        return [(path, match) for path, match in found if match]

    def _all(self, name: str, cls: type[R]) -> Iterator[R]:
        while True:
            parts = self._parts(name)
            yield from _read(self.root / f"{name}.jsonl", cls)
            complete = True
            for path, _ in parts:
                complete &= yield from _read(path, cls)
            if complete:
                return
            # some were put into another file meanwhile: once more, and what comes last counts

    def _of_workers(self, name: str, cls: type[R]) -> Iterator[R]:
        """What workers of this command have written."""
        for path, found in self._parts(name):
            if found["worker"] and found["command"] == self._command():
                yield from _read(path, cls)

    def generations(self) -> dict[str, Generation]:
        """Every Generation by key, the newest of each, in order of first appearance."""
        return {record.key: record for record in self._all("generations", Generation)}

    def scores(self, protocol: str | None = None) -> dict[tuple[str, str, str, int], Score]:
        """Every Score by key, the newest of each; of one protocol id if given."""
        records = self._all("scores", Score)
        return {record.key: record for record in records if protocol in (None, record.protocol)}

    def new_generations(self) -> dict[str, Generation]:
        """Every Generation that workers of this command have written, by key; call inside `lock`."""
        return {record.key: record for record in self._of_workers("generations", Generation)}

    def new_scores(self) -> dict[tuple[str, str, str, int], Score]:
        """Every Score that workers of this command have written, by key; call inside `lock`."""
        return {record.key: record for record in self._of_workers("scores", Score)}

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

        At the end, unless an error ends it, what workers wrote is put into the file of the command.

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
                leftovers = self.root.glob("**/.part-*")
            else:
                self._acquire(FileLock(self.root / f".lock-{self.shard}"), 0, locks)
                with ExitStack() as passing:
                    self._acquire(whole, _PASSING, passing)  # other shards hold it for a moment
                leftovers = self.root.glob(f".part-{self.shard}-*")
            for leftover in leftovers:
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
            self._gather()  # after the token of a killed command has gone: its workers write no more
            self._stamp = f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}"
            self._token().touch()
            try:
                yield
            finally:
                self._token().unlink(missing_ok=True)
                self._stamp = ""
            self._gather()

    def _acquire(self, lock: FileLock, timeout: float, locks: ExitStack) -> None:
        try:
            lock.acquire(timeout=timeout)
        except Timeout as error:
            raise UserError(
                f"another ffbench is writing to {self.root}",
                "wait for it to end, or give another folder with --out",
            ) from error
        locks.callback(lock.release)

    def _gather(self) -> None:
        """Put the lines of workers and shards that have ended into the files that they belong to.

        A shard does so with its own workers alone; others may be at work.
        """
        for name in _KINDS:
            main = self.root / f"{name}.jsonl"
            parts: dict[Path, list[Path]] = {}
            for path, found in self._parts(name):
                if self.shard is None:
                    parts.setdefault(main, []).append(path)
                elif found["worker"] and found["shard"] == str(self.shard):
                    parts.setdefault(self.root / f"{name}.{found['command']}.jsonl", []).append(path)
            if self.shard is None:
                cut_torn_line(main)
            for target, several in parts.items():
                move_lines(several, target)

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
    found = {path.parent for path in root.rglob("generations.*jsonl") if _FILE.fullmatch(path.name)}
    return [Run(folder) for folder in sorted(found)]


def worker_name() -> str:
    """A name that no other worker has, on any machine."""
    return uuid.uuid4().hex[:12]


def safe_name(name: str) -> str:
    """`name` itself, if it is fit to be one path component.

    Raises:
        ValueError: otherwise. Ids are checked before they come here; this is the last fence.
    """
    if not _NAME.fullmatch(name) or ".." in name:
        raise ValueError(f"{name!r} cannot be a file name")
    return name


def _read(path: Path, cls: type[R]) -> Generator[R, None, bool]:
    """The records of a file's whole lines; whether the file is there."""
    try:
        stream = path.open("rb")
    except FileNotFoundError:
        return False
    with stream:
        for number, line in enumerate(stream, 1):
            if not line.endswith(b"\n"):
                return True  # torn by a kill, or being written just now
            try:
                yield from_json(cls, line.decode())
            except ValueError as error:
                raise UserError(
                    f"{path}:{number}: {error}",
                    "restore the file, or delete the line to have its work done again",
                ) from error
    return True


def _append(path: Path, records: Iterable[Generation] | Iterable[Score]) -> None:
    if lines := "".join(to_json(record) + "\n" for record in records):
        append(path, lines.encode())
