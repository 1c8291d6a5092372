"""100,000 records appended, resumed and reported: seconds and memory.

    python tests/benchmarks/records.py [--methods 10] [--people 25] [--prompts 25] [--tracks] [--json FILE]

Ten methods with 625 videos each make 6,250 Generations and 93,750 Scores of the 15 video metrics of `standard`, sixteen
values a frame where a metric has them. They go through the product's own calls, in one process:

    append   each run's records by four workers with files of their own, inside its lock, one durable write a file; at
             its end these are put into the run's files
    resume   `ffbench.generate.plan`, which hashes each video again, and `ffbench.score.score`, which find nothing to do
    report   `ffbench.report.report` over all runs, without the page (its cost is that of pictures)

Stages write a record durably for each video instead, while a video takes seconds: what one such write takes is printed
beside what the disk takes to sync one line at all, which is no work of ours.

With --tracks each video also has its face track (the features that FID and the pose tables read, 2,048 numbers a
frame), as in a run that was really scored; reading them is the report's larger part then. Fails unless the steps take
less than 10 s together and the peak stays below 500 MB (without --tracks). On a busy machine the CPU seconds tell more
than the clock.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ffbench.extract.track import FaceTrack
from ffbench.generate import GenerateOptions, plan
from ffbench.measure import is_video_metric
from ffbench.metrics.catalog import METRICS
from ffbench.protocols import Protocol, get_protocol
from ffbench.records import Case, Generation, Reference, Score
from ffbench.report import ReportOptions, report
from ffbench.score import ScoreOptions, score
from ffbench.store import Run, worker_name
from ffbench.suites import Suite

SECONDS, MEGABYTES = 10.0, 500.0
FRAMES = 16
WORKERS = 4
PROTOCOL = "standard"
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def main() -> None:
    """Parse, measure, print; exit code 1 where a limit is passed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", type=int, default=10)
    parser.add_argument("--people", type=int, default=25)
    parser.add_argument("--prompts", type=int, default=25)
    parser.add_argument("--tracks", action="store_true", help="with the face track of every video")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        facts = measure(Path(folder), given.methods, (given.people, given.prompts), given.tracks)
    print(json.dumps(facts, indent=2))
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(facts, indent=2) + "\n")
    if not given.tracks and (facts["seconds"] >= SECONDS or facts["peak_mb"] >= MEGABYTES):
        sys.exit(f"above {SECONDS:g} s or {MEGABYTES:g} MB")


def measure(folder: Path, methods: int, shape: tuple[int, int], tracks: bool) -> dict[str, Any]:
    """Write, read and report the records; seconds, and the process's peak in MB, by step."""
    protocol, suite, out = get_protocol(PROTOCOL), _suite(folder, *shape), folder / "runs"
    names = [f"command@m{number}" for number in range(methods)]
    steps: dict[str, dict[str, float]] = {}
    count = 0
    for name in names:
        run, generations, scores = _made(suite, out, name, protocol, tracks)
        count += len(generations) + len(scores)
        with _timed(steps, "append"), run.lock():
            run.write_cases(suite.cases)
            for number in range(WORKERS):
                worker = run.by_worker(worker_name())
                worker.append_generations(generations[number::WORKERS])
                worker.append_scores(scores[number::WORKERS])
        assert len(list(run.root.glob("*.jsonl"))) == 3, "cases, generations and scores"
        del run, generations, scores
    for name in names:
        with _timed(steps, "resume"):
            found = plan(suite, name, out, GenerateOptions(settings=(ARGV,)))
            done = score(found.run, ScoreOptions(protocol))
        assert not found.todo and not done.scored, found.run.root
        assert len(found.done) == done.done_before == len(suite.cases), found.run.root
    with _timed(steps, "report"):
        made = report([out], ReportOptions(gallery=False))
    assert all(name in made.text for name in names), made.text
    return {
        "records": count,
        "tracks": tracks,
        "steps": steps,
        "seconds": sum(step["seconds"] for step in steps.values()),
        "peak_mb": max(step["peak_mb"] for step in steps.values()),
        "disk_mb": sum(path.stat().st_size for path in out.rglob("*.jsonl")) / 1e6,
        **_durable_writes(folder, protocol),
        "load_average": list(os.getloadavg()),
    }


def _durable_writes(folder: Path, protocol: Protocol, count: int = 100) -> dict[str, float]:
    """Milliseconds of one Generation written on its own, and of one line written and synced, in turns."""
    run, generations, _ = _made(_suite(folder, 10, count // 10), folder / "one by one", "command@m", protocol, False)
    ours, disk = [], []
    with run.lock(), (folder / "plain").open("ab") as plain:
        worker = run.by_worker(worker_name())
        for generation in generations:
            began = time.perf_counter()
            worker.append_generations([generation])
            between = time.perf_counter()
            plain.write(b"x" * 900 + b"\n")
            plain.flush()
            os.fsync(plain.fileno())
            ours.append(between - began)
            disk.append(time.perf_counter() - between)
    return {"durable_write_ms": 1e3 * statistics.median(ours), "disk_sync_ms": 1e3 * statistics.median(disk)}


@contextmanager
def _timed(steps: dict[str, dict[str, float]], name: str) -> Iterator[None]:
    """Add what the block takes to a step; the peak is that of the process while the step lasts."""
    step = steps.setdefault(name, {"seconds": 0.0, "cpu_seconds": 0.0, "peak_mb": 0.0})
    if CLEAR.exists():
        CLEAR.write_text("5")  # the peak starts anew from what is held now
    began, cpu = time.perf_counter(), time.process_time()
    yield
    step["seconds"] += time.perf_counter() - began
    step["cpu_seconds"] += time.process_time() - cpu
    step["peak_mb"] = max(step["peak_mb"], _peak_mb())


def _peak_mb() -> float:
    if STATUS.exists():
        return 1.024e-3 * next(int(line.split()[1]) for line in STATUS.read_text().splitlines() if "VmHWM" in line)
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1.024e-3


ARGV = 'argv=["true"]'


def _suite(folder: Path, people: int, prompts: int) -> Suite:
    photo = folder / "photo.png"
    photo.write_bytes(b"no picture is opened here")
    cases = [
        Case(
            "records", "1", f"id{i:03}-p{j:03}", f"id{i:03}", (Reference(str(photo), f"{i:064x}", "frontal"),),
            f"p{j:03}", f"The person does thing {j}.", tags=(("boxing", "reading")[j % 2], "large-pose")
        )
        for i in range(people)
        for j in range(prompts)
    ]  # fmt: skip
    return Suite("records", "1", "made for this benchmark", tuple(cases))


def _made(
    suite: Suite, out: Path, method: str, protocol: Protocol, tracks: bool
) -> tuple[Run, list[Generation], list[Score]]:
    """What `generate` and `score` would append to a run, with its videos on disk and its run.json."""
    todo = plan(suite, method, out, GenerateOptions(settings=(ARGV,)))
    random = np.random.default_rng(sum(method.encode()))
    run, generations = todo.run, [_closed(todo.run, blank) for blank in todo.todo]
    scores = [score for generation in generations for score in _scores(generation, protocol, random)]
    references = {case.references[0].sha256: f"ref{case.references[0].sha256[-8:]}" for case in suite.cases}
    run.write_meta({
        "method": method,
        "suite": f"{suite.name}@{suite.version}",
        "card": {"name": method, "kind": "open"},
        "scoring": {
            protocol.id: {
                "metrics": {name: METRICS[name].version for name in protocol.metrics},
                "networks": {"detector": "d", "arc": "a"},
                "references": references,
            }
        },
    })  # fmt: skip
    if tracks:
        for key in references.values():
            _track(random, 1).save(run.track(key))
        for generation in generations:
            _track(random, FRAMES).save(run.track(generation.key))
    return run, generations, scores


def _closed(run: Run, blank: Generation) -> Generation:
    import hashlib

    path = run.new_video(blank.key)
    path.write_bytes(blank.key.encode())
    facts = {"ffbench": "0.1.0", "torch": "2.15.0", "python": "3.11.2", "notes": {}, "video": {"frames": 81}}
    return replace(
        blank,
        status="ok",
        video=f"videos/{path.name}",
        video_sha256=hashlib.sha256(blank.key.encode()).hexdigest(),
        seconds=61.234,
        peak_gib=39.1,
        provenance=facts,
        utc="2026-01-01T00:00:00+00:00",
    )


def _scores(generation: Generation, protocol: Protocol, random: np.random.Generator) -> Iterator[Score]:
    for metric in filter(is_video_metric, protocol.metrics):
        per_frame = tuple(random.uniform(0, 1, FRAMES).tolist()) if metric.startswith(("facesim", "clip")) else ()
        yield Score(
            generation=generation.key,
            track=generation.key,
            protocol=protocol.id,
            metric=metric,
            version=METRICS[metric].version,
            value=float(random.uniform(0, 1)),
            num_frames=FRAMES,
            num_scored=FRAMES,
            per_frame=per_frame,
        )


def _track(random: np.random.Generator, count: int) -> FaceTrack:
    def rows(*shape: int) -> np.ndarray:
        return random.normal(size=(count, *shape)).astype(np.float32)

    return FaceTrack(
        number=np.arange(count),
        time=np.arange(count) / 8.0,
        box=rows(4),
        points=rows(5, 2),
        det_score=np.full(count, 0.9, np.float32),
        num_faces=np.ones(count, np.int64),
        step=("320",) * count,
        angles=30 * rows(3),
        embeddings={"arc": rows(512), "cur": rows(512), "facenet": rows(512)},
        features={"fid_inception": rows(2048)},
        clip_number=np.arange(count),
        clip=rows(512),
        size=(832, 480),
        networks={"detector": "d", "arc": "a"},
    )


if __name__ == "__main__":
    main()
