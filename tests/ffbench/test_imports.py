"""Videos made elsewhere enter a suite by a table, and are scored like any other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ffbench.cli import app
from ffbench.errors import UserError
from ffbench.store import Run
from ffbench.suites import Suite, load_suite
from ffbench.suites.imports import imported
from ffbench.video import write_mp4

HEADER = "video,identity,prompt_id\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    videos = tmp_path / "videos"
    videos.mkdir()
    for name in ("a", "b"):
        write_mp4(videos / f"{name}.mp4", np.zeros((3, 64, 64, 3), np.uint8), 8)
    return videos


def table(folder: Path, text: str) -> Path:
    path = folder.parent / "map.csv"
    path.write_text(text)
    return path


def test_rows_name_a_case_or_a_pair(folder: Path) -> None:
    suite: Suite = load_suite("mini")
    by_pair = imported(suite, folder, table(folder, HEADER + "b.mp4,person03,ballet-park\n"))
    assert [case.case_id for case in by_pair.cases] == ["person03-ballet-park"]
    by_case = imported(suite, folder, table(folder, "video,case\na.mp4,person03-ballet-park\n"))
    assert by_case.given == {"person03-ballet-park": folder / "a.mp4"}
    assert (by_case.name, by_case.version) == (suite.name, suite.version)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (HEADER + "a.mp4,person99,ballet-park\n", r"map\.csv:2: identity 'person99' .* is no case of mini@1"),
        ("video,case\na.mp4,x\n", "x is no case"),
        (HEADER + "a.mp4,person03,ballet-park\nb.mp4,person03,ballet-park\n", "map.csv:3: .* a second video"),
        (HEADER + "c.mp4,person03,ballet-park\n", "c.mp4 is no file below"),
        (HEADER + "../map.csv,person03,ballet-park\n", "is no file below"),
    ],
)
def test_bad_rows_are_named(folder: Path, rows: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        imported(load_suite("mini"), folder, table(folder, rows))


def test_the_command_makes_a_run(folder: Path, tmp_path: Path) -> None:
    path = table(folder, HEADER + "a.mp4,person03,ballet-park\nb.mp4,person04,ballet-park\n")
    words = ["import", "-m", "kling", "--from", str(folder), "--map", str(path), "--suite", "mini"]
    app([*words, "--out", str(tmp_path / "runs")], standalone_mode=False)
    run = Run(tmp_path / "runs" / "mini@1" / "kling")
    assert {g.case_id: g.status for g in run.generations().values()} == {
        "person03-ballet-park": "ok", "person04-ballet-park": "ok",
    }  # fmt: skip
    assert run.meta()["suite"] == "mini@1"
    app([*words, "--out", str(tmp_path / "runs")], standalone_mode=False)
    assert len(run.generations()) == 2, "a second call adds nothing"
