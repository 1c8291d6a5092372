"""What the engine costs: time per task that does nothing, and weak scaling from 1 to 2 local workers.

    python tests/benchmarks/engine.py [--engine local|ray] [--tasks 1000] [--rounds 5]

Overhead: wall and CPU time of a run of empty tasks, caller and worker together, divided by their number; one task is
in flight.

Weak scaling: the same amount of pure computation a worker, by 1 worker and by 2; work done a second by 2 over that by
1. Two cores may be the two threads of one: then no engine can double anything. So the same run also gives the machine's
own ceiling, the same work by one and by two plain processes that know nothing of each other or of any engine, and the
engine's share of it. All four take turns, round by round, and medians are given; the CPU time that each got stands
beside, since a machine that does other work gives less than asked for.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from ffbench.engine import Engine, Job, Result, Task, open_pool


def compute(amount: int) -> None:
    """Pure computation, a millisecond or so an `amount` of 100."""
    for _ in range(amount):
        sum(range(1000))


class Bench:
    """Computes so much, or nothing; answers with the CPU seconds it has used."""

    def __init__(self, config: object) -> None:
        del config

    def open(self) -> None:
        """Nothing to load."""

    def do(self, amount: int) -> tuple[int, float]:
        compute(amount)
        return os.getpid(), time.process_time()

    def close(self) -> None:
        """Nothing to leave."""


def job(amount: int, count: int) -> Job:
    return Job("engine:Bench", None, [Task(amount) for _ in range(count)])


def overhead(kind: str, tasks: int) -> None:
    with open_pool(Engine(kind, 1)) as pool:  # type: ignore[arg-type]
        (first,) = pool.run([job(0, 1)])
        walls, before = [], resource.getrusage(resource.RUSAGE_SELF)
        last = time.perf_counter()
        used = 0.0
        for done in pool.run([job(0, tasks)]):
            now = time.perf_counter()
            walls.append(now - last)
            last, used = now, done.value[1]
        after = resource.getrusage(resource.RUSAGE_SELF)
    caller = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    worker = used - first.value[1]
    print(
        f"{kind}: {tasks} empty tasks, a task takes {1e3 * statistics.median(walls):.2f} ms (median), "
        f"{1e3 * statistics.mean(walls):.2f} ms (mean) of wall time and {1e3 * (caller + worker) / tasks:.2f} ms of CPU"
    )


def by_engine(kind: str, workers: int, amount: int, pieces: int) -> tuple[float, float]:
    """Wall seconds of the work of so many workers, and the CPU seconds that they used for it."""
    with open_pool(Engine(kind, workers)) as pool:  # type: ignore[arg-type]
        before = _latest(pool.run([job(300, workers * 8)]))  # all are open now
        start = time.perf_counter()
        after = _latest(pool.run([job(amount // pieces, workers * pieces)]))
        wall = time.perf_counter() - start
    return wall, sum(after.values()) - sum(before.get(pid, 0.0) for pid in after)


def _latest(results: Iterable[Result]) -> dict[int, float]:
    found: dict[int, float] = {}
    for done in results:
        found[done.value[0]] = max(done.value[1], found.get(done.value[0], 0.0))
    return found


PLAIN = "import sys, time; sys.path.insert(0, sys.argv[1]); from engine import compute; print(flush=True); input()\n"
PLAIN += "used = time.process_time(); compute(int(sys.argv[2])); print(time.process_time() - used)"


def by_plain(processes: int, amount: int) -> tuple[float, float]:
    """The same by processes that know nothing of each other."""
    argv = [sys.executable, "-c", PLAIN, str(Path(__file__).resolve().parent), str(amount)]
    started = [
        subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(processes)
    ]
    for one in started:
        assert one.stdout is not None
        one.stdout.readline()
    start = time.perf_counter()
    for one in started:
        assert one.stdin is not None
        one.stdin.write("\n")
        one.stdin.flush()
    used = [float(one.stdout.readline()) for one in started if one.stdout]
    wall = time.perf_counter() - start
    for one in started:
        one.communicate()
    return wall, sum(used)


def scaling(kind: str, seconds: float, pieces: int, rounds: int) -> None:
    start = time.perf_counter()
    compute(20_000)
    amount = int(20_000 * seconds / (time.perf_counter() - start))
    walls: dict[str, list[float]] = {}
    cores: dict[str, list[float]] = {}
    for _ in range(rounds):
        for number in (1, 2):
            for name, (wall, used) in (
                (f"{number} plain", by_plain(number, amount)),
                (f"{number} {kind}", by_engine(kind, number, amount, pieces)),
            ):
                walls.setdefault(name, []).append(wall)
                cores.setdefault(name, []).append(used / wall)
    for name, found in walls.items():
        median = statistics.median(found)
        print(f"{name:<8} {median:.2f} s (median of {[round(one, 2) for one in found]}), cores got "
              f"{statistics.median(cores[name]):.2f}")  # fmt: skip
    times = {name: [2 * a / b for a, b in zip(walls[f"1 {name}"], walls[f"2 {name}"], strict=True)]
             for name in ("plain", kind)}  # fmt: skip
    ceiling, ours = statistics.median(times["plain"]), statistics.median(times[kind])
    print(
        f"weak scaling from 1 to 2 workers: {kind} {ours:.2f} times {[round(one, 2) for one in times[kind]]}; the "
        f"machine's ceiling, plain processes: {ceiling:.2f} {[round(one, 2) for one in times['plain']]}; share of it "
        f"{ours / ceiling:.0%}; load average {os.getloadavg()[0]:.1f}"
    )


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--engine", default="local", choices=["local", "ray"])
    options.add_argument("--tasks", type=int, default=1000)
    options.add_argument("--seconds", type=float, default=4.0, help="of work a worker")
    options.add_argument("--rounds", type=int, default=5)
    given = options.parse_args()
    overhead(given.engine, given.tasks)
    scaling(given.engine, given.seconds, 40, given.rounds)


if __name__ == "__main__":
    main()
