"""The second stage: videos on disk become scores. Decodes once, measures once, writes a record a metric.

Workers write the records of what they measured; this process those of videos that killed their workers.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Literal

from ffbench.download import sha256_of
from ffbench.engine import Engine, Job, Pool, Task, open_pool
from ffbench.errors import UserError
from ffbench.extract.track import FaceTrack
from ffbench.measure import NEEDS, is_video_metric
from ffbench.metrics import identity
from ffbench.metrics.catalog import METRICS
from ffbench.planning import paced
from ffbench.progress import bar
from ffbench.protocols import Protocol
from ffbench.provenance import provenance
from ffbench.records import Case, Generation, to_json
from ffbench.scoring import Instruments, Measured, Photograph, Seen, Video, damaged_record
from ffbench.shard import Shard
from ffbench.store import Run
from ffbench.worker import DISK_FULL

Redo = Literal["missing", "failed", "all"]
SCORER = "ffbench.scoring:Scorer"
FALSE_ACCEPT_RATE = 0.01
"""Rate at which the suite's own strangers pass the same-identity threshold."""


@dataclass(frozen=True)
class ScoreOptions:
    """How to score; nothing here but `protocol` may change a number."""

    protocol: Protocol
    device: str = "cpu"
    redo: Redo = "missing"
    """`missing`: videos without a current score; `failed`: also those whose value is NaN; `all`: everything."""
    limit: int | None = None
    engine: Engine = field(default_factory=Engine)
    """Where the networks run."""
    shard: Shard | None = None
    """Score only this part of the cases; other commands score the others."""


@dataclass(frozen=True)
class ScoreSummary:
    """What one run's scoring did."""

    run: Run
    done_before: int
    scored: int
    damaged: int
    """Videos that could not be decoded; their Generation is now `failed`, with the reason."""
    missing: Mapping[str, str] = field(default_factory=dict)
    """slot -> the weights it needs and the command that gets them."""
    timings: Mapping[str, float] = field(default_factory=dict)
    """Seconds by part."""


@dataclass(frozen=True)
class _Held:
    """A run whose folder is held, and what is to be measured of it."""

    run: Run
    todo: Sequence[Generation]
    done_before: int
    cases: Mapping[str, Case]


@dataclass
class _Tally:
    scored: int = 0
    damaged: int = 0
    missing: Mapping[str, str] = field(default_factory=dict)
    timings: Mapping[str, float] = field(default_factory=dict)


def score(run: Run, options: ScoreOptions) -> ScoreSummary:
    """Score every ok video of a run that has no current score under the protocol; see `score_all`."""
    return score_all([run], options)[0]


def score_all(runs: Sequence[Run], options: ScoreOptions) -> list[ScoreSummary]:
    """Score every ok video of several runs that has no current score under the protocol.

    A killed call loses at most the videos in work; calling again goes on.

    Raises:
        UserError: for a run without videos, a reference without a face, missing detector weights, or a full disk.
    """
    try:
        with ExitStack() as stack:
            held = [_hold(run.sharded(options.shard), options, stack) for run in runs]
            tallies = [_Tally(missing=_known_missing(one.run, options.protocol)) for one in held]
            if any(one.todo for one in held):
                _score(held, tallies, options, stack)
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        raise UserError(
            f"no room to write in {runs[0].root}: {os.strerror(error.errno or 0)}",
            "free some space (or raise the quota or limit), and run the same command: it goes on from here",
        ) from error
    return [
        ScoreSummary(run, one.done_before, tally.scored, tally.damaged, tally.missing, tally.timings)
        for run, one, tally in zip(runs, held, tallies, strict=True)
    ]


def _hold(run: Run, options: ScoreOptions, stack: ExitStack) -> _Held:
    stack.enter_context(run.lock())
    todo, done = pending(run, options)
    return _Held(run, todo, done, run.cases())


def _score(held: Sequence[_Held], tallies: Sequence[_Tally], options: ScoreOptions, stack: ExitStack) -> None:
    pool = stack.enter_context(open_pool(options.engine))
    jobs = []
    for one, tally, seen in zip(held, tallies, _photographs(pool, held, options), strict=True):
        ids: Mapping[str, str] = {}
        if one.todo:
            first = next(iter(seen.values()))
            ids, tally.missing = first.ids, first.missing
        threshold = _note_instruments(one, seen, options) if one.todo else (math.nan, "")
        jobs.append(
            _job(options, [Task(video, video.case.prompt_id) for video in _videos(one, options, ids, threshold)])
        )
    progress = stack.enter_context(bar("score", sum(len(one.todo) for one in held), "video"))
    began = time.monotonic()
    timings: dict[int, Mapping[str, float]] = {}
    for done in pool.run(jobs):
        one, tally = held[done.job], tallies[done.job]
        if done.error and not done.lost:
            raise RuntimeError(f"{one.todo[done.task].handle}: {done.error}")
        made = Measured(f"measuring it failed twice: {done.error}") if done.lost else done.value
        if done.lost:
            one.run.append_generations([damaged_record(one.todo[done.task], made.damage)])
        if made.damage:
            tally.damaged += 1
        else:
            tally.scored += 1
            timings[made.worker] = made.timings
        progress.advance(failed=int(bool(made.damage)))
    _note_pace(held, tallies, options, time.monotonic() - began)
    for tally in tallies:
        tally.timings = {part: sum(t.get(part, 0.0) for t in timings.values()) for part in _parts(timings)}


def _videos(one: _Held, options: ScoreOptions, ids: Mapping[str, str], threshold: tuple[float, str]) -> Iterator[Video]:
    """What a worker needs of each video to be scored."""
    current: dict[str, list[str]] = {}
    for score in one.run.scores(options.protocol.id).values() if one.todo else ():
        current.setdefault(score.generation, []).append(to_json(score))
    for made in one.todo:
        yield Video(one.run, made, one.cases[made.case_id], ids, threshold, frozenset(current.get(made.key, ())))


def _note_pace(held: Sequence[_Held], tallies: Sequence[_Tally], options: ScoreOptions, seconds: float) -> None:
    """Keep with each run what its videos took, for the forecast of `--dry-run`."""
    share = seconds * max(options.engine.workers, 1) / max(sum(tally.scored for tally in tallies), 1)
    for one, tally in zip(held, tallies, strict=True):
        if scored := tally.scored:
            one.run.change_meta(
                partial(paced, protocol=options.protocol.id, videos=scored, worker_seconds=share * scored)
            )


def _parts(timings: Mapping[int, Mapping[str, float]]) -> list[str]:
    return sorted({part for one in timings.values() for part in one})


def _job(options: ScoreOptions, tasks: Sequence[Task]) -> Job:
    def finished(task: Photograph | Video) -> Measured | None:
        return _written(task, options) if isinstance(task, Video) else None

    gpus = int(options.device.startswith("cuda"))
    return Job(SCORER, Instruments(options.protocol, options.device), tasks, gpus, ahead=1, finished=finished)


def _written(video: Video, options: ScoreOptions) -> Measured | None:
    """What a worker that died has written of a video, if that is all."""
    if failed := video.run.new_generations().get(video.generation.key):
        return Measured(failed.error)
    written = {key[2] for key in video.run.new_scores() if key[:2] == (video.generation.key, options.protocol.id)}
    wanted = {name for name in options.protocol.metrics if is_video_metric(name)}
    return Measured() if wanted <= written else None


def _photographs(pool: Pool, held: Sequence[_Held], options: ScoreOptions) -> list[dict[str, Seen]]:
    """For each run what came of its photographs, by their sha256; all are measured before the first video."""
    wanted = []
    for one in held:
        firsts = {case.references[0].sha256: case.references[0] for case in one.cases.values()} if one.todo else {}
        wanted.append([Photograph(one.run, first.path, first.sha256) for first in firsts.values()])
    seen: list[dict[str, Seen]] = [{} for _ in held]
    jobs = [_job(options, [Task(photograph) for photograph in photographs]) for photographs in wanted]
    for done in pool.run(jobs):
        photograph = wanted[done.job][done.task]
        if done.error:
            raise RuntimeError(f"reference {photograph.path}: {done.error}")
        seen[done.job][photograph.sha256] = done.value
    return [{one.sha256: by_hash[one.sha256] for one in photos} for photos, by_hash in zip(wanted, seen, strict=True)]


def _note_instruments(one: _Held, seen: Mapping[str, Seen], options: ScoreOptions) -> tuple[float, str]:
    """Write down what the numbers of a run rest on; its threshold for the same identity."""
    first = next(iter(seen.values()))
    note = {
        "metrics": {name: METRICS[name].version for name in options.protocol.metrics},
        "networks": dict(first.ids),
        "missing": dict(first.missing),
        "references": {sha256: photograph.key for sha256, photograph in seen.items()},
        "notes": list(options.protocol.notes),
        "provenance": provenance(options.device),
    }
    one.run.change_meta(lambda meta: meta.setdefault("scoring", {}).update({options.protocol.id: note}))
    references = {sha256: FaceTrack.load(one.run.track(photograph.key)) for sha256, photograph in seen.items()}
    return _threshold(one.cases, references)


def given_run(run: Run, cases: Sequence[Case], videos: Mapping[str, Path], method: str) -> Run:
    """Register videos that the user brought as ok Generations of `method`; files stay where they are."""
    with run.lock():
        run.write_cases(cases)
        known = run.generations()
        new = []
        for case in cases:
            path = videos[case.case_id].resolve()
            sha256 = sha256_of(path)
            generation = Generation(
                case_id=case.case_id,
                suite=case.suite,
                suite_version=case.suite_version,
                method=method,
                revision="given",
                settings={"video": sha256},
                seed=0,
                take=0,
                status="ok",
                video=str(path),
                video_sha256=sha256,
                utc=datetime.now(UTC).isoformat(timespec="seconds"),
            )
            before = known.get(generation.key)
            if before is None or before.video != generation.video:
                new.append(generation)
        run.append_generations(new)
        if not run.meta():
            facts = {"summary": "videos given by the user", "kind": "given"}
            named = {f"{case.suite}@{case.suite_version}" for case in cases}
            run.write_meta({"method": method, "suite": ", ".join(sorted(named)), "card": facts})
    return run


def pending(run: Run, options: ScoreOptions) -> tuple[list[Generation], int]:
    """Videos to score and how many are already done.

    Raises:
        UserError: for a run without videos.
    """
    videos = [generation for generation in run.generations().values() if generation.status == "ok"]
    if not videos and not run.generations():
        raise UserError(f"{run.root} holds no videos", "ffbench generate --method NAME makes some")
    videos = videos[: options.limit] if options.limit is not None else videos
    if options.shard is not None:
        part = options.shard.of(run.cases().values())
        videos = [generation for generation in videos if generation.case_id in part]
    have = run.scores(options.protocol.id)
    metrics = [name for name in options.protocol.metrics if is_video_metric(name)]

    def current(generation: Generation) -> bool:
        for metric in metrics:
            record = have.get((generation.key, options.protocol.id, metric, METRICS[metric].version))
            if record is None or options.redo == "all":
                return False
            if record.reason and (options.redo == "failed" or record.reason.startswith(NEEDS)):
                return False
        return True

    todo = [generation for generation in videos if not current(generation)]
    return todo, len(videos) - len(todo)


def _known_missing(run: Run, protocol: Protocol) -> dict[str, str]:
    return dict(run.meta().get("scoring", {}).get(protocol.id, {}).get("missing", {}))


def _threshold(cases: Mapping[str, Case], references: Mapping[str, FaceTrack]) -> tuple[float, str]:
    """Arc cosine that FALSE_ACCEPT_RATE of the suite's pairs of strangers exceed."""
    people = {case.identity_id: references[case.references[0].sha256] for case in cases.values()}
    rows = [track.embeddings["arc"][0] for track in people.values() if "arc" in track.embeddings]
    return identity.stranger_threshold(rows, FALSE_ACCEPT_RATE)
