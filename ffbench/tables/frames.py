"""Per-frame values of scored videos: `frames.csv`, and what is read back from it to draw figures."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ffbench.records import Score
from ffbench.tables.rows import Row

Floats = NDArray[np.float64]
_HEAD = (
    "method", "case_id", "take", "identity_id", "generation", "frame", "time_s", "faces", "step", "pitch", "yaw", "roll"
)  # fmt: skip


@dataclass(frozen=True)
class VideoFrames:
    """The sampled frames of one video; NaN where a frame has no face or a metric no value."""

    method: str
    """Label of its row."""
    case_id: str
    take: int
    number: NDArray[np.int64]
    """[T] frame numbers in the video."""
    time: Floats
    """[T] seconds."""
    angles: Floats
    """[T,3] pitch, yaw, roll in degrees; signs in extract/pose.py."""
    series: Mapping[str, Floats]
    """metric -> [T], as far as a metric has values by frame."""


def frames_csv(rows: Sequence[Row]) -> str:
    """Per-frame values of every scored video: a row a sampled frame, missing numbers empty."""
    metrics = [metric for metric in rows[0].metrics if any(_has_frames(row, metric) for row in rows)]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([*_HEAD, *metrics])
    for row in rows:
        for (case_id, take), scores in sorted(row.scores.items()):
            track = row.track((case_id, take))
            if track is None:
                continue
            key = row.generations[case_id, take].key
            numbers = {False: track.number.tolist(), True: track.clip_number.tolist()}
            # text metrics may sample other frames than the face metrics do
            series = [dict(zip(numbers[m.startswith("clip_")], _series(scores, m), strict=False)) for m in metrics]
            for i, number in enumerate(track.number.tolist()):
                values = [values.get(number, math.nan) for values in series]
                facts = [row.label, case_id, take, row.cases[case_id].identity_id, key, number, f"{track.time[i]:.4f}"]
                measured = [*(float(angle) for angle in track.angles[i]), *values]
                shown = ["" if math.isnan(value) else f"{value:.6g}" for value in measured]
                writer.writerow([*facts, int(track.num_faces[i]), track.step[i], *shown])
    return stream.getvalue()


def read_frames(text: str) -> list[VideoFrames]:
    """What `frames_csv` wrote, a record a video, in its order."""
    reader = csv.DictReader(io.StringIO(text))
    metrics = [name for name in reader.fieldnames or () if name not in _HEAD]
    groups: dict[tuple[str, str, int], list[dict[str, str]]] = {}
    for line in reader:
        groups.setdefault((line["method"], line["case_id"], int(line["take"])), []).append(line)

    def column(lines: Sequence[Mapping[str, str]], name: str) -> Floats:
        return np.array([float(line[name] or "nan") for line in lines], np.float64)

    return [
        VideoFrames(
            method,
            case_id,
            take,
            np.array([int(line["frame"]) for line in lines], np.int64),
            column(lines, "time_s"),
            np.stack([column(lines, name) for name in ("pitch", "yaw", "roll")], axis=1),
            {metric: column(lines, metric) for metric in metrics},
        )
        for (method, case_id, take), lines in groups.items()
    ]


def _series(scores: Mapping[str, Score], metric: str) -> tuple[float, ...]:
    return scores[metric].per_frame if metric in scores else ()


def _has_frames(row: Row, metric: str) -> bool:
    return any(_series(scores, metric) for scores in row.scores.values())
