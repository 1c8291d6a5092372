"""Measuring on one engine's worker: a photograph becomes its track, a video its scores.

A video is measured by itself: how its frames are put together for the networks depends on that video alone, so which
worker measures it, and beside what others, changes no bit of its numbers.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ffbench.download import sha256_of
from ffbench.engine.reach import must_see
from ffbench.errors import UserError
from ffbench.extract.extractor import Extractor
from ffbench.extract.track import FaceTrack, Floats
from ffbench.image import ImageError, read_image
from ffbench.measure import Scene, is_video_metric, measure
from ffbench.metrics.catalog import METRICS
from ffbench.protocols import Protocol
from ffbench.records import Case, Generation, Score, to_json
from ffbench.store import Run, worker_name
from ffbench.video import Clip, VideoError, read_clip


@dataclass(frozen=True)
class Instruments:
    """What a measuring worker is made from."""

    protocol: Protocol
    device: str


@dataclass(frozen=True)
class Photograph:
    """A reference to be measured, unless its track is there."""

    run: Run
    path: str
    sha256: str


@dataclass(frozen=True)
class Seen:
    """What came of a photograph, and what the networks were."""

    key: str
    """Of its track, which lies in the run."""
    ids: Mapping[str, str]
    missing: Mapping[str, str]


@dataclass(frozen=True)
class Video:
    """A video to be scored."""

    run: Run
    generation: Generation
    case: Case
    ids: Mapping[str, str]
    """Networks that the whole command measures with."""
    threshold: tuple[float, str]
    """Same-identity threshold of the suite and, where it is NaN, why."""
    current: frozenset[str] = frozenset()
    """Lines of scores that the run holds of it already, as after a kill; they are not written again."""


@dataclass(frozen=True)
class Measured:
    """What came of a video, beside the records that are written: why it could not be read, and what it took."""

    damage: str = ""
    worker: int = 0
    """Which process measured it."""
    timings: Mapping[str, float] = field(default_factory=dict)
    """Seconds by part of that worker since it was opened."""


class Scorer:
    """A worker (`ffbench.engine`) that measures: a `Photograph` becomes `Seen`, a `Video` becomes `Measured`.

    The records of a video, its scores or its failure, are in the run, and on the disk, before it is done.
    """

    def __init__(self, instruments: Instruments) -> None:
        self._given = instruments
        self._name = worker_name()
        self._extractor: Extractor
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="ffbench-decode")
        self._reading: dict[str, Future[Clip | VideoError]] = {}
        self._load = lru_cache(64)(FaceTrack.load)
        self._prompt = lru_cache(256)(self._embedded)

    def open(self) -> None:
        """Load the networks."""
        self._extractor = Extractor(self._given.protocol, self._given.device)

    def ahead(self, task: Photograph | Video) -> None:
        """Begin to decode a video that comes after the one in work."""
        if isinstance(task, Video) and len(self._reading) < 2 and task.generation.key not in self._reading:
            self._reading[task.generation.key] = self._reader.submit(self._decode, task)

    def do(self, task: Photograph | Video) -> Seen | Measured:
        """Measure one thing.

        Raises:
            UserError: a photograph without a face or changed since; a worker with other networks than the first, or
                one that does not see the run.
        """
        must_see(task.run.root)
        return self._photograph(task) if isinstance(task, Photograph) else self._video(task)

    def close(self) -> None:
        """Let the decoding thread end."""
        self._reader.shutdown(cancel_futures=True)

    def _photograph(self, task: Photograph) -> Seen:
        extractor = self._extractor
        key = extractor.track_key(task.sha256)
        if cached(task.run.track(key)) is None:
            track = extractor.reference(_pixels(Path(task.path), task.sha256))
            if not track.found[0]:
                rungs = ", ".join(extractor.protocol.ladder)
                raise UserError(
                    f"{task.path} holds no face (tried {rungs})",
                    "crop closer or give another photo; ffbench validate checks all references first",
                )
            track.save(task.run.track(key))
        return Seen(key, dict(extractor.ids), dict(extractor.missing))

    def _video(self, task: Video) -> Measured:
        extractor = self._extractor
        if dict(extractor.ids) != dict(task.ids):
            differ = sorted(set(extractor.ids.items()) ^ set(task.ids.items()))
            raise UserError(
                f"two workers measure with different networks: {', '.join(name for _, name in differ)}",
                "give every machine the same weights: ffbench weights pull",
            )
        reading = self._reading.pop(task.generation.key, None)
        clip = reading.result() if reading is not None else self._decode(task)
        run = task.run.by_worker(self._name)
        if isinstance(clip, VideoError):
            run.append_generations([damaged_record(task.generation, str(clip))])
            return Measured(damage=str(clip))
        key = extractor.track_key(task.generation.video_sha256)
        track = cached(task.run.track(key))
        if track is None:
            (track,) = extractor.track([clip])
            track.save(task.run.track(key))
        run.append_scores(one for one in self._scores(task, key, track) if to_json(one) not in task.current)
        return Measured("", os.getpid(), dict(extractor.timings))

    def _decode(self, task: Video) -> Clip | VideoError:
        path = task.run.video(task.generation)
        protocol = self._given.protocol
        try:
            if sha256_of(path) != task.generation.video_sha256:
                return VideoError("the file has changed since it was made (sha256 differs)")
            return read_clip(path, sorted({protocol.face_sampler, protocol.text_sampler}))
        except FileNotFoundError:
            return VideoError("the file is gone")
        except VideoError as error:
            return error

    def _scores(self, task: Video, key: str, track: FaceTrack) -> list[Score]:
        protocol, case = self._given.protocol, task.case
        prompt, sentences = self._prompt(case.prompt)
        reference = self._load(task.run.track(self._extractor.track_key(case.references[0].sha256)))
        scene = Scene(protocol, track, reference, prompt, sentences, "the case has no prompt", task.threshold)
        records = []
        for metric in protocol.metrics:
            if not is_video_metric(metric):
                continue
            measured = measure(metric, scene)
            records.append(
                Score(
                    generation=task.generation.key,
                    track=key,
                    protocol=protocol.id,
                    metric=metric,
                    version=METRICS[metric].version,
                    value=measured.value,
                    reason=measured.reason,
                    num_frames=len(track.clip_number) if metric.startswith("clip_") else len(track.number),
                    num_scored=measured.num_scored,
                    per_frame=measured.per_frame,
                )
            )
        return records

    def _embedded(self, prompt: str) -> tuple[Floats | None, Floats | None]:
        """A prompt and its parts, by itself: beside others it would round differently."""
        has_text = "clip" in self._given.protocol.networks and "clip" not in self._extractor.missing
        if not prompt or not has_text:
            return None, None
        return self._extractor.texts([prompt]).embeddings[0], self._extractor.long_texts(prompt)


def damaged_record(made: Generation, error: str) -> Generation:
    """The record of a video that cannot be measured."""
    return replace(made, status="failed", error=error, utc=datetime.now(UTC).isoformat(timespec="seconds"))


def cached(path: Path) -> FaceTrack | None:
    """A cached track, or None where there is none or it cannot be read (then it is made anew)."""
    try:
        return FaceTrack.load(path) if path.is_file() else None
    except ValueError:
        return None


def _pixels(path: Path, sha256: str) -> NDArray[np.uint8]:
    try:
        if sha256_of(path) != sha256:
            raise UserError(
                f"{path} has changed since the videos were made", "put the photograph back, or generate anew"
            )
        return read_image(path)
    except (OSError, ImageError) as error:
        raise UserError(
            f"reference {path}: {error}", "give a readable photograph; ffbench validate checks all"
        ) from error
