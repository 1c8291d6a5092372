"""Results files: written from runs, checked field by field, and described by a schema."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ffbench.cli import app
from ffbench.errors import UserError
from ffbench.provenance import provenance
from ffbench.records import from_json
from ffbench.report import ReportOptions, report
from ffbench.store import Run
from ffbench.tables.results import Result, check, find_results, json_schema, portable
from tests.ffbench.scored_runs import Made, cases, make_run

SCHEMA_FILE = Path(__file__).parents[3] / "results" / "schema.json"
CLEAN = {**provenance("cpu"), "dirty": False}


def with_provenance(run: Run) -> Run:
    """What the stages write beside the numbers."""
    with run.lock():
        run.append_generations(
            dataclasses.replace(one, provenance={**CLEAN, "notes": {"sha256 model.safetensors": "ab" * 32, "yaw": 3.0}})
            for one in list(run.generations().values())
        )
    meta = run.meta()
    meta["scoring"]["standard@1"]["provenance"] = CLEAN
    run.write_meta(meta)
    return run


@pytest.fixture
def out(tmp_path: Path) -> Path:
    suite = cases(tmp_path / "photos", 3)
    for made in (Made("own", 0.8, failed=("id01-gym",)), Made("still", 0.9, turn=2, kind="control")):
        with_provenance(make_run(tmp_path / "runs", made, suite))
    return tmp_path / "runs"


@pytest.fixture
def handed_in(out: Path, tmp_path: Path) -> Path:
    """The results file of one run."""
    report([out], ReportOptions(gallery=False, results=tmp_path / "results"))
    path, videos = sorted((tmp_path / "results" / "tiny@1" / "own").iterdir())
    assert videos == path.with_suffix(".jsonl")
    return path


def test_a_run_becomes_a_file_that_passes_and_holds_what_its_numbers_rest_on(handed_in: Path, out: Path) -> None:
    assert check(find_results([handed_in.parents[2]])) == []
    made = from_json(Result, handed_in.read_text("utf-8"))
    assert (made.suite, made.protocol, made.method, made.revision) == ("tiny@1", "standard@1", "own", "r1")
    assert (made.num_cases, made.num_videos, made.num_failed) == (3, 2, 1)
    assert made.settings == {"steps": 4}
    assert made.generated_with == (CLEAN,)
    assert made.scored_with == CLEAN
    assert made.weights_sha256 == {"model.safetensors": ["ab" * 32]}
    assert made.networks["arc"].startswith("w600k_r50#")
    cells = json.loads((out / "tiny@1" / "report" / "cells.json").read_text("utf-8"))["cells"]
    mine = [cell for cell in cells if cell["method"] == "own"]
    # the file's cells are formed from values of six digits
    for cell, live in zip(made.cells, mine, strict=True):
        for name, value in live.items():
            stated = getattr(cell, name)
            assert stated == (pytest.approx(math.nan if value is None else value, rel=1e-5, abs=1e-6, nan_ok=True)
                              if isinstance(stated, float) else value), (cell.metric, cell.group, name)  # fmt: skip
    # a line a cell: a pull request shows which number changed
    assert len(handed_in.read_text("utf-8").splitlines()) == len(mine) + 2


def test_the_same_run_gives_the_same_bytes_and_another_video_another_hash(handed_in: Path, out: Path) -> None:
    before = handed_in.read_bytes()
    report([out], ReportOptions(gallery=False, results=handed_in.parents[2]))
    assert handed_in.read_bytes() == before
    run = Run(out / "tiny@1" / "own")
    with run.lock():
        one = next(one for one in run.generations().values() if one.status == "ok")
        run.append_generations([dataclasses.replace(one, video_sha256="0" * 64)])
    report([out], ReportOptions(gallery=False, results=handed_in.parents[2]))
    old, new = json.loads(before), json.loads(handed_in.read_text("utf-8"))
    assert {key for key in old if old[key] != new[key]} == {"videos_sha256"}


def change(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda data: data.__setitem__(key, value)


def cell(metric: str, /, **values: Any) -> Callable[[dict[str, Any]], None]:
    def edit(data: dict[str, Any]) -> None:
        next(one for one in data["cells"] if (one["metric"], one["group"]) == (metric, "all")).update(values)

    return edit


@pytest.mark.parametrize(
    ("edit", "field", "what"),
    [
        (change("networks", {}), "networks", "nothing was measured"),
        (change("num_videos", -1), "num_videos", "below zero"),
        (change("num_cases", 99), "num_cases", "99 cases, but 3 attempts"),
        (change("videos_sha256", "abc"), "videos_sha256", "no sha256"),
        (change("scored_with", {}), "scored_with", "lacks ffbench, python, platform, packages"),
        (change("generated_with", [{"ffbench": "1"}]), "generated_with", "lacks python, platform, packages"),
        (change("method", "other"), "name", "the file belongs to tiny@1/other/"),
        (change("settings", {"steps": 5}), "name", "the file belongs to tiny@1/own/"),
        (change("suite", "tiny"), "suite", "'tiny' is no name@version"),
        (change("cells", []), "cells", "there is no number"),
        (change("surplus", 1), "", "unknown fields ['surplus']"),
        (change("revision", 1), "", "Result.revision: expected str, got 1"),
        (cell("facesim_arc", value=1.2, high=1.3), ".value", "1.2 lies outside -1 to 1"),
        (cell("facesim_arc", value=None), ".value", "a number has no reason, and what is missing has one"),
        (cell("facesim_arc", reason="no face"), ".value", "a number has no reason"),
        (cell("facesim_arc", low=0.99), ".low", "does not hold"),
        (cell("facesim_arc", coverage=1.5), ".coverage", "1.5 is no share"),
        (cell("facesim_arc", num_videos=3), ".num_videos", "4 videos in sum, the file has 3"),
        (cell("facesim_arc", num_failed=0), ".num_videos", "2 videos in sum, the file has 3"),
        (cell("facesim_arc", num_identities=9), ".num_videos", "do not go together"),
        (cell("facesim_arc", protocol="basic@1"), ".protocol", "'basic@1', but the file's is 'standard@1'"),
        (cell("facesim_arc", metric="charm"), ".metric", "there is no such metric"),
        (cell("facesim_arc", metric="face_rate"), "cells", "face_rate of all stands there twice"),
    ],
)
def test_what_is_wrong_is_named_with_file_and_field(
    handed_in: Path, edit: Callable[[dict[str, Any]], None], field: str, what: str
) -> None:
    data = json.loads(handed_in.read_text("utf-8"))
    edit(data)
    handed_in.write_text(json.dumps(data))
    problems = [one for one in check([handed_in]) if one.severity == "error"]
    assert all(one.where.startswith(str(handed_in)) and one.fix for one in problems)
    assert any(field in one.where.removeprefix(str(handed_in)) and what in one.what for one in problems), problems


def test_what_only_raises_a_doubt_is_a_warning(handed_in: Path) -> None:
    data = json.loads(handed_in.read_text("utf-8"))
    data["scored_with"]["dirty"] = True
    cell("facesim_arc", version=99)(data)
    handed_in.write_text(json.dumps(data))
    # without its videos nothing says that a cell is wrong
    handed_in.with_suffix(".jsonl").unlink()
    absent, *found = check([handed_in])
    assert (absent.severity, "its cells cannot be formed again" in absent.what) == ("warning", True)
    assert [one.severity for one in found] == ["warning", "warning"]
    assert "ffbench had changes that no commit holds" in found[0].what
    assert "facesim_arc is of version 99" in found[1].what


def test_part_of_a_run_is_no_result(out: Path, tmp_path: Path) -> None:
    run = Run(out / "tiny@1" / "own")
    lines = run.scores()
    gone = next(iter(lines.values())).generation
    path = run.root / "scores.jsonl"
    path.write_text("".join(line for line in path.read_text().splitlines(keepends=True) if gone not in line))
    with pytest.raises(UserError, match="own: 1 videos wait for their scores"):
        report([run.root], ReportOptions(gallery=False, results=tmp_path / "results"))
    with pytest.raises(UserError, match="whole run, not shared cases"):
        report([out], ReportOptions(gallery=False, common_cases=True, results=tmp_path / "results"))
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("download it to /root/.cache/ffbench/weights/Wan-AI/Wan2.1, or --set base=PATH",
         "download it to .../weights/Wan-AI/Wan2.1, or --set base=PATH"),
        ("see https://example.org/a/b/c/d, OWNER/NAME, 3/4", "see https://example.org/a/b/c/d, OWNER/NAME, 3/4"),
        ("/home/me/b/seed-1/model", ".../b/seed-1/model"),
        ("~/runs/a/b/c; runs/a/b/c/d", "~/runs/a/b/c; runs/a/b/c/d"),
    ],
)  # fmt: skip
def test_texts_keep_no_folder_of_one_machine(text: str, wanted: str) -> None:
    assert portable(text) == wanted


def test_the_committed_schema_is_that_of_the_dataclass() -> None:
    assert json.loads(SCHEMA_FILE.read_text("utf-8")) == json_schema()


def test_a_file_has_the_fields_and_types_of_the_schema(handed_in: Path) -> None:
    data = json.loads(handed_in.read_text("utf-8"))
    schema = json.loads(SCHEMA_FILE.read_text("utf-8"))
    names = {"string": str, "integer": int, "object": dict, "array": list, "number": float, "null": type(None)}

    def fits(value: Any, wanted: dict[str, Any]) -> bool:
        if "const" in wanted:
            return bool(value == wanted["const"])
        if "anyOf" in wanted:
            return any(fits(value, one) for one in wanted["anyOf"])
        types = wanted.get("type", [])
        types = [types] if isinstance(types, str) else types
        if types and not any(isinstance(value, int if one == "boolean" else names[one]) for one in types):
            return isinstance(value, int) and "number" in types
        if "items" in wanted:
            return all(fits(one, wanted["items"]) for one in value)
        if "properties" in wanted:
            known = set(value) <= set(wanted["properties"]) and set(wanted["required"]) <= set(value)
            return known and all(fits(one, wanted["properties"][name]) for name, one in value.items())
        return True

    assert fits(data, schema)
    for name in schema["required"]:
        assert not fits({key: value for key, value in data.items() if key != name}, schema), name
    assert not fits({**data, "more": 1}, schema)
    data["cells"][0]["value"] = "0.5"
    assert not fits(data, schema)


def test_the_command_line_writes_and_checks(out: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    runner = CliRunner()
    done = runner.invoke(app, ["report", str(out), "--no-html", "--results", str(results)])
    assert done.exit_code == 0
    assert "ffbench validate" in done.stderr
    done = runner.invoke(app, ["validate", str(results)])
    assert (done.exit_code, done.stdout) == (0, "")
    assert "2 results files, 0 errors, 0 warnings" in done.stderr
    path = find_results([results])[0]
    path.write_text(path.read_text("utf-8").replace('"num_failed":1', '"num_failed":"one"', 1))
    done = runner.invoke(app, ["validate", str(results)])
    assert done.exit_code == 1
    first, second = done.stdout.splitlines()
    assert first.startswith(f"error: {path}: Result.num_failed: expected int, got 'one'")
    assert second.strip() == "write it anew: ffbench report RUN --results FOLDER"
    done = runner.invoke(app, ["validate", str(tmp_path / "photos")])
    assert "no results file below" in str(done.exception)
    assert not any(
        math.isnan(c.value) and not c.reason for c in from_json(Result, find_results([results])[1].read_text()).cells
    )
