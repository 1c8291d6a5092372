"""From rows to cells: every aggregated number of a report, and the sheet that holds them."""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ffbench.measure import NEEDS
from ffbench.metrics import aggregate, frechet, identity
from ffbench.metrics.catalog import METRICS
from ffbench.records import SCHEMA, Cell
from ffbench.tables.rows import Row, Video

if TYPE_CHECKING:
    from numpy.typing import NDArray

EDGES = (0.0, 15.0, 30.0, 45.0, 60.0, 75.0, 90.0)
"""Degrees of |yaw| or |pitch| between the bins of the pose tables."""
TAGGED = ("facesim_cur", "facesim_arc", "facesim_facenet", "clip_score", "pose_range", "face_rate")
"""Metrics that are also formed by tag."""
BINNED = ("facesim_cur", "facesim_arc", "facesim_facenet")
SET_SLOT = "fid_inception"
NO_TRACKS = "the tracks are not kept with this run"


@dataclass(frozen=True)
class Line:
    """One method of a sheet."""

    label: str
    control: bool
    num_made: int
    num_failed: int


@dataclass(frozen=True)
class Sheet:
    """All that a table is rendered from; `cells.json` holds it, and re-rendering it gives the same bytes."""

    suite: str
    protocol: str
    metrics: tuple[str, ...]
    """In the protocol's order."""
    networks: tuple[str, ...]
    """`slot id`, sorted by slot."""
    lines: tuple[Line, ...]
    notes: tuple[str, ...]
    """The protocol's footnotes, and what was left out."""
    cells: tuple[Cell, ...]
    schema: int = SCHEMA

    def cell(self, label: str, metric: str, group: str = "all") -> Cell | None:
        """The cell at a place, if there is one."""
        return self._index.get((label, metric, group))

    @property
    def _index(self) -> Mapping[tuple[str, str, str], Cell]:
        return {(cell.method, cell.metric, cell.group): cell for cell in self.cells}

    def groups(self, prefix: str) -> list[str]:
        """Groups whose name begins with `prefix`, in order of first appearance."""
        return list(dict.fromkeys(cell.group for cell in self.cells if cell.group.startswith(prefix)))


def sheet(rows: Sequence[Row], notes: Sequence[str] = (), allow_small: bool = False) -> Sheet:
    """Aggregate rows that are alike (`rows.alike`) into a sheet.

    Args:
        rows: at least one.
        notes: further footnotes.
        allow_small: form Fréchet distances below 2048 crops too.
    """
    ordered = sorted(rows, key=lambda row: (row.control, row.label))
    lines = [Line(row.label, row.control, row.num_made, len(row.generations) - row.num_made) for row in ordered]
    return assemble(ordered, lines, notes, [cell for row in ordered for cell in cells(row, allow_small=allow_small)])


def assemble(rows: Sequence[Row], lines: Sequence[Line], notes: Sequence[str], found: Sequence[Cell]) -> Sheet:
    """A sheet of cells that are formed, with what the rows below them have in common."""
    first = rows[0]
    networks = {slot: value for row in rows for slot, value in row.networks.items()}
    return Sheet(
        suite=first.suite,
        protocol=first.protocol,
        metrics=tuple(first.metrics),
        networks=tuple(f"{slot} {networks[slot]}" for slot in sorted(networks)),
        lines=tuple(lines),
        notes=(*first.notes, *notes),
        cells=tuple(found),
    )


def cells(row: Row, allow_small: bool = False) -> list[Cell]:
    """Every cell of one row: all videos, then by tag, then by |yaw| and |pitch|."""
    everything = frozenset(row.generations)
    per_video = [metric for metric in row.metrics if METRICS[metric].level == "video"]
    groups = {"all": everything}
    for tag in sorted({tag for case_id, _ in everything for tag in row.cases[case_id].tags}):
        groups[f"tag:{tag}"] = frozenset(video for video in everything if tag in row.cases[video[0]].tags)
    found = [
        _cell(row, metric, (group, videos), valued(row.only(videos), metric), why_missing(row, metric, videos))
        for group, videos in groups.items()
        for metric in per_video
        if group == "all" or metric in TAGGED
    ]
    found.extend(set_cells(row, allow_small))
    found.extend(_pose_cells(row))
    return found


def valued(row: Row, metric: str) -> dict[Video, float]:
    """The videos of a row that have a number for a metric."""
    found = {video: scores[metric].value for video, scores in row.scores.items() if metric in scores}
    return {video: value for video, value in sorted(found.items()) if not math.isnan(value)}


def why_missing(row: Row, metric: str, videos: frozenset[Video]) -> str:
    """The commonest reason why videos have no number, with how often it holds where that is not always."""
    reasons = collections.Counter(
        row.scores[video][metric].reason if metric in row.scores[video] else f"{metric} was not measured"
        for video in sorted(videos & set(row.scores))
        if metric not in row.scores[video] or row.scores[video][metric].reason
    )
    if not reasons:
        return "no video was made"
    # counts inside a reason differ from video to video; one that holds for all is shown as it is
    reason, count = min(reasons.items(), key=lambda item: (-item[1], item[0]))
    total = sum(reasons.values())
    return reason.removeprefix(NEEDS) if count == total else f"{reason} ({count} of {total} videos)"


def faced(row: Row) -> frozenset[Video]:
    """The videos in which a face was found."""
    return frozenset(v for v, scores in row.scores.items() if "face_rate" in scores and scores["face_rate"].value > 0)


def set_metric(row: Row, metric: str, allow_small: bool = False) -> tuple[float, str]:
    """A set-level metric, all face crops of a row against all its reference faces; NaN comes with the reason."""
    crops, references, reason = _features(row)
    return (math.nan, reason) if reason else _distance(metric, crops, references, allow_small)


def set_cells(row: Row, allow_small: bool = False) -> Iterator[Cell]:
    """The cells of metrics that have one number for all videos of a row."""
    metrics = [metric for metric in row.metrics if METRICS[metric].level == "set"]
    if not metrics:
        return
    if row.kept:
        for metric in metrics:
            known = row.kept.sets.get(metric)
            empty = _cell(row, metric, ("all", frozenset(row.generations)), {}, NO_TRACKS)
            yield dataclasses.replace(known, method=row.label) if known else empty
        return
    # read once for all metrics: features are the large part of a track
    crops, references, missing = _features(row)
    everything = frozenset(row.generations)
    seen = faced(row)
    for metric in metrics:
        value, reason = (math.nan, missing) if missing else _distance(metric, crops, references, allow_small)
        cell = _cell(row, metric, ("all", everything), {}, reason)
        if not reason:
            people = len({row.cases[case_id].identity_id for case_id, _ in seen})
            cell = dataclasses.replace(
                cell,
                value=rounded(value),
                reason="",
                num_identities=people,
                num_videos=len(seen),
                num_unscored=row.num_made - len(seen),
            )
        yield cell


def _features(row: Row) -> tuple[NDArray[np.float32], NDArray[np.float32], str]:
    """[N,D] features of the row's face crops and [M,D] of its reference faces, or why there are none."""
    nothing = np.empty((0, 0), np.float32)
    if SET_SLOT in row.missing:
        return nothing, nothing, row.missing[SET_SLOT]
    crops = []
    for video in sorted(row.scores):
        track = row.track(video)
        if track is None or SET_SLOT not in track.features:
            return nothing, nothing, NO_TRACKS
        crops.append(track.features[SET_SLOT][track.found])
    photographs: dict[str, NDArray[np.float32]] = {}
    for case_id in sorted({case_id for case_id, _ in row.generations}):
        sha256 = row.cases[case_id].references[0].sha256
        if sha256 not in photographs:
            track = row.reference(case_id)
            if track is None or SET_SLOT not in track.features:
                return nothing, nothing, NO_TRACKS
            photographs[sha256] = track.features[SET_SLOT]
    if not sum(len(part) for part in crops):
        return nothing, nothing, "no face in any video"
    return np.concatenate(crops), np.concatenate(list(photographs.values())), ""


def _distance(
    metric: str, crops: NDArray[np.float32], references: NDArray[np.float32], allow_small: bool
) -> tuple[float, str]:
    if metric == "kid":
        found = frechet.kid(crops, references)
        return found.value, found.reason
    small = min(len(crops), len(references))
    if small < frechet.FID_MINIMUM and not allow_small:
        return math.nan, (
            f"{len(crops)} crops against {len(references)} references: FID needs {frechet.FID_MINIMUM} on each side; "
            "see KID, or ffbench report --small-sets"
        )
    if small < 2:
        return math.nan, f"{len(crops)} crops against {len(references)} references: FID needs 2 on each side"
    found = frechet.fid(crops, references, minimum=2)
    return found.value, found.reason


def pose_means(row: Row) -> tuple[Mapping[tuple[str, str], Mapping[Video, float]], str]:
    """FaceSim of each video in bins of |yaw| and |pitch|: (metric, bin) -> video -> mean; or why there is none."""
    if row.kept:
        return row.kept.pose, row.kept.pose_reason
    metrics = [metric for metric in BINNED if metric in row.metrics]
    means: dict[tuple[str, str], dict[Video, float]] = {}
    missing = row.missing.get("pose", "")
    for video, scores in sorted(row.scores.items()) if not missing else ():
        track = row.track(video)
        if track is None:
            missing = NO_TRACKS
            break
        for axis, column in (("pitch", 0), ("yaw", 1)):
            angles = np.abs(track.angles[:, column].astype(np.float64))
            for metric in metrics:
                if metric in scores and scores[metric].per_frame:
                    for part in identity.by_bins(scores[metric].per_frame, angles, EDGES):
                        if not math.isnan(part.mean):
                            means.setdefault((metric, _bin(axis, part.low)), {})[video] = part.mean
    return means, missing


def _pose_cells(row: Row) -> Iterator[Cell]:
    metrics = [metric for metric in BINNED if metric in row.metrics]
    means, missing = pose_means(row)
    everything = frozenset(row.generations)
    for axis in ("yaw", "pitch"):
        for low in EDGES[:-1]:
            group = _bin(axis, low)
            for metric in metrics:
                values = means.get((metric, group), {})
                reason = missing or f"no frame with a face in this range of |{axis}|"
                if metric not in {key[0] for key in means} and not missing:
                    reason = why_missing(row, metric, everything)
                yield _cell(row, metric, (group, everything), values, reason)


def _bin(axis: str, low: float) -> str:
    return f"{axis}:{low:.0f}-{EDGES[EDGES.index(low) + 1]:.0f}"


def _cell(
    row: Row, metric: str, group: tuple[str, frozenset[Video]], values: Mapping[Video, float], reason: str
) -> Cell:
    """One cell from the numbers of its videos; `reason` is used where there are none."""
    name, videos = group
    attempts = [row.generations[video] for video in videos]
    made = sum(generation.status == "ok" for generation in attempts)
    scores = [row.scores[video][metric] for video in videos if metric in row.scores.get(video, {})]
    frames = sum(score.num_frames for score in scores)
    mean = low = high = math.nan
    people = 0
    if values:
        found = aggregate.summary(list(values.values()), [row.cases[case_id].identity_id for case_id, _ in values])
        mean, low, high, people = found.mean, found.low, found.high, found.num_identities
    return Cell(
        suite=row.suite,
        protocol=row.protocol,
        method=row.label,
        metric=metric,
        version=row.metrics[metric],
        group=name,
        value=rounded(mean),
        low=rounded(low),
        high=rounded(high),
        num_identities=people,
        num_videos=len(values),
        num_unscored=made - len(values),
        num_failed=len(attempts) - made,
        coverage=rounded(sum(score.num_scored for score in scores) / frames) if frames else math.nan,
        reason="" if values else reason,
    )


def rounded(value: float) -> float:
    """Six significant digits: what differs behind them between processors must not change a committed table."""
    return float(f"{value:.6g}")
