"""Figures of a report: what they show is what was measured, and the same records give the same bytes."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from matplotlib.patches import Rectangle
from PIL import Image

from ffbench.errors import UserError
from ffbench.figures.frames import PITCHES, YAWS, coverage, draw_coverage, draw_over_time
from ffbench.figures.grid import block, draw_grid
from ffbench.figures.sheet import draw_forest, draw_sizes
from ffbench.figures.style import DPI, PAGE
from ffbench.figures.write import FigureOptions, write_figures, write_sizes
from ffbench.records import from_json
from ffbench.report import ReportOptions, report
from ffbench.tables.frames import VideoFrames, frames_csv, read_frames
from ffbench.tables.published import published_table
from ffbench.tables.render import json_sheet
from ffbench.tables.rows import Row, load_rows
from ffbench.tables.sheet import Line, Sheet, sheet
from ffbench.video import read_clip
from tests.ffbench.scored_runs import Made, cases, make_run


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    root = tmp_path_factory.mktemp("figures")
    suite = cases(root / "photos", 3, (("gym", "turns the head " * 12), ("talk", "speaks")))
    methods = (
        Made("faithfulfaces", 0.8, failed=("id01-gym",)),
        Made("faithfulfaces@no-euler", 0.6),
        Made("vace", 0.5, faceless=("id02-gym",)),
        Made("still", 0.95, turn=2.0, kind="control"),
    )
    runs = [make_run(root / "runs", made, suite, with_videos=True) for made in methods]
    return [row for run in runs for row in load_rows(run, "standard@1")]


@pytest.fixture(scope="module")
def made(rows: list[Row]) -> Sheet:
    return sheet(rows)


@pytest.fixture(scope="module")
def frames(rows: list[Row]) -> list[VideoFrames]:
    return read_frames(frames_csv(rows))


def test_frames_read_back_what_the_tracks_hold(rows: list[Row], frames: list[VideoFrames]) -> None:
    assert len(frames) == 23
    one = frames[0]
    assert (one.method, one.case_id, one.take) == ("faithfulfaces", "id00-gym", 0)
    track = rows[0].track(("id00-gym", 0))
    assert track is not None
    np.testing.assert_array_equal(one.number, track.number)
    np.testing.assert_allclose(one.angles, track.angles, rtol=1e-5)
    np.testing.assert_allclose(
        one.series["facesim_arc"], rows[0].scores["id00-gym", 0]["facesim_arc"].per_frame, rtol=1e-5
    )
    assert math.isnan(one.angles[5, 1])


def test_the_same_records_give_the_same_bytes(rows: list[Row], made: Sheet, tmp_path: Path) -> None:
    text = frames_csv(rows)
    first = write_figures(made, read_frames(text), rows, tmp_path / "one", FigureOptions(("id00-gym",), boxes=True))
    # the cells once more from their file
    again = from_json(Sheet, json_sheet(made))
    second = write_figures(again, read_frames(text), rows, tmp_path / "two", FigureOptions(("id00-gym",), boxes=True))
    names = [path.name for path in first]
    stems = (
        "facesim_arc-by-yaw",
        "forest",
        "pose-coverage",
        "grid-id00-gym-s0",
        "ablation-id00-gym-s0",
        "over-time-id00-gym-s0",
    )
    assert names == [f"{stem}.{kind}" for stem in stems for kind in ("png", "pdf")]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    for path in first:
        assert b"CreationDate" not in path.read_bytes()
        if path.suffix == ".png":
            with Image.open(path) as picture:
                assert picture.text == {}
                assert picture.size[0] <= PAGE * DPI + 1


def test_a_forest_shows_every_cell_with_its_interval(made: Sheet) -> None:
    figure = draw_forest(made)
    assert figure is not None
    titles = [axes.get_title().replace("\n", " ") for axes in figure.axes]
    assert titles == ["FaceSim-Arc ↑", "KID ↓", "FaceSim-Arc @|yaw|>45 ↑", "pose range in degrees", "faces ↑"]
    labels = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    assert labels == ["faithfulfaces", "faithfulfaces@no-euler", "vace", "still"]
    lines = figure.axes[0].lines
    cell = made.cell("vace", "facesim_arc")
    assert cell is not None
    assert [float(x) for x in lines[4].get_xdata()] == [cell.low, cell.high]
    assert [float(x) for x in lines[5].get_xdata()] == [cell.value]
    assert lines[1].get_color() != lines[5].get_color(), "the best stands out"
    assert lines[7].get_markerfacecolor() == "white", "a control is hollow"
    nothing = dataclasses.replace(made, cells=())
    assert draw_forest(nothing) is None


def test_coverage_counts_frames_by_pitch_and_yaw(made: Sheet, frames: list[VideoFrames]) -> None:
    angles = np.array([[5, -80, 0], [5, -80, 0], [-70, 100, 0], [math.nan] * 3])
    one = VideoFrames("a", "c", 0, np.arange(4), np.arange(4.0), angles, {})
    share = coverage([one])
    assert share.shape == (len(PITCHES) - 1, len(YAWS) - 1)
    assert share.sum() == 0.75
    assert share[4, 0] == 0.5
    assert share[0, -1] == 0.25, "what lies beyond the edge counts in the outer cell"
    assert coverage([]).sum() == 0
    figure = draw_coverage(made, frames)
    assert figure is not None
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert titles[-1] == "still (control)\nknown in 0.94 of frames"
    assert len(titles) == 4
    assert draw_coverage(made, []) is None


def test_strips_over_time_hatch_what_has_no_face(made: Sheet, frames: list[VideoFrames]) -> None:
    some = [one for one in frames if one.case_id == "id02-gym"]
    figure = draw_over_time(made, some, "facesim_arc")
    assert figure is not None
    axes = figure.axes[0]
    blocks = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    assert len(blocks) == 4 * 16 * 2
    hatched = [patch for patch in blocks if patch.get_hatch()]
    assert len(hatched) == 2 * (3 * 1 + 16), "one frame of each video, and all of the faceless one"
    # from 0 s to half a step of 1/8 s behind the last sample
    assert sum(patch.get_width() for patch in blocks[:32:2]) == pytest.approx(15 / 8 + 1 / 16)
    faceless = [one for one in some if one.method == "vace"]
    assert draw_over_time(made, faceless, "facesim_arc") is None


def test_a_grid_shows_measured_frames_at_equal_times(rows: list[Row]) -> None:
    found = block(rows, ("id00-gym", 0))
    assert found is not None
    np.testing.assert_allclose(found.times, np.linspace(0, 15 / 8, 6))
    assert [strip.label for strip in found.strips] == ["faithfulfaces", "faithfulfaces@no-euler", "vace", "still"]
    generation = rows[2].generations["id00-gym", 0]
    clip = read_clip(rows[2].run.video(generation), ["time16"]).frames["time16"]
    shown = found.strips[2].frames
    for i, time in enumerate(found.times):
        frame = clip.pixels[int(np.abs(clip.time - time).argmin())]
        small = Image.fromarray(frame).resize((shown.shape[2], shown.shape[1]), Image.Resampling.LANCZOS)
        assert np.abs(np.asarray(small).astype(int) - shown[i]).max() == 0
    series = rows[2].scores["id00-gym", 0]["facesim_arc"].per_frame
    assert found.strips[2].values[0] == series[0]
    np.testing.assert_allclose(found.strips[2].boxes[0], np.float32([16 / 56, 8 / 48, 40 / 56, 38 / 48]))
    figure = draw_grid([found], "why", boxes=True)
    boxes = [patch for axes in figure.axes for patch in axes.patches]
    assert len(boxes) == sum(bool(np.isfinite(strip.boxes[i, 0])) for strip in found.strips for i in range(6))
    assert not [patch for axes in draw_grid([found]).axes for patch in axes.patches]


def test_a_failed_video_keeps_its_row_and_says_why(rows: list[Row]) -> None:
    found = block(rows, ("id01-gym", 0))
    assert found is not None
    assert found.strips[0].why == "failed: CUDA out of memory"
    assert len(found.strips[0].frames) == 0
    texts = [text.get_text() for axes in draw_grid([found]).axes for text in axes.texts]
    assert "failed: CUDA out of memory" in texts


def test_cases_are_chosen_by_rule_or_by_name(
    rows: list[Row], made: Sheet, frames: list[VideoFrames], tmp_path: Path
) -> None:
    names = [path.stem for path in write_figures(made, frames, rows, tmp_path) if path.suffix == ".pdf"]
    grids = [name for name in names if name.startswith("grid-")]
    assert len(grids) == 3
    judged = [row for row in rows if not row.control]
    means = {}
    for video in rows[3].generations:
        values = [row.scores[video]["facesim_arc"].value for row in judged if video in row.scores]
        means[video] = float(np.nanmean(values))
    ordered = sorted(means, key=lambda video: (means[video], video))
    assert grids == [f"grid-{ordered[place][0]}-s0" for place in (0, 2, 5)]
    with pytest.raises(UserError, match="no run holds the case 'nobody'"):
        write_figures(made, frames, rows, tmp_path, FigureOptions(("nobody",)))


def test_both_views_of_a_person_stand_side_by_side(tmp_path: Path) -> None:
    suite = [
        dataclasses.replace(case, case_id=f"{case.case_id}-{view}", tags=(view,))
        for case in cases(tmp_path / "photos", 2)
        for view in ("frontal", "non-frontal")
    ]
    rows = [
        row
        for one in (Made("a", 0.8), Made("b", 0.5))
        for row in load_rows(make_run(tmp_path / "runs", one, suite, with_videos=True), "standard@1")
    ]
    paths = write_figures(sheet(rows), [], rows, tmp_path / "out", FigureOptions(("id01-gym-frontal",)))
    assert "views-id01-gym-frontal-s0.png" in [path.name for path in paths]
    blocks = [one for view in ("frontal", "non-frontal") if (one := block(rows, (f"id01-gym-{view}", 0), 3))]
    figure = draw_grid(blocks)
    assert len([axes for axes in figure.axes if axes.images]) == 2 * (1 + 2 * 3)


def test_dictionary_sizes_with_the_papers_points_beside(made: Sheet, tmp_path: Path) -> None:
    labels = {"faithfulfaces": "1024", "faithfulfaces@no-euler": "4096", "vace": "4096 (seed-1)", "still": "32768"}
    renamed = dataclasses.replace(
        made,
        lines=tuple(Line(labels[line.label], False, line.num_made, line.num_failed) for line in made.lines),
        cells=tuple(dataclasses.replace(cell, method=labels[cell.method]) for cell in made.cells),
    )
    figure = draw_sizes(renamed)
    assert figure is not None
    (axes,) = figure.axes
    mean = axes.lines[-1]
    values = {label: cell.value for label in labels.values() if (cell := renamed.cell(label, "facesim_arc"))}
    assert list(mean.get_xdata()) == [1024, 4096, 32768]
    np.testing.assert_allclose(
        mean.get_ydata(), [values["1024"], (values["4096"] + values["4096 (seed-1)"]) / 2, values["32768"]]
    )
    paper = draw_sizes(renamed, published_table(3))
    assert paper is not None
    line = paper.axes[0].lines[-1]
    assert list(line.get_xdata()) == [1024, 2048, 4096, 8192, 16384, 32768]
    assert max(line.get_ydata()) == float(published_table(3).named("4096").values["facesim_arc", "all"])
    assert line.get_linestyle() == "--"
    assert draw_sizes(made) is None
    (tmp_path / "cells.json").write_text(json_sheet(renamed), "utf-8")
    paths = write_sizes(tmp_path / "cells.json", tmp_path / "one", published=True)
    assert [path.name for path in paths] == ["dictionary-size.png", "dictionary-size.pdf"]
    again = write_sizes(tmp_path / "cells.json", tmp_path / "two", published=True)
    assert [path.read_bytes() for path in paths] == [path.read_bytes() for path in again]
    assert write_sizes(tmp_path / "none.json", tmp_path) == []
    (tmp_path / "cells.json").write_text("{}", "utf-8")
    with pytest.raises(UserError, match="cannot be read"):
        write_sizes(tmp_path / "cells.json", tmp_path)


def test_the_report_draws_on_request(tmp_path: Path) -> None:
    make_run(tmp_path / "runs", Made("a", 0.8), cases(tmp_path / "photos", 2), with_videos=True)
    folder = report([tmp_path / "runs"], ReportOptions(gallery=False)).folder
    assert not (folder / "figures").exists()
    options = ReportOptions(gallery=False, figures=True, figure_cases=("id00-gym",))
    report([tmp_path / "runs"], options)
    names = [path.stem for path in sorted((folder / "figures").glob("*.pdf"))]
    assert names == ["facesim_arc-by-yaw", "forest", "grid-id00-gym-s0", "over-time-id00-gym-s0", "pose-coverage"]
