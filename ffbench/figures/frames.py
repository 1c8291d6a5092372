"""Figures of per-frame values: where heads were turned to, and how each video of a case keeps the face over time."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from ffbench.figures.style import PAGE, SHARES, TURNS, styled
from ffbench.metrics.catalog import METRICS
from ffbench.tables.frames import VideoFrames
from ffbench.tables.sheet import Sheet

YAWS = np.arange(-90.0, 91.0, 15.0)
PITCHES = np.arange(-60.0, 61.0, 15.0)
"""Edges of the cells of a coverage plot, degrees."""
_ACROSS = 4
_LEAST = 1e-3


def coverage(videos: Sequence[VideoFrames]) -> NDArray[np.float64]:
    """[P,Y] share of all sampled frames whose head is turned into each cell of pitch and yaw.

    Angles beyond the outer edges count in the outer cells; frames without a face are in no cell, so that the sum is
    the share of frames whose head pose is known.
    """
    angles = np.concatenate([video.angles[:, :2] for video in videos]) if videos else np.zeros((0, 2))
    known = angles[np.isfinite(angles).all(axis=1)]
    pitch, yaw = (np.clip(known[:, i], edges[0], edges[-1]) for i, edges in enumerate((PITCHES, YAWS)))
    counts, _, _ = np.histogram2d(pitch, yaw, (PITCHES, YAWS))
    return np.asarray(counts / max(len(angles), 1), np.float64)


def draw_coverage(sheet: Sheet, videos: Sequence[VideoFrames]) -> Figure | None:
    """A panel a method: the share of its frames by yaw and pitch of the head. None where no head pose is known."""
    shares = {line.label: coverage([v for v in videos if v.method == line.label]) for line in sheet.lines}
    shares = {label: share for label, share in shares.items() if share.any()}
    if not shares:
        return None
    controls = {line.label for line in sheet.lines if line.control}
    down = math.ceil(len(shares) / _ACROSS)
    across = math.ceil(len(shares) / down)
    norm = LogNorm(_LEAST, max(float(share.max()) for share in shares.values()))
    with styled():
        figure = Figure(figsize=(PAGE * max(across, 2) / _ACROSS, 0.6 + 1.3 * down), layout="constrained")
        panels = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
        image = None
        for axes, (label, share) in zip(panels.flat, shares.items(), strict=False):
            image = _heat(axes, share, norm)
            axes.set_title(
                f"{label}{' (control)' if label in controls else ''}\nknown in {share.sum():.2f} of frames", fontsize=7
            )
        for axes in panels.flat[len(shares) :]:
            axes.set_axis_off()
        figure.supxlabel("yaw of the head in degrees", fontsize=8)
        figure.supylabel("pitch in degrees", fontsize=8)
        if image is not None:
            bar = figure.colorbar(image, ax=panels, fraction=0.04, pad=0.01, extend="min")
            bar.set_label("share of the method's frames")
    return figure


def _heat(axes: Axes, share: NDArray[np.float64], norm: Normalize) -> AxesImage:
    extent = (YAWS[0], YAWS[-1], PITCHES[0], PITCHES[-1])
    axes.set_facecolor("#eeeeee")
    shown = np.where(share > 0, np.maximum(share, _LEAST), np.nan)
    image = axes.imshow(
        shown, cmap=SHARES, norm=norm, extent=extent, origin="lower", aspect="auto", interpolation="nearest"
    )
    axes.set_xticks([-90, -45, 0, 45, 90])
    axes.set_yticks([-45, 0, 45])
    for x in (-45, 0, 45):
        axes.axvline(x, color="white", linewidth=0.3)
    axes.axhline(0, color="white", linewidth=0.3)
    return image


def draw_over_time(sheet: Sheet, videos: Sequence[VideoFrames], metric: str) -> Figure | None:
    """Two strips a video of one case: the similarity to the reference over time, and the yaw of the head.

    A frame without a value is hatched. None where no video has a value.

    Args:
        sheet: names the order of the methods.
        videos: of one case.
        metric: such as `facesim_cur`.
    """
    order = [line.label for line in sheet.lines]
    shown = sorted((v for v in videos if v.method in order and len(v.time)), key=lambda v: order.index(v.method))
    if not any(np.isfinite(video.series.get(metric, np.zeros(0))).any() for video in shown):
        return None
    end = max(_edges(video.time)[-1] for video in shown)
    with styled():
        figure = Figure(figsize=(PAGE, 0.85 + 0.36 * len(shown)), layout="constrained")
        axes = figure.subplots()
        images = (ScalarMappable(Normalize(0, 1), SHARES), ScalarMappable(Normalize(-90, 90), TURNS))
        for row, video in enumerate(shown):
            values = video.series.get(metric, np.full(len(video.time), np.nan))
            for i, (left, right) in enumerate(zip(*_spans(video.time), strict=True)):
                _block(axes, (left, right), (row - 0.42, 0.48), images[0].to_rgba(values[i]), values[i])
                angle = video.angles[i, 1]
                _block(axes, (left, right), (row + 0.1, 0.3), images[1].to_rgba(angle), angle)
        axes.set(xlim=(0, end), ylim=(len(shown) - 0.5, -0.55), xlabel="seconds", aspect="auto")
        axes.set_yticks(range(len(shown)), [video.method for video in shown])
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        # the bar that is added last stands next to the strips
        for image, label, ticks in (
            (images[1], "lower strip:\nyaw in degrees", (-90, 0, 90)),
            (images[0], f"upper strip:\n{METRICS[metric].title}", (0, 0.5, 1)),
        ):
            figure.colorbar(image, ax=axes, fraction=0.03, pad=0.01, ticks=ticks).set_label(label, fontsize=7)
        first = shown[0]
        figure.suptitle(f"{first.case_id}-s{first.take}, {sheet.suite}, {sheet.protocol}; hatched: no face found")
    return figure


def _edges(times: NDArray[np.float64]) -> NDArray[np.float64]:
    """[T+1] seconds: each sample stands for the time half way to its neighbours."""
    if len(times) < 2:
        return np.array([0.0, times[0] + 0.5])
    middle = (times[1:] + times[:-1]) / 2
    return np.concatenate([[max(0.0, 2 * times[0] - middle[0])], middle, [2 * times[-1] - middle[-1]]])


def _spans(times: NDArray[np.float64]) -> tuple[list[float], list[float]]:
    edges = _edges(times)
    return edges[:-1].tolist(), edges[1:].tolist()


def _block(axes: Axes, span: tuple[float, float], place: tuple[float, float], colour: object, value: float) -> None:
    """One sample of a strip; `place` is its top and height."""
    known = not math.isnan(value)
    axes.add_patch(
        Rectangle(
            (span[0], place[0]),
            span[1] - span[0],
            place[1],
            facecolor=colour if known else "white",  # type: ignore[arg-type]
            edgecolor="white" if known else "#999999",
            linewidth=0.3,
            hatch=None if known else "//////",
        )
    )
