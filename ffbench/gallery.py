"""The page: tables, FaceSim over yaw, and every shown video as a strip of frames with its curve.

A page is one folder that opens from disk: no remote file, no script but its own, whose hash the page's policy names.
"""

from __future__ import annotations

import base64
import hashlib
import io
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import jinja2
import numpy as np
from PIL import Image

from ffbench import render, strips
from ffbench.durable import write_atomic
from ffbench.image import ImageError, read_image
from ffbench.measure import NEEDS
from ffbench.metrics.catalog import METRICS
from ffbench.progress import bar
from ffbench.protocols import PROTOCOLS
from ffbench.published import PublishedTable, with_published
from ffbench.records import Case, Generation, Score
from ffbench.rows import Row, Video
from ffbench.tables import BINNED, Sheet
from ffbench.video import VideoError, read_clip

TEMPLATES = Path(__file__).parent / "templates"
_REFERENCE = 240
"""Longer side of a reference on the page, px."""


@dataclass(frozen=True)
class Gallery:
    """What a page shows, and where it goes."""

    sheet: Sheet
    rows: Sequence[Row]
    folder: Path
    max_cases: int = 40
    paper: PublishedTable | None = None
    """The paper's numbers, to be shown beside the measured ones."""


@dataclass(frozen=True)
class Shown:
    """One video on the page."""

    label: str
    control: bool
    handle: str
    status: str
    error: str
    video: str
    """Relative link, or empty."""
    strip: str
    size: tuple[int, int]
    values: tuple[tuple[str, str, str], ...]
    """Title, number, and the reason where there is none."""
    curves: tuple[strips.Curve, ...]
    columns: tuple[strips.Column, ...]
    worst: str
    """What the page sorts by, as a number or empty: the first FaceSim there is, and the range of the pose."""
    turn: str


@dataclass(frozen=True)
class Group:
    """One case on the page, with what each method made of it."""

    case: Case
    take: int
    reference: str
    """Relative link to a small copy of the photograph, and below to the face that was measured in it."""
    reference_face: str
    videos: tuple[Shown, ...]


def write_page(gallery: Gallery) -> Path:
    """Write `index.html`, `strips/` and `references/` into the gallery's folder.

    Returns:
        The page's path.
    """
    videos = sorted({video for row in gallery.rows for video in row.generations})
    chosen = choose(gallery.rows, videos, gallery.max_cases)
    ordered = sorted(gallery.rows, key=lambda row: (row.control, row.label))
    groups = []
    with bar("page", len(chosen), "case") as progress:
        for video in chosen:
            case = ordered[0].cases[video[0]]
            shown = [_shown(gallery, row, video) for row in ordered if video in row.generations]
            groups.append(Group(case, video[1], *_reference(gallery.folder, ordered[0], case), tuple(shown)))
            progress.advance()
    failures = [
        (row.label, generation)
        for row in ordered
        for _, generation in sorted(row.generations.items())
        if generation.status != "ok"
    ]
    path = gallery.folder / "index.html"
    write_atomic(path, page(gallery.sheet, groups, failures, len(videos), gallery.paper).encode())
    return path


def choose(rows: Sequence[Row], videos: Sequence[Video], limit: int) -> list[Video]:
    """At most `limit` cases: the worst half by FaceSim of any method, the rest evenly from the suite's order."""
    if len(videos) <= limit:
        return list(videos)

    def worst(video: Video) -> float:
        numbers = [_primary(row, video) for row in rows if not row.control and video in row.generations]
        # a video without a value, failed or faceless, is the worst there is
        return min((-2.0 if math.isnan(number) else number for number in numbers), default=-2.0)

    first = sorted(videos, key=lambda video: (worst(video), video))[: (limit + 1) // 2]
    others = [video for video in videos if video not in set(first)]
    spread = [others[i * len(others) // (limit - len(first))] for i in range(limit - len(first))]
    return sorted([*first, *spread])


def page(
    sheet: Sheet,
    groups: Sequence[Group],
    failures: Sequence[tuple[str, Generation]],
    total: int,
    paper: PublishedTable | None = None,
) -> str:
    """The page's HTML; every string of the records is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    css, js = ((TEMPLATES / name).read_text("utf-8") for name in ("page.css", "page.js"))
    metric = next((name for name in BINNED if _has_bins(sheet, name)), "")
    main = render.table(sheet, render.main_metrics(sheet))
    return environment.get_template("page.html").render(
        sheet=sheet,
        main=with_published(main, paper) if paper else main,
        everything=render.table(sheet, sheet.metrics, intervals=True),
        metric=METRICS[metric].title if metric else "",
        by_yaw=render.pose_table(sheet, metric) if metric else None,
        by_pitch=render.pose_table(sheet, metric, "pitch") if metric else None,
        by_tag=render.tag_table(sheet, metric) if metric and sheet.groups("tag:") else None,
        chart=_chart(sheet, metric) if metric else None,
        groups=groups,
        failures=failures,
        total=total,
        labels=list(sheet.lines),
        curve_height=strips.CURVE,
        levels=[(strips.level(value), f"{value:g}") for value in (0.0, 0.5, 1.0)],
        css=css,
        js=js,
        css_hash=_hash(css),
        js_hash=_hash(js),
    )


def _hash(content: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()


def _has_bins(sheet: Sheet, metric: str) -> bool:
    return any(cell.metric == metric and cell.group.startswith("yaw:") and not cell.reason for cell in sheet.cells)


def _chart(sheet: Sheet, metric: str) -> strips.Chart:
    groups = sheet.groups("yaw:")
    series = {}
    for line in sheet.lines:
        cells = [sheet.cell(line.label, metric, group) for group in groups]
        series[line.label] = [
            (cell.value, cell.low, cell.high) if cell else (math.nan, math.nan, math.nan) for cell in cells
        ]
    names = [f"{group.partition(':')[2]}°" for group in groups]
    return strips.chart(names, series, [line.label for line in sheet.lines if line.control])


def _primary(row: Row, video: Video) -> float:
    """The first FaceSim that a video has."""
    scores = row.scores.get(video, {})
    numbers = (scores[metric].value for metric in BINNED if metric in scores)
    return next((number for number in numbers if not math.isnan(number)), math.nan)


def _shown(gallery: Gallery, row: Row, video: Video) -> Shown:
    generation = row.generations[video]
    scores = row.scores.get(video, {})
    path = row.run.video(generation) if generation.status == "ok" else None
    strip, size, columns = _strip(gallery.folder, row, video) if path else ("", (0, 0), ())
    curves = tuple(
        strips.curve(METRICS[metric].title, scores[metric].per_frame)
        for metric in BINNED[:2]
        if metric in scores and any(not math.isnan(value) for value in scores[metric].per_frame)
    )
    turn = scores["pose_range"].value if "pose_range" in scores else math.nan
    primary = _primary(row, video)
    return Shown(
        label=row.label,
        control=row.control,
        handle=generation.handle,
        status=generation.status,
        error=generation.error,
        video=_link(gallery.folder, path) if path else "",
        strip=strip,
        size=size,
        values=tuple(
            _value(scores[metric])
            for metric in render.main_metrics(gallery.sheet)
            # weights that are missing are said once, under the table
            if metric in scores and not scores[metric].reason.startswith(NEEDS)
        ),
        curves=curves,
        columns=columns,
        worst="" if math.isnan(primary) else f"{primary:.6g}",
        turn="" if math.isnan(turn) else f"{turn:.6g}",
    )


def _value(score: Score) -> tuple[str, str, str]:
    info = METRICS[score.metric]
    unit = info.unit if info.unit == "°" else ""
    shown = render.DASH if math.isnan(score.value) else f"{score.value:.{info.decimals}f}{unit}"
    return info.title, shown, score.reason


def _strip(folder: Path, row: Row, video: Video) -> tuple[str, tuple[int, int], tuple[strips.Column, ...]]:
    """Write the strip of a video beside the page: its link, its size, and what stands under each column."""
    generation, track = row.generations[video], row.track(video)
    sampler = PROTOCOLS[row.protocol.split("@")[0]].face_sampler if row.protocol.split("@")[0] in PROTOCOLS else ""
    if track is None or not sampler or not len(track.number):
        return "", (0, 0), ()
    rows = strips.shown_frames(len(track.number))
    name = f"strips/{generation.key}-{digest_of(track.number[rows], track.box[rows])}.jpg"
    if not (folder / name).is_file():
        try:
            frames = read_clip(row.run.video(generation), [sampler]).frames[sampler].pixels
        except (VideoError, OSError):
            return "", (0, 0), ()
        picture = strips.strip(frames[rows], track.box[rows])
        write_atomic(folder / name, _jpeg(picture))
    with Image.open(folder / name) as written:
        size = written.size
    series = next((s.per_frame for s in (row.scores[video].get(m) for m in BINNED) if s and s.per_frame), ())
    columns = []
    for i, sample in enumerate(rows):
        yaw = float(track.angles[sample, 1])
        value = series[sample] if series else math.nan
        columns.append(
            strips.Column(
                x=(i + 0.5) * strips.COLUMN,
                time=f"{track.time[sample]:.1f} s",
                yaw=("" if track.found[sample] else "no face") if math.isnan(yaw) else f"{round(yaw):+d}°",
                value="" if math.isnan(value) else f"{value:.2f}",
            )
        )
    return quote(name), size, tuple(columns)


def digest_of(number: np.ndarray, box: np.ndarray) -> str:
    """Eight hex digits over what a strip shows of its video."""
    return hashlib.sha256(number.tobytes() + box.tobytes()).hexdigest()[:8]


def _reference(folder: Path, row: Row, case: Case) -> tuple[str, str]:
    """Write a small copy of a case's first reference and its face beside the page; empty where there is none."""
    photograph = case.references[0]
    name = f"references/{photograph.sha256[:16]}.jpg"
    face = f"references/{photograph.sha256[:16]}-face.jpg"
    track = row.reference(case.case_id)
    found = track is not None and len(track.found) > 0 and bool(track.found[0])
    if not (folder / name).is_file() or (found and not (folder / face).is_file()):
        try:
            picture = Image.fromarray(read_image(Path(photograph.path)))
        except (ImageError, OSError):
            return "", ""
        if track is not None and found:
            write_atomic(folder / face, _jpeg(strips.face(picture, track.box[0])))
        picture.thumbnail((_REFERENCE, _REFERENCE), Image.Resampling.LANCZOS)
        write_atomic(folder / name, _jpeg(picture))
    return quote(name), quote(face) if found else ""


def _jpeg(picture: Image.Image) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=88)
    return stream.getvalue()


def _link(folder: Path, path: Path) -> str:
    return quote(Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix())
