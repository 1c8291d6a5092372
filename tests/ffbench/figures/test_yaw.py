"""The figure of FaceSim against yaw: its lines are the cells of the sheet, its files the same bytes twice."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ffbench.figures.drawing import draw
from ffbench.figures.style import COLOURS, save
from ffbench.figures.write import sheet_drawings
from ffbench.figures.yaw import draw_by_yaw
from ffbench.protocols import PROTOCOLS
from ffbench.tables.rows import load_rows
from ffbench.tables.sheet import Sheet, sheet
from tests.ffbench.scored_runs import Made, cases, make_run


@pytest.fixture
def made(tmp_path: Path) -> Sheet:
    suite = cases(tmp_path / "photos", 3)
    runs = [
        make_run(tmp_path / "runs", one, suite, PROTOCOLS["standard"])
        for one in (Made("a", 0.8), Made("b", 0.5), Made("still", 0.9, turn=2, kind="control"))
    ]
    return sheet([row for run in runs for row in load_rows(run, "standard@1")])


def test_lines_and_bands_are_the_cells_of_the_sheet(made: Sheet) -> None:
    figure = draw_by_yaw(made, "facesim_arc")
    assert figure is not None
    (axes,) = figure.axes
    labels = [str(line.get_label()) for line in axes.lines]
    assert labels == ["a", "b", "still (control)"]
    assert [line.get_color() for line in axes.lines] == list(COLOURS[:3])
    assert len({line.get_marker() for line in axes.lines}) == 3
    groups = made.groups("yaw:")
    for name, line, band in zip(("a", "b", "still"), axes.lines, axes.collections, strict=True):
        cells = [made.cell(name, "facesim_arc", group) for group in groups]
        values = [cell.value if cell else math.nan for cell in cells]
        np.testing.assert_array_equal(line.get_ydata(), values)
        assert list(line.get_xdata()) == [7.5, 22.5, 37.5, 52.5, 67.5, 82.5]
        ends = {
            round(float(y), 6) for path in band.get_paths() for y in path.vertices[:, 1] if not math.isnan(float(y))
        }
        assert {
            round(end, 6) for cell in cells if cell and not math.isnan(cell.low) for end in (cell.low, cell.high)
        } <= ends
    # a head that never turns has no number beyond the first bin
    assert np.isnan(axes.lines[2].get_ydata()[1:]).all()


def test_files_are_a_column_wide_and_the_same_twice(made: Sheet, tmp_path: Path) -> None:
    def write(folder: Path) -> list[Path]:
        figure = draw_by_yaw(made, "facesim_arc")
        assert figure is not None
        return save(figure, folder, "by-yaw")

    paths = write(tmp_path / "one")
    assert [path.name for path in paths] == ["by-yaw.png", "by-yaw.pdf"]
    with Image.open(paths[0]) as picture:
        assert picture.size[0] == round(3.4 * 300)
        assert picture.text == {}
    assert paths[1].read_bytes().startswith(b"%PDF")
    assert b"CreationDate" not in paths[1].read_bytes(), "two files of one second would be equal in any case"
    assert [path.read_bytes() for path in paths] == [path.read_bytes() for path in write(tmp_path / "two")]


def test_without_numbers_by_yaw_there_is_no_figure(made: Sheet) -> None:
    plain = dataclasses.replace(made, cells=tuple(cell for cell in made.cells if not cell.group.startswith("yaw:")))
    assert draw_by_yaw(plain, "facesim_arc") is None
    assert {one.name for one in sheet_drawings(plain) if draw(one, plain, [])} == {"forest"}
