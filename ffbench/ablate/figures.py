"""The figures that go with a table of the paper, from the runs that it was made of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from ffbench.figures.archive import keep_figures
from ffbench.figures.drawing import Drawing, draw
from ffbench.figures.style import save
from ffbench.figures.write import (
    SIZES,
    FigureOptions,
    ablation_drawings,
    case_drawings,
    sheet_drawings,
    view_drawings,
)
from ffbench.tables.frames import VideoFrames, frames_csv, read_frames
from ffbench.tables.rows import Row
from ffbench.tables.sheet import Sheet


def write_figures(
    table: tuple[str, Sequence[str]], made: Sheet, rows: Sequence[Row], options: FigureOptions, folders: Sequence[Path]
) -> None:
    """Draw what goes with a table: methods and cases (1), strips of variants (2), sizes (3), views side by side (5).

    Args:
        table: its name, and what stands above its rows' names.
        made: its cells.
        rows: one of each of its lines, the first training where there are several, with videos and tracks.
        options: cases, boxes and the paper's points.
        folders: PNG and PDF go to `figures` in the first; a second, `<results>/<suite>@<version>`, takes PNG with all
            that they are drawn from.

    Raises:
        UserError: for a case that no row holds.
    """
    frames = read_frames(frames_csv(rows)) if table[0] == "table1" else []
    drawings = list(_drawings(table, made, (rows, frames), options))
    for one in drawings:
        if figure := draw(one, made, frames):
            save(figure, folders[0] / "figures", one.name)
    for place in folders[1:]:
        keep_figures(table[0], drawings, frames, place)


def _drawings(
    table: tuple[str, Sequence[str]],
    made: Sheet,
    runs: tuple[Sequence[Row], Sequence[VideoFrames]],
    options: FigureOptions,
) -> Iterator[Drawing]:
    name, heads = table
    rows, frames = runs
    if name == "table1":
        yield from sheet_drawings(made)
        yield from case_drawings(frames, rows, options)
    elif name == "table2":
        yield from ablation_drawings(rows, options, f"rows: {' / '.join(heads)}, one training each")
    elif name == "table3":
        yield Drawing(SIZES, "sizes", published=options.published)
    elif name == "table5":
        yield from view_drawings(rows, options)
