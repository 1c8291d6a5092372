"""A truth as two pictures: the instruments by head pose, and the metrics by defect.

Colours are Okabe and Ito's, with a marker for each line, and a brown-to-violet map that colour-blind people can read.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import patches
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ffbench.durable import write_atomic
from ffbench.metrics.catalog import METRICS
from ffbench.truth.accuracy import APART_EDGES, YAW_EDGES, Fact
from ffbench.truth.defects import DEFECTS
from ffbench.truth.examine import Truth
from ffbench.truth.sensitivity import Move, Trial

COLOURS = ("#0072B2", "#D55E00", "#009E73")
MARKERS = "osD"
STYLES = ("-", "--", ":")
_STYLE: Any = {
    "font.size": 9, "axes.titlesize": 9, "axes.labelsize": 9, "xtick.labelsize": 8, "ytick.labelsize": 8,
    "legend.fontsize": 8, "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.6,
}  # fmt: skip
_UNMOVED = ("blind", "not moved", "not formed")
YAW_BINS = [f"{low}-{high}" for low, high in pairwise(YAW_EDGES)]
APART_BINS = [f"{low}-{high}" for low, high in pairwise(APART_EDGES)]


def save(figure: Figure, path: Path) -> None:
    """Write a PNG of 200 dpi; the file is absent, old or complete."""
    FigureCanvasAgg(figure)
    stream = io.BytesIO()
    with mpl.rc_context(_STYLE):
        figure.savefig(stream, format="png", dpi=200, metadata={"Software": None})
    write_atomic(path, stream.getvalue())


def draw_instruments(truth: Truth) -> Figure:
    """Detection, landmarks, angles by |yaw|; ROC, AUC by difference in yaw, and captions."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(9.6, 5.6), layout="constrained")
        panels = figure.subplots(2, 3)
        _lines(panels[0, 0], truth.facts, {"recall": "found", "misplaced": "found elsewhere"}, YAW_BINS)
        behind = next(fact for fact in truth.facts if fact.of == "false")
        seen = f", from behind {behind.value:.0%} false (N {behind.count})" if behind.count else ""
        panels[0, 0].set(title=f"Detection{seen}", ylabel="share of frames", ylim=(-0.03, 1.05))
        _lines(panels[0, 1], truth.facts, {"landmarks %": "five points"}, YAW_BINS)
        panels[0, 1].set(title="Landmark error", ylabel="% of the face's size")
        panels[0, 1].set_ylim(bottom=0)
        _lines(panels[0, 2], truth.facts, {"pitch": "pitch", "yaw": "yaw", "roll": "roll"}, YAW_BINS)
        panels[0, 2].set(title="Head pose: mean absolute error", ylabel="degrees")
        panels[0, 2].set_ylim(bottom=0)
        for axes in panels[0]:
            axes.set_xlabel("|yaw| in degrees")
        _rocs(panels[1, 0], truth)
        _lines(panels[1, 1], truth.facts, {f"auc {slot}": slot for slot in truth.curves}, APART_BINS)
        panels[1, 1].set(title="Verification by difference in yaw", ylabel="AUC", xlabel="yaw apart in degrees")
        panels[1, 1].set_ylim(top=1.005)
        _captions(panels[1, 2], truth.facts)
        figure.suptitle(f"{truth.protocol} against the truth; bars: 95% intervals, clustered by person", fontsize=9)
    return figure


def draw_defects(trial: Trial) -> Figure:
    """Every metric under every defect: the difference in numbers, its size against its own greatest as colour."""
    metrics = [m for m in dict.fromkeys(move.metric for move in trial.moves) if _formed(trial, m)]
    known = {(move.defect, move.metric): move for move in trial.moves}
    shade = np.zeros((len(metrics), len(DEFECTS)))
    for row, metric in enumerate(metrics):
        moves = [known[defect.name, metric] for defect in DEFECTS]
        moved = [0.0 if move.verdict in _UNMOVED else move.difference for move in moves]
        shade[row] = np.array(moved) / (max(map(abs, moved)) or 1.0)
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(11.2, 1.6 + 0.36 * len(metrics)), layout="constrained")
        axes = figure.subplots()
        # the map's ends are left out: black letters must be read on it
        axes.imshow(shade, cmap="PuOr", vmin=-1.9, vmax=1.9, aspect="auto")
        for row, metric in enumerate(metrics):
            for column, defect in enumerate(DEFECTS):
                _cell(axes, known[defect.name, metric], column, row)
        axes.set_xticks(
            range(len(DEFECTS)), [f"{d.name}\n{trial.changed[d.name]:.0%} of frames" for d in DEFECTS], fontsize=8
        )
        axes.set_yticks(range(len(metrics)), [_label(known, metric) for metric in metrics])
        axes.xaxis.tick_top()
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_xticks(np.arange(len(DEFECTS) - 1) + 0.5, minor=True)
        axes.set_yticks(np.arange(len(metrics) - 1) + 0.5, minor=True)
        axes.grid(which="minor", color="white", linewidth=2)
        axes.tick_params(which="minor", length=0)
        axes.set_xlabel(
            f"mean change over {trial.videos} videos of {trial.identities} people. Grey, in brackets: the 95% interval "
            "holds 0.\nBoxed, a finding: the metric is there to see this defect and does not (dashed), or gets better "
            "under it (solid)."
        )
    return figure


def _formed(trial: Trial, metric: str) -> bool:
    return any(move.videos and not math.isnan(move.difference) for move in trial.moves if move.metric == metric)


def _label(known: dict[tuple[str, str], Move], metric: str) -> str:
    info = METRICS[metric]
    true = next(m.true for (_, name), m in known.items() if name == metric and not math.isnan(m.true))
    arrow = "" if info.higher_is_better is None else " ↑" if info.higher_is_better else " ↓"
    return f"{info.title}{arrow}   {true:.{info.decimals}f}{info.unit if info.unit in ('', '°') else ' ' + info.unit}"


def _cell(axes: Axes, move: Move, column: int, row: int) -> None:
    if math.isnan(move.difference):
        axes.text(column, row, "–", ha="center", va="center", color="#777777", fontsize=8)
        return
    text = f"{move.difference:+.{METRICS[move.metric].decimals}f}"
    still = move.verdict in _UNMOVED
    axes.text(
        column, row, f"({text})" if still else text, ha="center", va="center", fontsize=8,
        color="#666666" if still else "black", weight="bold" if move.verdict == "seen" else "normal",
    )  # fmt: skip
    if move.verdict in ("blind", "rewards"):
        box = patches.Rectangle(
            (column - 0.46, row - 0.42), 0.92, 0.84, fill=False, edgecolor="black", linewidth=1.4,
            linestyle="--" if move.verdict == "blind" else "-",
        )  # fmt: skip
        axes.add_patch(box)


def _lines(axes: Axes, facts: Sequence[Fact], names: dict[str, str], bins: Sequence[str]) -> None:
    """One line a name over the bins; points are moved apart so that their bars do not cover each other."""
    known = {(fact.of, fact.group): fact for fact in facts}
    for i, (name, label) in enumerate(names.items()):
        some = [(x, known[name, group]) for x, group in enumerate(bins) if (name, group) in known]
        some = [(x, fact) for x, fact in some if not math.isnan(fact.value)]
        if not some:
            continue
        at = [x + 0.1 * (i - (len(names) - 1) / 2) for x, _ in some]
        values = np.array([fact.value for _, fact in some])
        bars = np.array([[fact.value - fact.low, fact.high - fact.value] for _, fact in some]).T
        axes.errorbar(
            at, values, np.clip(np.nan_to_num(bars), 0, None), color=COLOURS[i], marker=MARKERS[i], markersize=4,
            linestyle=STYLES[i], linewidth=1.2, elinewidth=0.8, capsize=2, label=label,
        )  # fmt: skip
    counts = [known.get((next(iter(names), ""), group)) for group in bins]
    # pairs are too many to print under a tick
    shown = [str(f.count) if f.count < 1000 else f"{f.count / 1000:.1f}k" for f in counts if f]
    ticks = [f"{group}\nN {n}" for group, n in zip(bins, shown, strict=True)] if len(shown) == len(bins) else list(bins)
    axes.set_xticks(range(len(bins)), ticks, fontsize=7)
    if len(names) > 1:
        axes.legend(frameon=False)


def _rocs(axes: Axes, truth: Truth) -> None:
    known = {(fact.of, fact.group): fact.value for fact in truth.facts}
    least = 1.0
    for i, (slot, pairs) in enumerate(truth.curves.items()):
        if pairs.same.any() and not pairs.same.all():
            curve = pairs.curve()
            label = f"{slot}, AUC {known[f'auc {slot}', 'all']:.3f}"
            axes.plot(curve.false_accept, curve.true_accept, STYLES[i], color=COLOURS[i], label=label, linewidth=1.4)
            least = min(least, 1 / int((~pairs.same).sum()))
    chance = np.geomspace(min(least, 0.1), 1, 50)
    axes.plot(chance, chance, color="#999999", linewidth=0.8, label="chance")
    axes.set(xscale="log", xlim=(1e-4, 1), ylim=(0, 1.01), title="Verification, all pairs")
    axes.set(xlabel="false accepts", ylabel="true accepts")
    axes.legend(frameon=False, loc="upper left")


def _captions(axes: Axes, facts: Sequence[Fact]) -> None:
    some = [fact for fact in facts if fact.of == "caption"]
    axes.set(title="Text: own caption nearest", ylabel="share of frames", ylim=(0, 1.05))
    if not some:
        axes.text(0.5, 0.5, "not measured", ha="center", transform=axes.transAxes)
        axes.set_xticks([])
        return
    told, chance = some
    error = np.nan_to_num([[told.value - told.low], [told.high - told.value]])
    axes.bar([0], [told.value], yerr=error, color=COLOURS[0], width=0.5, capsize=3)
    axes.bar([1], [chance.value], color="#999999", width=0.5)
    for x, fact in enumerate(some):
        top = fact.value if math.isnan(fact.high) else fact.high
        axes.text(x, top + 0.02, f"{fact.value:.2f}", ha="center", fontsize=8)
    axes.set_xticks([0, 1], [f"{told.group}\nN {told.count}", chance.group.replace(", ", "\n")])
    axes.set_xlim(-0.6, 1.6)
