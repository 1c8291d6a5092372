"""One source video through every step: its clips, their records, and the files of those that qualify."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from faithfulfaces.dataset import checks, detect, frames, pose, quality, tracks
from faithfulfaces.dataset.detect import Track
from faithfulfaces.dataset.folder import Folder
from faithfulfaces.dataset.instruments import Instruments, embed
from faithfulfaces.dataset.records import ClipRecord, Outcome
from faithfulfaces.dataset.settings import Settings
from faithfulfaces.dataset.shots import ShotCutter
from faithfulfaces.dataset.sources import Source, clip_key
from faithfulfaces.dataset.staging import Staged, stage
from ffbench.video import VideoError, frame_times, probe, stream_frames

Pixels = NDArray[np.uint8]


class Timing:
    """Frames and seconds of each stage, summed up."""

    def __init__(self) -> None:
        self.frames: dict[str, int] = {}
        self.seconds: dict[str, float] = {}

    @contextmanager
    def of(self, stage_name: str, count: int) -> Iterator[None]:
        """Time the block, which deals with `count` frames."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add({stage_name: (count, time.perf_counter() - start)})

    def add(self, stages: dict[str, tuple[int, float]]) -> None:
        """Sum up stage -> (frames, seconds)."""
        for name, (count, seconds) in stages.items():
            self.frames[name] = self.frames.get(name, 0) + count
            self.seconds[name] = self.seconds.get(name, 0.0) + seconds

    def clear(self) -> None:
        """Begin anew."""
        self.frames.clear()
        self.seconds.clear()

    def stages(self) -> dict[str, tuple[int, float]]:
        """Of each stage (frames, seconds)."""
        return {name: (count, self.seconds[name]) for name, count in self.frames.items()}


class Analyst:
    """Takes sources through the steps.

    Args:
        settings: of the build.
        instruments: its networks.
        folder: where tracks and qualified clips go.
    """

    def __init__(self, settings: Settings, instruments: Instruments, folder: Folder) -> None:
        self._settings, self._nets, self._folder = settings, instruments, folder
        self.timing = Timing()

    def outcome(self, source: Source) -> Outcome:
        """What became of every clip of a source; a file that is no whole video is one failed clip."""
        size = source.path.stat().st_size if source.path.is_file() else 0
        whole = ClipRecord(key=clip_key(source.name, 0), source=source.name, source_bytes=size)
        try:
            clips = tuple(self._clips(source, whole))
        except (VideoError, FileNotFoundError, PermissionError) as error:
            words = str(error) if isinstance(error, VideoError) else f"it cannot be opened ({type(error).__name__})"
            clips = (dataclasses.replace(whole, verdict="failed", reason="unreadable", detail=words),)
        return Outcome(source=source.name, bytes=size, clips=clips)

    def _clips(self, source: Source, record: ClipRecord) -> Iterator[ClipRecord]:
        video = self._settings.video
        info = probe(source.path)
        times = frame_times(source.path)
        fps = (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 and times[-1] > times[0] else 0.0
        with source.path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        record = dataclasses.replace(
            record, source_sha256=digest, source_size=(info.width, info.height), source_fps=round(float(fps), 3)
        )
        reason, detail = frames.unfit(info.width, info.height, video)
        if fps < video.min_fps * 0.99:
            reason, detail = "fps", f"{fps:.2f} frames a second, at least {video.min_fps:g} are asked for"
        if reason:
            yield dataclasses.replace(record, verdict="rejected", reason=reason, detail=detail)
            return
        numbers = frames.resample(times, video.fps)
        rate = video.fps or float(fps)
        for piece, (first, pixels) in enumerate(self._pieces(source, numbers, len(times), rate)):
            begun = dataclasses.replace(
                record,
                key=clip_key(source.name, piece),
                start=round(float(times[numbers[first]] - times[0]), 3),
                seconds=round(len(pixels) / rate, 3),
                frames=len(pixels),
            )
            yield self._clip(begun, pixels, rate)

    def _pieces(
        self, source: Source, numbers: NDArray[np.int64], count: int, rate: float
    ) -> Iterator[tuple[int, Pixels]]:
        """(first standard frame, frames) of each clip; a source that fits into one clip's memory is decoded once."""
        video = self._settings.video
        longest = max(video.frames, int(video.max_seconds * rate))
        cutter = ShotCutter(video.shots, video.shot_threshold)
        kept: list[Pixels] = []

        # a source slower than the standard rate shows frames more than once, and each is decoded once
        distinct, repeats = np.unique(numbers, return_counts=True)

        def decoded() -> Iterator[Pixels]:
            found = stream_frames(source.path, distinct.tolist(), count, lambda w, h: frames.cover(w, h, video))
            for frame, times in zip(found, repeats, strict=False):
                yield from [frame] * int(times)

        with self.timing.of("decode", len(numbers)):
            for frame in decoded():
                cutter.see(frame)
                if len(numbers) <= longest:
                    kept.append(frame)
        pieces = frames.pieces(len(numbers), cutter.close(), longest)
        if kept:
            for start, end in pieces:
                yield start, np.stack(kept[start:end])
            return
        again = decoded()
        for start, end in pieces:
            with self.timing.of("decode", end - start):
                pixels = np.stack([next(again) for _ in range(start, end)])
            yield start, pixels

    def _clip(self, record: ClipRecord, pixels: Pixels, rate: float) -> ClipRecord:
        settings = self._settings
        if len(pixels) < settings.video.frames:
            return _rejected(record, "short", f"{len(pixels)} frames, a sample has {settings.video.frames}")
        record = dataclasses.replace(record, clarity=round(quality.clarity(pixels), 2), phash=quality.clip_hash(pixels))
        if record.clarity < settings.quality.clarity:
            return _rejected(record, "blurred", f"clarity {record.clarity:.1f}, at least {settings.quality.clarity:g}")
        with self.timing.of("checks", len(pixels)) if self._nets.checks else nullcontext():
            values, reason, detail = checks.run(self._nets.checks, pixels)
        record = dataclasses.replace(record, checks=values)
        if reason:
            return _rejected(record, reason, detail)
        with self.timing.of("detect", -(-len(pixels) // settings.subject.stride)):
            track = detect.track(pixels, self._nets.detector, settings.networks.ladder, settings.subject)
        record = dataclasses.replace(
            record,
            frames_seen=len(track.faces),
            frames_with_face=int(track.shown.sum()),
            most_faces=int(track.faces.max()),
            face_px=round(detect.face_px(track), 2),
        )
        reason, detail = detect.refused(track, settings.subject)
        return _rejected(record, reason, detail) if reason else self._posed(record, pixels, track, rate)

    def _posed(self, record: ClipRecord, pixels: Pixels, track: Track, rate: float) -> ClipRecord:
        subject, run = self._settings.subject, self._settings.video.frames
        angles_T3 = np.full((len(track.number), 3), np.nan, np.float32)
        shown = np.flatnonzero(track.shown)
        with self.timing.of("pose", len(shown)):
            images = [pixels[track.number[row]] for row in shown]
            angles_T3[shown] = self._nets.pose.angles(images, track.box[shown], track.points[shown])
        first = pose.best_run(track.number, angles_T3, len(pixels), run, subject)
        rows = np.flatnonzero((track.number >= first) & (track.number < first + run))
        pitch, yaw, roll = pose.ranges(angles_T3[rows])
        record = dataclasses.replace(
            record,
            first=first,
            variation=round(pose.variation(angles_T3[rows]), 3),
            variation_robust=round(pose.robust_variation(angles_T3[rows], subject.percentile), 3),
            variation_steady=round(pose.steady_variation(angles_T3[rows]), 3),
            pitch=_rounded(pitch),
            yaw=_rounded(yaw),
            roll=_rounded(roll),
        )
        tracks.save(self._folder, record.key, track, angles_T3)
        value = pose.measured(angles_T3[rows], subject)
        # NaN: no face whose pose can be told
        if not value > subject.threshold:
            return _rejected(
                record, "still", f"the pose varies by {value:.1f} degrees, {subject.threshold:g} are asked for"
            )
        return self._combined(record, pixels, _Posed(track, angles_T3, rows), rate)

    def _combined(self, record: ClipRecord, pixels: Pixels, posed: _Posed, rate: float) -> ClipRecord:
        """The last checks, and the files of a clip that passes."""
        samples, video, people = self._settings.samples, self._settings.video, self._settings.people
        track, rows = posed.track, posed.rows
        good = rows[pose.steady(posed.angles)[rows]]
        if len(good) < samples.min_crops:
            return _rejected(
                record, "crops", f"{len(good)} frames show a steady face, {samples.min_crops} are asked for"
            )
        chosen = good[pose.spanning(posed.angles[good], samples.crops)]
        images = [pixels[track.number[row]] for row in chosen]
        embeddings = None
        if self._nets.embedder is not None:
            with self.timing.of("embed", len(chosen)):
                embeddings = embed(self._nets.embedder, images, track.box[chosen], track.points[chosen])
        if self._nets.excluded is not None and embeddings is not None:
            cosine = np.nan_to_num(embeddings @ self._nets.excluded.embeddings.T, nan=-1.0)
            nearest = int(np.argmax(cosine.max(0)))
            record = dataclasses.replace(
                record,
                excluded_like=self._nets.excluded.names[nearest],
                excluded_cosine=round(float(cosine.max()), 4),
            )
            if cosine.max() >= people.exclude_cosine:
                return _rejected(record, "excluded", f"like {record.excluded_like}, cosine {cosine.max():.3f}")
        boxes = track.box[rows][track.shown[rows]]
        corner = frames.placed((pixels.shape[2], pixels.shape[1]), boxes, video)
        record = dataclasses.replace(
            record, verdict="qualified", kept_faces=round(frames.inside(boxes, corner, video), 4)
        )
        left, top = corner
        sample = pixels[record.first : record.first + video.frames, top : top + video.height, left : left + video.width]
        staged = Staged(
            record.key, sample, images, track.box[chosen], posed.angles[chosen], track.number[chosen], embeddings
        )
        with self.timing.of("encode", len(sample)):
            stage(self._folder.clip(record.key), staged, rate, self._settings)
        return record


class _Posed(NamedTuple):
    track: Track
    angles: NDArray[np.float32]
    """[T,3]."""
    rows: NDArray[np.int64]
    """Of the sample."""


def _rejected(record: ClipRecord, reason: str, detail: str) -> ClipRecord:
    return dataclasses.replace(record, verdict="rejected", reason=reason, detail=detail)


def _rounded(pair: tuple[float, float]) -> Any:
    return tuple(round(value, 3) for value in pair)
