"""Every figure of a report: which there are, of which cases, and under which names they are written."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ffbench.errors import UserError
from ffbench.figures.drawing import Drawing, draw
from ffbench.figures.grid import COLUMNS, block
from ffbench.figures.style import save
from ffbench.metrics.catalog import METRICS
from ffbench.records import from_json
from ffbench.tables.frames import VideoFrames
from ffbench.tables.published import VIEWS
from ffbench.tables.rows import Row, Video
from ffbench.tables.sheet import BINNED, Sheet

SIZES = "dictionary-size"


@dataclass(frozen=True)
class FigureOptions:
    """Which cases are drawn, and how."""

    cases: tuple[str, ...] = ()
    """Case ids, `-s1` behind one for another take; the worst, the median and the best if empty."""
    boxes: bool = False
    """Draw the measured face boxes into grids."""
    published: bool = False
    """The paper's points beside the measured ones, where a figure has some."""


def sheet_drawings(made: Sheet) -> Iterator[Drawing]:
    """What is drawn from numbers alone."""
    yield from (Drawing(f"{metric}-by-yaw", "by-yaw", metric) for metric in BINNED if metric in made.metrics)
    yield Drawing("forest", "forest")
    yield Drawing("pose-coverage", "coverage")


def case_drawings(frames: Sequence[VideoFrames], rows: Sequence[Row], options: FigureOptions) -> Iterator[Drawing]:
    """Grids of the chosen cases, and their strips over time.

    Args:
        frames: per-frame values of the rows' videos.
        rows: the runs, whose videos grids are made of.
        options: cases and boxes.

    Raises:
        UserError: for a case that no run holds.
    """
    ordered = sorted(rows, key=lambda row: (row.control, row.label))
    variants = _variants(ordered)
    for video, why in _chosen(ordered, options.cases).items():
        yield from _grid("grid", ordered, video, (why, options.boxes))
        if variants and len(variants) < len(ordered):
            yield from _grid("ablation", variants, video, (why, options.boxes))
        yield from _side_by_side(ordered, video, (why, options.boxes))
        some = [one for one in frames if (one.case_id, one.take) == video]
        if metric := next((m for m in BINNED if any(m in one.series for one in some)), ""):
            yield Drawing(f"over-time-{_name(video)}", "over-time", metric, video)


def ablation_drawings(rows: Sequence[Row], options: FigureOptions, note: str = "") -> Iterator[Drawing]:
    """Fig. 9: the chosen cases by one method's variants, in their order; `note` says what sets them apart."""
    for video, why in _chosen(rows, options.cases).items():
        yield from _grid("ablation", rows, video, ("; ".join(filter(None, (note, why))), options.boxes))


def view_drawings(rows: Sequence[Row], options: FigureOptions) -> Iterator[Drawing]:
    """Fig. 11: both views of the chosen cases side by side."""
    for video, why in _chosen(rows, options.cases).items():
        yield from _side_by_side(rows, video, (why, options.boxes))


def write_figures(
    made: Sheet,
    frames: Sequence[VideoFrames],
    rows: Sequence[Row],
    folder: Path,
    options: FigureOptions | None = None,
) -> list[Path]:
    """Write every figure of a report as PNG and PDF; the same records give the same bytes.

    Args:
        made: the sheet of the rows.
        frames: their per-frame values.
        rows: the runs, whose videos grids are made of.
        folder: made where it is not there.
        options: cases and boxes.

    Raises:
        UserError: for a case that no run holds.
    """
    paths = []
    for one in (*sheet_drawings(made), *case_drawings(frames, rows, options or FigureOptions())):
        if figure := draw(one, made, frames):
            paths += save(figure, folder, one.name)
    return paths


def write_sizes(cells: Path, folder: Path, published: bool = False) -> list[Path]:
    """Write Fig. 8, FaceSim by the size of the dictionary; nothing where Table 3 was not made or has one size.

    Args:
        cells: `cells.json` of `ffbench ablate table3`.
        folder: of the figures.
        published: the paper's points too.

    Raises:
        UserError: where the file cannot be read.
    """
    if not cells.is_file():
        return []
    try:
        made = from_json(Sheet, cells.read_text("utf-8"))
    except ValueError as error:
        raise UserError(f"{cells} cannot be read: {error}", "ffbench ablate table3 writes it anew") from error
    figure = draw(Drawing(SIZES, "sizes", published=published), made, ())
    return save(figure, folder, SIZES) if figure else []


def _grid(kind: str, rows: Sequence[Row], video: Video, how: tuple[str, bool]) -> Iterator[Drawing]:
    if one := block(rows, video):
        yield Drawing(f"{kind}-{_name(video)}", "grid", note=how[0], boxes=how[1], blocks=(one,))


def _side_by_side(rows: Sequence[Row], video: Video, how: tuple[str, bool]) -> Iterator[Drawing]:
    both = _views(rows, video)
    blocks = tuple(found for view in both if (found := block(rows, view, COLUMNS // 2)))
    if both and len(blocks) == len(both):
        yield Drawing(f"views-{_name(video)}", "grid", note=how[0], boxes=how[1], blocks=blocks)


def _name(video: Video) -> str:
    return f"{video[0]}-s{video[1]}"


def _chosen(rows: Sequence[Row], asked: Sequence[str]) -> dict[Video, str]:
    """The videos that are drawn, and why these; a case that was not asked for is never picked by hand."""
    held = sorted({video for row in rows for video in row.generations})
    if asked:
        names = {f"{case_id}-s{take}": (case_id, take) for case_id, take in held}
        names |= {case_id: (case_id, take) for case_id, take in reversed(held)}
        for name in asked:
            if name not in names:
                raise UserError(f"no run holds the case {name!r}", f"one that they hold: {held[0][0]}")
        return {names[name]: "" for name in asked}
    title, means = _means(rows, held)
    ordered = sorted(means, key=lambda video: (means[video], video))
    if not ordered:
        return {}
    places = {"worst": 0, "median": (len(ordered) - 1) // 2, "best": len(ordered) - 1}
    found: dict[Video, str] = {}
    for word, place in places.items():
        found.setdefault(
            ordered[place],
            f"chosen by rule: {word} by the mean {title} of the methods, of {len(ordered)} cases that have one",
        )
    return found


def _means(rows: Sequence[Row], held: Sequence[Video]) -> tuple[str, dict[Video, float]]:
    """Title of the first FaceSim that was measured, and its mean over the methods for each case with a number."""
    judged = [row for row in rows if not row.control] or list(rows)
    for metric in BINNED:
        means = {}
        for video in held:
            scores = [row.scores[video][metric] for row in judged if metric in row.scores.get(video, {})]
            numbers = [score.value for score in scores if not math.isnan(score.value)]
            if numbers:
                means[video] = statistics.fmean(numbers)
        if means:
            return METRICS[metric].title, means
    return "", {}


def _variants(rows: Sequence[Row]) -> list[Row]:
    """Rows of the method of which there are several: `faithfulfaces`, `faithfulfaces@no-euler`; none where none is."""
    bases = [row.label.partition(" ")[0].partition("@")[0] for row in rows]
    several = next((base for base in bases if bases.count(base) > 1), None)
    return [row for row, base in zip(rows, bases, strict=True) if base == several]


def _views(rows: Sequence[Row], video: Video) -> list[Video]:
    """The frontal and the non-frontal case of the same person and prompt; none where there are not both."""
    cases = {key: row.cases[key[0]] for row in rows for key in row.generations}
    here = cases[video]
    pair = {
        view: key
        for key, case in sorted(cases.items())
        for view in VIEWS
        if view in case.tags
        and (case.identity_id, case.prompt_id, key[1]) == (here.identity_id, here.prompt_id, video[1])
    }
    return [pair[view] for view in VIEWS] if len(pair) == len(VIEWS) and len(set(pair.values())) == len(VIEWS) else []
