"""The loop over workers: here and in processes, with deaths, hangs of callers, job changes and errors."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from ffbench.engine import Engine, Job, Result, Task, open_pool
from ffbench.errors import UserError

WORKERS = """
import errno, os, signal, time
from pathlib import Path
from ffbench.errors import UserError

class Toy:
    def __init__(self, config):
        self.folder, self.how = Path(config["folder"]), config.get("how", "")
        self.prepared = []
    def open(self):
        if self.how == "asks":
            raise UserError("no key", "get one")
        if self.how == "breaks":
            raise ValueError("no weights")
        if self.how == "dies":
            os._exit(3)
        if self.how == "late" and os.environ["FFBENCH_WORKER"] == "1":
            time.sleep(60)
        end = time.monotonic() + 40
        while self.how == "room" and not list(self.folder.glob("close-*")):
            time.sleep(0.02)
            if time.monotonic() > end:
                raise TimeoutError("nobody made room")
        (self.folder / f"open-{os.getpid()}-{time.monotonic_ns()}").touch()
    def ahead(self, payload):
        self.prepared.append(payload)
    def do(self, payload):
        what, number = payload
        with (self.folder / "log").open("a") as log:
            log.write(f"{os.getpid()} {what} {number}\\n")
        if what == "sleep":
            time.sleep(number)
        if what == "raise":
            raise ValueError(f"bad {number}")
        if what == "ask":
            raise UserError("no credit", "top up")
        if what == "full":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if what == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "die once":
            mark = self.folder / f"died-{number}"
            if not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
        if what == "done and dead":
            mark = self.folder / f"did-{number}"
            if mark.exists():
                raise ValueError("done twice")
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "await":
            end = time.monotonic() + 20
            while not self.prepared and time.monotonic() < end:
                time.sleep(0.01)
        if what == "gpu":
            time.sleep(number)
            return os.environ["CUDA_VISIBLE_DEVICES"]
        if what == "prepared":
            return payload in self.prepared
        if what == "print":
            print("on stdout")
        return [os.getpid(), number * 2, os.environ.get("OMP_NUM_THREADS", "")]
    def close(self):
        (self.folder / f"close-{os.getpid()}").touch()

class Other(Toy):
    pass

class Several(Toy):
    def each(self, payloads):
        with (self.folder / "batches").open("a") as log:
            log.write(f"{len(payloads)}\\n")
        return map(self.do, payloads)
"""
ENGINES = [Engine("here"), Engine("local", 1), Engine("local", 2)]


@pytest.fixture(autouse=True)
def toys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "toyworkers.py").write_text(WORKERS)
    monkeypatch.syspath_prepend(str(tmp_path))


def job(folder: Path, payloads: list[tuple[str, object]], ahead: int = 0, how: str = "", cls: str = "Toy") -> Job:
    tasks = [Task(payload, str(payload[0])) for payload in payloads]
    return Job(f"toyworkers:{cls}", {"folder": str(folder), "how": how}, tasks, ahead=ahead)


def run(engine: Engine, *jobs: Job) -> list[Result]:
    with open_pool(engine) as pool:
        return list(pool.run(jobs))


@pytest.mark.parametrize("engine", ENGINES, ids=str)
def test_each_task_gets_one_result(engine: Engine, tmp_path: Path) -> None:
    done = run(engine, job(tmp_path, [("double", n) for n in range(20)], ahead=1))
    assert sorted((one.job, one.task, one.value[1], one.error) for one in done) == [
        (0, n, 2 * n, "") for n in range(20)
    ]
    pids = {one.value[0] for one in done}
    assert (os.getpid() in pids) == (engine.kind == "here") and 1 <= len(pids) <= max(1, engine.workers)
    opened = list(tmp_path.glob("open-*"))
    assert len(opened) == len({p.name.split("-")[1] for p in opened}) <= max(1, engine.workers)
    assert len(list(tmp_path.glob("close-*"))) == len(opened)


def test_workers_work_side_by_side_on_their_share_of_the_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    done = run(Engine("local", 2), job(tmp_path, [("sleep", 0.3)] * 6))
    assert len({one.value[0] for one in done}) == 2
    assert {one.value[2] for one in done} == {str(max(1, len(os.sched_getaffinity(0)) // 2))}


@pytest.mark.parametrize("engine", ENGINES, ids=str)
def test_what_do_raises_is_the_result_of_that_task(engine: Engine, tmp_path: Path) -> None:
    done = run(engine, job(tmp_path, [("double", 1), ("raise", 7), ("double", 2)]))
    errors = {one.task: one.error for one in done}
    assert errors[0] == errors[2] == "" and errors[1].startswith("ValueError: bad 7 (toyworkers.py:")
    assert not any(one.lost for one in done)


@pytest.mark.parametrize("engine", ENGINES, ids=str)
def test_what_the_user_can_mend_ends_the_run(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no credit") as caught:
        run(engine, job(tmp_path, [("ask", 1), ("double", 1)]))
    assert caught.value.fix == "top up"
    with pytest.raises(OSError, match="No space left") as full:
        run(engine, job(tmp_path, [("full", 1)]))
    assert full.value.errno == 28
    with pytest.raises(UserError, match="no key"):
        run(engine, job(tmp_path, [("double", 1)], how="asks"))
    with pytest.raises(UserError, match=r"a worker \(Toy\) could not open: ValueError: no weights"):
        run(engine, job(tmp_path, [("double", 1)], how="breaks"))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_task_that_kills_twice_is_lost_and_no_other(workers: int, tmp_path: Path) -> None:
    payloads = [("double", 1), ("die", 0), ("die once", 5), ("double", 2), ("double", 3)]
    done = {one.task: one for one in run(Engine("local", workers), job(tmp_path, payloads, ahead=1))}
    assert sorted(done) == [0, 1, 2, 3, 4]
    assert done[1].lost and done[1].error == "the worker was killed by SIGKILL"
    assert [done[n].value[1] for n in (0, 2, 3, 4)] == [2, 10, 4, 6]
    begun = Counter(line.split(maxsplit=1)[1] for line in (tmp_path / "log").read_text().splitlines())
    assert begun["die 0"] == 2 and begun["die once 5"] == 2
    assert all(count == 1 for what, count in begun.items() if what.startswith("double"))


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("cls", ["Toy", "Several"])
def test_what_a_worker_had_done_when_it_died_is_not_done_again(workers: int, cls: str, tmp_path: Path) -> None:
    """Also where more die so than may die without a result between them."""

    def finished(payload: tuple[str, int]) -> str | None:
        return "told" if (tmp_path / f"did-{payload[1]}").exists() else None

    payloads: list[tuple[str, object]] = [("double", 50), *[("done and dead", n) for n in range(6)], ("die", 60)]
    several = {"batch": 4} if cls == "Several" else {"ahead": 1}
    tasks = replace(job(tmp_path, payloads, cls=cls), finished=finished, **several)
    done = {one.task: one for one in run(Engine("local", workers), tasks)}
    assert sorted(done) == list(range(8)) and done[0].value[1] == 100 and done[7].lost
    assert [(done[n].value, done[n].error, done[n].lost) for n in range(1, 7)] == [("told", "", False)] * 6
    begun = Counter(line.split(maxsplit=1)[1] for line in (tmp_path / "log").read_text().splitlines())
    assert all(begun[f"done and dead {n}"] == 1 for n in range(6))
    # the guilty one of several is found alone; a death behind a record is nobody's guilt
    assert begun["die 60"] in ((2,) if cls == "Toy" else (2, 3))


@pytest.mark.parametrize("engine", ENGINES, ids=str)
def test_tasks_done_together_have_their_own_results(engine: Engine, tmp_path: Path) -> None:
    payloads: list[tuple[str, object]] = [("double", 1), ("double", 2), ("raise", 3), ("double", 4), ("double", 5)]
    if engine.kind == "local":
        payloads[3] = ("die", 4)
    done = {one.task: one for one in run(engine, replace(job(tmp_path, payloads, cls="Several"), batch=4))}
    assert sorted(done) == list(range(5))
    assert [done[n].value[1] for n in (0, 1, 4)] == [2, 4, 10] and done[2].error.startswith("ValueError: bad 3")
    assert (done[3].lost and not done[2].lost) if engine.kind == "local" else done[3].value[1] == 8
    begun = Counter(line.split(maxsplit=1)[1] for line in (tmp_path / "log").read_text().splitlines())
    assert begun["double 1"] == begun["double 2"] == 1, "what was done before a death is not done again"
    assert "4" in (tmp_path / "batches").read_text().split() or engine.workers == 2


def test_workers_that_only_die_stop_the_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="5 workers died one after the other") as caught:
        run(Engine("local", 1), job(tmp_path, [("double", 1)], how="dies"))
    assert "exit code 3" in caught.value.what


@pytest.mark.parametrize("workers", [1, 3])
def test_deadly_tasks_cost_themselves_alone(workers: int, tmp_path: Path) -> None:
    """A worker that cannot even open still stops the run."""
    tasks = job(tmp_path, [*[("die", n) for n in range(6)], ("double", 3)])
    if workers == 1:
        with pytest.raises(UserError, match="5 workers died one after the other"):
            run(Engine("local", 1), tasks)
    done = {one.task: one for one in run(Engine("local", workers), replace(tasks, deadly=True))}
    assert [done[n].lost for n in range(7)] == [True] * 6 + [False]
    assert done[6].value[1] == 6
    with pytest.raises(UserError, match="workers died one after the other"):
        run(Engine("local", workers), replace(job(tmp_path, [("double", 1)] * 4, how="dies"), deadly=True))


@pytest.mark.parametrize("engine", ENGINES, ids=str)
def test_leftover_workers_take_the_next_job(engine: Engine, tmp_path: Path) -> None:
    first, second = job(tmp_path, [("sleep", 0.2)] * 3), job(tmp_path, [("double", 4)] * 5, cls="Other")
    done = run(engine, first, second)
    assert Counter(one.job for one in done) == {0: 3, 1: 5}
    # one worker finishes the first job first; a second one goes on with the next before that
    begun = [line.split()[1] for line in (tmp_path / "log").read_text().splitlines()]
    assert begun[:2] == ["sleep", "sleep"]
    if engine.workers < 2:
        assert begun == ["sleep"] * 3 + ["double"] * 5


def test_an_open_worker_does_what_a_late_one_was_to_do(tmp_path: Path) -> None:
    began = time.monotonic()
    done = run(Engine("local", 2), job(tmp_path, [("double", n) for n in range(4)], how="late"))
    assert sorted(one.task for one in done) == [0, 1, 2, 3] and len({one.value[0] for one in done}) == 1
    assert time.monotonic() - began < 30


def test_a_worker_makes_room_for_one_of_another_job_that_waits(tmp_path: Path) -> None:
    """The second job's worker opens only once the first one's is gone, as where there is one GPU."""
    first, second = job(tmp_path, [("double", 1)]), job(tmp_path, [("double", 2)], how="room")
    done = run(Engine("local", 2), first, second)
    assert sorted((one.job, one.value[1]) for one in done) == [(0, 2), (1, 4)]


@pytest.mark.parametrize("engine", ENGINES, ids=str)
def test_open_workers_serve_the_next_run(engine: Engine, tmp_path: Path) -> None:
    with open_pool(engine) as pool:
        for _ in range(3):
            assert len(list(pool.run([job(tmp_path, [("double", n) for n in range(4)])]))) == 4
    opened = [path.name.rpartition("-")[0] for path in tmp_path.glob("open-*")]
    assert len(opened) <= max(1, engine.workers)


@pytest.mark.parametrize("engine", [Engine("here"), Engine("local", 1)], ids=str)
def test_a_worker_is_shown_what_comes(engine: Engine, tmp_path: Path) -> None:
    done = run(engine, job(tmp_path, [("await", 1), ("prepared", 1)], ahead=1))
    values = {one.task: one.value for one in done}
    assert values[1]


def test_a_caller_that_stops_early_leaves_no_process(tmp_path: Path) -> None:
    with open_pool(Engine("local", 2)) as pool:
        results = pool.run([job(tmp_path, [("double", 1), ("sleep", 60), ("sleep", 60)])])
        next(results)
        results.close()
        pids = {int(line.split()[0]) for line in (tmp_path / "log").read_text().splitlines()}
        assert len(list(pool.run([job(tmp_path, [("double", 1)])]))) == 1
    with pytest.raises(KeyboardInterrupt), open_pool(Engine("local", 2)) as pool:
        next(pool.run([job(tmp_path, [("double", 1), ("sleep", 60), ("sleep", 60)])]))
        raise KeyboardInterrupt
    pids |= {int(line.split()[0]) for line in (tmp_path / "log").read_text().splitlines()}
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_workers_die_with_the_caller(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from ffbench.engine import Engine, Job, Task, open_pool\n"
        "job = Job('toyworkers:Toy', {'folder': sys.argv[1]}, [Task(('sleep', 60))] * 2)\n"
        "with open_pool(Engine('local', 2)) as pool: list(pool.run([job]))\n"
    )
    caller = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)])
    log = tmp_path / "log"
    until = time.monotonic() + 30
    while (not log.exists() or log.read_text().count("\n") < 2) and time.monotonic() < until:
        time.sleep(0.02)
    pids = [int(line.split()[0]) for line in log.read_text().splitlines()]
    caller.send_signal(signal.SIGKILL)
    caller.wait()
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < until:
        time.sleep(0.02)
    assert len(pids) == 2 and not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_prints_of_workers_do_not_reach_stdout(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run(Engine("local", 1), job(tmp_path, [("print", 1)]))
    out, err = capfd.readouterr()
    assert out == "" and "on stdout" in err


def test_each_worker_has_a_gpu_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-7")
    done = run(Engine("local", device="cuda"), job(tmp_path, [("gpu", 0.3)] * 6))
    assert {one.value for one in done} == {"3", "GPU-7"}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(UserError, match="the driver shows no GPU"):
        run(Engine("local", device="cuda"), job(tmp_path, [("gpu", 0.1)]))
