from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest

from ffbench.metrics import aggregate, frechet
from ffbench.records import Case, from_json
from ffbench.tables.render import json_sheet
from ffbench.tables.rows import Row, load_rows
from ffbench.tables.sheet import NO_TRACKS, Sheet, cells, set_metric, sheet, why_missing
from tests.ffbench.scored_runs import MISSING, Made, cases, make_run

PROMPTS = (("gym", "boxes"), ("talk", "speaks"))


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> list[Case]:
    return cases(tmp_path_factory.mktemp("photos"), 3, PROMPTS)


@pytest.fixture(scope="module")
def row(suite: list[Case], tmp_path_factory: pytest.TempPathFactory) -> Row:
    made = Made("a", 0.8, failed=("id01-gym",), faceless=("id02-talk",))
    return load_rows(make_run(tmp_path_factory.mktemp("runs"), made, suite), "standard@1")[0]


def find(row: Row, metric: str, group: str = "all", **options: bool) -> object:
    (found,) = [cell for cell in cells(row, **options) if (cell.metric, cell.group) == (metric, group)]
    return found


def test_a_cell_counts_what_is_missing_and_averages_what_is_there(row: Row) -> None:
    cell = find(row, "facesim_arc")
    values = [s["facesim_arc"].value for s in row.scores.values() if not math.isnan(s["facesim_arc"].value)]
    people = [v[0][:4] for v, s in row.scores.items() if not math.isnan(s["facesim_arc"].value)]
    assert (cell.num_videos, cell.num_unscored, cell.num_failed, cell.num_identities) == (4, 1, 1, 3)
    assert len(values) == 4
    # mean over identities: id00 has two videos, id01 and id02 one each
    by_hand = np.mean([np.mean([v for v, p in zip(values, people, strict=True) if p == one]) for one in set(people)])
    assert cell.value == pytest.approx(by_hand, rel=1e-5)
    assert cell.low < cell.value < cell.high
    # digits that differ between processors are cut, so that a committed table re-renders alike
    assert cell.value == float(f"{by_hand:.6g}") != by_hand
    assert cell.coverage == pytest.approx(4 * 15 / (5 * 16))
    assert cell.reason == ""


def test_missing_weights_give_nan_with_the_command(row: Row) -> None:
    cell = find(row, "facesim_cur")
    assert math.isnan(cell.value)
    assert cell.reason == MISSING["cur"]
    assert (cell.num_videos, cell.num_unscored, cell.num_failed) == (0, 5, 1)


def test_a_reason_that_does_not_hold_for_all_is_counted(row: Row) -> None:
    everything = frozenset(row.generations)
    assert why_missing(row, "facesim_arc", everything) == "no face in any of 16 frames"
    assert why_missing(row, "facesim_arc", frozenset({("id01-gym", 0)})) == "no video was made"
    mixed = dict(row.scores)
    score = mixed["id00-gym", 0]["facesim_arc"]
    other = dataclasses.replace(score, value=math.nan, reason="another reason")
    mixed["id00-gym", 0] = {**mixed["id00-gym", 0], "facesim_arc": other}
    changed = dataclasses.replace(row, scores=mixed)
    assert why_missing(changed, "facesim_arc", everything) == "another reason (1 of 2 videos)"
    assert why_missing(row, "unheard", everything) == "unheard was not measured"


def test_tags_split_the_videos(row: Row) -> None:
    gym, talk = find(row, "facesim_arc", "tag:large-pose"), find(row, "facesim_arc", "tag:occlusion")
    assert (gym.num_videos, gym.num_failed, gym.num_unscored) == (2, 1, 0)
    assert (talk.num_videos, talk.num_failed, talk.num_unscored) == (2, 0, 1)


def test_yaw_bins_equal_a_naive_loop(row: Row) -> None:
    for low, high in ((0, 15), (45, 60), (60, 75), (75, 90)):
        per_person: dict[str, list[float]] = {}
        for video, scores in row.scores.items():
            track = row.track(video)
            inside = [
                value
                for value, yaw in zip(scores["facesim_arc"].per_frame, track.angles[:, 1].tolist(), strict=True)
                if not math.isnan(value) and low <= abs(yaw) < high
            ]
            if inside:
                per_person.setdefault(video[0][:4], []).append(sum(inside) / len(inside))
        cell = find(row, "facesim_arc", f"yaw:{low}-{high}")
        if not per_person:
            assert math.isnan(cell.value)
            assert cell.reason == "no frame with a face in this range of |yaw|"
        else:
            assert cell.value == pytest.approx(np.mean([np.mean(v) for v in per_person.values()]), rel=1e-5)
            assert cell.num_videos == sum(len(values) for values in per_person.values())
    assert find(row, "facesim_arc", "pitch:0-15").num_videos == 4
    assert find(row, "facesim_cur", "yaw:0-15").reason == MISSING["cur"]


def test_set_level_metrics_use_every_crop_against_every_reference_face(row: Row) -> None:
    crops = np.concatenate([row.track(v).features["fid_inception"][row.track(v).found] for v in sorted(row.scores)])
    keys = [row.references[row.cases[f"id0{i}-gym"].references[0].sha256] for i in range(3)]
    faces = np.concatenate(
        [type(row.track(("id00-gym", 0))).load(row.run.track(k)).features["fid_inception"] for k in keys]
    )
    assert (crops.shape, faces.shape) == ((60, 16), (3, 16))
    kid = find(row, "kid")
    assert kid.value == pytest.approx(frechet.kid(crops, faces).value, rel=1e-5)
    assert (kid.num_videos, kid.num_unscored, kid.num_failed, kid.num_identities) == (4, 1, 1, 3)
    small = find(row, "fid")
    assert math.isnan(small.value)
    assert small.reason.startswith("60 crops against 3 references: FID needs 2048 on each side")
    asked = find(row, "fid", allow_small=True)
    assert asked.value == pytest.approx(frechet.fid(crops, faces, minimum=2).value, rel=1e-5)


def test_set_level_metrics_say_what_they_lack(row: Row, suite: list[Case], tmp_path: Path) -> None:
    lacking = dataclasses.replace(row, missing={"fid_inception": "fid-inception is not here"})
    assert set_metric(lacking, "fid")[1] == "fid-inception is not here"
    faceless = Made("b", 0.8, faceless=tuple(case.case_id for case in suite))
    (none,) = load_rows(make_run(tmp_path, faceless, suite), "standard@1")
    assert set_metric(none, "kid")[1] == "no face in any video"
    one = row.only(frozenset({("id00-gym", 0)}))
    assert set_metric(one, "fid", allow_small=True)[1].endswith("FID needs 2 on each side")
    for path in (none.run.root / "tracks").glob("*.npz"):
        path.unlink()
    assert set_metric(none, "kid")[1] == NO_TRACKS
    assert find(none, "facesim_arc", "yaw:0-15").reason == NO_TRACKS


def test_a_sheet_goes_through_json_and_keeps_its_order(row: Row, suite: list[Case], tmp_path: Path) -> None:
    (still,) = load_rows(make_run(tmp_path, Made("a-still", 0.9, kind="control"), suite), "standard@1")
    made = sheet([still, row], ["a note"])
    assert [line.label for line in made.lines] == ["a", "a-still"]
    assert made.notes == ("a note",)
    assert (made.lines[0].num_made, made.lines[0].num_failed) == (5, 1)
    again = from_json(Sheet, json_sheet(made))
    assert json_sheet(again) == json_sheet(made)
    assert again.cell("a", "facesim_arc") == made.cell("a", "facesim_arc")
    assert again.cell("a", "unheard") is None
    assert json_sheet(sheet([row, still], ["a note"])) == json_sheet(made)


def test_intervals_are_those_of_the_aggregate(row: Row) -> None:
    cell = find(row, "pose_range")
    values = {v: s["pose_range"].value for v, s in row.scores.items() if not math.isnan(s["pose_range"].value)}
    found = aggregate.summary(list(values.values()), [video[0][:4] for video in values])
    assert (cell.low, cell.high) == (pytest.approx(found.low, rel=1e-5), pytest.approx(found.high, rel=1e-5))
