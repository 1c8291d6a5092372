"""Per-frame values of scored videos: `frames.csv`, lines of JSON, and what is read back from them to draw figures."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
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


def frames_lines(frames: Sequence[VideoFrames], metrics: Collection[str]) -> Iterator[str]:
    """Videos as lines of JSON with some of their metrics, small enough to commit: times, angles and values to 4 digits.

    A metric that a video has no values of is left out; missing numbers are null.
    """
    for one in frames:
        series = {metric: _plain(one.series[metric]) for metric in sorted(metrics) if metric in one.series}
        facts = {
            "method": one.method, "case": one.case_id, "take": one.take, "number": one.number.tolist(),
            "time": _plain(one.time), "angles": [_plain(row) for row in one.angles], "series": series,
        }  # fmt: skip
        yield json.dumps(facts, separators=(",", ":"), allow_nan=False)


def read_lines(lines: Iterable[str]) -> list[VideoFrames]:
    """What `frames_lines` wrote.

    Raises:
        ValueError: for a line of another kind.
        KeyError: for one that lacks a field.
    """
    found = []
    for line in map(json.loads, lines):
        number, time = np.array(line["number"], np.int64), np.array(line["time"], np.float64)
        angles = np.array(line["angles"], np.float64).reshape(-1, 3)
        series = {str(metric): np.array(values, np.float64) for metric, values in line["series"].items()}
        if {len(one) for one in (number, angles, *series.values())} - {len(time)}:
            raise ValueError(f"{line['method']}, {line['case']}: times and values do not go together")
        found.append(VideoFrames(line["method"], line["case"], int(line["take"]), number, time, angles, series))
    return found


def _plain(values: Floats) -> list[float | None]:
    return [None if math.isnan(value) else float(f"{value:.4g}") for value in values.tolist()]


def _series(scores: Mapping[str, Score], metric: str) -> tuple[float, ...]:
    return scores[metric].per_frame if metric in scores else ()


def _has_frames(row: Row, metric: str) -> bool:
    return any(_series(scores, metric) for scores in row.scores.values())
