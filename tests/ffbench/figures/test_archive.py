"""Figures of a results folder: drawn from what lies there alone, byte for byte, and checked."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from ffbench.errors import UserError
from ffbench.figures.archive import check_figures, form_figures, keep_figures, read_index, render_figures
from ffbench.figures.blocks import read_block, write_block
from ffbench.figures.drawing import Drawing, draw
from ffbench.figures.drawn import drawn, versions
from ffbench.figures.grid import Block
from ffbench.figures.write import FigureOptions, case_drawings, sheet_drawings
from ffbench.tables.frames import VideoFrames, frames_csv, frames_lines, read_frames, read_lines
from ffbench.tables.render import json_sheet
from ffbench.tables.rows import Row, load_rows
from ffbench.tables.sheet import Sheet, sheet
from tests.ffbench.scored_runs import Made, cases, make_run

CASE = "id00-gym"


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    root = tmp_path_factory.mktemp("kept")
    suite = cases(root / "photos", 2, ((CASE[5:], "turns"),))
    methods = (Made("a", 0.8, failed=("id01-gym",)), Made("b", 0.5, faceless=(CASE,)))
    runs = [make_run(root / "runs", made, suite, with_videos=True) for made in methods]
    return [row for run in runs for row in load_rows(run, "standard@1")]


@pytest.fixture(scope="module")
def frames(rows: list[Row]) -> list[VideoFrames]:
    return read_frames(frames_csv(rows))


@pytest.fixture(scope="module")
def made(rows: list[Row]) -> Sheet:
    return sheet(rows)


@pytest.fixture(scope="module")
def drawings(rows: list[Row], made: Sheet, frames: list[VideoFrames]) -> list[Drawing]:
    cases = case_drawings(frames, rows, FigureOptions((CASE, "id01-gym"), boxes=True))
    return [*sheet_drawings(made), *cases]


@pytest.fixture
def place(made: Sheet, drawings: list[Drawing], frames: list[VideoFrames], tmp_path: Path) -> Path:
    place = tmp_path / "tiny@1"
    place.mkdir()
    (place / "table1.json").write_text(json_sheet(made), "utf-8")
    keep_figures("table1", drawings, frames, place)
    return place


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_is_drawn_again_from_itself_alone(place: Path, rows: list[Row], tmp_path: Path) -> None:
    kept = contents(place)
    pictures = sorted(Path(name).stem for name in kept if name.startswith("figures/") and name.count("/") == 1)
    assert pictures == sorted(
        ["facesim_arc-by-yaw", "figures", "forest", f"grid-{CASE}-s0", "grid-id01-gym-s0", "over-time-id01-gym-s0",
         "over-time-id00-gym-s0", "pose-coverage"]
    )  # fmt: skip
    for path in (place / "figures").glob("*.png"):
        path.write_bytes(b"old")
    away = tmp_path / "elsewhere"
    place.rename(away)
    render_figures(away)
    assert contents(away) == kept
    assert check_figures(away.parent) == []
    assert read_index(away)[0] == versions()


def test_frames_and_blocks_read_back_what_was_measured(
    place: Path, drawings: list[Drawing], frames: list[VideoFrames]
) -> None:
    grid = next(one for one in drawings if one.kind == "grid")
    (block,) = grid.blocks
    again = read_block(place / "figures/data" / grid.name)
    assert (again.head, again.prompt, again.times) == (block.head, block.prompt, block.times)
    np.testing.assert_array_equal(again.reference, block.reference)
    for one, other in zip(again.strips, block.strips, strict=True):
        assert (one.label, one.why) == (other.label, other.why)
        np.testing.assert_array_equal(one.frames, other.frames)
        np.testing.assert_allclose(one.boxes, other.boxes, atol=1e-5)
        np.testing.assert_allclose(one.values, other.values, atol=1e-4)
    lines = read_lines((place / "figures/data/table1.jsonl").read_text("utf-8").splitlines())
    assert [(one.method, one.case_id, one.take) for one in lines] == [(f.method, f.case_id, f.take) for f in frames]
    for one, other in zip(lines, frames, strict=True):
        np.testing.assert_array_equal(one.number, other.number)
        np.testing.assert_allclose(one.angles, other.angles, rtol=1e-3)
        np.testing.assert_allclose(one.series["facesim_arc"], other.series["facesim_arc"], rtol=1e-3)
    assert list(frames_lines(lines, ["facesim_arc"])) == list(frames_lines(frames, ["facesim_arc"]))


def test_a_block_without_photograph_and_frames_keeps_its_reasons(drawings: list[Drawing], tmp_path: Path) -> None:
    block = next(one for one in drawings if one.name == "grid-id01-gym-s0").blocks[0]
    assert block.strips[0].why == "failed: CUDA out of memory"
    bare = dataclasses.replace(block, reference=None, strips=block.strips[:1])
    write_block(bare, tmp_path / "bare")
    again = read_block(tmp_path / "bare")
    assert again.reference is None and len(again.strips[0].frames) == 0
    assert again.strips[0].why == block.strips[0].why


def test_figures_of_a_table_replace_its_earlier_ones_and_leave_those_of_others(
    place: Path, made: Sheet, drawings: list[Drawing], frames: list[VideoFrames]
) -> None:
    (place / "table2.json").write_text(json_sheet(made), "utf-8")
    grid = next(one for one in drawings if one.kind == "grid")
    keep_figures("table2", [dataclasses.replace(grid, name="ablation-x")], [], place)
    before = contents(place / "figures")
    written = keep_figures("table1", [one for one in drawings if one.kind != "grid"], frames, place)
    assert {path.name for path in written}.isdisjoint({"ablation-x.png"})
    after = contents(place / "figures")
    gone = {f"grid-{case}-s0.{end}" for case in (CASE, "id01-gym") for end in ("png", "json")}
    assert {Path(name).name for name in before.keys() - after.keys()} == gone
    assert all(after[name] == before[name] for name in after if name != "figures.json")
    assert "ablation-x" in read_index(place)[1]
    keep_figures("table1", [Drawing("none", "by-yaw", "facesim_cur")], frames, place)
    assert set(read_index(place)[1]) == {"ablation-x"}, "what has no data is left out"


def test_a_change_of_any_number_is_seen(place: Path, made: Sheet, frames: list[VideoFrames], tmp_path: Path) -> None:
    formed = {name: drawn(figure) for name, figure in form_figures(place)}
    assert formed == {name: kept.drawn for name, kept in read_index(place)[1].items()}
    text = (place / "table1.json").read_text("utf-8")
    cell = made.cell("a", "facesim_arc")
    assert cell is not None
    (place / "table1.json").write_text(text.replace(f":{cell.value},", f":{cell.value + 0.001:.6g},"), "utf-8")
    assert [Path(one.where).stem for one in check_figures(tmp_path)] == ["forest"]
    (place / "table1.json").write_text(text, "utf-8")
    path = place / "figures/data/table1.jsonl"
    lines = path.read_text("utf-8").splitlines()
    first = json.loads(lines[0])
    first["angles"][0][1] = 89.0
    path.write_text("\n".join([json.dumps(first), *lines[1:]]) + "\n", "utf-8")
    assert {Path(one.where).stem for one in check_figures(tmp_path)} == {"pose-coverage", f"over-time-{CASE}-s0"}
    path.write_text("\n".join(lines) + "\n", "utf-8")
    boxed = place / f"figures/data/grid-{CASE}-s0.json"
    kept = boxed.read_text("utf-8")
    boxed.write_text(kept.replace("CUDA", "cuda").replace("turns", "sits"), "utf-8")
    assert {Path(one.where).stem for one in check_figures(tmp_path)} == {f"grid-{CASE}-s0"}
    boxed.write_text(kept, "utf-8")
    (place / "figures/forest.png").unlink()
    assert [one.what for one in check_figures(tmp_path)] == ["is missing"]


def test_damaged_files_are_named(place: Path, tmp_path: Path) -> None:
    data = place / "figures/data"
    for path, damage in (
        (place / "table1.json", b"{}"),
        (place / "figures/figures.json", b"[]"),
        (data / "table1.jsonl", b"{}\n"),
        (data / f"grid-{CASE}-s0.json", b"{}"),
        (data / f"grid-{CASE}-s0.png", b"no picture"),
        (data / f"grid-{CASE}-s0.png", (data / "grid-id01-gym-s0.png").read_bytes()[:-40]),
    ):
        kept = path.read_bytes()
        path.write_bytes(damage)
        with pytest.raises(UserError, match=path.stem):
            list(form_figures(place))
        assert [one.severity for one in check_figures(tmp_path)] == ["error"]
        path.write_bytes(kept)
    lines = data / "table1.jsonl"
    first = json.loads(lines.read_text("utf-8").splitlines()[0])
    lines.write_text(json.dumps(first | {"time": first["time"][:-1]}) + "\n", "utf-8")
    with pytest.raises(UserError, match="do not go together"):
        list(form_figures(place))
    (place / "figures/figures.json").write_text(
        (place / "figures/figures.json")
        .read_text("utf-8")
        .replace('"kind":"forest"', '"kind":"tree"')
        .replace('"kind": "forest"', '"kind": "tree"'),
        "utf-8",
    )
    with pytest.raises(UserError, match="no figure is of kind 'tree'"):
        list(form_figures(place, {"forest"}))


def test_a_picture_that_is_too_small_is_refused(drawings: list[Drawing], tmp_path: Path) -> None:
    block = next(one for one in drawings if one.kind == "grid").blocks[0]
    write_block(block, tmp_path / "one")
    small = Block(None, "", "", (), ())
    write_block(small, tmp_path / "two")
    (tmp_path / "one.png").write_bytes((tmp_path / "two.png").read_bytes())
    with pytest.raises(ValueError, match="smaller than"):
        read_block(tmp_path / "one")


def test_an_empty_folder_has_no_figures(made: Sheet, tmp_path: Path) -> None:
    assert render_figures(tmp_path) == []
    assert check_figures(tmp_path) == []
    (tmp_path / "table3.json").write_text(json_sheet(made), "utf-8")
    assert keep_figures("table3", [Drawing("sizes", "sizes")], [], tmp_path) == []
    assert draw(Drawing("sizes", "sizes"), made, []) is None
