"""FaceSim against yaw: a line a method with its 95% band, for a column of a paper."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.figure import Figure

from ffbench.figures.style import COLUMN, look, styled
from ffbench.metrics.catalog import METRICS
from ffbench.tables.sheet import Sheet


def draw_by_yaw(sheet: Sheet, metric: str) -> Figure | None:
    """One FaceSim by bins of |yaw| at their centres, 3.4 inches wide; None where no method has a number in a bin.

    A bin without a face breaks the line; a bin without an interval (one identity) has no band.
    """
    groups = sheet.groups("yaw:")
    centres = [sum(float(end) for end in group.partition(":")[2].split("-")) / 2 for group in groups]
    series = {}
    for line in sheet.lines:
        cells = [sheet.cell(line.label, metric, group) for group in groups]
        numbers = np.array([(c.value, c.low, c.high) if c else (math.nan,) * 3 for c in cells])
        if groups and not np.isnan(numbers[:, 0]).all():
            series[line.label + (" (control)" if line.control else "")] = numbers
    if not series:
        return None
    with styled():
        figure = Figure(figsize=(COLUMN, 2.5 + 0.12 * len(series)), layout="constrained")
        axes = figure.subplots()
        for i, (label, numbers) in enumerate(series.items()):
            style = look(i)
            axes.plot(centres, numbers[:, 0], label=label, linewidth=1.2, markersize=3.5, **style)
            axes.fill_between(centres, numbers[:, 1], numbers[:, 2], color=style["color"], alpha=0.15, linewidth=0)
        axes.set(xlabel="|yaw| of the head in degrees", ylabel=METRICS[metric].title, xlim=(0, 90))
        axes.set_xticks(range(0, 91, 15))
        axes.grid(axis="y", linewidth=0.3)
        figure.legend(loc="outside lower center", ncols=2, frameon=False)
        figure.suptitle(f"{sheet.suite}, {sheet.protocol}; bands: 95%, over identities")
    return figure
