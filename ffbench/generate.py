"""The first stage: cases and a method become videos and records. Resumable at any moment.

A run folder holds one revision of a method with one set of settings, always: a command with others is refused, so that
no table can mix them. For each video the order is frames, encoded file, synced record; a kill between two steps costs
the video in flight, and the next run makes it again. Workers write the records of what they made; this process those of
what none could.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import math
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from ffbench.cards import Card, for_suite, override
from ffbench.contract import Request, Runtime
from ffbench.cost import Meter, price_of
from ffbench.engine import Engine, Job, Task, open_pool
from ffbench.errors import UserError
from ffbench.image import ImageError
from ffbench.making import Order, closed_record
from ffbench.methods import find, interpreter
from ffbench.progress import bar, note
from ffbench.provenance import provenance
from ffbench.records import Case, Generation, Scalar, derive_seed, digest
from ffbench.shard import Shard
from ffbench.store import Run, run_folder
from ffbench.suites import Suite, prepare_reference
from ffbench.weights import weights_dir
from ffbench.worker import DISK_FULL

Redo = Literal["missing", "failed", "all"]
MAKER = "ffbench.making:Maker"
_SHUT = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)


@dataclass(frozen=True)
class GenerateOptions:
    """What to make and where to run it; `device` and `timeout` do not change a video."""

    settings: tuple[str, ...] = ()
    """Overrides of the card's settings, `key=value`."""
    takes: int = 1
    """Videos a case, each with a seed of its own."""
    limit: int | None = None
    """Make at most so many videos of the suite; for trials."""
    redo: Redo = "missing"
    """`missing`: cases without a record, or whose video is gone or changed; `failed`: also failed ones; `all`."""
    device: str = "cpu"
    timeout: float = 7200.0
    """Seconds one video may take before its worker is killed and the video is a failed record."""
    memory: float = math.inf
    """GiB of this machine's memory that a worker may take, with what it has started, before it is killed likewise."""
    max_cost: float | None = None
    """US dollars that the videos of this command may cost, for methods that must be paid for."""
    price: float | None = None
    """US dollars a video, instead of the card's price."""
    engine: Engine = field(default_factory=Engine)
    """Where the method runs."""
    shard: Shard | None = None
    """Make only this part of the cases; other commands make the others."""


@dataclass(frozen=True)
class GenerateSummary:
    """How a run stands after the command; the counts include what was done before it."""

    run: Run
    done_before: int
    ok: int
    failed: int
    refused: int


@dataclass(frozen=True)
class Plan:
    """What a command would do."""

    run: Run
    card: Card
    settings: Mapping[str, Scalar]
    todo: tuple[Generation, ...]
    """Records to be filled: status `failed`, no video yet."""
    done: tuple[Generation, ...]
    """Records that stand."""


def plan(suite: Suite, method: str, out: Path, options: GenerateOptions) -> Plan:
    """Decide what is to be made, without making it.

    Raises:
        UserError: for an unknown method or setting, or a run folder that holds something else.
    """
    card, settings, run = _open(suite, method, out, options)
    known = run.generations()
    _refuse_mixture(run, known, card, settings)
    _refuse_other_cases(run, suite)
    wanted = [_blank(case, card, settings, take) for take in range(options.takes) for case in suite.cases]
    todo: list[Generation] = []
    done: list[Generation] = []
    part = options.shard.of(suite.cases) if options.shard else None
    for blank in wanted[: options.limit]:
        if part is not None and blank.case_id not in part:
            continue
        before = known.get(blank.key)
        if before is None or _again(run, before, options.redo):
            todo.append(blank)
        else:
            done.append(before)
    return Plan(run, card, settings, tuple(todo), tuple(done))


def generate(suite: Suite, method: str, out: Path, options: GenerateOptions) -> GenerateSummary:
    """Make the videos of a suite with a method, and a record of each attempt; see `generate_all`."""
    return generate_all(suite, [method], out, options)[0]


def generate_all(suite: Suite, methods: Sequence[str], out: Path, options: GenerateOptions) -> list[GenerateSummary]:
    """Make the videos of a suite with several methods, and a record of each attempt.

    All workers serve the first method until none of its videos is left to begin; free ones then take the next.

    Raises:
        UserError: for bad input, a run folder in use, a method that cannot load, or a full disk.
        KeyboardInterrupt: after everything is put away; the same command goes on.
    """
    root = out
    try:
        with ExitStack() as stack:
            begun = []
            for method in dict.fromkeys(methods):
                root = _open(suite, method, out, options)[2].root
                begun.append(_begin(suite, method, out, options, stack))
            root = out
            _make(begun, options, stack)
    except OSError as error:
        if error.errno in DISK_FULL:
            raise UserError(
                f"no room to write in {root}: {os.strerror(error.errno or 0)}",
                "free some space (or raise the quota or file limit), and run the same command: it goes on from here",
            ) from error
        if error.errno in _SHUT:
            raise UserError(f"cannot write to {root}: {error}", "give a folder of your own with --out") from error
        raise
    for one in begun:
        if line := one.meter.total():
            note(line)
    return [_summary(one) for one in begun]


@dataclass(frozen=True)
class _Begun:
    """A method whose run folder is held."""

    plan: Plan
    meter: Meter
    closed: tuple[Generation, ...]
    """Records of cases whose photographs cannot be used."""
    job: Job
    made: list[Generation]


def _begin(suite: Suite, method: str, out: Path, options: GenerateOptions, stack: ExitStack) -> _Begun:
    run = _open(suite, method, out, options)[2]
    stack.enter_context(run.lock())
    todo = dataclasses.replace(plan(suite, method, out, options), run=run)
    meter = meter_of(todo, options)
    if line := meter.estimate():
        note(line)
    if todo.todo:
        interpreter(todo.card)  # a missing environment is found out before the photographs are prepared
    run.write_cases(suite.cases)
    _write_meta(todo, suite, options)
    scratch = stack.enter_context(run.scratch())
    closed, job = _job(todo, suite, options, scratch)
    return _Begun(todo, meter, tuple(closed), job, [])


def _make(begun: Sequence[_Begun], options: GenerateOptions, stack: ExitStack) -> None:
    """Run all jobs; append the records of what cannot be begun, and of what killed its workers."""
    total = sum(len(one.plan.todo) + len(one.plan.done) for one in begun)
    shown = stack.enter_context(bar("generate", total, "video", sum(len(one.plan.done) for one in begun)))

    def count(one: _Begun, record: Generation) -> None:
        one.made.append(record)
        shown.advance(failed=int(record.status != "ok"))
        one.meter.count(record)

    for one in begun:
        one.plan.run.append_generations(one.closed)
        for record in one.closed:
            count(one, record)
    if not any(one.job.tasks for one in begun):
        return
    pool = stack.enter_context(open_pool(options.engine))
    for done in pool.run([one.job for one in begun]):
        one = begun[done.job]
        blank = one.job.tasks[done.task].payload[0]
        if done.error and not done.lost:
            raise RuntimeError(f"{blank.handle}: {done.error}")
        if done.lost:
            lost = closed_record(blank, error=done.error)
            one.plan.run.append_generations([lost])
        count(one, lost if done.lost else done.value)


def _summary(one: _Begun) -> GenerateSummary:
    states = [record.status for record in (*one.plan.done, *one.made)]
    counts = [states.count(state) for state in ("ok", "failed", "refused")]
    return GenerateSummary(one.plan.run, len(one.plan.done), *counts)


def meter_of(todo: Plan, options: GenerateOptions) -> Meter:
    """What a plan would cost.

    Raises:
        UserError: where that is above the limit, or there is a limit and no price.
    """
    price = price_of(todo.card, todo.settings, options.price)
    return Meter(todo.card, price, len(todo.todo), options.max_cost)


def _open(suite: Suite, method: str, out: Path, options: GenerateOptions) -> tuple[Card, dict[str, Scalar], Run]:
    card = for_suite(find(method), suite.name)
    run = run_folder(out, suite.name, suite.version, card.name)
    return card, override(card, options.settings), run.sharded(options.shard)


def _blank(case: Case, card: Card, settings: Mapping[str, Scalar], take: int) -> Generation:
    return Generation(
        case_id=case.case_id,
        suite=case.suite,
        suite_version=case.suite_version,
        method=card.name,
        revision=card.revision,
        settings=settings,
        seed=derive_seed(case.suite, case.case_id, take),
        take=take,
        status="failed",
    )


def _again(run: Run, record: Generation, redo: Redo) -> bool:
    if redo == "all" or (redo == "failed" and record.status == "failed"):
        return True
    if record.status != "ok":
        return False
    path = run.video(record)
    return not path.is_file() or _sha256(path) != record.video_sha256


def _refuse_mixture(run: Run, known: Mapping[str, Generation], card: Card, settings: Mapping[str, Scalar]) -> None:
    for record in known.values():
        there: dict[str, Any] = {"revision": record.revision, **record.settings}
        here: dict[str, Any] = {"revision": card.revision, **settings}
        keys = [key for key in {**there, **here} if there.get(key) != here.get(key)]
        if keys:
            was = ", ".join(f"{key}={there.get(key)!r}" for key in keys)
            now = ", ".join(f"{key}={here.get(key)!r}" for key in keys)
            raise UserError(
                f"{run.root} was made with {was}; this command has {now}",
                "give another folder with --out, or the settings it was made with",
            )


def _refuse_other_cases(run: Run, suite: Suite) -> None:
    """A suite that changed without a new version would put two suites into one folder."""
    known = run.cases()
    for case in suite.cases:
        before = known.get(case.case_id)
        if before is not None and _content(before) != _content(case):
            raise UserError(
                f"case {case.case_id} of {suite.name}@{suite.version} differs from the one in {run.root}/cases.jsonl",
                "give the changed suite a new version, or another folder with --out",
            )


def _content(case: Case) -> str:
    photographs = [reference.sha256 for reference in case.references]
    return digest([case.identity_id, photographs, case.prompt_id, case.prompt, case.subject])


def _write_meta(todo: Plan, suite: Suite, options: GenerateOptions) -> None:
    card = todo.card
    facts = {
        "name": card.name,
        "summary": card.summary,
        "kind": card.kind,
        "revision": card.revision,
        "licence": card.licence,
        "paper": card.paper,
        "repository": card.repository,
        "commit": card.commit,
        "weights": [vars(weight) for weight in card.weights],
        "deviations": list(card.deviations),
        "environment": card.environment,
    }
    facts_of_run = {
        "method": card.name,
        "suite": f"{suite.name}@{suite.version}",
        "card": facts,
        "settings": dict(todo.settings),
        "takes": options.takes,
        "limit": options.limit,
        "provenance": provenance(options.device),
    }
    todo.run.change_meta(lambda meta: meta.update(facts_of_run))


def _job(todo: Plan, suite: Suite, options: GenerateOptions, scratch: Path) -> tuple[list[Generation], Job]:
    """The work of a plan, and the records of what cannot be begun."""
    cases = {case.case_id: case for case in suite.cases}
    prepared = _prepare(suite, scratch / "references") if todo.todo else {}
    closed: list[Generation] = []
    tasks: list[Task] = []
    for blank in todo.todo:
        case = cases[blank.case_id]
        bad = [prepared[one.path] for one in case.references if isinstance(prepared[one.path], str)]
        if bad:
            closed.append(closed_record(blank, error=str(bad[0])))
            continue
        references = tuple(replace(one, path=str(prepared[one.path])) for one in case.references)
        folder = scratch / f"request-{len(tasks)}"
        request = Request(replace(case, references=references), blank.seed, str(folder))
        tasks.append(Task((blank, request), case.prompt_id))
    identities = {
        case.identity_id: str(prepared[case.references[0].path])
        for case in reversed(suite.cases)
        if prepared and case.references and isinstance(prepared[case.references[0].path], Path)
    }
    card = todo.card
    runtime = Runtime(options.device, str(weights_dir()), identities, str(todo.run.state().absolute()))
    order = Order(todo.run, card, todo.settings, runtime, scratch, options.timeout, options.memory)
    gpus = int(options.device.startswith("cuda") and card.kind in ("open", "reference"))
    # weights pass through the machine's memory on their way to a GPU, and stay there where networks take turns
    memory = sum(card.parts.values()) if math.isinf(options.memory) else options.memory

    def finished(pair: tuple[Generation, Request]) -> Generation | None:
        return todo.run.new_generations().get(pair[0].key)

    return closed, Job(MAKER, order, tasks, gpus, memory, batch=card.batch, finished=finished)


def _prepare(suite: Suite, cache: Path) -> dict[str, Path | str]:
    """Each reference path -> its upright RGB PNG, or the reason why there is none."""
    cache.mkdir()
    prepared: dict[str, Path | str] = {}
    for reference in (reference for case in suite.cases for reference in case.references):
        if reference.path not in prepared:
            try:
                prepared[reference.path] = prepare_reference(Path(reference.path), cache)
            except (ImageError, OSError) as error:
                if isinstance(error, OSError) and error.errno in DISK_FULL:
                    raise
                name = Path(reference.path).name
                reason = (error.strerror if isinstance(error, OSError) else "") or str(error)
                prepared[reference.path] = f"reference {name}: {reason.replace(reference.path, name)}"
    return prepared


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
