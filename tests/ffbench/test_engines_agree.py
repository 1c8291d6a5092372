"""The real commands on every engine: the same videos and, byte for byte, the same score records."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow
METHODS = ("oracle", "sway")
VIDEOS = 8
"""As few as leave none of three shards without work."""
ONE = [["--workers", "1"]]


def made(out: Path, ways: Sequence[Sequence[str]]) -> Path:
    """Generate and score with each of the ways, one after the other."""
    argv = [sys.executable, "-c", "from ffbench.cli import main; main()"]
    for command in (
        ["generate", "--limit", str(VIDEOS), *(word for name in METHODS for word in ("-m", name))],
        ["score"],
    ):
        for way in ways:
            done = subprocess.run(
                [*argv, *command, "--out", str(out), *way], check=False, capture_output=True, text=True, timeout=900
            )
            assert done.returncode == 0, done.stderr
    return out


def scores(out: Path) -> dict[str, list[bytes]]:
    """Run -> the lines of its score records, in the order of the alphabet."""
    return {
        run.name: sorted(line for path in run.glob("scores*.jsonl") for line in path.read_bytes().splitlines())
        for run in out.glob("mini@1/*")
        if run.name in METHODS
    }


def videos(out: Path) -> list[dict[str, Any]]:
    """What generation records say of the videos."""
    lines = [line for path in out.glob("mini@1/*/generations*.jsonl") for line in path.read_text().splitlines()]
    kept = ("method", "case_id", "seed", "status", "error", "video_sha256")
    return sorted(({key: json.loads(line)[key] for key in kept} for line in lines), key=str)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("straight"), ONE)


def agree(straight: Path, other: Path) -> None:
    want, got = scores(straight), scores(other)
    assert set(want) == set(METHODS)
    assert all(len(lines) >= 5 * VIDEOS for lines in want.values())
    assert got == want
    assert len(videos(straight)) == VIDEOS * len(METHODS)
    assert videos(other) == videos(straight)


def test_four_processes(straight: Path, tmp_path: Path) -> None:
    agree(straight, made(tmp_path, [["--engine", "local", "--workers", "4"]]))


def test_three_shards_merged(straight: Path, tmp_path: Path) -> None:
    out = made(tmp_path, [["--shard", f"{part}/3"] for part in (2, 3, 1)])
    assert len(list((out / "mini@1" / "sway").glob("scores.*-of-3.jsonl"))) == 3
    agree(straight, out)
    made(out, ONE)  # finds nothing to do, and gathers what the shards wrote
    assert [path.name for path in (out / "mini@1" / "sway").glob("scores*.jsonl")] == ["scores.jsonl"]
    agree(straight, out)


def test_a_ray_cluster_of_this_machine(straight: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="pip install 'ffbench[ray]'")
    agree(straight, made(tmp_path, [["--engine", "ray", "--workers", "2"]]))
