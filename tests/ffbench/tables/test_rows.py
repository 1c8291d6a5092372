from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from ffbench.errors import UserError
from ffbench.protocols import PROTOCOLS
from ffbench.records import Case
from ffbench.store import Run
from ffbench.tables.rows import alike, distinct_labels, load_rows, pick_protocol
from tests.ffbench.scored_runs import Made, cases, make_run

PROMPTS = (("gym", "boxes"), ("talk", "speaks"))


@pytest.fixture
def suite(tmp_path: Path) -> list[Case]:
    return cases(tmp_path / "photos", 2, PROMPTS)


def rows_of(*runs: Run, protocol: str = "standard@1") -> list:
    return [row for run in runs for row in load_rows(run, protocol)]


def test_a_row_holds_every_attempt_and_only_scores_of_the_stated_version(tmp_path: Path, suite: list[Case]) -> None:
    run = make_run(tmp_path, Made("a", 0.8, failed=("id01-gym",)), suite)
    old = dataclasses.replace(next(iter(run.scores().values())), version=99, value=0.123, reason="")
    run.append_scores([old])
    (row,) = load_rows(run, "standard@1")
    assert (len(row.generations), row.num_made, row.num_pending) == (4, 3, 0)
    assert row.suite == "tiny@1"
    assert all(score.version != 99 for scores in row.scores.values() for score in scores.values())
    assert row.track(("id01-gym", 0)) is None
    assert row.track(("id01-talk", 0)).size == (56, 48)


def test_videos_without_scores_wait_and_are_not_unscored(tmp_path: Path, suite: list[Case]) -> None:
    run = make_run(tmp_path, Made("a", 0.8), suite[:3])
    run.write_cases(suite)
    extra = dataclasses.replace(next(iter(run.generations().values())), case_id=suite[3].case_id)
    run.append_generations([extra])
    (row,) = load_rows(run, "standard@1")
    assert (len(row.generations), row.num_pending) == (3, 1)
    whole = make_run(tmp_path, Made("b", 0.7), suite)
    with pytest.raises(UserError) as caught:
        alike([row, *rows_of(whole)])
    assert "different cases (a 3, b 4 videos" in caught.value.what
    assert f"ffbench score {run.root} scores 1 more" in caught.value.fix


def test_common_cases_are_the_shared_ones_and_say_so(tmp_path: Path, suite: list[Case]) -> None:
    rows = rows_of(make_run(tmp_path, Made("a", 0.8), suite), make_run(tmp_path, Made("b", 0.7), suite[1:]))
    kept, note = alike(rows, common_cases=True)
    assert [sorted(row.generations) for row in kept] == [sorted((case.case_id, 0) for case in suite[1:])] * 2
    assert note == "only the 3 videos that all rows share (of a 4, b 3)"
    apart = rows_of(
        make_run(tmp_path / "x", Made("a", 0.8), suite[:1]), make_run(tmp_path / "x", Made("b", 0.7), suite[1:])
    )
    with pytest.raises(UserError, match="share no case"):
        alike(apart, common_cases=True)


def test_unlike_rows_are_refused_by_name(tmp_path: Path, suite: list[Case]) -> None:
    (a,) = rows_of(make_run(tmp_path, Made("a", 0.8), suite))
    (b,) = rows_of(make_run(tmp_path, Made("b", 0.7), suite))
    other = dataclasses.replace(suite[0], prompt="sings")
    unlike = {
        "suite tiny@1 and .* suite tiny@2": dataclasses.replace(b, suite="tiny@2"),
        "protocol standard@1 and .* with standard@2": dataclasses.replace(b, protocol="standard@2"),
        "facesim_arc version 1 and .* version 2": dataclasses.replace(b, metrics={**b.metrics, "facesim_arc": 2}),
        "arc network w600k.* with other": dataclasses.replace(b, networks={**b.networks, "arc": "other"}),
        "case id00-gym has another prompt": dataclasses.replace(b, cases={**b.cases, other.case_id: other}),
    }
    for pattern, row in unlike.items():
        with pytest.raises(UserError, match=pattern) as caught:
            alike([a, row], common_cases=True)
        assert caught.value.fix
    # a network that only one of them had fills a column of its own; it makes nothing unlike
    alike([a, dataclasses.replace(b, networks={"arc": a.networks["arc"]})])


def test_a_case_made_with_several_settings_gives_a_row_each(tmp_path: Path, suite: list[Case]) -> None:
    run = make_run(tmp_path, Made("a", 0.8), suite)
    scores = list(run.scores().values())
    for generation in list(run.generations().values()):
        again = dataclasses.replace(generation, settings={"steps": 50})
        run.append_generations([again])
        run.append_scores(
            [dataclasses.replace(s, generation=again.key) for s in scores if s.generation == generation.key]
        )
    assert [row.label for row in load_rows(run, "standard@1")] == ["a [steps=4]", "a [steps=50]"]


def test_a_later_given_video_replaces_the_earlier(tmp_path: Path, suite: list[Case]) -> None:
    run = make_run(tmp_path, Made("a", 0.8), suite[:1])
    scores = list(run.scores().values())
    (first,) = run.generations().values()
    for name in ("x", "y"):
        given = dataclasses.replace(first, revision="given", settings={"video": name})
        run.append_generations([given])
        run.append_scores([dataclasses.replace(score, generation=given.key) for score in scores])
    (run.root / "generations.jsonl").write_text(
        "".join((run.root / "generations.jsonl").read_text().splitlines(keepends=True)[1:])
    )
    (row,) = load_rows(run, "standard@1")
    assert row.label == "a"
    assert row.generations[suite[0].case_id, 0].settings == {"video": "y"}


def test_equal_labels_get_their_path(tmp_path: Path, suite: list[Case]) -> None:
    rows = rows_of(make_run(tmp_path / "x", Made("a", 0.8), suite), make_run(tmp_path / "y", Made("a", 0.7), suite))
    assert [row.label for row in distinct_labels(rows)] == ["a (x/tiny@1/a)", "a (y/tiny@1/a)"]


def test_the_protocol_is_named_where_there_are_several(tmp_path: Path, suite: list[Case]) -> None:
    run = make_run(tmp_path, Made("a", 0.8), suite)
    assert pick_protocol([run], None) == "standard@1"
    assert pick_protocol([run], "standard") == "standard@1"
    with pytest.raises(UserError, match="no run is scored with consisid, only with standard@1"):
        pick_protocol([run], "consisid")
    make_run(tmp_path, Made("a", 0.8), suite, PROTOCOLS["basic"])
    with pytest.raises(UserError, match="several protocols: basic@1, standard@1"):
        pick_protocol([run], None)
    with pytest.raises(UserError, match="nothing is scored yet"):
        pick_protocol([Run(tmp_path / "empty")], None)


def test_what_is_not_scored_or_not_readable_is_named(tmp_path: Path, suite: list[Case]) -> None:
    run = make_run(tmp_path, Made("a", 0.8), suite)
    with pytest.raises(UserError) as caught:
        load_rows(run, "consisid@1")
    assert "is not scored with consisid@1 (scored with: standard@1)" in caught.value.what
    assert caught.value.fix == f"ffbench score {run.root} --protocol consisid"
    (row,) = load_rows(run, "standard@1")
    track = run.track(next(iter(row.scores["id00-gym", 0].values())).track)
    track.write_bytes(b"no track")
    with pytest.raises(UserError, match="cannot be read"):
        row.track(("id00-gym", 0))
    track.unlink()
    assert row.track(("id00-gym", 0)) is None
    run.write_cases(suite[1:])
    with pytest.raises(UserError, match="lacks the case id00-gym"):
        load_rows(run, "standard@1")
    (run.root / "scores.jsonl").unlink()
    run.write_cases(suite)
    with pytest.raises(UserError, match=r"no video of .* is scored"):
        load_rows(run, "standard@1")
