"""What the page's script reads: every video of a report as compact JSON, a few hundred bytes each."""

from __future__ import annotations

import base64
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from ffbench.extract.align import ARCFACE_TEMPLATE, similarity
from ffbench.extract.track import FaceTrack
from ffbench.metrics.catalog import METRICS
from ffbench.records import Case
from ffbench.tables.rows import Row, Video
from ffbench.tables.sheet import BINNED, Sheet

CURVES = 2
"""FaceSims whose per-frame values are in the page: the first of the protocol that have any."""
_UNITS = (1000.0,) * CURVES + (10.0, 4.0, 4.0, 4.0, 10.0)
"""Steps a unit of what is packed: cosines, yaw in degrees, the aligned crop's centre x, y and side in px, its turn."""
_NONE = -32768


@dataclass
class Strings:
    """Texts that many videos share, each kept once."""

    places: dict[str, int] = field(default_factory=dict)

    def place(self, text: str) -> int:
        """Where a text is; -1 for an empty one."""
        return self.places.setdefault(text, len(self.places)) if text else -1


@dataclass(frozen=True)
class _Page:
    """What every video is written down with."""

    folder: Path
    metrics: Sequence[str]
    curves: Sequence[str]
    strings: Strings
    times: Strings


@dataclass(frozen=True)
class Pictures:
    """Files beside the page, as links from it; empty where there is none."""

    references: Mapping[Video, tuple[str, str]]
    """A small copy of the photograph, and the face that was measured in it."""
    strips: Mapping[tuple[str, Video], str]
    """(label, video) -> film strip."""


def shown_metrics(sheet: Sheet, rows: Sequence[Row]) -> list[str]:
    """Metrics of single videos for which some video has a number, in the protocol's order."""
    return [
        metric
        for metric in sheet.metrics
        if METRICS[metric].level == "video"
        and any(metric in s and not math.isnan(s[metric].value) for row in rows for s in row.scores.values())
    ]


def page_data(sheet: Sheet, rows: Sequence[Row], folder: Path, pictures: Pictures) -> str:
    """The page's data as JSON that may stand inside a script element.

    Args:
        sheet: of the rows.
        rows: in the order in which methods stand on the page.
        folder: of the page; links are relative to it.
        pictures: made before.
    """
    metrics = shown_metrics(sheet, rows)
    curves = [metric for metric in BINNED if metric in metrics and _any_frames(rows, metric)][:CURVES]
    videos = sorted({video for row in rows for video in row.generations})
    page = _Page(folder, metrics, curves, Strings(), Strings())
    cases = {video: next(row.cases[video[0]] for row in rows if video in row.generations) for video in videos}
    made = {
        row.label: [_video(page, row, video, pictures.strips.get((row.label, video), "")) for video in videos]
        for row in rows
    }
    data = {
        "suite": sheet.suite,
        "protocol": sheet.protocol,
        "primary": next((metrics.index(m) for m in BINNED if m in metrics), 0),
        "curves": [METRICS[metric].title for metric in curves],
        "units": _UNITS,
        "metrics": [_metric(metric, sheet, rows[0]) for metric in metrics],
        "methods": [_method(page, row) for row in rows],
        "cases": [_case(video, cases[video], pictures.references.get(video, ("", ""))) for video in videos],
        "videos": [made[row.label] for row in rows],
        "times": [json.loads(text) for text in page.times.places],
        "texts": list(page.strings.places),
    }
    return as_script(data)


def as_script(data: Any) -> str:
    """JSON in which nothing can end a script element or begin a comment in it."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026").replace("\u2028", "\\u2028")


def pack(track: FaceTrack, series: Sequence[Sequence[float]]) -> str:
    """Samples of a track as base64 of little-endian int16 [T, 7], -32768 for NaN.

    Columns: the cosines of `series` (each T values, or none), yaw, and the aligned crop: centre x and y, side, turn.
    """
    count = len(track.number)
    table = np.full((count, len(_UNITS)), np.nan)
    for column, values in enumerate(series[:CURVES]):
        if len(values) == count:
            table[:, column] = values
    table[:, CURVES] = track.angles[:, 1]
    for i in np.flatnonzero(np.isfinite(track.points).all(axis=(1, 2))):
        table[i, CURVES + 1 :] = _crop(track.points[i])
    steps = np.rint(table * _UNITS)
    steps = np.where(np.isfinite(steps), np.clip(steps, _NONE + 1, -_NONE - 1), _NONE)
    return base64.b64encode(steps.astype("<i2").tobytes()).decode()


def _crop(points: np.ndarray) -> tuple[float, float, float, float]:
    """Centre, side and turn (degrees) of the square in the frame that becomes the aligned face."""
    try:
        matrix = similarity(points.astype(np.float64), ARCFACE_TEMPLATE.astype(np.float64))
    except ValueError:
        return (math.nan,) * 4
    linear, shift = matrix[:, :2], matrix[:, 2]
    x, y = np.linalg.solve(linear, np.array([56.0, 56.0]) - shift)
    scale = math.hypot(linear[0, 0], linear[1, 0])
    return float(x), float(y), 112.0 / scale, math.degrees(math.atan2(linear[1, 0], linear[0, 0]))


def _any_frames(rows: Sequence[Row], metric: str) -> bool:
    return any(metric in s and s[metric].per_frame for row in rows for s in row.scores.values())


def _video(page: _Page, row: Row, video: Video, strip: str) -> list[Any] | None:
    """One video, by place: see `unpackVideo` of the page's script."""
    generation = row.generations.get(video)
    if generation is None:
        return None
    strings, metrics = page.strings, page.metrics
    scores = row.scores.get(video, {})
    track = row.track(video)
    values = [scores[m].value if m in scores else math.nan for m in metrics]
    reasons = [strings.place(scores[m].reason) if m in scores else -1 for m in metrics]
    packed, when = "", -1
    if track is not None and len(track.number):
        packed = pack(track, [scores[m].per_frame if m in scores else () for m in page.curves])
        when = page.times.place(json.dumps([round(time, 4) for time in track.time.tolist()]))
    facts = {"settings": dict(generation.settings), "provenance": generation.provenance}
    own = generation.video == f"videos/{generation.key}.mp4"
    return [
        ("ok", "failed", "refused").index(generation.status),
        strings.place(generation.error),
        "" if own or generation.status != "ok" else link(page.folder, row.run.video(generation)),
        generation.key,
        next((score.track for score in scores.values()), ""),
        generation.seed,
        None if math.isnan(generation.seconds) else round(generation.seconds, 1),
        strings.place(generation.utc[:10]),
        strings.place(generation.revision),
        strings.place(json.dumps(facts, ensure_ascii=False, sort_keys=True, default=str)),
        [] if track is None else list(track.size),
        [None if math.isnan(value) else _short(value, metric) for value, metric in zip(values, metrics, strict=True)],
        reasons if any(reason >= 0 for reason in reasons) else 0,
        [scores[m].num_scored if m in scores else 0 for m in metrics],
        max((score.num_frames for score in scores.values()), default=0),
        strip,
        when,
        packed,
    ]


def _short(value: float, metric: str) -> float:
    return round(value, METRICS[metric].decimals + 1)


def _method(page: _Page, row: Row) -> dict[str, Any]:
    meta = row.run.meta()
    scoring = meta.get("scoring", {}).get(row.protocol, {})
    return {
        "label": row.label,
        "control": row.control,
        "summary": str(meta.get("card", {}).get("summary", "")),
        "videos": link(page.folder, row.run.root) + "/videos/",
        "networks": dict(row.networks),
        "scored": page.strings.place(json.dumps(scoring.get("provenance", {}), ensure_ascii=False, sort_keys=True)),
    }


def _metric(metric: str, sheet: Sheet, row: Row) -> dict[str, Any]:
    info = METRICS[metric]
    return {
        "id": metric,
        "title": info.title,
        "better": 0 if info.higher_is_better is None else 1 if info.higher_is_better else -1,
        "decimals": info.decimals,
        "unit": info.unit if info.unit == "°" else "",
        "version": row.metrics[metric],
        "summary": info.summary,
        "needs": list(info.needs),
    }


def _case(video: Video, case: Case, pictures: tuple[str, str]) -> dict[str, Any]:
    return {
        "id": case.case_id,
        "take": video[1],
        "person": case.identity_id,
        "promptId": case.prompt_id,
        "prompt": case.prompt,
        "tags": list(case.tags),
        "photo": pictures[0],
        "face": pictures[1],
    }


def link(folder: Path, path: Path) -> str:
    """A relative link from the page to a path."""
    return quote(Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix())
