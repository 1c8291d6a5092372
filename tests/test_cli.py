"""The command line end to end, as a user meets it: real processes, real files, good and bad input."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from ffbench.cli import app
from ffbench.video import write_mp4

FFBENCH = Path(sys.executable).with_name("ffbench")
runner = CliRunner()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


def ffbench(home: Path, *words: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith(("FFBENCH", "OPENAI", "HF_"))}
    env |= {"HOME": str(home), "XDG_CACHE_HOME": str(home / ".cache"), "OMP_NUM_THREADS": "1", "FFBENCH_OFFLINE": "1"}
    argv = [str(FFBENCH), *map(str, words)]
    done = subprocess.run(argv, cwd=home, env=env, check=False, capture_output=True, text=True)
    assert done.returncode == code, (argv, done.stdout[-2000:], done.stderr[-3000:])
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def ran(home: Path) -> subprocess.CompletedProcess[str]:
    small = ("--set", "width=160", "--set", "height=160", "--set", "num_frames=9")
    return ffbench(home, "run", "--suite", "photos", "-m", "still", "-m", "sway", "--limit", 3, *small, "--out", "runs")


def test_run_ends_in_a_table_that_says_what_it_lacks(home: Path, ran: subprocess.CompletedProcess[str]) -> None:
    assert "still (control)" in ran.stdout
    assert "sway (control)" in ran.stdout
    assert "ffbench weights pull buffalo_l" in ran.stdout
    assert "ffbench weights pull curricularface-ir101" in ran.stdout
    assert "page: " in ran.stderr
    assert "page: " not in ran.stdout, "stdout holds the table alone"
    assert (home / "runs/photos@1/report/index.html").is_file()
    assert "\x1b" not in ran.stderr, "no colours and no bars outside a terminal"


def test_a_second_run_makes_nothing_and_prints_the_same_table(
    home: Path, ran: subprocess.CompletedProcess[str]
) -> None:
    before = (home / "runs/photos@1/still/generations.jsonl").read_bytes()
    small = ("--set", "width=160", "--set", "height=160", "--set", "num_frames=9")
    words = ("run", "--suite", "photos", "-m", "still", "-m", "sway", "--limit", 3)
    again = ffbench(home, *words, *small, "--out", "runs")
    assert again.stdout == ran.stdout
    assert (home / "runs/photos@1/still/generations.jsonl").read_bytes() == before


def test_three_commands_on_the_mini_world(home: Path) -> None:
    """What a newcomer types: nothing but the method is named, and every column has a number."""
    for method in ("faithfulfaces", "vace", "oracle"):
        ffbench(home, "generate", "--method", method, "--limit", 3, "--out", "mini")
    scored = ffbench(home, "score", "--out", "mini")
    assert "protocol mini@1" in scored.stderr
    table = ffbench(home, "report", "mini").stdout
    assert "oracle (control)" in table and "weights" not in table
    cells = json.loads((home / "mini/mini@1/report/cells.json").read_text())["cells"]
    arc = {cell["method"]: cell["value"] for cell in cells if (cell["metric"], cell["group"]) == ("facesim_arc", "all")}
    assert arc["oracle"] > 0.4
    record = json.loads((home / "mini/mini@1/faithfulfaces/generations.jsonl").read_text().splitlines()[0])
    assert record["settings"]["checkpoint"] == "mini" and record["settings"]["width"] == 64


def test_json_is_data_alone(home: Path, ran: subprocess.CompletedProcess[str]) -> None:
    cells = json.loads(ffbench(home, "report", "--no-html", "--json", "--out", "runs").stdout)
    assert cells
    listed = json.loads(ffbench(home, "ls", "runs", "--out", "runs", "--json").stdout)
    assert [row["summary"] for row in listed] == ["3 ok, 0 failed, 0 refused"] * 2
    checks = json.loads(ffbench(home, "doctor", "--protocol", "basic", "--json", code=1).stdout)
    assert {c["name"] for c in checks} >= {"packages", "disk", "arc", "detector"}
    # nothing is amiss for the embedded world; what real suites would need is told beside it
    checks = {c["name"]: c["status"] for c in json.loads(ffbench(home, "doctor", "--json").stdout)}
    assert checks["mini"] == "ok"
    assert checks["pose"] == "note"
    plan = ffbench(home, "generate", "-m", "sway", "--dry-run", "--limit", 5, "--out", "plan").stdout
    assert "5 videos to make" in plan


def test_show_compare_and_lists(home: Path, ran: subprocess.CompletedProcess[str]) -> None:
    record = json.loads((home / "runs/photos@1/sway/generations.jsonl").read_text().splitlines()[0])
    text = ffbench(home, "show", f"photos@1/sway/{record['case_id']}-s0").stdout
    assert record["case_id"] in text
    assert "pose" in text
    for key in ("standard", "facesim_arc", "still"):
        assert ffbench(home, "show", key).stdout
    compared = ffbench(home, "compare", "runs/photos@1/still", "runs/photos@1/sway").stdout
    assert "pose range" in compared.lower()
    (home / "still").mkdir()  # not a run, so it does not hide the run of that name
    assert ffbench(home, "compare", "still", "sway", "--out", "runs").stdout == compared
    for what in ("methods", "suites", "protocols", "metrics"):
        assert len(ffbench(home, "ls", what).stdout.splitlines()) >= 3
    assert ffbench(home, "--version").stdout.strip()
    assert "boxing" in ffbench(home, "prompts", "ls").stdout
    assert "buffalo_l" in ffbench(home, "weights", "ls").stdout
    assert "buffalo_l" in json.dumps(json.loads(ffbench(home, "weights", "ls", "--json").stdout))
    assert ffbench(home, "doctor", "--protocol", "basic", code=1).stdout


def test_own_videos_by_table_with_a_damaged_one(home: Path) -> None:
    from skimage.data import astronaut

    folder = home / "own"
    folder.mkdir()
    face = astronaut()[0:256, 100:356]
    Image.fromarray(face).save(folder / "ann.png")
    write_mp4(folder / "ann-good.mp4", np.stack([np.roll(face, i, 1) for i in range(6)]), 8)
    (folder / "ann-cut.mp4").write_bytes((folder / "ann-good.mp4").read_bytes()[:3000])
    with (folder / "videos.csv").open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["video", "reference", "prompt"])
        rows.writerow(["ann-good.mp4", "ann.png", 'says "hi",\n../ 🥊 $(rm -rf /) ' + "x" * 3000])
        rows.writerow(["ann-cut.mp4", "ann.png", ""])
    table = ("--videos", folder / "videos.csv")
    pairs = ffbench(home, "score", *table, "--dry-run", "--json").stdout
    assert len(json.loads(pairs)) == 2
    assert "ann-cut.mp4" in ffbench(home, "score", *table, "--dry-run").stdout
    findings = json.loads(ffbench(home, "validate", *table, "--json", code=1).stdout)
    assert any("ann-cut" in finding["where"] for finding in findings)
    done = ffbench(home, "score", *table, "--out", "own-runs", "--json", code=1)
    assert json.loads(done.stdout)["damaged"] == 1
    report = ffbench(home, "report", "own-runs").stdout
    assert "given" in report


BAD = [
    (("generate", "-m", "stil"), "still"),
    (("generate", "-m", "still", "--set", "widht=3"), "width"),
    (("generate", "-m", "still", "--suite", "nowhere"), "nowhere"),
    (("score", "--out", "empty"), "no run below empty"),
    (("report", "--out", "empty"), "empty"),
    (("score", "--videos", "nowhere"), "nowhere"),
    (("score", "--protocol", "vbench"), "vbench"),
    (("ls", "cats"), "cats"),
    (("show", "nothing-like-it"), "nothing-like-it"),
    (("weights", "pull", "buffalo_s"), "buffalo_l"),
    (("weights", "pull", "buffalo_l", "--commercial-ok"), "research"),
    (("weights", "pull", "buffalo_l"), "FFBENCH_OFFLINE"),
    (("run", "-m", "still", "--protocol", "standard", "--limit", "1"), "ffbench weights pull buffalo_l"),
    (("suites", "fetch", "paper"), "FFBENCH_OFFLINE"),
    (("compare", "a", "b"), "a is no run, and there is none of that name below runs"),
    (("validate", "--suite", "nowhere"), "nowhere"),
]


@pytest.mark.parametrize(("words", "named"), BAD, ids=lambda value: " ".join(value) if isinstance(value, tuple) else "")
def test_bad_input_is_two_lines(home: Path, words: tuple[str, ...], named: str) -> None:
    (home / "empty").mkdir(exist_ok=True)
    done = ffbench(home, *words, code=2)
    lines = [line for line in done.stderr.splitlines() if line.startswith(("error: ", "fix:   "))]
    assert [line[:6] for line in lines[-2:]] == ["error:", "fix:  "]
    assert named in "".join(lines)


def test_help_of_every_command() -> None:
    for words in (
        ["--help"],
        ["generate", "--help"],
        ["score", "--help"],
        ["weights", "--help"],
        ["weights", "pack", "--help"],
    ):
        done = runner.invoke(app, words)
        assert done.exit_code == 0


def test_a_closed_pipe_is_no_error(home: Path) -> None:
    done = subprocess.run(
        f"{FFBENCH} ls metrics | head -1", shell=True, check=True, capture_output=True, text=True, cwd=home
    )
    assert done.stdout
    assert "Traceback" not in done.stderr
