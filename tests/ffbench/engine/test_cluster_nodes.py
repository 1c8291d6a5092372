"""Nodes of a real Ray cluster are killed while the real command runs on them."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from ffbench.records import Generation, from_json
from tests.ffbench.engine.clusters import nodes

pytest.importorskip("ray", reason="pip install 'ffbench[ray]'")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]
COMMAND = [sys.executable, "-c", "from ffbench.cli import main; main()"]


def test_nodes_that_are_killed_cost_no_case(tmp_path: Path) -> None:
    """One node of two is killed twice, and another comes for it."""
    argv = [*COMMAND, "generate", "-m", "impostor", "--limit", "60", "--out", str(tmp_path / "runs"), "--json"]
    with nodes() as cluster:
        for _ in range(2):
            cluster.add(cpus=1)
        argv += ["--engine", "ray", "--workers", "2", "--address", cluster.address]
        running = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        said: list[str] = []
        assert running.stdout is not None and running.stderr is not None
        reader = threading.Thread(target=lambda: said.extend(running.stderr or ()))
        reader.start()
        for goal in (5, 25):
            while len(records(tmp_path)) < goal and running.poll() is None:
                time.sleep(0.02)
            assert running.poll() is None, "".join(said)
            cluster.kill()
            cluster.add(cpus=1)
        code = running.wait(timeout=900)
        reader.join()
        running.stderr.close()
        with running.stdout:
            told = [json.loads(line) for line in running.stdout]
    made = records(tmp_path)
    assert code == 0, "".join(said)
    assert len(told) == 1 and any("raylet" in line for line in said), "what Ray tells of dead nodes is not on stdout"
    assert len(made) == len({one.key for one in made}) == 60
    assert all(one.status == "ok" and (tmp_path / "runs/mini@1/impostor" / one.video).is_file() for one in made)
    again = subprocess.run(argv[: argv.index("--json")], capture_output=True, text=True, check=True)
    assert "60 ok, 0 failed, 0 refused, 60 done before" in again.stderr
    assert not list((tmp_path / "runs").rglob(".part-*")), "what killed workers left is cleared away"


def records(folder: Path) -> list[Generation]:
    whole: list[bytes] = []
    for path in (folder / "runs/mini@1/impostor").glob("generations*.jsonl"):
        with suppress(FileNotFoundError):  # put into another file meanwhile
            whole += path.read_bytes().split(b"\n")[:-1]
    return [from_json(Generation, line.decode()) for line in whole]
