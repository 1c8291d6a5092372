from __future__ import annotations

import dataclasses
import math
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from ffbench.durable import write_atomic
from ffbench.errors import UserError
from ffbench.records import Generation, Score
from ffbench.store import Run, find_runs, run_folder, safe_name

GENERATION = Generation("ann-boxing", "mini", "1", "still", "1", {"width": 64}, 7, 0, "ok", "videos/x.mp4", "ab")


def score(metric: str = "facesim_arc", value: float = 0.5) -> Score:
    return Score(GENERATION.key, "t", "standard@1", metric, 1, value, "" if value == value else "no face")


def test_the_newest_record_of_a_key_counts(tmp_path: Path) -> None:
    run = run_folder(tmp_path, "mini", "1", "still")
    failed = dataclasses.replace(GENERATION, status="failed", error="boom", video="")
    with run.lock():
        run.append_generations([failed])
        run.append_generations([GENERATION])
        run.append_scores([score(value=math.nan), score("face_rate", 1.0)])
        run.append_scores([score(value=0.7)])
    assert list(run.generations().values()) == [GENERATION]
    assert [s.value for s in run.scores().values()] == [0.7, 1.0]
    assert run.scores("consisid@1") == {}
    assert find_runs(tmp_path)[0].root == run.root


def test_a_torn_last_line_is_skipped_by_readers_and_cut_by_the_next_writer(tmp_path: Path) -> None:
    run = Run(tmp_path)
    with run.lock():
        run.append_generations([GENERATION])
    path = tmp_path / "generations.jsonl"
    whole = path.read_bytes()
    for cut in range(1, len(whole), 17):
        path.write_bytes(whole + whole[:cut])
        assert list(run.generations()) == [GENERATION.key]
    with run.lock():
        assert path.read_bytes() == whole
    path.write_bytes(whole[: len(whole) // 2])
    with run.lock():
        assert path.read_bytes() == b""
    assert run.generations() == {}


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    (tmp_path / "generations.jsonl").write_text('{"nonsense": 1}\n')
    with pytest.raises(UserError, match=r"generations\.jsonl:1"):
        Run(tmp_path).generations()


def test_two_writers_are_one_too_many(tmp_path: Path) -> None:
    code = f"from pathlib import Path; from ffbench.store import Run\nwith Run(Path({str(tmp_path)!r})).lock(): pass"
    with Run(tmp_path).lock():
        done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert "another ffbench is writing" in done.stderr
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_leftovers_of_a_killed_writer_are_cleared(tmp_path: Path) -> None:
    run = Run(tmp_path)
    with run.lock(), run.scratch() as folder:
        (folder / "x").write_text("1")
        assert folder.is_dir()
    assert not list(tmp_path.glob(".part-*"))
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / ".part-abc").write_text("half")
    (tmp_path / ".part-dir").mkdir()
    with run.lock():
        assert not list(tmp_path.glob("**/.part-*"))


def test_atomic_write_leaves_old_or_new_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_atomic(path, b"old")
    with pytest.raises(TypeError):
        write_atomic(path, "no bytes")  # type: ignore[arg-type]
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


FULL = """
import dataclasses, resource, signal, sys
from pathlib import Path
from ffbench.records import Generation
from ffbench.store import Run
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
run = Run(Path(sys.argv[1]))
one = Generation("c", "s", "1", "m", "1", {}, 1, 0, "ok")
with run.lock():
    run.append_generations([one])
    size = (run.root / "generations.jsonl").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 40, size + 40))
    try:
        run.append_generations([dataclasses.replace(one, case_id="d")])
    except OSError as error:
        print(error.errno, (run.root / "generations.jsonl").stat().st_size == size)
"""


def test_a_full_disk_leaves_no_half_line(tmp_path: Path) -> None:
    assert resource.RLIMIT_FSIZE
    done = subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], check=True, capture_output=True, text=True)
    assert done.stdout.split()[1] == "True"
    assert len(Run(tmp_path).generations()) == 1


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden", "a\nb", "x" * 129, "a..b", "é"])
def test_unsafe_names_never_become_paths(name: str) -> None:
    with pytest.raises(ValueError, match="file name"):
        safe_name(name)


def test_places_lie_inside_the_run(tmp_path: Path) -> None:
    run = Run(tmp_path)
    assert run.new_video("ab").parent == tmp_path / "videos"
    assert run.track("ab").parent == tmp_path / "tracks"
    assert run.log("worker.log").parent.is_dir()
    assert run.video(GENERATION) == tmp_path / "videos" / "x.mp4"
    run.write_meta({"a": 1})
    assert run.meta() == {"a": 1}
    assert os.access(tmp_path / "run.json", os.R_OK)
