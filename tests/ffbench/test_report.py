from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import pandas as pd
import pytest

from ffbench.errors import UserError
from ffbench.protocols import PROTOCOLS
from ffbench.records import Case, from_json
from ffbench.report import ReportOptions, report, table_files
from ffbench.store import Run
from ffbench.tables.rows import load_rows
from ffbench.tables.sheet import Sheet
from tests.ffbench.scored_runs import Made, cases, make_run

PROMPTS = (("gym", "boxes"), ("talk", "speaks"))
PLAIN = ReportOptions(gallery=False)


@pytest.fixture
def suite(tmp_path: Path) -> list[Case]:
    return cases(tmp_path / "photos", 3, PROMPTS)


@pytest.fixture
def out(tmp_path: Path, suite: list[Case]) -> Path:
    out = tmp_path / "runs"
    for made in (Made("a", 0.8, failed=("id01-gym",)), Made("b", 0.6), Made("still", 0.95, turn=2, kind="control")):
        make_run(out, made, suite)
    return out


def test_a_folder_of_runs_becomes_tables_and_a_page(suite: list[Case], tmp_path: Path) -> None:
    out = tmp_path / "runs"
    for one in (Made("a", 0.8, failed=("id01-gym",)), Made("b", 0.6), Made("still", 0.95, turn=2, kind="control")):
        make_run(out, one, suite, with_videos=True)
    made = report([out], ReportOptions())
    assert made.folder == out / "tiny@1" / "report"
    assert sorted(path.name for path in made.folder.iterdir()) == [
        "cells.json", "contact", "frames.csv", "index.html", "references",
        "strips", "table.csv", "table.md", "table.tex", "tables.tex",
    ]  # fmt: skip
    lines = made.text.splitlines()
    assert [line.split()[0] for line in lines[:4]] == ["FaceSim-Cur", "a", "b", "still"]
    assert "5/6" in lines[1]
    assert "(control)" in lines[3]
    assert "FaceSim-Arc by |yaw|" in lines
    assert "\x1b" not in made.text


def test_reporting_again_gives_the_same_bytes(out: Path) -> None:
    folder = report([out], PLAIN).folder
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    report([out], PLAIN)
    # neither the order of the folders nor the order of the records counts
    for name in ("a", "b"):
        path = out / "tiny@1" / name / "scores.jsonl"
        path.write_text("".join(reversed(path.read_text().splitlines(keepends=True))))
        path = out / "tiny@1" / name / "generations.jsonl"
        path.write_text("".join(reversed(path.read_text().splitlines(keepends=True))))
    report([out / "tiny@1" / name for name in ("still", "b", "a")], PLAIN)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_tables_render_from_cells_alone(out: Path) -> None:
    folder = report([out], PLAIN).folder
    made = from_json(Sheet, (folder / "cells.json").read_text("utf-8"))
    for name, content in table_files(made).items():
        assert content == (folder / name).read_text("utf-8"), name


def test_cells_are_strict_json_and_csv_reads_back(out: Path) -> None:
    folder = report([out], PLAIN).folder
    data = json.loads((folder / "cells.json").read_text("utf-8"), parse_constant=lambda name: pytest.fail(name))
    frame = pd.read_csv(folder / "table.csv")
    assert len(frame) == len(data["cells"])
    one = frame[(frame.method == "a") & (frame.metric == "facesim_arc") & (frame.group == "all")].iloc[0]
    assert (one.num_videos, one.num_failed, one.num_unscored) == (5, 1, 0)


def test_frames_hold_every_sampled_frame(out: Path) -> None:
    folder = report([out], PLAIN).folder
    with (folder / "frames.csv").open(newline="") as stream:
        frames = list(csv.DictReader(stream))
    assert len(frames) == (5 + 6 + 6) * 16
    (row,) = load_rows(Run(out / "tiny@1" / "a"), "standard@1")
    score = row.scores["id00-gym", 0]["facesim_arc"]
    mine = [one for one in frames if one["method"] == "a" and one["case_id"] == "id00-gym"]
    assert [one["frame"] for one in mine] == [str(i) for i in range(16)]
    for one, value in zip(mine, score.per_frame, strict=True):
        assert one["facesim_arc"] == ("" if math.isnan(value) else f"{value:.6g}")
        assert (one["step"], one["faces"]) == (("", "0") if math.isnan(value) else ("full", "1"))
    assert (mine[0]["yaw"], mine[5]["yaw"], mine[0]["time_s"]) == ("-60", "", "0.0000")


def test_intervals_all_metrics_and_another_folder(out: Path, tmp_path: Path) -> None:
    options = ReportOptions(gallery=False, intervals=True, all_metrics=True, folder=tmp_path / "elsewhere")
    made = report([out], options)
    assert made.folder == tmp_path / "elsewhere"
    assert "[" in made.text.splitlines()[1]
    assert "same identity" in made.text.splitlines()[0]
    assert "FID" in made.text.splitlines()[0]


def test_mixed_runs_are_refused(out: Path, suite: list[Case], tmp_path: Path) -> None:
    make_run(out, Made("part", 0.5), suite[:3])
    with pytest.raises(UserError, match="different cases"):
        report([out], PLAIN)
    made = report([out], ReportOptions(gallery=False, common_cases=True))
    assert "note: only the 3 videos that all rows share (of a 6, b 6, part 3, still 6)" in made.text
    make_run(out, Made("part", 0.5), suite, PROTOCOLS["basic"])
    with pytest.raises(UserError, match="several protocols: basic@1, standard@1"):
        report([out], PLAIN)


def test_what_is_not_scored_is_left_out_of_a_folder_but_not_of_a_list(out: Path, suite: list[Case]) -> None:
    late = make_run(out, Made("late", 0.5), suite)
    meta = late.meta()
    late.write_meta({**meta, "scoring": {}})
    made = report([out], PLAIN)
    assert f"note: late is not in the table: ffbench score {late.root} --protocol standard" in made.text
    with pytest.raises(UserError, match="is not scored with standard@1"):
        report([out / "tiny@1" / "a", late.root], PLAIN)


def test_videos_that_wait_are_noted(out: Path, suite: list[Case], tmp_path: Path) -> None:
    run = Run(out / "tiny@1" / "b")
    (last,) = [one for one in run.generations().values() if one.case_id == "id02-talk"]
    kept = [line for line in (run.root / "scores.jsonl").read_text().splitlines(keepends=True) if last.key not in line]
    (run.root / "scores.jsonl").write_text("".join(kept))
    made = report([run.root], PLAIN)
    assert "note: b: 1 videos wait for ffbench score" in made.text


def test_suites_are_reported_apart(out: Path, suite: list[Case], tmp_path: Path) -> None:
    import dataclasses

    other = [dataclasses.replace(case, suite_version="2") for case in suite]
    make_run(out, Made("a", 0.7), other)
    with pytest.raises(UserError) as caught:
        report([out], PLAIN)
    assert "several suites: tiny@1, tiny@2" in caught.value.what
    assert caught.value.fix == f"report them apart: ffbench report {out / 'tiny@1'}"
    with pytest.raises(UserError, match=r"holds suite tiny@2 and .* suite tiny@1"):
        report([out / "tiny@1" / "b", out / "tiny@2" / "a"], PLAIN)
    with pytest.raises(UserError, match="no run below"):
        report([tmp_path / "nowhere"], PLAIN)


def test_small_sets_are_formed_on_request(out: Path) -> None:
    made = report([out], ReportOptions(gallery=False, small_sets=True))
    assert "FID ↓" in made.text.splitlines()[0]
    assert "KID ↓" in report([out], PLAIN).text.splitlines()[0]
