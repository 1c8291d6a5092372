"""The scripts that measure on a GPU, at toy sizes: nobody should find a slip on a machine that is lent."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    path = ROOT / "tests" / "benchmarks" / f"{script}.py"
    return subprocess.run(
        [sys.executable, str(path), *arguments], env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_steps_of_generation(tmp_path: Path) -> None:
    done = run("gpu_generate", "--out", str(tmp_path), "--tiny")
    assert done.returncode == 0, done.stderr
    rows = {row["form"]: row for row in json.loads((tmp_path / "gpu_generate.json").read_text())["rows"]}
    assert {"two passes", "batched guidance", "sdpa math", "decode whole", "decode tiled"} <= set(rows)
    for name in ("two passes", "batched guidance", "sdpa math"):
        assert rows[name]["operations"] > 0
        assert rows[name]["seconds"] >= rows[name]["least_seconds"] > 0
        assert rows[name]["relative_difference"] < 1e-4


@pytest.mark.slow
def test_scoring(tmp_path: Path) -> None:
    done = run("gpu_score", "--out", str(tmp_path), "--tiny")
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "gpu_score.json").read_text())["rows"]
    assert [row["precision"] for row in rows if row["row"] == "network"] == ["float32", "tf32", "bfloat16"]
    whole = [row for row in rows if row["row"] == "run"]
    assert [row["scored"] for row in whole] == [2]
    assert whole[0]["videos_per_second"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("script", ["gpu_generate", "gpu_score"])
def test_without_a_gpu_they_measure_nothing(script: str, tmp_path: Path) -> None:
    done = run(script, "--out", str(tmp_path / "made"))
    assert done.returncode == 1
    assert done.stderr.startswith("no GPU here\n")
    assert not (tmp_path / "made").exists()


@pytest.mark.slow
def test_the_planning_table_of_the_docs_is_what_its_script_prints() -> None:
    done = run("plan")
    assert done.returncode == 0, done.stderr
    page = (ROOT / "docs" / "performance.md").read_text("utf-8")
    found = re.search(r"<!-- plan: [^>]*-->\n(.*?)\n<!-- end of plan -->", page, re.DOTALL)
    assert found is not None
    assert found[1] == done.stdout.rstrip("\n")


@pytest.mark.slow
def test_records_are_appended_resumed_and_reported(tmp_path: Path) -> None:
    done = run("records", "--methods", "2", "--people", "3", "--prompts", "3", "--json", str(tmp_path / "r.json"))
    facts = json.loads((tmp_path / "r.json").read_text())
    assert facts["records"] == 2 * 9 * 16, done.stderr
    assert set(facts["steps"]) == {"append", "resume", "report"}
    assert facts["peak_mb"] < 500
