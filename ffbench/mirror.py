"""A local folder that stands for one of an object store, so that every command takes `s3://bucket/folder`.

Work is done in a cache folder of this machine; what comes to be there is uploaded while it comes:

    generations.jsonl, scores.jsonl   append-only here; each piece that was added becomes an immutable object
                                      `generations.jsonl.parts/<time>-<sha256 of the piece>.jsonl`, so that several
                                      machines may write at once and none touches another's records; those of a
                                      shard become pieces of the run's
    every other file                  one object of the same name, replaced as a whole
    references/<sha256>.<ending>      the photographs of cases.jsonl, so that another machine can score

The videos and tracks that records speak of are uploaded before the records are. Reading starts from the records: all
pieces, each checked against the hash in its name, in order of their time, become the local file; then come the files.
So a kill, here or there, leaves a run that misses its last seconds, and the same command makes those again.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ffbench.durable import write_atomic
from ffbench.errors import UserError
from ffbench.progress import bar, note
from ffbench.records import Case, from_json, to_json
from ffbench.storage import Bucket, Stored, show_as, shown, url_of

PUSH_SECONDS = 10.0
"""Between two uploads while a command works: what a lost machine costs at most."""
_THREADS = 8
_RECORDS = re.compile(r"(?P<run>.+/)?(?P<kind>generations|scores)(\.[^/]+)?\.jsonl")
"""Of a run, or of a shard of it."""
_PART = re.compile(r"(?P<file>.+)\.parts/\d{20}-(?P<digest>[0-9a-f]{16})\.jsonl")
_LOCAL = ("logs", "__pycache__")
"""Folders that stay on this machine."""
_MADE_ANEW = {"report", "references"}
"""Not fetched as files: reports are made from records; photographs are fetched where a case lacks its own."""
_SMALL = ("cases.jsonl", "run.json")


class Mirror:
    """One cache folder and its place in an object store. One process at a time; see `mirrored`."""

    def __init__(self, bucket: Bucket, folder: Path) -> None:
        self.folder = folder
        self._bucket = bucket
        self._lock = threading.Lock()
        self._notes = folder / ".mirror.json"
        known: dict[str, Any] = json.loads(self._notes.read_text("utf-8")) if self._notes.is_file() else {}
        self._offsets: dict[str, int] = known.get("offsets", {})
        """Record file -> bytes of it that are in the store."""
        self._files: dict[str, list[Any]] = known.get("files", {})
        """File -> size and time of change here, tag there, when both were last the same."""
        self._marks: dict[str, set[bytes]] = {}

    def push(self) -> int:
        """Upload what is new; the number of objects.

        Raises:
            UserError: where the store cannot be written; nothing is lost, the next call goes on.
        """
        with self._lock:
            # ends first: a record that is in a piece was written after its video was in its place
            tails = [(name, *self._tail(name)) for name in self._names() if _RECORDS.fullmatch(name)]
            files = [name for name in self._names() if not _RECORDS.fullmatch(name) and self._changed(name)]
            try:
                for group in _by_weight(files):
                    _all(self._put_file, group)
                _all(self._put_photograph, self._photographs())
                pieces = [self._put_piece(*tail) for tail in tails]
            finally:
                self._remember()
            return len(files) + sum(pieces)

    def pull(self, files: bool = True) -> None:
        """Bring the records here, and with `files` what they speak of. What is only here must be pushed before.

        Raises:
            UserError: where the store cannot be read, or a piece of records is damaged.
        """
        with self._lock:
            stored = self._bucket.list()
            parts: dict[str, list[str]] = {}
            for name in sorted(stored):
                if found := _PART.fullmatch(name):
                    parts.setdefault(_inside(found["file"]), []).append(name)
            for file, names in parts.items():
                _all(self._get_piece, [name for name in names if not self._kept(name).is_file()])
                # a command that was killed right after an upload made it again: the same lines, in another piece
                lines = (line for name in names for line in self._kept(name).read_bytes().splitlines(keepends=True))
                data = b"".join(dict.fromkeys(lines))
                write_atomic(self.folder / file, data)
                self._offsets[file] = len(data)
            # what shards wrote here is in the store, and so in the run's own file now
            for name in [name for name in self._names() if _RECORDS.fullmatch(name) and name != _whole(name)]:
                (self.folder / name).unlink()
                self._offsets.pop(name, None)
            wanted = [name for name, there in stored.items() if self._wanted(name, there, files)]
            with bar("fetch", len(wanted), "object") if wanted else nullcontext() as shown:
                for group in _by_weight(wanted):
                    for name in _each(self._get_file, group):
                        self._files[name] = [*_state(self.folder / name), stored[name].tag]
                        if shown:
                            shown.advance()
            self._files |= {name: [0, 0, there.tag] for name, there in stored.items() if name.startswith("references/")}
            if files:
                self._find_photographs(stored)
            self._remember()

    def _names(self) -> Iterator[str]:
        """Files of the folder that are mirrored, relative to it."""
        for base, folders, names in os.walk(self.folder):
            folders[:] = sorted(one for one in folders if not one.startswith(".") and one not in _LOCAL)
            for name in sorted(names):
                if not name.startswith(".") and not name.endswith(".lock"):
                    yield Path(base, name).relative_to(self.folder).as_posix()

    def _tail(self, name: str) -> tuple[list[bytes], int]:
        """Whole lines of a record file that are new, and where they end."""
        offset = self._offsets.get(name, 0)
        # a worker's lines may be put into the run's own file just now; then they come with that
        with suppress(FileNotFoundError), (self.folder / name).open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, min(offset, size) - 1))
            if offset and (offset > size or stream.read(1) != b"\n"):
                offset = stream.seek(0)  # the file was edited: it is looked through from its begin
            data = stream.read(size - offset)
            lines = data[: data.rfind(b"\n") + 1].splitlines(keepends=True)
            return lines, offset + sum(map(len, lines))
        return [], offset

    def _put_piece(self, name: str, lines: list[bytes], end: int) -> bool:
        """Upload the lines that the store does not hold: a shard's come again when it is merged into its run."""
        known = self._known(_whole(name)) if lines else set()
        data = b"".join(line for line in lines if _mark(line) not in known)
        if data:
            digest = hashlib.sha256(data).hexdigest()[:16]
            piece = f"{_whole(name)}.parts/{time.time_ns():020d}-{digest}.jsonl"
            self._bucket.put_bytes(data, piece)
            write_atomic(self._kept(piece), data)
            known.update(map(_mark, lines))
        self._offsets[name] = end
        return bool(data)

    def _known(self, file: str) -> set[bytes]:
        """Marks of the lines of a record file that are in the store."""
        if file not in self._marks:
            kept = self._kept(f"{file}.parts")
            pieces = sorted(kept.iterdir()) if kept.is_dir() else []
            self._marks[file] = {_mark(line) for one in pieces for line in one.read_bytes().splitlines(keepends=True)}
        return self._marks[file]

    def _changed(self, name: str) -> bool:
        path = self.folder / name
        if Path(name).parts[0] == "references" or not path.is_file():
            return False
        return list(_state(path)) != self._files.get(name, [])[:2]

    def _put_file(self, name: str) -> None:
        path = self.folder / name
        if not path.is_file():
            return  # moved meanwhile: it comes under its other name
        state = _state(path)
        if Path(name).name == "run.json":
            self._merge_meta(name)
            state = _state(path)
        self._files[name] = [*state, self._bucket.put(path, name).tag]

    def _merge_meta(self, name: str) -> None:
        """Keep the protocols under which another machine scored the run meanwhile."""
        if self._bucket.find(name) is None:
            return
        path = self.folder / name
        mine, theirs = json.loads(path.read_text("utf-8")), json.loads(self._bucket.read(name))
        scoring = {**theirs.get("scoring", {}), **mine.get("scoring", {})}
        if scoring != mine.get("scoring", {}):
            write_atomic(path, (json.dumps({**mine, "scoring": scoring}, indent=2, ensure_ascii=False) + "\n").encode())

    def _photographs(self) -> list[tuple[str, str]]:
        """Reference photographs that are here and not in the store: path, name there."""
        found = {}
        for name in self._names():
            if Path(name).name == "cases.jsonl":
                for case in _cases(self.folder / name):
                    for one in case.references:
                        place = f"references/{one.sha256}{Path(one.path).suffix.lower()}"
                        if place not in self._files and Path(one.path).is_file():
                            found[place] = one.path
        return [(path, place) for place, path in found.items()]

    def _put_photograph(self, one: tuple[str, str]) -> None:
        path, place = one
        self._files[place] = [0, 0, self._bucket.put(Path(path), place).tag]

    def _find_photographs(self, stored: dict[str, Stored]) -> None:
        """Let cases whose photographs are not on this machine point to fetched ones."""
        for name in list(self._names()):
            if Path(name).name != "cases.jsonl":
                continue
            cases = [json.loads(line) for line in (self.folder / name).read_text("utf-8").splitlines()]
            moved = False
            for one in (one for case in cases for one in case["references"]):
                place = _inside(f"references/{one['sha256']}{Path(one['path']).suffix.lower()}")
                if not Path(one["path"]).is_file() and place in stored:
                    if not (self.folder / place).is_file():
                        self._bucket.get(place, self.folder / place)
                    one["path"], moved = str(self.folder / place), True
            if moved:
                lines = [to_json(from_json(Case, json.dumps(case))) + "\n" for case in cases]
                write_atomic(self.folder / name, "".join(lines).encode())
                self._files[name] = [*_state(self.folder / name), *self._files.get(name, [0, 0, ""])[2:]]

    def _kept(self, part: str) -> Path:
        return self.folder / ".parts" / _inside(part)

    def _get_piece(self, name: str) -> None:
        data = self._bucket.read(name)
        found = _PART.fullmatch(name)
        assert found is not None
        if hashlib.sha256(data).hexdigest()[:16] != found["digest"]:
            raise UserError(f"{self._bucket.url}/{name} is damaged: its bytes do not fit its name", "remove the object")
        write_atomic(self._kept(name), data)
        self._marks.pop(found["file"], None)

    def _wanted(self, name: str, there: Stored, files: bool) -> bool:
        if _PART.fullmatch(_inside(name)) or not _MADE_ANEW.isdisjoint(Path(name).parts):
            return False
        if not files and Path(name).name not in _SMALL:
            return False
        known = self._files.get(name)
        return not (self.folder / name).is_file() or known is None or known[2] != there.tag

    def _get_file(self, name: str) -> str:
        self._bucket.get(name, self.folder / name)
        return name

    def _remember(self) -> None:
        write_atomic(self._notes, json.dumps({"offsets": self._offsets, "files": self._files}).encode())


@contextmanager
def mirrored(
    place: str | Path, files: bool = True, seconds: float = PUSH_SECONDS, write: bool = True
) -> Iterator[Path]:
    """The local folder that stands for an address while the block works; uploads go on beside it and end with it.

    Args:
        place: such as `s3://bucket/folder`.
        files: also fetch videos and tracks, not the records alone.
        seconds: between two uploads.
        write: upload what the block makes; else only what an earlier command had left to upload.

    Raises:
        UserError: where the store cannot be read at the start, or written at the end; the cache then keeps what is
            missing there, and the next command with the same address uploads it.
    """
    url = url_of(place)
    bucket = Bucket(url)
    with _own(url, bucket) as mirror:
        mirror.pull(files)
        show_as(mirror.folder, url)
        stop = threading.Event()
        thread = threading.Thread(target=_push_often, args=(mirror, stop, seconds), daemon=True)
        failing = False
        try:
            thread.start() if write else stop.set()
            yield mirror.folder
        except BaseException as error:
            failing = isinstance(error, UserError | KeyboardInterrupt)
            if isinstance(error, UserError):
                raise UserError(shown(error.what), shown(error.fix)) from error  # the user knows the address alone
            raise
        finally:
            if not stop.is_set():
                stop.set()
                thread.join()
                _push_last(mirror, failing)
                note(f"what came from and goes to {url} is kept in {mirror.folder}")


def mirror_dir() -> Path:
    """The folder of the caches: FFBENCH_MIRROR, else ffbench/mirror in the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("FFBENCH_MIRROR") or f"{cache}/ffbench/mirror").expanduser().absolute()


@contextmanager
def _own(url: str, bucket: Bucket) -> Iterator[Mirror]:
    """A cache folder that no other process uses; what killed ones left in theirs is uploaded first."""
    base = mirror_dir() / hashlib.sha256(url.encode()).hexdigest()[:16]
    base.mkdir(parents=True, exist_ok=True)
    (base / "url").write_text(url + "\n", "utf-8")
    mine: tuple[Mirror, FileLock] | None = None
    number = 0
    while mine is None or (base / str(number)).is_dir():
        folder = base / str(number)
        folder.mkdir(exist_ok=True)
        lock = FileLock(base / f"{number}.lock", timeout=0)
        number += 1
        try:
            lock.acquire()
        except Timeout:
            continue
        try:
            mirror = Mirror(bucket, folder)
            if left := mirror.push():
                note(f"{url}: uploaded {left} objects that an earlier command left")
        except BaseException:
            lock.release()
            raise
        if mine is None:
            mine = (mirror, lock)
        else:
            lock.release()
    try:
        yield mine[0]
    finally:
        mine[1].release()


def _push_often(mirror: Mirror, stop: threading.Event, seconds: float) -> None:
    told = False
    while not stop.wait(seconds):
        try:
            mirror.push()
            told = False
        except (UserError, OSError) as error:
            # the work goes on; the end of the command tries again and says so aloud
            if not told:
                note(f"not uploaded yet: {error.what if isinstance(error, UserError) else error}")
            told = True


def _push_last(mirror: Mirror, failing: bool) -> None:
    try:
        mirror.push()
    except UserError as error:
        if not failing:
            raise UserError(error.what, f"{error.fix}; what is missing there is kept in {mirror.folder}") from error
        note(f"not uploaded: {error.what}")  # the error on its way is the one to mend first


def _by_weight(names: Iterable[str]) -> list[list[str]]:
    """Videos, tracks and other large files before the small ones that speak of them."""
    ordered: list[list[str]] = [[], []]
    for name in names:
        ordered[Path(name).name in _SMALL].append(name)
    return ordered


def _each(work: Any, items: Iterable[Any]) -> Iterator[Any]:
    with ThreadPoolExecutor(_THREADS) as pool:
        try:
            yield from pool.map(work, items)
        except BaseException:
            pool.shutdown(cancel_futures=True)  # one that failed after all its attempts stands for the rest
            raise


def _all(work: Any, items: Iterable[Any]) -> None:
    for _ in _each(work, items):
        pass


def _whole(name: str) -> str:
    """The record file of a run that a record file belongs to: that of a shard to the run's own."""
    found = _RECORDS.fullmatch(name)
    assert found is not None
    return f"{found['run'] or ''}{found['kind']}.jsonl"


def _mark(line: bytes) -> bytes:
    return hashlib.blake2b(line, digest_size=12).digest()


def _inside(name: str) -> str:
    """The name itself, if it stays inside the folder."""
    if name.startswith("/") or ".." in Path(name).parts or "\\" in name:
        raise UserError(f"the object {name!r} would lie outside its folder", "remove it from the bucket")
    return name


def _cases(path: Path) -> list[Case]:
    return [from_json(Case, line) for line in path.read_text("utf-8").splitlines()]


def _state(path: Path) -> tuple[int, int]:
    facts = path.stat()
    return facts.st_size, facts.st_mtime_ns
