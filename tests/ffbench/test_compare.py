from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest

from ffbench.compare import Comparison, compare, verdict_of
from ffbench.errors import UserError
from ffbench.metrics import aggregate
from ffbench.metrics.catalog import METRICS
from ffbench.records import Case
from ffbench.tables.rows import load_rows
from ffbench.tables.sheet import faced, set_metric
from tests.ffbench.scored_runs import MISSING, Made, cases, make_run

PROMPTS = (("gym", "boxes"), ("talk", "speaks"))


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> list[Case]:
    return cases(tmp_path_factory.mktemp("photos"), 7, PROMPTS)


def by_metric(result: Comparison) -> dict:
    return {row.metric: row for row in result.rows}


def test_differences_are_paired_by_case(tmp_path: Path, suite: list[Case]) -> None:
    a, b = make_run(tmp_path, Made("a", 0.8), suite), make_run(tmp_path, Made("b", 0.6), suite)
    result = compare(a, b)
    row = by_metric(result)["facesim_arc"]
    values = [{v: s["facesim_arc"].value for v, s in load_rows(run, "standard@1")[0].scores.items()} for run in (a, b)]
    by_hand = np.mean([values[0][video] - values[1][video] for video in values[0]])
    assert row.difference == pytest.approx(by_hand)
    assert row.low < row.difference < row.high
    people = [video[0][:4] for video in values[0]]
    found = aggregate.paired(list(values[0].values()), [values[1][v] for v in values[0]], people)
    assert (row.p, row.num_pairs, row.num_identities) == (found.p, 14, 7)
    assert (row.low, row.high) == (pytest.approx(found.low), pytest.approx(found.high))
    assert row.p < 0.05
    assert row.better == "a"
    swapped = by_metric(compare(b, a))["facesim_arc"]
    assert (swapped.difference, swapped.better) == (pytest.approx(-row.difference), "a")
    assert f"FaceSim-Arc                +{by_hand:.4f} [" in result.text
    assert "a better than b, 7 identities, 14 pairs, p = 0.016" in result.text
    told = f"a above b on FaceSim-Arc by {row.difference:.4f} [{row.low:.4f}, {row.high:.4f}], N = 14, 7 identities"
    assert row.verdict == told
    assert f"in words:\n  {told}\n" in result.text
    assert by_metric(compare(b, a))["facesim_arc"].verdict == told, "the one above comes first, whoever is asked first"
    # the pose range only describes, so neither is better
    assert by_metric(result)["pose_range"].better == ""
    json.dumps([dataclasses.asdict(one) for one in result.rows], allow_nan=False)


def test_a_run_against_itself_shows_no_difference(tmp_path: Path, suite: list[Case]) -> None:
    run = make_run(tmp_path, Made("a", 0.8), suite)
    result = compare(run, run)
    row = by_metric(result)["facesim_arc"]
    assert (row.difference, row.p, row.better) == (0.0, 1.0, "")
    assert "no clear difference" in result.text
    same = (
        "no clear difference between a (.) and a (.) on FaceSim-Arc (+0.0000 [+0.0000, +0.0000]), N = 14, 7 identities"
    )
    assert row.verdict == same


def test_a_verdict_names_the_lower_end_where_that_is_better() -> None:
    numbers = (-0.03, -0.05, -0.01, 0.01)
    lower = next(one for one, info in METRICS.items() if info.higher_is_better is False and info.level == "video")
    title, places = METRICS[lower].title, METRICS[lower].decimals + 1
    wanted = f"b above a on {title} (lower is better) by {0.03:.{places}f} [{0.01:.{places}f}, {0.05:.{places}f}]"
    assert verdict_of(lower, numbers, (9, 3), ("a", "b")) == f"{wanted}, N = 9, 3 identities"
    assert verdict_of("kid", (0.1, math.nan, math.nan, math.nan), (9, 3), ("a", "b")) == ""


def test_missing_weights_are_named(tmp_path: Path, suite: list[Case]) -> None:
    a, b = make_run(tmp_path, Made("a", 0.8), suite), make_run(tmp_path, Made("b", 0.6), suite)
    result = compare(a, b)
    assert by_metric(result)["facesim_cur"].reason == f"a: {MISSING['cur']}"
    assert by_metric(result)["facesim_cur"].difference is None
    assert "FID needs 2048 on each side" in by_metric(result)["fid"].reason


def test_faceless_videos_are_not_compared_in_silence(tmp_path: Path, suite: list[Case]) -> None:
    a = make_run(tmp_path, Made("a", 0.8), suite)
    b = make_run(tmp_path, Made("b", 0.6, faceless=("id00-gym", "id01-talk")), suite)
    result = compare(a, b)
    reasons = {metric: row.reason for metric, row in by_metric(result).items()}
    assert reasons["facesim_arc"] == ("videos without a value: a 0 and b 2; --common-cases compares the 12 shared ones")
    assert reasons["kid"] == "videos without a face: a 0 and b 2; --common-cases compares the 12 shared ones"
    # these two are numbers for a faceless video too
    assert by_metric(result)["face_rate"].num_pairs == 14
    assert by_metric(result)["facesim_arc_missing_as_zero"].num_pairs == 14
    shared = compare(a, b, common_cases=True)
    assert by_metric(shared)["facesim_arc"].num_pairs == 12
    assert by_metric(shared)["kid"].num_pairs == 12
    assert by_metric(shared)["kid"].low is None
    rows = [load_rows(run, "standard@1")[0] for run in (a, b)]
    seen = rows[1].only(faced(rows[1])), rows[0].only(faced(rows[1]))
    kids = [set_metric(row, "kid")[0] for row in seen]
    assert by_metric(shared)["kid"].difference == pytest.approx(kids[1] - kids[0])
    assert "one value a set: no interval" in shared.text


def test_nothing_in_common_is_said(tmp_path: Path, suite: list[Case]) -> None:
    left, right = suite[0].case_id, suite[1].case_id
    a = make_run(tmp_path, Made("a", 0.8, faceless=(left,)), suite[:2])
    b = make_run(tmp_path, Made("b", 0.6, faceless=(right,)), suite[:2])
    row = by_metric(compare(a, b, common_cases=True))["facesim_arc"]
    assert (row.difference, row.reason) == (None, "no case has a number on both sides")


def test_unlike_runs_are_refused(tmp_path: Path, suite: list[Case]) -> None:
    a, b = make_run(tmp_path, Made("a", 0.8), suite), make_run(tmp_path, Made("b", 0.6), suite[:4])
    with pytest.raises(UserError, match="different cases"):
        compare(a, b)
    result = compare(a, b, common_cases=True)
    assert by_metric(result)["facesim_arc"].num_pairs == 4
    assert "only the 4 videos that all rows share (of a 14, b 4)" in result.text
    with pytest.raises(UserError, match="no run is scored with consisid"):
        compare(a, b, "consisid")


def test_a_run_of_two_settings_is_refused(tmp_path: Path, suite: list[Case]) -> None:
    a, b = make_run(tmp_path, Made("a", 0.8), suite[:1]), make_run(tmp_path, Made("b", 0.6), suite[:1])
    (generation,) = a.generations().values()
    again = dataclasses.replace(generation, settings={"steps": 50})
    a.append_generations([again])
    a.append_scores([dataclasses.replace(score, generation=again.key) for score in list(a.scores().values())])
    with pytest.raises(UserError, match=r"2 groups of settings: a \[steps=4\], a \[steps=50\]"):
        compare(a, b)
