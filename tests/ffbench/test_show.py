from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from ffbench.errors import UserError
from ffbench.metrics.catalog import METRICS
from ffbench.protocols import PROTOCOLS
from ffbench.show import show
from ffbench.store import Run
from tests.ffbench.scored_runs import MISSING, Made, cases, make_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    root = tmp_path_factory.mktemp("show")
    suite = cases(root / "photos", 2, (("gym", "boxes in\na gym"),))
    return make_run(root / "runs", Made("a", 0.8, faceless=("id01-gym",)), suite)


def test_a_datum_is_shown_whole(run: Run) -> None:
    root = run.root.parents[1]
    text = show("tiny@1/a/id00-gym-s0", root)
    generation = next(iter(run.generations().values()))
    assert text == show(generation.key[:8], root)
    lines = text.splitlines()
    assert lines[0] == f"tiny@1/a/id00-gym-s0  (key {generation.key}, {run.root})"
    assert [line[:12].strip() for line in lines if line[:12].strip()][1:] == ["case", "generation", "track", "scores"]
    joined = " ".join(" ".join(lines).split())
    for part in (
        "id00 x gym",
        '"boxes in a gym"',
        "tags large-pose",
        "ok, 1.5 s, revision r1",
        f"seed {generation.seed} (hash of the case and take 0)",
        "steps=4",
        "16 frames sampled from 0.00 to 1.88 s, faces in 15 (none in frame 5); 56x48 px, under standard@1",
        "yaw   -60..+60 degrees",
        "found at full (15)",
        "arc w600k_r50#bbbbbbbbbbbb",
        f"not scored: FaceSim-Cur, FaceSim-Cur (missing = 0), FaceSim-Cur @|yaw|>45: needs weights: {MISSING['cur']}",
    ):
        assert " ".join(part.split()) in joined, part
    (line,) = [line for line in lines if "FaceSim-Arc  " in line and "=" not in line and "@" not in line]
    assert "15 of 16" in line
    # the frame without a face is a gap
    assert line.split("  ")[-2].strip()[5] == "·"


def test_a_faceless_and_a_failed_and_an_unscored_video_say_so(run: Run, tmp_path: Path) -> None:
    text = show("tiny@1/a/id01-gym-s0", run.root.parents[1])
    assert "16 frames sampled from 0.00 to 1.88 s, faces in 0; " in text
    assert "not scored: FaceSim-Arc, same identity: no face in any of 16 frames" in text
    suite = cases(tmp_path / "photos", 2)
    other = make_run(tmp_path / "runs", Made("b", 0.8, failed=("id00-gym",)), suite)
    assert "error: CUDA out of memory" in show("tiny@1/b/id00-gym-s0", tmp_path)
    for path in (other.root / "tracks").glob("*"):
        path.unlink()
    assert "the file is not kept with this run" in show("tiny@1/b/id01-gym-s0", tmp_path)
    (other.root / "scores.jsonl").unlink()
    assert "none yet: ffbench score" in show("tiny@1/b/id01-gym-s0", tmp_path)
    other.write_cases([])
    assert "cases.jsonl does not hold it" in show("tiny@1/b/id01-gym-s0", tmp_path)


def test_more_facts_are_shown_where_there_are_some(run: Run, tmp_path: Path) -> None:
    suite = cases(tmp_path / "photos", 1)
    other = make_run(tmp_path / "runs", Made("b", 0.8), suite)
    (generation,) = other.generations().values()
    other.append_generations(
        [dataclasses.replace(generation, peak_gib=12.25, provenance={"ffbench": "0.1.0", "packages": {"torch": "2.9"}})]
    )
    text = show(generation.handle, tmp_path)
    assert "peak 12.2 GiB" in text
    assert "ffbench 0.1.0, torch 2.9" in text


def test_every_protocol_metric_and_method_has_a_page(tmp_path: Path) -> None:
    for protocol in PROTOCOLS.values():
        text = show(protocol.name, tmp_path)
        assert text.startswith(show(protocol.id, tmp_path))
        assert all(metric in text for metric in protocol.metrics)
        assert all(slot in text for slot in protocol.networks)
    assert "cosines clamped at 0" in show("consisid", tmp_path)
    for metric, info in METRICS.items():
        text = show(metric, tmp_path)
        assert info.summary in text
        assert f"version {info.version}" in text
    assert show("FaceSim-Arc", tmp_path) == show("facesim_arc", tmp_path)
    from ffbench.methods import METHODS

    for method in METHODS:
        assert show(method, tmp_path).split("\n\n")[-1].startswith(f"{method} (")
    assert "$0.14 a unit (2026-10-04: smallest prepaid pack" in " ".join(show("kling", tmp_path).split())


def test_an_unknown_or_ambiguous_name_is_refused(run: Run, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        show("tiny@1/a/id00-gim-s0", run.root.parents[1])
    assert "did you mean tiny@1/a/id00-gym-s0" in caught.value.fix
    with pytest.raises(UserError) as caught:
        show("zzzzzzzzzzzz", tmp_path)
    assert caught.value.fix.startswith("ffbench ls")
    suite = cases(tmp_path / "photos", 1)
    for place in ("x", "y"):
        make_run(tmp_path / place, Made("a", 0.8), suite)
    with pytest.raises(UserError, match="fits 2 videos"):
        show("tiny@1/a/id00-gym-s0", tmp_path)
