"""Parts of a suite, and parts of a run that are written side by side."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ffbench.errors import UserError
from ffbench.records import Case, Generation, Score
from ffbench.shard import Shard
from ffbench.store import Run, find_runs

RECORD = Generation("a", "mini", "1", "still", "1", {"width": 64}, 7, 0, "ok", "videos/x.mp4", "ab")


def cases(people: int, prompts: int) -> list[Case]:
    return [Case("s", "1", f"i{i}-p{p}", f"i{i}", (), f"p{p}", "x") for i in range(people) for p in range(prompts)]


def record(number: int, **values: object) -> Generation:
    return dataclasses.replace(RECORD, case_id=f"c{number}", **values)


@given(st.integers(0, 9), st.integers(1, 7), st.integers(1, 12))
def test_parts_are_the_whole_once_and_differ_by_one(people: int, prompts: int, count: int) -> None:
    every = cases(people, prompts)
    parts = [Shard(index, count).of(every) for index in range(1, count + 1)]
    assert sorted(name for part in parts for name in part) == sorted(case.case_id for case in every)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert parts == [Shard(index, count).of(reversed(every)) for index in range(1, count + 1)]


def test_prompts_stay_together() -> None:
    parts = [Shard(index, 4).of(cases(6, 8)) for index in (1, 2, 3, 4)]
    assert [{name.partition("-")[2] for name in part} for part in parts] == [
        {"p0", "p1"},
        {"p2", "p3"},
        {"p4", "p5"},
        {"p6", "p7"},
    ]


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "1/0", "-1/3", "a/b", "1/3/5", "1 / 3"])
def test_what_is_no_part_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="is no part of a whole") as caught:
        Shard.parse(text)
    assert "1/8" in caught.value.fix


def test_shards_write_apart_and_are_read_together(tmp_path: Path) -> None:
    whole, one, two = Run(tmp_path), Run(tmp_path, Shard(1, 2)), Run(tmp_path, Shard(2, 2))
    with whole.lock():
        whole.append_generations([record(0), record(1, status="failed", error="old")])
    before = (tmp_path / "generations.jsonl").read_bytes()
    with one.lock(), two.lock():
        one.append_generations([record(1), record(2)])
        two.append_generations([record(3)])
        one.append_scores([Score(record(1).key, "t", "p@1", "face_rate", 1, 0.5)])
        one.append_generations([record(4)])
        assert sorted(r.case_id for r in whole.generations().values()) == ["c0", "c1", "c2", "c3", "c4"]
    assert (tmp_path / "generations.jsonl").read_bytes() == before
    assert whole.generations()[record(1).key].status == "ok", "a shard's line is newer than the main file's"
    assert len(whole.scores()) == 1 and [run.root for run in find_runs(tmp_path)] == [tmp_path]


def test_a_later_command_of_any_split_counts(tmp_path: Path) -> None:
    for shard, error in ((Shard(1, 3), "a"), (Shard(2, 5), "b"), (Shard(1, 3), "c")):
        run = Run(tmp_path, shard)
        with run.lock():
            run.append_generations([record(1, status="failed", error=error)])
        assert [r.error for r in Run(tmp_path).generations().values()] == [error]


def test_the_next_whole_command_gathers_the_lines(tmp_path: Path) -> None:
    for part in (2, 1):
        run = Run(tmp_path, Shard(part, 2))
        with run.lock():
            run.append_generations([record(part)])
            run.append_scores([Score(record(part).key, "t", "p@1", "face_rate", 1, 0.5)])
    (torn,) = tmp_path.glob("generations.*-1-of-2.jsonl")
    with torn.open("ab") as stream:
        stream.write(b'{"case_id":')
    assert [run.root for run in find_runs(tmp_path)] == [tmp_path]
    whole = Run(tmp_path)
    with whole.lock():
        pass
    assert [r.case_id for r in whole.generations().values()] == ["c2", "c1"] and len(whole.scores()) == 2
    assert list(tmp_path.glob("*-of-*.jsonl")) == []
    assert (tmp_path / "generations.jsonl").read_bytes().count(b"\n") == 2


def test_a_kill_while_gathering_doubles_nothing(tmp_path: Path) -> None:
    run = Run(tmp_path, Shard(1, 2))
    with run.lock():
        run.append_generations([record(1), record(2)])
    (part,) = tmp_path.glob("generations.*.jsonl")
    first = part.read_bytes().splitlines(keepends=True)[0]
    (tmp_path / "generations.jsonl").write_bytes(first + b'{"torn')
    with Run(tmp_path).lock():
        pass
    assert (tmp_path / "generations.jsonl").read_bytes().count(b"\n") == 2
    assert [r.case_id for r in Run(tmp_path).generations().values()] == ["c1", "c2"]


def test_who_may_write_beside_whom(tmp_path: Path) -> None:
    with Run(tmp_path, Shard(1, 2)).lock():
        with pytest.raises(UserError, match="another ffbench is writing"), Run(tmp_path, Shard(1, 2)).lock():
            pass
        with pytest.raises(UserError, match="another ffbench is writing"), Run(tmp_path).lock():
            pass
        with Run(tmp_path, Shard(2, 2)).lock():
            pass
    with Run(tmp_path).lock():
        pass


def test_a_shard_waits_for_a_moment_and_not_for_a_whole_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ffbench.store._PASSING", 0.2)
    beside = Run(tmp_path, Shard(1, 2)).lock()
    with Run(tmp_path).lock(), pytest.raises(UserError, match="another ffbench is writing"), beside:
        pass


def test_a_shard_leaves_the_scratch_of_others_alone(tmp_path: Path) -> None:
    one, two = Run(tmp_path, Shard(1, 2)), Run(tmp_path, Shard(2, 2))
    left = tmp_path / ".part-2-of-2-killed"
    left.mkdir()
    with one.lock(), one.scratch() as mine:
        assert left.is_dir()
        with two.lock():
            assert mine.is_dir() and not left.exists()
    left.mkdir()
    with Run(tmp_path).lock():
        assert not left.exists()


def test_a_shard_writes_inside_its_lock_only(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="inside `lock`"):
        Run(tmp_path, Shard(1, 2)).append_generations([record(1)])


def test_no_change_of_the_meta_is_lost(tmp_path: Path) -> None:
    """Four processes change run.json fifty times each."""
    code = (
        "import sys\nfrom pathlib import Path\nfrom ffbench.shard import Shard\nfrom ffbench.store import Run\n"
        "part = int(sys.argv[2]); run = Run(Path(sys.argv[1]), Shard(part, 4))\n"
        "for number in range(50):\n"
        "    run.change_meta(lambda meta: meta.update({f'{part}-{number}': 1}))\n"
    )
    started = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path), str(part)]) for part in (1, 2, 3, 4)]
    assert [process.wait(timeout=200) for process in started] == [0] * 4
    assert len(Run(tmp_path).meta()) == 200
