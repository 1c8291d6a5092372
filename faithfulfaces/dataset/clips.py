"""What reviewers look at: clips of a build folder that got as far as the pose, with angles, crops and captions."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from faithfulfaces.dataset import pose, staging, tracks
from faithfulfaces.dataset.build import read_outcomes, settings_of
from faithfulfaces.dataset.folder import Folder
from faithfulfaces.dataset.frames import resample
from faithfulfaces.dataset.records import ClipRecord
from faithfulfaces.dataset.sources import base
from ffbench.errors import UserError
from ffbench.video import VideoError, frame_times, stream_frames

Which = Literal["qualified", "all"]
WIDTH = 640
"""Longer side of a preview, px."""
CROPS = 10


class Angles(NamedTuple):
    """The pose of the frames of a sample that were looked at."""

    seconds: NDArray[np.float64]
    """[T] from the sample's first frame."""
    angles: NDArray[np.float32]
    """[T,3] pitch, yaw, roll, degrees; NaN without a face."""


class Shown(NamedTuple):
    """The files of a clip."""

    video: Path
    crops: Sequence[Path]
    euler: Sequence[tuple[float, float, float]]
    """Pitch, yaw, roll of each crop, degrees."""
    seconds: Sequence[float]
    """When each crop is seen, from the sample's first frame."""


class Clips:
    """Clips of a build to review: all that have angles, or those that qualified.

    Args:
        root: `--out` of the build.
        which: `all` needs `videos`, for rejected clips are cut from their sources when somebody looks.
        videos: the folder, or the list, that the build read.
        only: CSV whose column `clip` names the clips, in the order of review; such as `data sample` draws. It may name
            rejected ones.

    Raises:
        UserError: no build, or nothing to review in it.
    """

    def __init__(
        self, root: Path, which: Which = "qualified", videos: Path | None = None, only: Path | None = None
    ) -> None:
        self.folder = Folder(root)
        self.settings = settings_of(self.folder)
        self._sources = base(videos) if videos else None
        every = {
            record.key: record
            for outcome in read_outcomes(self.folder).values()
            for record in outcome.clips
            if record.verdict == "qualified" or record.variation == record.variation
        }
        if only is not None:
            self.records = [_named(every, key, only) for key in _keys(only)]
        else:
            self.records = [every[k] for k in sorted(every) if which == "all" or every[k].verdict == "qualified"]
        if not self.records:
            raise UserError(f"{root} holds no clip to review", f"see why: faithfulfaces data stats {root}")
        if videos is None and any(record.verdict != "qualified" for record in self.records):
            raise UserError("rejected clips are cut from their sources", "name them: --videos DIR_OR_LIST of the build")
        self._by_key = {record.key: record for record in self.records}
        self._making: dict[str, Lock] = {}
        self._lock = Lock()

    def record(self, key: str) -> ClipRecord | None:
        """The record of a clip under review."""
        return self._by_key.get(key)

    def angles(self, record: ClipRecord) -> Angles:
        """The pose over a clip's sample.

        Raises:
            UserError: its track is missing or damaged.
        """
        number, angles, _ = self._track(record)
        return Angles((number - record.first) / self._rate(record), angles)

    def shown(self, record: ClipRecord) -> Shown:
        """The files of a clip; those of a rejected one are made at the first look.

        Raises:
            UserError: its source or its files are gone.
        """
        if record.verdict == "qualified":
            folder = self.folder.clip(record.key)
        else:
            folder = self.folder.preview(record.key)
            with self._lock:
                making = self._making.setdefault(record.key, Lock())
            with making:
                if not (folder / staging.ABOUT).is_file():
                    self._preview(record, folder)
        about = staging.read_about(folder)
        crops = about["crops"]
        return Shown(
            folder / staging.VIDEO,
            [folder / Path(crop["name"]).name for crop in crops],
            [tuple(crop["euler"]) for crop in crops],
            [(crop["frame"] - record.first) / self._rate(record) for crop in crops],
        )

    def _rate(self, record: ClipRecord) -> float:
        return self.settings.video.fps or record.source_fps

    def _track(self, record: ClipRecord) -> tracks.Posed:
        """The sample's frames."""
        whole = tracks.load(self.folder, record.key)
        rows = (whole.number >= record.first) & (whole.number < record.first + self.settings.video.frames)
        return tracks.Posed(whole.number[rows], whole.angles[rows], whole.box[rows])

    def _preview(self, record: ClipRecord, folder: Path) -> None:
        """Cut a rejected clip from its source, small."""
        if self._sources is None:
            raise UserError(f"{record.key} was rejected, and its source is not known", "give --videos")
        number, angles, box = self._track(record)
        try:
            frames, scale = self._read(self._sources / record.source, record)
        except (VideoError, OSError) as error:
            raise UserError(f"{record.source} cannot be read: {error}", "give --videos of the build") from error
        finite = np.flatnonzero(np.isfinite(angles).all(1) & np.isfinite(box).all(1))
        rows = finite[pose.spanning(angles[finite], CROPS)]
        images = [frames[number[row] - record.first] for row in rows]
        made = staging.Staged(record.key, frames, images, box[rows] * scale, angles[rows], number[rows], None)
        staging.stage(folder, made, self._rate(record), self.settings)

    def _read(self, source: Path, record: ClipRecord) -> tuple[NDArray[np.uint8], float]:
        """The sample's frames [T,H,W,3], and their size against that which boxes are given in."""
        times = frame_times(source)
        numbers = resample(times, self.settings.video.fps)
        begin = int(np.argmin(np.abs(times[numbers] - times[0] - record.start))) + record.first
        wanted = numbers[begin : begin + self.settings.video.frames]
        width, height = record.source_size
        small = min(1.0, WIDTH / max(width, height))
        size = max(2, round(width * small)), max(2, round(height * small))
        distinct = np.unique(wanted)
        frames = []
        for frame in stream_frames(source, distinct.tolist(), len(times), lambda w, h: size):
            frames.append(frame)
            if len(frames) == len(distinct):
                break
        video = self.settings.video
        cover = max(video.width / width, video.height / height)
        return np.stack(frames)[np.searchsorted(distinct, wanted)], small / cover


def _keys(path: Path) -> list[str]:
    """The clips that a CSV names, each once.

    Raises:
        UserError: no such column.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        return list(dict.fromkeys(row["clip"] for row in rows))
    except (OSError, UnicodeDecodeError, KeyError, csv.Error) as error:
        raise UserError(f"--clips {path} has no column clip ({error!r})", "give what `data sample` prints") from error


def _named(every: Mapping[str, ClipRecord], key: str, path: Path) -> ClipRecord:
    if key not in every:
        raise UserError(f"--clips {path} names {key!r}, which the build does not hold", "give a list of this build")
    return every[key]
