"""Scored rows without their videos and tracks: a line a video, small enough to commit, and all that cells need."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ffbench.metrics.catalog import METRICS
from ffbench.records import SCHEMA, Case, Cell, Generation, Score, Status, from_json, to_json
from ffbench.store import Run
from ffbench.tables.rows import Kept, Row, Video
from ffbench.tables.sheet import pose_means, rounded, set_cells


@dataclass(frozen=True)
class Head:
    """First line of a file."""

    suite: str
    protocol: str
    method: str
    control: bool
    metrics: Mapping[str, int]
    """metric id -> version, in the protocol's order."""
    networks: Mapping[str, str]
    missing: Mapping[str, str]
    notes: tuple[str, ...]
    pose_reason: str
    sets: tuple[Cell, ...]
    """Of metrics that have one number for all videos."""
    schema: int = SCHEMA


@dataclass(frozen=True)
class Line:
    """One video."""

    case_id: str
    identity_id: str
    prompt_id: str
    tags: tuple[str, ...]
    take: int
    status: Status
    values: tuple[float, ...]
    """In the order of the head's metrics, those with a number for all videos left out; null where missing."""
    scored: tuple[int, ...]
    """Frames that have a value, likewise."""
    frames: tuple[int, ...]
    """Frames that were looked at, likewise."""
    reasons: Mapping[str, str]
    """metric -> why it is missing."""
    bins: Mapping[str, Mapping[str, float]]
    """Bin of |yaw| or |pitch| -> metric -> the video's mean in the bin."""


def keep(row: Row) -> Row:
    """The row as a file of it would give it back: values to six digits, no frames, what cells need of the tracks."""
    if row.kept:
        return row
    pose, reason = pose_means(row)
    kept = Kept(
        {place: {video: rounded(mean) for video, mean in found.items()} for place, found in pose.items()},
        reason,
        {cell.metric: cell for cell in set_cells(row)},
    )
    scores = {
        video: {
            metric: dataclasses.replace(score, value=rounded(score.value), per_frame=())
            for metric, score in found.items()
        }
        for video, found in row.scores.items()
    }
    return dataclasses.replace(row, scores=scores, kept=kept)


def to_lines(row: Row) -> Iterator[str]:
    """A kept row as lines of JSON.

    Raises:
        ValueError: for a row that is not kept (`keep`).
    """
    if row.kept is None:
        raise ValueError("keep(row) first")
    sets = tuple(row.kept.sets.values())
    yield to_json(
        Head(
            row.suite,
            row.protocol,
            _method(row),
            row.control,
            dict(row.metrics),
            dict(row.networks),
            dict(row.missing),
            row.notes,
            row.kept.pose_reason,
            tuple(dataclasses.replace(cell, method=_method(row)) for cell in sets),
        )
    )
    bins: dict[Video, dict[str, dict[str, float]]] = {}
    for (metric, group), means in row.kept.pose.items():
        for video, mean in means.items():
            bins.setdefault(video, {}).setdefault(group, {})[metric] = mean
    for video, generation in sorted(row.generations.items()):
        case = row.cases[video[0]]
        scores = row.scores.get(video, {})
        found = [scores.get(metric) or _not_measured(metric) for metric in _of_videos(row.metrics) if scores]
        yield to_json(
            Line(
                case.case_id, case.identity_id, case.prompt_id, case.tags, video[1], generation.status,
                tuple(score.value for score in found), tuple(score.num_scored for score in found),
                tuple(score.num_frames for score in found),
                {score.metric: score.reason for score in found if score.reason}, bins.get(video, {}),
            )
        )  # fmt: skip


def from_lines(lines: Iterable[str], folder: Path) -> Row:
    """The kept row of a file.

    Args:
        lines: of the file.
        folder: where it lies, for messages.

    Raises:
        ValueError: for a line of another kind, naming it.
    """
    first, *rest = lines
    head = from_json(Head, first)
    suite, _, version = head.suite.rpartition("@")
    cases: dict[str, Case] = {}
    generations: dict[Video, Generation] = {}
    scores: dict[Video, dict[str, Score]] = {}
    pose: dict[tuple[str, str], dict[Video, float]] = {}
    for text in rest:
        line = from_json(Line, text)
        video = (line.case_id, line.take)
        cases[line.case_id] = Case(
            suite, version, line.case_id, line.identity_id, (), line.prompt_id, "", tags=line.tags
        )
        generation = Generation(line.case_id, suite, version, head.method, "", {}, 0, line.take, line.status)
        generations[video] = generation
        if line.status == "ok":
            columns = zip(_of_videos(head.metrics), line.values, line.scored, line.frames, strict=True)
            scores[video] = {
                metric: Score(
                    generation.key, "", head.protocol, metric, int(head.metrics[metric]), value,
                    line.reasons.get(metric, ""), frames, scored,
                )
                for metric, value, scored, frames in columns
            }  # fmt: skip
        for group, means in line.bins.items():
            for metric, mean in means.items():
                pose.setdefault((metric, group), {})[video] = float(mean)
    return Row(
        run=Run(folder),
        label=head.method,
        control=head.control,
        suite=head.suite,
        protocol=head.protocol,
        metrics=dict(head.metrics),
        networks=dict(head.networks),
        missing=dict(head.missing),
        notes=head.notes,
        references={},
        cases=cases,
        generations=generations,
        scores=scores,
        num_pending=0,
        kept=Kept(pose, head.pose_reason, {cell.metric: cell for cell in head.sets}),
    )


def _not_measured(metric: str) -> Score:
    return Score("", "", "", metric, 0, math.nan, f"{metric} was not measured")


def _of_videos(metrics: Mapping[str, int]) -> list[str]:
    return [metric for metric in metrics if METRICS[metric].level == "video"]


def _method(row: Row) -> str:
    return next(iter(row.generations.values())).method
