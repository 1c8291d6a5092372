"""The first stage: cases and a method become videos and records. Resumable at any moment.

A run folder holds one revision of a method with one set of settings, always: a command with others is refused, so that
no table can mix them. For each video the order is frames, encoded file, synced record; a kill between two steps costs
the video in flight, and the next run makes it again.
"""

from __future__ import annotations

import errno
import hashlib
import math
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ffbench.cards import Card, for_suite, override
from ffbench.contract import Request, Runtime
from ffbench.cost import Meter, price_of
from ffbench.errors import UserError
from ffbench.image import ImageError
from ffbench.methods import Answer, MethodProcess, find, interpreter
from ffbench.progress import bar, note
from ffbench.provenance import provenance
from ffbench.records import Case, Generation, Scalar, derive_seed, digest
from ffbench.store import Run, run_folder
from ffbench.suites import Suite, prepare_reference
from ffbench.video import VideoError, read_clip, write_mp4
from ffbench.weights import weights_dir
from ffbench.worker import DISK_FULL

Redo = Literal["missing", "failed", "all"]
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
    for blank in wanted[: options.limit]:
        before = known.get(blank.key)
        if before is None or _again(run, before, options.redo):
            todo.append(blank)
        else:
            done.append(before)
    return Plan(run, card, settings, tuple(todo), tuple(done))


def generate(suite: Suite, method: str, out: Path, options: GenerateOptions) -> GenerateSummary:
    """Make the videos of a suite with a method, and a record of each attempt.

    Raises:
        UserError: for bad input, a run folder in use, a method that cannot load, or a full disk.
        KeyboardInterrupt: after everything is put away; the same command goes on.
    """
    _, _, run = _open(suite, method, out, options)
    try:
        with run.lock():
            todo = plan(suite, method, out, options)
            meter = meter_of(todo, options)
            if line := meter.estimate():
                note(line)
            if todo.todo:
                interpreter(todo.card)  # a missing environment is found out before the photographs are prepared
            run.write_cases(suite.cases)
            _write_meta(todo, suite, options)
            made: list[Generation] = []
            with (
                run.scratch() as scratch,
                bar("generate", len(todo.todo) + len(todo.done), "video", len(todo.done)) as shown,
            ):
                for record in _work(todo, suite, options, scratch):
                    run.append_generations([record])
                    made.append(record)
                    shown.advance(failed=int(record.status != "ok"))
                    meter.count(record)
    except OSError as error:
        if error.errno in DISK_FULL:
            raise UserError(
                f"no room to write in {run.root}: {os.strerror(error.errno or 0)}",
                "free some space (or raise the quota or file limit), and run the same command: it goes on from here",
            ) from error
        if error.errno in _SHUT:
            raise UserError(f"cannot write to {run.root}: {error}", "give a folder of your own with --out") from error
        raise
    if line := meter.total():
        note(line)
    states = [record.status for record in (*todo.done, *made)]
    return GenerateSummary(run, len(todo.done), *(states.count(state) for state in ("ok", "failed", "refused")))


def meter_of(todo: Plan, options: GenerateOptions) -> Meter:
    """What a plan would cost.

    Raises:
        UserError: where that is above the limit, or there is a limit and no price.
    """
    price = price_of(todo.card, todo.settings, options.price)
    return Meter(todo.card, price, len(todo.todo), options.max_cost)


def _open(suite: Suite, method: str, out: Path, options: GenerateOptions) -> tuple[Card, dict[str, Scalar], Run]:
    card = for_suite(find(method), suite.name)
    return card, override(card, options.settings), run_folder(out, suite.name, suite.version, card.name)


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
    meta = {
        **todo.run.meta(),
        "method": card.name,
        "suite": f"{suite.name}@{suite.version}",
        "card": facts,
        "settings": dict(todo.settings),
        "takes": options.takes,
        "limit": options.limit,
        "provenance": provenance(options.device),
    }
    todo.run.write_meta(meta)


def _work(todo: Plan, suite: Suite, options: GenerateOptions, scratch: Path) -> Iterator[Generation]:
    """Make what is to be made, one finished record after the other."""
    if not todo.todo:
        return
    cases = {case.case_id: case for case in suite.cases}
    prepared = _prepare(suite, scratch / "references")
    blanks: list[Generation] = []
    requests: list[Request] = []
    for blank in todo.todo:
        case = cases[blank.case_id]
        bad = [prepared[one.path] for one in case.references if isinstance(prepared[one.path], str)]
        if bad:
            yield _closed(blank, error=str(bad[0]))
            continue
        folder = scratch / f"request-{len(requests)}"
        folder.mkdir()
        references = tuple(replace(one, path=str(prepared[one.path])) for one in case.references)
        requests.append(Request(replace(case, references=references), blank.seed, str(folder)))
        blanks.append(blank)
    if not requests:
        return
    identities = {
        case.identity_id: str(prepared[case.references[0].path])
        for case in reversed(suite.cases)
        if case.references and isinstance(prepared[case.references[0].path], Path)
    }
    runtime = Runtime(options.device, str(weights_dir()), identities, str(todo.run.state().absolute()))
    log = todo.run.log("worker.log")
    with MethodProcess(todo.card, todo.settings, runtime, scratch, log, options.timeout) as process:
        process.memory_gib = options.memory
        for answer in process.run(requests):
            blank, folder = blanks[answer.index], Path(requests[answer.index].folder)
            yield _record(
                todo.run, blank, answer, folder, {**provenance(options.device), "worker": process.environment}
            )


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


def _record(run: Run, blank: Generation, answer: Answer, folder: Path, facts: Mapping[str, Any]) -> Generation:
    """Put the video of an answer in its place and close its record."""
    measured: dict[str, Any] = {
        "seconds": round(answer.seconds, 3) if answer.status == "ok" else math.nan,
        "peak_gib": math.nan if answer.peak_gib is None else round(answer.peak_gib, 3),
        "provenance": {**facts, "notes": dict(answer.notes)},
    }
    if answer.status != "ok":
        return _closed(blank, error=_anonymous(answer.error, folder), status=answer.status, **measured)
    target = run.new_video(blank.key)
    try:
        if answer.video:
            made = _take_video(folder, answer.video, target)
        else:
            frames = np.memmap(folder / answer.frames, np.uint8, "r", shape=answer.shape)
            write_mp4(target, frames, answer.fps)
            made = {"frames": answer.shape[0], "height": answer.shape[1], "width": answer.shape[2], "fps": answer.fps}
        measured["provenance"]["video"] = made
    except (VideoError, ValueError) as error:
        return _closed(blank, error=f"the method's video: {_anonymous(str(error), folder)}", **measured)
    finally:
        shutil.rmtree(folder)
    video = target.relative_to(run.root).as_posix()
    return _closed(blank, status="ok", video=video, video_sha256=_sha256(target), **measured)


def _closed(blank: Generation, **values: Any) -> Generation:
    return replace(blank, utc=datetime.now(UTC).isoformat(timespec="seconds"), **values)


def _take_video(folder: Path, name: str, target: Path) -> dict[str, Any]:
    """Move a video file that a method wrote, if it is a whole one and lies in the request's folder; what it really is.

    Raises:
        VideoError: otherwise.
    """
    path = folder / name
    try:
        mode = path.lstat().st_mode
    except OSError as error:
        raise VideoError(f"{path.name} is not there") from error
    if not stat.S_ISREG(mode) or not path.resolve().is_relative_to(folder.resolve()):
        raise VideoError(f"{path.name} is a link, no file, or lies outside the request's folder")
    clip = read_clip(path, [])  # decodes the whole file: what is kept is complete
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
    path.replace(target)
    width, height = clip.size
    return {"frames": clip.num_frames, "height": height, "width": width, "fps": round(clip.fps, 3)}


def _anonymous(text: str, folder: Path) -> str:
    """Error text without this machine's folders, which also differ between two runs."""
    text = text.replace(str(folder), "<request>").replace(str(folder.parent), "<scratch>")
    return text.replace(str(Path.home()), "~")


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
