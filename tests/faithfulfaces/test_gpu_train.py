"""The script that measures training on a GPU, at toy sizes: nobody should find a slip on a machine that is lent."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu_train.py"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(SCRIPT.parents[2]), "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments], env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_every_row_is_written(tmp_path: Path) -> None:
    done = run("--out", str(tmp_path / "made"), "--tiny")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "made" / "gpu_train.json").read_text("utf-8"))
    assert found["tiny"] is True
    assert found["machine"]["torch"] == torch.__version__
    assert [row["dtype"] for row in found["pool"]] == ["float32", "bfloat16"]
    for row in found["pool"]:
        assert row["fused_to_product"] == pytest.approx(row["fused_ms"] / row["product_ms"])
        assert min(row["fused_ms"], row["naive_ms"], row["product_ms"]) > 0
    assert [row["checkpointing"] for row in found["train"]] == [True, False]
    for row in found["train"]:
        assert row["tokens"] == 3
        assert row["tokens_per_second"] == pytest.approx(3 / row["seconds_per_step"])
        assert "failed" not in row


@pytest.mark.slow
def test_without_a_gpu_it_measures_nothing(tmp_path: Path) -> None:
    done = run("--out", str(tmp_path / "made"))
    assert done.returncode == 1
    assert done.stderr.startswith("no GPU here\n")
    assert not (tmp_path / "made").exists()
