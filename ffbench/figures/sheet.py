"""Figures of a sheet's cells: a forest plot of the main metrics, and FaceSim by the size of the dictionary (Fig. 8)."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from ffbench.figures.style import COLOURS, COLUMN, PAGE, styled
from ffbench.metrics.catalog import METRICS
from ffbench.tables.published import PublishedTable
from ffbench.tables.render import main_metrics
from ffbench.tables.sheet import Line, Sheet

FACESIM = ("facesim_cur", "facesim_arc")
_SIZE = re.compile(r"(\d+)(?: \(.*\))?")
"""Label of a row of Table 3: a size, and for a second checkpoint of that size its name."""


def draw_forest(sheet: Sheet) -> Figure | None:
    """A panel a metric, a line a method: mean and 95% interval; controls hollow. None where nothing was measured.

    Methods stand in the order of the first metric, best on top, then the controls; the best of a panel is filled with
    colour.
    """
    metrics = [name for name in (*main_metrics(sheet), "face_rate") if _values(sheet, name)]
    if not metrics:
        return None
    lines = _ordered(sheet, metrics[0])
    with styled():
        figure = Figure(figsize=(PAGE, 0.75 + 0.19 * len(lines)), layout="constrained")
        panels = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
        for axes, metric in zip(panels, metrics, strict=True):
            _forest_panel(axes, sheet, metric, lines)
        panels[0].set_yticks(range(len(lines)), [line.label for line in lines])
        for tick, line in zip(panels[0].get_yticklabels(), lines, strict=True):
            tick.set_color("#666666" if line.control else "black")
        panels[0].set_ylim(len(lines) - 0.4, -0.6)
        made = sorted({line.num_made for line in sheet.lines})
        videos = f"{made[0]}" if len(made) == 1 else f"{made[0]} to {made[-1]}"
        figure.suptitle(
            f"{sheet.suite}, {sheet.protocol}; {videos} videos a method; bars: 95%, over identities; hollow: controls"
        )
    return figure


def _forest_panel(axes: Axes, sheet: Sheet, metric: str, lines: Sequence[Line]) -> None:
    info = METRICS[metric]
    values = _values(sheet, metric)
    ranked = [values[line.label] for line in lines if not line.control and line.label in values]
    best = (max if info.higher_is_better else min)(ranked) if ranked and info.higher_is_better is not None else None
    for y, line in enumerate(lines):
        cell = sheet.cell(line.label, metric)
        if cell is None or math.isnan(cell.value):
            axes.text(0.5, y, "–", transform=axes.get_yaxis_transform(), ha="center", va="center", color="#666666")
            continue
        first = not line.control and cell.value == best
        colour = COLOURS[0] if first else "#777777" if line.control else "black"
        if not math.isnan(cell.low):
            axes.plot([cell.low, cell.high], [y, y], color=colour, linewidth=1.1, solid_capstyle="butt")
        axes.plot(cell.value, y, "o", color=colour, markerfacecolor="white" if line.control else colour, markersize=4)
    arrow = "" if info.higher_is_better is None else " ↑" if info.higher_is_better else " ↓"
    unit = " in degrees" if info.unit == "°" else ""
    axes.set_title(textwrap.fill(f"{info.title}{unit}{arrow}", 13), fontsize=7)
    axes.xaxis.set_major_locator(MaxNLocator(3))
    axes.margins(x=0.12)
    axes.grid(axis="x", linewidth=0.3)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


def _values(sheet: Sheet, metric: str) -> dict[str, float]:
    found = {line.label: sheet.cell(line.label, metric) for line in sheet.lines}
    return {label: cell.value for label, cell in found.items() if cell and not math.isnan(cell.value)}


def _ordered(sheet: Sheet, metric: str) -> list[Line]:
    values = _values(sheet, metric)
    sign = 1.0 if METRICS[metric].higher_is_better is False else -1.0
    return sorted(
        sheet.lines,
        key=lambda line: (line.control, line.label not in values, sign * values.get(line.label, 0.0), line.label),
    )


def dictionary_sizes(sheet: Sheet) -> dict[str, int]:
    """Label -> number of dictionary elements, of a sheet of `ffbench ablate table3`; empty for any other."""
    found = {line.label: _SIZE.fullmatch(line.label) for line in sheet.lines}
    return {label: int(one.group(1)) for label, one in found.items() if one} if all(found.values()) else {}


def draw_sizes(sheet: Sheet, published: PublishedTable | None = None) -> Figure | None:
    """Fig. 8: FaceSim by the number of dictionary elements, a panel an encoder; None where fewer than two have numbers.

    A point a checkpoint with its 95% interval over identities, and a line through the mean of each size. The paper's
    points, where given, are hollow and joined by a dashed line: another suite and protocol, an orientation.

    Args:
        sheet: of Table 3.
        published: Table 3 of the paper, whose row names are sizes.
    """
    sizes = dictionary_sizes(sheet)
    metrics = [m for m in FACESIM if len({sizes[label] for label in _values(sheet, m) if label in sizes}) > 1]
    if not metrics:
        return None
    paper = {int(row.name): row for row in published.rows} if published else {}
    with styled():
        figure = Figure(figsize=(COLUMN, 0.75 + 1.25 * len(metrics)), layout="constrained")
        panels = figure.subplots(len(metrics), 1, sharex=True, squeeze=False)[:, 0]
        for axes, metric in zip(panels, metrics, strict=True):
            _sizes_panel(axes, sheet, metric, sizes)
            if paper:
                known = sorted(paper)
                values = [float(paper[size].values[metric, "all"]) for size in known]
                axes.plot(
                    known, values, "s--", color=COLOURS[1], markerfacecolor="white", markersize=4, linewidth=0.9,
                    label="the paper's (consisid, suite paper)",
                )  # fmt: skip
            axes.set(ylabel=METRICS[metric].title, xscale="log")
            axes.grid(axis="y", linewidth=0.3)
        shown = sorted({*sizes.values(), *paper})
        panels[-1].set_xticks(shown, [str(size) for size in shown])
        panels[-1].xaxis.set_minor_locator(NullLocator())
        panels[-1].set_xlabel("elements of the dictionary")
        if len(shown) > 4:
            panels[-1].tick_params(axis="x", rotation=30)
        marks, texts = panels[0].get_legend_handles_labels()
        figure.legend(marks, texts, loc="outside lower center", ncols=1, frameon=False)
        figure.suptitle(f"{sheet.suite}, {sheet.protocol}; bars: 95%, over identities")
    return figure


def _sizes_panel(axes: Axes, sheet: Sheet, metric: str, sizes: dict[str, int]) -> None:
    values = {label: value for label, value in _values(sheet, metric).items() if label in sizes}
    for label in values:
        cell = sheet.cell(label, metric)
        if cell and not math.isnan(cell.low):
            axes.plot([sizes[label]] * 2, [cell.low, cell.high], color=COLOURS[0], linewidth=0.8, alpha=0.6)
    axes.plot([sizes[label] for label in values], list(values.values()), "o", color=COLOURS[0], markersize=3.5)
    means = {
        size: float(np.mean([value for label, value in values.items() if sizes[label] == size]))
        for size in sorted({sizes[label] for label in values})
    }
    axes.plot(list(means), list(means.values()), color=COLOURS[0], linewidth=1.1, label="measured here")
    axes.margins(y=0.15)
