"""Qualitative grids (Fig. 5, 9, 11, 13-16): a row a method, frames at equal times, the reference at the left."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from PIL import Image

from ffbench.extract.track import FaceTrack
from ffbench.figures.style import COLOURS, DPI, PAGE, styled
from ffbench.image import ImageError, read_image
from ffbench.tables.rows import Row, Video
from ffbench.tables.sheet import BINNED
from ffbench.video import VideoError, frame_times, stream_frames

COLUMNS = 6
"""Frames of a video in a grid of one case; two cases side by side show half as many each."""
_REFERENCE = 1.05
"""Inches given to a reference."""
_PHOTO = _REFERENCE - 0.1
_LETTERS, _NOTE = 18, 118
"""Of a line of the prompt below it, and of the note below all."""


@dataclass(frozen=True)
class Strip:
    """What one method made of a case."""

    label: str
    frames: NDArray[np.uint8]
    """[K,H,W,3] RGB; K is 0 where there is nothing to show."""
    boxes: NDArray[np.float32]
    """[K,4] x1 y1 x2 y2 as shares of width and height; NaN where no face was found."""
    values: tuple[float, ...]
    """K cosines to the reference."""
    why: str = ""
    """Why there is nothing to show."""


@dataclass(frozen=True)
class Block:
    """One case: its reference, and a strip a method."""

    reference: NDArray[np.uint8] | None
    """[H,W,3] RGB, no larger than it is drawn; None where the photograph is gone."""
    head: str
    prompt: str
    times: tuple[float, ...]
    """K seconds at which the frames are taken."""
    strips: tuple[Strip, ...]


def block(rows: Sequence[Row], video: Video, columns: int = COLUMNS) -> Block | None:
    """Read the frames of a case from every row that has it; None where no row has one.

    The times are equally far apart, from the first to the last sampled frame of the shortest video. Each video shows
    the frame that was measured nearest to each time, so that its box and cosine are those of the picture.
    """
    held = [row for row in rows if video in row.generations]
    tracks = {row.label: row.track(video) for row in held}
    ends = [float(track.time[-1]) for track in tracks.values() if track is not None and len(track.time)]
    if not ends:
        return None
    times = tuple(np.linspace(0.0, min(ends), columns).tolist())
    case = held[0].cases[video[0]]
    try:
        photograph = Image.fromarray(read_image(Path(case.references[0].path)))
        photograph.thumbnail((round(_PHOTO * DPI), round(_PHOTO * DPI)), Image.Resampling.LANCZOS)
        reference = np.asarray(photograph, np.uint8)
    except (ImageError, OSError):
        reference = None
    head = f"{case.identity_id}, {case.references[0].view}" if case.references[0].view else case.identity_id
    strips = tuple(_strip(row, video, tracks[row.label], times) for row in held)
    return Block(reference, head, case.prompt, times, strips)


def _strip(row: Row, video: Video, track: FaceTrack | None, times: Sequence[float]) -> Strip:
    generation = row.generations[video]
    none = Strip(row.label, np.zeros((0, 0, 0, 3), np.uint8), np.zeros((0, 4), np.float32), ())
    if generation.status != "ok":
        return Strip(row.label, none.frames, none.boxes, (), f"{generation.status}: {generation.error}")
    if track is None or not len(track.time):
        return Strip(row.label, none.frames, none.boxes, (), "its track is not kept")
    samples = [int(np.abs(track.time - time).argmin()) for time in times]
    numbers = track.number[samples]
    width, height = track.size
    # no more pixels than a cell of the picture has
    side = min(width, _side(len(times)))
    size = (side, max(1, round(side * height / width)))
    path = row.run.video(generation)
    try:
        wanted = sorted(set(numbers.tolist()))
        found = list(stream_frames(path, wanted, len(frame_times(path)), lambda _width, _height: (width, height)))
    except (VideoError, OSError) as error:
        return Strip(row.label, none.frames, none.boxes, (), str(error))
    pictures = {n: _scaled(frame, size) for n, frame in zip(wanted, found, strict=True)}
    series = next((s.per_frame for s in (row.scores[video].get(m) for m in BINNED) if s and s.per_frame), ())
    boxes = np.asarray(track.box[samples] / np.array([width, height, width, height]), np.float32)
    values = tuple(series[sample] if series else math.nan for sample in samples)
    return Strip(row.label, np.stack([pictures[n] for n in numbers.tolist()]), boxes, values)


def _side(columns: int) -> int:
    """Width in px of a cell in a picture of all columns."""
    return round(PAGE * DPI / (columns + 1))


def _scaled(frame: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.LANCZOS), np.uint8)


def draw_grid(blocks: Sequence[Block], note: str = "", boxes: bool = False) -> Figure:
    """One case, or several side by side: a row a method, a column a time.

    Args:
        blocks: at least one; all show the same methods in the same order (Fig. 11: the two views of a reference).
        note: stands below, such as why this case was chosen.
        boxes: draw the measured face boxes with their cosines.
    """
    ratio = max((s.frames.shape[1] / s.frames.shape[2] for b in blocks for s in b.strips if len(s.frames)), default=1.0)
    count = len(blocks[0].times)
    wide = PAGE / len(blocks)
    cell = (wide - _REFERENCE - 0.3) / count
    rows = max(len(one.strips) for one in blocks)
    with styled():
        below = textwrap.wrap(note, _NOTE)
        foot = 0.06 + 0.12 * max(len(below), 1)
        figure = Figure(figsize=(PAGE, max(rows * (cell * ratio + 0.03) + foot + 0.22, 2.1 if rows < 3 else 0)))
        sides = figure.subfigures(1, len(blocks), squeeze=False, wspace=0.0)[0]
        for side, one in zip(sides, blocks, strict=True):
            _draw_block(side, one, (wide, cell, foot), boxes)
        if below:
            figure.text(0.005, 0.008, "\n".join(below), fontsize=7, color="#555555", va="bottom", linespacing=1.2)
    return figure


def _draw_block(side: SubFigure, one: Block, inches: tuple[float, float, float], boxes: bool) -> None:
    wide, cell, foot = inches
    height = float(side.bbox.height / side.figure.dpi)
    top, bottom = 1 - 0.2 / height, foot / height
    left = (_REFERENCE + 0.3) / wide
    axes = side.add_axes((0.05 / wide, top - _PHOTO / height, _PHOTO / wide, _PHOTO / height))
    axes.set_axis_off()
    axes.set_anchor("N")
    if one.reference is not None:
        axes.imshow(one.reference)
        tall = _PHOTO * min(1.0, one.reference.shape[0] / one.reference.shape[1])
    else:
        axes.text(0.5, 0.5, "photograph gone", ha="center", va="center", transform=axes.transAxes, fontsize=7)
        tall = _PHOTO
    side.text(0.05 / wide, top + 0.02 / height, one.head, fontsize=7, weight="bold", va="bottom")
    under = top - (tall + 0.06) / height
    room = int((under - bottom) * height / 0.122)
    lines = textwrap.wrap(one.prompt, _LETTERS, max_lines=room, placeholder=" …") if room > 0 else []
    side.text(0.05 / wide, under, "\n".join(lines), fontsize=7, va="top", linespacing=1.25)
    grid = side.add_gridspec(
        len(one.strips), len(one.times), left=left, right=1 - 0.02 / wide, top=top, bottom=bottom, wspace=0.02,
        hspace=0.02,
    )  # fmt: skip
    for row, strip in enumerate(one.strips):
        for column, time in enumerate(one.times):
            axes = side.add_subplot(grid[row, column])
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set_visible(False)
            if column == 0:
                # two lines have room beside the reference; a variant stands below its method
                parts = textwrap.wrap(
                    strip.label.replace("@", " @"), max(14, round(cell * 15)), max_lines=2, placeholder="…"
                )
                axes.set_ylabel("\n".join(parts), fontsize=7, labelpad=2)
            if row == 0:
                axes.set_title(f"{time:.1f} s", fontsize=7, pad=2)
            _cell(axes, strip, column, boxes)


def _cell(axes: Axes, strip: Strip, column: int, boxes: bool) -> None:
    if not len(strip.frames):
        axes.set_facecolor("#eeeeee")
        if column == 0:
            why = textwrap.fill(strip.why, 70, max_lines=3, placeholder=" …")
            axes.text(0.03, 0.5, why, transform=axes.transAxes, fontsize=7, va="center", color="#b3261e", zorder=9)
        return
    side = _side(len(strip.frames))
    height, width = strip.frames.shape[1:3]
    frame = _scaled(strip.frames[column], (side, max(1, round(side * height / width))))
    axes.imshow(frame, aspect="equal")
    if not boxes:
        return
    height, width = frame.shape[:2]
    x1, y1, x2, y2 = strip.boxes[column] * (width, height, width, height)
    if math.isnan(x1):
        text, colour = "no face", "#b3261e"
    else:
        axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=COLOURS[4], linewidth=0.9))
        text, colour = "" if math.isnan(strip.values[column]) else f"{strip.values[column]:.2f}", "black"
    if text:
        patch = {"facecolor": "white", "alpha": 0.75, "pad": 0.8, "linewidth": 0}
        axes.text(
            0.02, 0.03, text, transform=axes.transAxes, fontsize=7, color=colour, va="bottom", bbox=patch
        )  # fmt: skip
