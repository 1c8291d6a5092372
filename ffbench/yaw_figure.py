"""FaceSim against yaw: a line a method with its 95% band, for a column of a paper.

Colours are Okabe and Ito's, each with a marker and a line style of its own, so that grey print and colour-blind eyes
tell the lines apart.
"""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ffbench.durable import write_atomic
from ffbench.metrics.catalog import METRICS
from ffbench.tables import BINNED, Sheet

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vPX*"
STYLES = ("-", "--", "-.", ":")
_STYLE: Any = {
    "font.size": 8, "axes.labelsize": 8, "xtick.labelsize": 7, "ytick.labelsize": 7, "legend.fontsize": 7,
    "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.6, "pdf.fonttype": 42,
}  # fmt: skip


def write_figures(sheet: Sheet, folder: Path) -> list[Path]:
    """Write `<metric>-by-yaw.png` and `.pdf` of every FaceSim that has numbers by yaw; the same sheet, the same bytes.

    Returns:
        The paths; none where no method has such numbers.
    """
    paths = []
    for metric in BINNED:
        figure = draw(sheet, metric)
        if figure is None:
            continue
        FigureCanvasAgg(figure)
        for kind, metadata in (("png", {"Software": None}), ("pdf", {"CreationDate": None, "Producer": None})):
            stream = io.BytesIO()
            with mpl.rc_context(_STYLE):
                figure.savefig(stream, format=kind, dpi=300, metadata=metadata)
            paths.append(folder / f"{metric}-by-yaw.{kind}")
            write_atomic(paths[-1], stream.getvalue())
    return paths


def draw(sheet: Sheet, metric: str) -> Figure | None:
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
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(3.4, 2.5 + 0.12 * len(series)), layout="constrained")
        axes = figure.subplots()
        for i, (label, numbers) in enumerate(series.items()):
            look: Any = {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)]}
            look |= {"linestyle": STYLES[i // len(COLOURS) % len(STYLES)], "linewidth": 1.2, "markersize": 3.5}
            axes.plot(centres, numbers[:, 0], label=label, **look)
            axes.fill_between(centres, numbers[:, 1], numbers[:, 2], color=look["color"], alpha=0.15, linewidth=0)
        axes.set(xlabel="|yaw| of the head in degrees", ylabel=METRICS[metric].title, xlim=(0, 90))
        axes.set_xticks(range(0, 91, 15))
        axes.grid(axis="y", linewidth=0.3)
        figure.legend(loc="outside lower center", ncols=2, frameon=False)
        figure.suptitle(f"{sheet.suite}, {sheet.protocol}; bands: 95%, over identities", fontsize=7)
    return figure
