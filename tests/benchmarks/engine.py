"""What the engine costs: time per task that does nothing, and weak scaling from 1 to 2 local workers.

    python tests/benchmarks/engine.py [--engine local|ray] [--tasks 1000]

Overhead: wall and CPU time of a run of empty tasks, caller and worker together, divided by their number; one task is
in flight. Scaling: wall time of some seconds of pure computation a worker, 1 worker against 2. On a machine that does
other work the CPU time that each got is printed beside, since it is that which scales.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from ffbench.engine import Engine, Job, Task, open_pool


class Bench:
    """Does nothing, or computes for so many seconds of its own CPU time; answers with the CPU seconds it has used."""

    def __init__(self, config: object) -> None:
        del config

    def open(self) -> None:
        """Nothing to load."""

    def do(self, seconds: float) -> tuple[int, float]:
        end = time.process_time() + seconds
        while time.process_time() < end:
            sum(range(1000))
        return os.getpid(), time.process_time()

    def close(self) -> None:
        """Nothing to leave."""


def job(seconds: float, count: int) -> Job:
    return Job("engine:Bench", None, [Task(seconds) for _ in range(count)])


def overhead(kind: str, tasks: int) -> None:
    with open_pool(Engine(kind, 1)) as pool:  # type: ignore[arg-type]
        (first,) = pool.run([job(0.0, 1)])
        walls, before = [], resource.getrusage(resource.RUSAGE_SELF)
        last = time.perf_counter()
        used = 0.0
        for done in pool.run([job(0.0, tasks)]):
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


def scaling(kind: str, seconds: float, pieces: int) -> None:
    walls, got = {}, {}
    for workers in (1, 2, 1, 2):
        with open_pool(Engine(kind, workers)) as pool:  # type: ignore[arg-type]
            list(pool.run([job(0.05, workers * 4)]))  # both are open now
            start = time.perf_counter()
            list(pool.run([job(seconds / pieces, workers * pieces)]))
            wall = time.perf_counter() - start
        walls.setdefault(workers, []).append(wall)
        got.setdefault(workers, []).append(workers * seconds / wall)
    rate = {workers: max(values) for workers, values in got.items()}
    print(
        f"{kind}: {seconds:g} CPU seconds a worker; wall 1 worker {walls[1]}, 2 workers {walls[2]}; "
        f"CPU got {rate[1]:.2f} and {rate[2]:.2f} of a core; weak scaling {rate[2] / rate[1]:.2f} times"
    )


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--engine", default="local", choices=["local", "ray"])
    options.add_argument("--tasks", type=int, default=1000)
    options.add_argument("--seconds", type=float, default=4.0)
    given = options.parse_args()
    overhead(given.engine, given.tasks)
    scaling(given.engine, given.seconds, 40)


if __name__ == "__main__":
    main()
