"""A figure as data: what it is drawn from, so that anybody can draw it again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from ffbench.figures.frames import draw_coverage, draw_over_time
from ffbench.figures.grid import Block, draw_grid
from ffbench.figures.sheet import draw_forest, draw_sizes
from ffbench.figures.yaw import draw_by_yaw
from ffbench.tables.frames import VideoFrames
from ffbench.tables.published import published_table
from ffbench.tables.rows import Video
from ffbench.tables.sheet import Sheet


@dataclass(frozen=True)
class Drawing:
    """One figure: beside its own fields it is drawn from the cells of a sheet and the frames of its videos."""

    name: str
    """Of its file, without the ending."""
    kind: str
    """by-yaw, forest, coverage, over-time, sizes or grid."""
    metric: str = ""
    """Of by-yaw and over-time."""
    video: Video = ("", 0)
    """Of over-time."""
    note: str = ""
    """Below a grid."""
    boxes: bool = False
    """Of a grid."""
    published: bool = False
    """The paper's points beside measured ones."""
    blocks: tuple[Block, ...] = ()
    """Of a grid."""


def draw(drawing: Drawing, made: Sheet, frames: Sequence[VideoFrames]) -> Figure | None:
    """The figure; the same data give the same bytes under the same versions. None where nothing was measured.

    Args:
        drawing: what is drawn.
        made: cells of the methods.
        frames: per-frame values of their videos.

    Raises:
        ValueError: for a kind that there is not.
    """
    match drawing.kind:
        case "by-yaw":
            return draw_by_yaw(made, drawing.metric)
        case "forest":
            return draw_forest(made)
        case "coverage":
            return draw_coverage(made, frames)
        case "over-time":
            some = [one for one in frames if (one.case_id, one.take) == drawing.video]
            return draw_over_time(made, some, drawing.metric)
        case "sizes":
            return draw_sizes(made, published_table(3) if drawing.published else None)
        case "grid":
            return draw_grid(drawing.blocks, drawing.note, drawing.boxes)
    raise ValueError(f"no figure is of kind {drawing.kind!r}")
