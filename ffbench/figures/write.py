"""Every figure of a report: which there are, of which cases, and under which names they are written."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from ffbench.errors import UserError
from ffbench.figures.frames import draw_coverage, draw_over_time
from ffbench.figures.grid import COLUMNS, block, draw_grid
from ffbench.figures.sheet import draw_forest, draw_sizes
from ffbench.figures.style import save
from ffbench.figures.yaw import draw_by_yaw
from ffbench.metrics.catalog import METRICS
from ffbench.records import from_json
from ffbench.tables.frames import VideoFrames
from ffbench.tables.published import VIEWS, published_table
from ffbench.tables.rows import Row, Video
from ffbench.tables.sheet import BINNED, Sheet


@dataclass(frozen=True)
class FigureOptions:
    """Which cases are drawn, and how."""

    cases: tuple[str, ...] = ()
    """Case ids, `-s1` behind one for another take; the worst, the median and the best if empty."""
    boxes: bool = False
    """Draw the measured face boxes into grids."""


def sheet_figures(made: Sheet, frames: Sequence[VideoFrames]) -> Iterator[tuple[str, Figure]]:
    """Name and figure of all that is drawn from numbers alone; the same cells and frames give the same figures.

    Args:
        made: of `cells.json`.
        frames: of `frames.csv`; none where it was not kept.
    """
    drawn = {f"{metric}-by-yaw": draw_by_yaw(made, metric) for metric in BINNED}
    drawn |= {
        "forest": draw_forest(made),
        "pose-coverage": draw_coverage(made, frames),
    }
    yield from ((name, figure) for name, figure in drawn.items() if figure is not None)


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
    options = options or FigureOptions()
    paths = [path for name, figure in sheet_figures(made, frames) for path in save(figure, folder, name)]
    ordered = sorted(rows, key=lambda row: (row.control, row.label))
    for video, why in _chosen(ordered, options.cases).items():
        name = f"{video[0]}-s{video[1]}"
        if one := block(ordered, video):
            paths += save(draw_grid([one], why, options.boxes), folder, f"grid-{name}")
        variants = _variants(ordered)
        if variants and len(variants) < len(ordered) and (one := block(variants, video)):
            paths += save(draw_grid([one], why, options.boxes), folder, f"ablation-{name}")
        if both := _views(ordered, video):
            blocks = [found for view in both if (found := block(ordered, view, COLUMNS // 2))]
            if len(blocks) == len(both):
                paths += save(draw_grid(blocks, why, options.boxes), folder, f"views-{name}")
        some = [one for one in frames if (one.case_id, one.take) == video]
        metric = next((m for m in BINNED if any(m in one.series for one in some)), "")
        if metric and (figure := draw_over_time(made, some, metric)):
            paths += save(figure, folder, f"over-time-{name}")
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
    figure = draw_sizes(made, published_table(3) if published else None)
    return save(figure, folder, "dictionary-size") if figure else []


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
