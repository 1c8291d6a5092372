"""A method at work on one engine's worker: requests become videos in their place and finished records."""

from __future__ import annotations

import hashlib
import math
import os
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from ffbench.cards import Card
from ffbench.contract import Request, Runtime
from ffbench.engine.reach import must_see
from ffbench.methods import Answer, MethodProcess
from ffbench.provenance import provenance
from ffbench.records import Generation, Scalar
from ffbench.store import Run, worker_name
from ffbench.video import VideoError, read_clip, write_mp4


@dataclass(frozen=True)
class Order:
    """What a worker of a method is made from."""

    run: Run
    card: Card
    settings: Mapping[str, Scalar]
    runtime: Runtime
    scratch: Path
    """A folder of the run that holds the requests' folders."""
    timeout: float
    memory: float


class Maker:
    """A worker (`ffbench.engine`) that makes videos: a pair of blank record and request becomes the finished record.

    The record is in the run, and on the disk, before it is handed back.
    """

    def __init__(self, order: Order) -> None:
        self._order = order
        self._run = order.run.by_worker(worker_name())
        self._process: MethodProcess | None = None

    def open(self) -> None:
        """Nothing yet: the method starts with its first request."""
        order = self._order
        must_see(order.scratch)
        number = int(os.environ.get("FFBENCH_WORKER", "0"))
        names = ["worker", *([str(order.run.shard)] if order.run.shard else []), *([str(number)] if number else [])]
        place = order.scratch / "-".join(names)
        place.mkdir(exist_ok=True)
        log = order.run.log("-".join(names) + ".log")
        process = MethodProcess(order.card, order.settings, order.runtime, place, log, order.timeout)
        process.memory_gib = order.memory
        self._process = process

    def each(self, pairs: Sequence[tuple[Generation, Request]]) -> Iterator[Generation]:
        """The records of several requests, in order, each as soon as it is written behind its video."""
        assert self._process is not None
        requests = [request for _, request in pairs]
        for request in requests:
            folder = Path(request.folder)
            shutil.rmtree(folder, ignore_errors=True)  # of a worker that died over it
            folder.mkdir(parents=True)
        for answer in self._process.run(requests):
            blank, folder = pairs[answer.index][0], Path(requests[answer.index].folder)
            facts = {**provenance(self._order.runtime.device), "worker": self._process.environment}
            record = _record(self._run, blank, answer, folder, facts)
            self._run.append_generations([record])
            yield record

    def do(self, pair: tuple[Generation, Request]) -> Generation:
        """The record of one request."""
        return next(iter(self.each([pair])))

    def close(self) -> None:
        """Let the method leave."""
        if self._process is not None:
            self._process.close(patience=10.0)

    def abandon(self) -> None:
        """End the method at once."""
        if self._process is not None:
            self._process.close(patience=0.0)


def _record(run: Run, blank: Generation, answer: Answer, folder: Path, facts: Mapping[str, Any]) -> Generation:
    """Put the video of an answer in its place and close its record."""
    measured: dict[str, Any] = {
        "seconds": round(answer.seconds, 3) if answer.status == "ok" else math.nan,
        "peak_gib": math.nan if answer.peak_gib is None else round(answer.peak_gib, 3),
        "provenance": {**facts, "notes": dict(answer.notes)},
    }
    if answer.status != "ok":
        return closed_record(blank, error=_anonymous(answer.error, folder), status=answer.status, **measured)
    target = run.new_video(blank.key)
    try:
        if answer.video:
            made = _take_video(folder, answer.video, target)
        else:
            frames = np.memmap(folder / answer.frames, np.uint8, "r", shape=answer.shape)
            write_mp4(target, frames, answer.fps)
            made = {"frames": answer.shape[0], "height": answer.shape[1], "width": answer.shape[2], "fps": answer.fps}
        measured["provenance"]["video"] = made
    except (VideoError, ValueError) as error:
        return closed_record(blank, error=f"the method's video: {_anonymous(str(error), folder)}", **measured)
    finally:
        shutil.rmtree(folder)
    video = target.relative_to(run.root).as_posix()
    return closed_record(blank, status="ok", video=video, video_sha256=_sha256(target), **measured)


def closed_record(blank: Generation, **values: Any) -> Generation:
    """A blank record with values and the time of now."""
    return replace(blank, utc=datetime.now(UTC).isoformat(timespec="seconds"), **values)


def _take_video(folder: Path, name: str, target: Path) -> dict[str, Any]:
    """Move a video file that a method wrote, if it is a whole one and lies in the request's folder; what it really is.

    Raises:
        VideoError: otherwise.
    """
    path = folder / name
    try:
        mode = path.lstat().st_mode
    except OSError as error:
        raise VideoError(f"{path.name} is not there") from error
    if not stat.S_ISREG(mode) or not path.resolve().is_relative_to(folder.resolve()):
        raise VideoError(f"{path.name} is a link, no file, or lies outside the request's folder")
    clip = read_clip(path, [])  # decodes the whole file: what is kept is complete
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
    path.replace(target)
    width, height = clip.size
    return {"frames": clip.num_frames, "height": height, "width": width, "fps": round(clip.fps, 3)}


def _anonymous(text: str, folder: Path) -> str:
    """Error text without this machine's folders, which also differ between two runs."""
    text = text.replace(str(folder), "<request>").replace(str(folder.parent), "<scratch>")
    return text.replace(str(Path.home()), "~")


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
