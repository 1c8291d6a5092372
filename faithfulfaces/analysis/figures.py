"""Figures 6, 7 and 10, in the looks of all figures of this project (`ffbench.figures.style`)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from faithfulfaces.analysis.dictionary import TOP
from faithfulfaces.analysis.measure import SHOWN, DictionaryReport, IdentityMap, LossCurve
from ffbench.figures.style import COLOURS, COLUMN, MARKERS, PAGE, SHARES, styled


def draw_dictionary(report: DictionaryReport, examples: Mapping[str, Sequence[NDArray[np.uint8]]]) -> Figure:
    """Fig. 7: faces of each pose group, and how often every group activates each group's most particular elements.

    Args:
        report: of `look_at_dictionary`.
        examples: group -> crops uint8 [S,S,3], the same number of each.
    """
    shown = [group for group in report.groups if group.faces]
    count = max((len(examples.get(group.group, ())) for group in shown), default=0)
    with styled():
        figure = Figure(figsize=(PAGE, 1.0 + 0.42 * max(len(shown), 2)), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=[0.57 * max(count, 1), 4.5])
        left.set_axis_off()
        left.set_anchor("E")
        if count:
            left.imshow(np.concatenate([np.concatenate(list(examples[group.group]), 1) for group in shown]))
        table = np.array([report.table[group.group] for group in shown])
        # the next tenth above the largest share, so that small ones are told apart
        top = max(0.1, math.ceil(10 * float(table.max(initial=0))) / 10)
        image = right.imshow(table, cmap=SHARES, vmin=0, vmax=top, aspect="auto", interpolation="nearest")
        right.set_yticks(range(len(shown)), [f"{group.group}\n{group.faces} faces" for group in shown])
        right.set_xticks(range(len(report.columns)), [str(column) for column in report.columns], rotation=90)
        start = 0
        for group in shown:
            width = len((group.particular or group.elements)[:SHOWN])
            right.text(start + width / 2 - 0.5, -0.6, f"of {group.group}", ha="center", va="bottom", fontsize=7)
            start += width
            if start < len(report.columns):
                right.axvline(start - 0.5, color="white", linewidth=1.5)
        right.set_xlabel(f"elements (of {report.elements}) that are most particular of each group")
        right.tick_params(length=0)
        right.spines[:].set_visible(False)
        bar = figure.colorbar(image, ax=right, fraction=0.03, pad=0.01)
        bar.set_label(f"share of faces with it\namong their {TOP} strongest")
    return figure


def draw_identities(maps: Sequence[IdentityMap]) -> Figure:
    """Fig. 6: t-SNE of some people's faces, one panel for each kind of features, one colour and marker a person."""
    with styled():
        figure = Figure(figsize=(COLUMN if len(maps) == 1 else PAGE, 2.75), layout="constrained")
        panels = figure.subplots(1, len(maps), squeeze=False)[0]
        names = sorted({point.identity for point in maps[0].points}) if maps else []
        for axes, one in zip(panels, maps, strict=True):
            for i, name in enumerate(names):
                xy = np.array([(point.x, point.y) for point in one.points if point.identity == name])
                # beyond seven people, a colour comes again with another marker
                style = {"color": COLOURS[i % 7], "marker": MARKERS[(i + i // 7) % 7]}
                axes.scatter(*xy.T, s=18, edgecolors="black", linewidths=0.3, label=f"person {i + 1}", **style)
            axes.set_title(f"{one.of}\nsilhouette {one.silhouette:.2f}")
            axes.set_xticks([])
            axes.set_yticks([])
            axes.set_aspect("equal", "datalim")
            axes.spines[:].set_visible(True)
        marks, texts = panels[0].get_legend_handles_labels()
        figure.legend(
            marks, texts, loc="outside lower center", ncols=4 if len(maps) == 1 else 7, frameon=False,
            handletextpad=0.1, columnspacing=0.9,
        )  # fmt: skip
    return figure


def draw_loss(curve: LossCurve) -> Figure:
    """Fig. 10: the aligner's loss over training steps, every logged value and their running mean; L_FM below it."""
    losses = {"aligner loss $L_{PIA}$": curve.loss_pia} | ({"$L_{FM}$": curve.loss_fm} if curve.loss_fm else {})
    with styled():
        figure = Figure(figsize=(COLUMN, 1.0 + 1.3 * len(losses)), layout="constrained")
        panels = figure.subplots(len(losses), 1, sharex=True, squeeze=False)[:, 0]
        for axes, (name, values), colour in zip(panels, losses.items(), COLOURS, strict=False):
            mean = running_mean(values)
            smoothed = not np.array_equal(mean, values, equal_nan=True)
            axes.plot(curve.steps, values, color=colour, alpha=0.35 if smoothed else 1, linewidth=0.8, label="logged")
            if smoothed:
                axes.plot(curve.steps, mean, color=colour, linewidth=1.2, label="running mean")
            axes.set_ylabel(name)
            axes.set_ylim(bottom=0)
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        if len(panels[0].lines) > 1:
            panels[0].legend(frameon=False)
        panels[-1].set_xlabel("training step")
    return figure


def running_mean(values: Sequence[float]) -> NDArray[np.float64]:
    """Mean over a fiftieth of the series about each value, over what is finite there; NaN where nothing is."""
    x = np.array(values, np.float64)
    half = len(x) // 100
    finite = np.isfinite(x)
    total, count = (np.concatenate([[0.0], np.cumsum(part)]) for part in (np.where(finite, x, 0), finite))
    low, high = np.maximum(np.arange(len(x)) - half, 0), np.minimum(np.arange(len(x)) + half + 1, len(x))
    seen = count[high] - count[low]
    return np.where(seen > 0, (total[high] - total[low]) / np.maximum(seen, 1), np.nan)
