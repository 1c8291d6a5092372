"""Pictures of the page: strips of frames with their face crops, and the geometry of its charts. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from numpy.typing import NDArray

COLUMNS = 8
COLUMN = 120
"""Width of one frame of a strip in px."""
_FACE = 1.35
"""Side of a face crop in sides of the box."""
_GREY = 104


@dataclass(frozen=True)
class Dot:
    """One number of a chart, in px."""

    x: float
    y: float
    title: str


def shown_frames(total: int) -> list[int]:
    """Rows of a track that a strip shows: at most COLUMNS, at equal distances, first and last among them."""
    count = min(COLUMNS, total)
    return [round(i * (total - 1) / max(count - 1, 1)) for i in range(count)]


def strip(frames: NDArray[np.uint8], boxes: NDArray[np.float32]) -> Image.Image:
    """Frames side by side, each with its face below it.

    Args:
        frames: uint8 [K,H,W,3] RGB.
        boxes: [K,4] x1 y1 x2 y2 in px of the frames; NaN rows, where there is no face, become hatched squares.

    Returns:
        An image of K columns, each COLUMN px wide.
    """
    height = max(1, round(COLUMN * frames.shape[1] / frames.shape[2]))
    sheet = Image.new("RGB", (COLUMN * len(frames), height + COLUMN))
    for i, (frame, box) in enumerate(zip(frames, boxes, strict=True)):
        picture = Image.fromarray(frame)
        sheet.paste(picture.resize((COLUMN, height), Image.Resampling.LANCZOS), (i * COLUMN, 0))
        sheet.paste(face(picture, box) if np.isfinite(box).all() else _hatched(), (i * COLUMN, height))
    return sheet


def face(picture: Image.Image, box: NDArray[np.float32]) -> Image.Image:
    """A square of COLUMN px around a box [4]; what lies outside the picture is grey."""
    x1, y1, x2, y2 = (float(value) for value in box)
    half = max(x2 - x1, y2 - y1, 1.0) * _FACE / 2
    x, y = (x1 + x2) / 2, (y1 + y2) / 2
    area = tuple(round(value) for value in (x - half, y - half, x + half, y + half))
    crop = Image.new("RGB", (max(area[2] - area[0], 1), max(area[3] - area[1], 1)), (_GREY, _GREY, _GREY))
    inside = (max(area[0], 0), max(area[1], 0), min(area[2], picture.width), min(area[3], picture.height))
    if inside[0] < inside[2] and inside[1] < inside[3]:
        crop.paste(picture.crop(inside), (inside[0] - area[0], inside[1] - area[1]))
    return crop.resize((COLUMN, COLUMN), Image.Resampling.LANCZOS)


def _hatched() -> Image.Image:
    y, x = np.mgrid[0:COLUMN, 0:COLUMN]
    shade = np.where((x + y) // 8 % 2 == 0, _GREY, _GREY - 16).astype(np.uint8)
    return Image.fromarray(np.repeat(shade[..., None], 3, axis=2))


def _pieces(xs: Sequence[float], ys: Sequence[float]) -> tuple[str, ...]:
    """Polylines through the points whose y is a number; a piece of one point is no line."""
    pieces: list[list[str]] = [[]]
    for x, y in zip(xs, ys, strict=True):
        if math.isnan(y):
            pieces.append([])
        else:
            pieces[-1].append(f"{x:.1f},{y:.1f}")
    return tuple(" ".join(piece) for piece in pieces if len(piece) > 1)


@dataclass(frozen=True)
class ChartLine:
    """One method of a chart."""

    label: str
    control: bool
    points: tuple[str, ...]
    """`points` attributes of SVG polylines; a column without a value breaks the line."""
    dots: tuple[Dot, ...]
    bars: tuple[tuple[float, float, float], ...]
    """x, top and bottom of each interval."""


@dataclass(frozen=True)
class Chart:
    """A line chart with named columns, in px of its viewBox."""

    width: int
    height: int
    columns: tuple[tuple[float, str], ...]
    levels: tuple[tuple[float, str], ...]
    lines: tuple[ChartLine, ...]


def chart(
    names: Sequence[str], series: Mapping[str, Sequence[tuple[float, float, float]]], controls: Sequence[str]
) -> Chart:
    """Means with intervals of several methods over named columns.

    Args:
        names: K column names.
        series: label -> K (value, low, high), NaN where there is none.
        controls: labels that are controls.
    """
    width, height, left, bottom = 640, 260, 40, 30
    numbers = [n for values in series.values() for part in values for n in part if not math.isnan(n)]
    # whole fifths, so that the rules stand at round numbers
    top = math.ceil(min(max(numbers, default=1.0), 1.0) * 5)
    floor = math.floor(min(*numbers, 0.0) * 5) if numbers else 0

    def y(value: float) -> float:
        return round(10 + (height - bottom - 10) * (top - value * 5) / max(top - floor, 1), 1)

    step = (width - left - 10) / len(names)
    xs = [round(left + step * (i + 0.5), 1) for i in range(len(names))]
    # methods that meet in a column stand a little apart, so that their intervals can be told from each other
    shifts = [4.0 * (i - (len(series) - 1) / 2) for i in range(len(series))]
    lines = []
    for shift, (label, values) in zip(shifts, series.items(), strict=True):
        known = [(round(x + shift, 1), part) for x, part in zip(xs, values, strict=True) if not math.isnan(part[0])]
        pieces = _pieces([x + shift for x in xs], [y(part[0]) for part in values])
        lines.append(
            ChartLine(
                label,
                label in controls,
                pieces,
                tuple(Dot(x, y(value), f"{label} {value:.3f}") for x, (value, _, _) in known),
                tuple((x, y(high), y(low)) for x, (_, low, high) in known if not math.isnan(low)),
            )
        )
    ticks = [fifth / 5 for fifth in range(floor, top + 1)]
    return Chart(
        width, height, tuple(zip(xs, names, strict=True)), tuple((y(t), f"{t:.1f}") for t in ticks), tuple(lines)
    )


@dataclass(frozen=True)
class Mark:
    """One method as a point with its two intervals, in px."""

    label: str
    control: bool
    x: float
    y: float
    across: tuple[float, float]
    """Ends of the interval in x; both x where there is none."""
    along: tuple[float, float]
    """And in y."""
    side: str
    """Where its name stands: `start` to the right of it, `end` to the left."""
    name_y: float
    title: str


@dataclass(frozen=True)
class Scatter:
    """Two metrics against each other, in px of its viewBox."""

    width: int
    height: int
    columns: tuple[tuple[float, str], ...]
    levels: tuple[tuple[float, str], ...]
    marks: tuple[Mark, ...]


Ranged = tuple[float, float, float]
"""Value, low and high; NaN ends where there is no interval."""


def scatter(points: Mapping[str, tuple[Ranged, Ranged]], controls: Sequence[str], unit: float) -> Scatter:
    """Methods by two numbers each; those with a NaN are left out.

    Args:
        points: label -> x and y, each with its interval; y is a cosine.
        controls: labels that are controls.
        unit: distance of the rules in x.
    """
    width, height, left, bottom = 640, 260, 40, 34
    known = {label: both for label, both in points.items() if not any(math.isnan(one[0]) for one in both)}
    right = max((math.ceil(max(filter(math.isfinite, x)) / unit) for x, _ in known.values()), default=1) or 1
    floor = min((math.floor(min(filter(math.isfinite, y)) * 5) for _, y in known.values()), default=0)
    floor = min(floor, 0)

    def to_x(value: float) -> float:
        return round(left + 6 + (width - left - 26) * value / (right * unit), 1)

    def to_y(value: float) -> float:
        return round(10 + (height - bottom - 10) * (1 - (value * 5 - floor) / (5 - floor)), 1)

    marks: list[Mark] = []
    for label, (x, y) in known.items():
        ends = [end if math.isfinite(end) else one[0] for one in (x, y) for end in one[1:]]
        across, along = (to_x(ends[0]), to_x(ends[1])), (to_y(ends[3]), to_y(ends[2]))
        side = "end" if to_x(x[0]) > 0.7 * width else "start"
        title = f"{label} {y[0]:.3f} at {x[0]:.0f}"
        name_y = to_y(y[0]) - 7
        # names that would cover each other stand below one another
        while any(abs(m.name_y - name_y) < 13 and m.side == side and abs(m.x - to_x(x[0])) < 110 for m in marks):
            name_y += 13
        marks.append(Mark(label, label in controls, to_x(x[0]), to_y(y[0]), across, along, side, name_y, title))
    columns = tuple((to_x(i * unit), f"{i * unit:g}") for i in range(right + 1))
    levels = tuple((to_y(i / 5), f"{i / 5:.1f}") for i in range(floor, 6))
    return Scatter(width, height, columns, levels, tuple(marks))
