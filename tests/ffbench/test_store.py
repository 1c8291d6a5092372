from __future__ import annotations

import dataclasses
import math
import os
import resource
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

from ffbench import store
from ffbench.durable import write_atomic
from ffbench.errors import UserError
from ffbench.records import Generation, Score
from ffbench.shard import Shard
from ffbench.store import Run, find_runs, run_folder, safe_name, worker_name

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
        assert not (tmp_path / "videos" / ".part-abc").exists() and not (tmp_path / ".part-dir").exists()
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


def generation(number: int, **values: object) -> Generation:
    return dataclasses.replace(GENERATION, case_id=f"c{number}", **values)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.jsonl"))


def cases(run: Run) -> list[str]:
    return [record.case_id for record in run.generations().values()]


def test_workers_write_files_of_their_own_that_become_one(tmp_path: Path) -> None:
    run = Run(tmp_path)
    with run.lock():
        workers = [run.by_worker(worker_name()) for _ in range(3)]
        for number, worker in enumerate(workers):
            worker.append_generations([generation(number)])
            worker.append_scores([score(f"m{number}")])
        run.append_generations([generation(9, status="failed", error="lost")])
        assert len({path.name for path in tmp_path.glob("generations.*.w*.jsonl")}) == 3
        assert sorted(cases(Run(tmp_path))) == ["c0", "c1", "c2", "c9"] and len(Run(tmp_path).scores()) == 3
        assert sorted(one.case_id for one in run.new_generations().values()) == ["c0", "c1", "c2"]
        assert sorted(one.metric for one in run.new_scores().values()) == ["m0", "m1", "m2"]
        assert [one.root for one in find_runs(tmp_path)] == [tmp_path]
    assert names(tmp_path) == ["generations.jsonl", "scores.jsonl"]
    assert sorted(cases(run)) == ["c0", "c1", "c2", "c9"] and len(run.scores()) == 3
    with run.lock():
        assert run.new_generations() == {} and run.new_scores() == {}


def killed(run: Run, *records: Generation) -> Run:
    """A worker of a command that was killed: what it left of itself is there again, and no lock."""
    lock = run.lock()
    lock.__enter__()
    worker = run.by_worker(worker_name())
    worker.append_generations(records)
    left = list(run.root.glob(".part-*"))
    with pytest.raises(SystemExit):
        lock.gen.throw(SystemExit())  # type: ignore[attr-defined]
    assert left
    for path in left:
        path.touch()
    return worker


@pytest.mark.parametrize("shard", [None, Shard(1, 2)], ids=str)
def test_what_workers_of_a_killed_command_wrote_counts_and_is_put_away(tmp_path: Path, shard: Shard | None) -> None:
    killed(Run(tmp_path, shard), generation(1), generation(2))
    (part,) = tmp_path.glob("generations.*.w*.jsonl")
    part.write_bytes(part.read_bytes() + b'{"case_id":"torn')
    assert cases(Run(tmp_path)) == ["c1", "c2"] and [one.root for one in find_runs(tmp_path)] == [tmp_path]
    run = Run(tmp_path, shard)
    with run.lock():
        # a shard's lines keep the moment of their command, since another split may have written later ones
        assert names(tmp_path) == ([part.name.partition(".w")[0] + ".jsonl"] if shard else ["generations.jsonl"])
        assert run.new_generations() == {}
    assert cases(Run(tmp_path)) == ["c1", "c2"] and not list(tmp_path.glob(".part-*"))
    with Run(tmp_path).lock():
        pass
    assert names(tmp_path) == ["generations.jsonl"] and cases(Run(tmp_path)) == ["c1", "c2"]


def test_a_worker_that_outlives_its_command_writes_nothing_more(tmp_path: Path) -> None:
    worker = killed(Run(tmp_path), generation(1))
    worker.append_generations([generation(2)])
    run = Run(tmp_path)
    with run.lock(), pytest.raises(UserError, match=r"the command that this worker .* belongs to is over"):
        worker.append_generations([generation(3)])
    assert cases(run) == ["c1", "c2"] and names(tmp_path) == ["generations.jsonl"]


def test_a_worker_of_no_command_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="inside `lock`"):
        Run(tmp_path).by_worker(worker_name()).append_generations([generation(1)])


def test_a_shard_puts_its_own_workers_away_and_no_others(tmp_path: Path) -> None:
    one, two = Run(tmp_path, Shard(1, 2)), Run(tmp_path, Shard(2, 2))
    with two.lock():
        two.by_worker("two").append_generations([generation(2)])
        with one.lock():
            one.by_worker("one").append_generations([generation(1)])
            assert [record.case_id for record in one.new_generations().values()] == ["c1"]
        assert len(list(tmp_path.glob("generations.*-1-of-2.jsonl"))) == 1
        assert len(list(tmp_path.glob("generations.*-2-of-2.wtwo.jsonl"))) == 1
    assert [name.partition("-")[2] for name in names(tmp_path)] == ["2-of-2.jsonl", "1-of-2.jsonl"]
    assert sorted(cases(Run(tmp_path))) == ["c1", "c2"]


def test_the_newest_line_counts_also_where_an_older_one_is_equal(tmp_path: Path) -> None:
    run = Run(tmp_path)
    for value in (0.1, 0.2, 0.1):
        with run.lock():
            run.by_worker(worker_name()).append_scores([score(value=value)])
        assert [one.value for one in run.scores().values()] == [value]
    assert (tmp_path / "scores.jsonl").read_bytes().count(b"\n") == 3


def test_lines_that_are_moved_while_somebody_reads_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed(Run(tmp_path), *map(generation, range(5)))
    with Run(tmp_path).lock():
        pass
    killed(Run(tmp_path), *map(generation, range(5, 9)), generation(0, status="failed", error="again"))
    read, moved = store._read, []

    def read_file(path: Path, cls: type[Generation]) -> Generator[Generation, None, bool]:
        if path.name != "generations.jsonl" and not moved:  # the reader is through with the main file
            moved.append(path)
            with Run(tmp_path).lock():
                assert names(tmp_path) == ["generations.jsonl"]
        return (yield from read(path, cls))

    monkeypatch.setattr(store, "_read", read_file)
    found = Run(tmp_path).generations()
    assert moved and [one.case_id for one in found.values()] == [f"c{number}" for number in range(9)]
    assert found[generation(0).key].error == "again"


def test_a_copy_of_a_users_own_is_left_alone(tmp_path: Path) -> None:
    run = Run(tmp_path)
    with run.lock():
        run.append_generations([generation(1)])
    (tmp_path / "generations.before.jsonl").write_bytes(b"mine\n")
    with run.lock():
        pass
    assert names(tmp_path) == ["generations.before.jsonl", "generations.jsonl"] and cases(run) == ["c1"]
