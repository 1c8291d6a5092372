"""The page: tables, charts, and every video of every method beside its reference, with its curve and its recipe.

A page is one folder that opens from disk: no remote file, no script but its own, whose hash the page's policy names.
"""

from __future__ import annotations

import base64
import hashlib
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import jinja2
import numpy as np
from PIL import Image

from ffbench.durable import write_atomic
from ffbench.image import ImageError, read_image
from ffbench.metrics.catalog import METRICS
from ffbench.page import strips
from ffbench.page.contact import contact_sheet
from ffbench.page.data import Pictures, page_data
from ffbench.progress import bar
from ffbench.protocols import PROTOCOLS
from ffbench.records import Case
from ffbench.tables import render
from ffbench.tables.published import PublishedTable, with_published
from ffbench.tables.rows import Row, Video
from ffbench.tables.sheet import BINNED, Sheet
from ffbench.video import VideoError, read_clip

TEMPLATES = Path(__file__).parent / "templates"
SCRIPTS = ("page_data.js", "page_filter.js", "page_player.js", "page_about.js", "page_card.js", "page.js")
_WEIGHT = "@@weight@@"
_REFERENCE = 240
"""Longer side of a reference on the page, px."""


@dataclass(frozen=True)
class Gallery:
    """What a page shows, and where it goes."""

    sheet: Sheet
    rows: Sequence[Row]
    folder: Path
    max_strips: int = 40
    """Cases with film strips; every case has its players and curves."""
    paper: PublishedTable | None = None
    """The paper's numbers, to be shown beside the measured ones."""


@dataclass(frozen=True)
class Page:
    """What was written."""

    path: Path
    num_cases: int
    num_videos: int
    size: int
    """Bytes of the page itself; pictures and videos are read as they come into view."""


def write_page(gallery: Gallery) -> Page:
    """Write `index.html`, `strips/` and `references/` into the gallery's folder."""
    rows = sorted(gallery.rows, key=lambda row: (row.control, row.label))
    videos = sorted({video for row in rows for video in row.generations})
    chosen = choose(rows, videos, gallery.max_strips)
    strips_of = {}
    with bar("film strips", len(chosen), "case") as progress:
        for video in chosen:
            for row in rows:
                if video in row.generations and row.generations[video].status == "ok":
                    strips_of[row.label, video] = _strip(gallery.folder, row, video)
            progress.advance()
    references: dict[Video, tuple[str, str]] = {}
    for video in videos:
        row = next(row for row in rows if video in row.generations)
        references[video] = _reference(gallery.folder, row, row.cases[video[0]])
    data = page_data(gallery.sheet, rows, gallery.folder, Pictures(references, strips_of))
    count = sum(len(row.generations) for row in rows)
    html = page(gallery, data, (len(videos), count, len(chosen)), _sheets(gallery.folder, rows)).encode()
    path = gallery.folder / "index.html"
    write_atomic(path, html)
    return Page(path, len(videos), count, len(html))


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


def page(gallery: Gallery, data: str, counts: tuple[int, int, int], sheets: Mapping[str, str]) -> str:
    """The page's HTML; every string of the records is escaped.

    Args:
        gallery: what is shown.
        data: of `page_data`.
        counts: cases, videos, and cases with film strips.
        sheets: label of a row -> link of its contact sheet.
    """
    sheet = gallery.sheet
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    css, js = _style(), _script()
    metric = next((name for name in BINNED if _has_bins(sheet, name)), "")
    main = render.table(sheet, render.main_metrics(sheet))
    failures = [
        (row.label, generation)
        for row in sorted(gallery.rows, key=lambda row: (row.control, row.label))
        for _, generation in sorted(row.generations.items())
        if generation.status != "ok"
    ]
    html = environment.get_template("page.html").render(
        sheet=sheet,
        main=with_published(main, gallery.paper) if gallery.paper else main,
        everything=render.table(sheet, sheet.metrics, intervals=True),
        metric=METRICS[metric].title if metric else "",
        by_yaw=render.pose_table(sheet, metric) if metric else None,
        by_pitch=render.pose_table(sheet, metric, "pitch") if metric else None,
        by_tag=render.tag_table(sheet, metric) if metric and sheet.groups("tag:") else None,
        chart=_chart(sheet, metric) if metric else None,
        turns=_turns(sheet, metric) if metric else None,
        places={line.label: place for place, line in enumerate(sheet.lines)},
        metrics=[(name, METRICS[name]) for name in sheet.metrics],
        recipe=PROTOCOLS.get(sheet.protocol.split("@")[0]),
        failures=failures,
        sheets=sheets,
        counts=counts,
        weight=_WEIGHT,
        data=data,
        css=css,
        js=js,
        css_hash=_hash(css),
        js_hash=_hash(js),
    )
    # as wide as what it replaces, so that the size stays true
    return html.replace(_WEIGHT, f"{len(html.encode()) / 1e6:{len(_WEIGHT)}.2f}")


def _sheets(folder: Path, rows: Sequence[Row]) -> dict[str, str]:
    """Write a contact sheet of every row beside the page: label -> link, without rows that have nothing to show."""
    links = {}
    with bar("contact sheets", len(rows), "method") as progress:
        for number, row in enumerate(rows):
            if (picture := contact_sheet(row)) is not None:
                links[row.label] = f"contact/{number:02d}.jpg"
                write_atomic(folder / links[row.label], _jpeg(picture))
            progress.advance()
    return links


def _style() -> str:
    return (TEMPLATES / "page.css").read_text("utf-8")


def _script() -> str:
    """All parts as one script whose names stay its own."""
    parts = "".join((TEMPLATES / name).read_text("utf-8") for name in SCRIPTS)
    return f'"use strict";\n(() => {{\n{parts}}})();\n'


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


def _turns(sheet: Sheet, metric: str) -> strips.Scatter | None:
    """FaceSim against the range of head pose that the videos reach: a face kept by never turning shows."""

    def ranged(label: str, name: str) -> strips.Ranged:
        cell = sheet.cell(label, name)
        return (cell.value, cell.low, cell.high) if cell else (math.nan,) * 3

    points = {line.label: (ranged(line.label, "pose_range"), ranged(line.label, metric)) for line in sheet.lines}
    found = strips.scatter(points, [line.label for line in sheet.lines if line.control], 30.0)
    return found if found.marks else None


def _primary(row: Row, video: Video) -> float:
    """The first FaceSim that a video has."""
    scores = row.scores.get(video, {})
    numbers = (scores[metric].value for metric in BINNED if metric in scores)
    return next((number for number in numbers if not math.isnan(number)), math.nan)


def _strip(folder: Path, row: Row, video: Video) -> str:
    """Write the film strip of a video beside the page: its link, or nothing where the video or its track is gone."""
    generation, track = row.generations[video], row.track(video)
    sampler = PROTOCOLS[row.protocol.split("@")[0]].face_sampler if row.protocol.split("@")[0] in PROTOCOLS else ""
    if track is None or not sampler or not len(track.number):
        return ""
    rows = strips.shown_frames(len(track.number))
    name = f"strips/{generation.key}-{digest_of(track.number[rows], track.box[rows])}.jpg"
    if not (folder / name).is_file():
        try:
            frames = read_clip(row.run.video(generation), [sampler]).frames[sampler].pixels
        except (VideoError, OSError):
            return ""
        write_atomic(folder / name, _jpeg(strips.strip(frames[rows], track.box[rows])))
    return quote(name)


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
