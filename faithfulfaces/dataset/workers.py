"""N spawned processes that take sources one by one; one that dies or hangs costs one source."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple

from faithfulfaces.dataset.records import ClipRecord, Outcome
from faithfulfaces.dataset.settings import Settings
from faithfulfaces.dataset.sources import Source, clip_key
from ffbench.errors import UserError

Stages = dict[str, tuple[int, float]]
PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What each process is told."""

    settings: Settings
    root: Path
    """Of the build."""
    device: str = "cpu"
    workers: int = 1
    timeout: float = 1800.0
    """Seconds after which a source counts as hanging."""


class Done(NamedTuple):
    """A source's outcome, and (frames, seconds) of each stage."""

    outcome: Outcome
    stages: Stages


class _Worker:
    """One process and the source that it is at."""

    def __init__(self, plan: Plan) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(plan, theirs, os.getpid()), daemon=True)
        self.process.start()
        theirs.close()
        self.at: Source | None = None
        self.deadline = 0.0
        self.tries = 0

    def give(self, source: Source, timeout: float, tries: int) -> None:
        self.at, self.deadline, self.tries = source, time.monotonic() + timeout, tries
        # where it died meanwhile, the wait tells
        with contextlib.suppress(OSError):
            self.pipe.send(source)

    def end(self) -> int | None:
        self.process.kill()
        self.process.join()
        self.pipe.close()
        return self.process.exitcode


def outcomes(plan: Plan, sources: Sequence[Source]) -> Iterator[Done]:
    """Outcomes of all sources in the order in which they are done.

    A source whose process dies is tried once more in a new process, since memory may have been short by another's
    fault; the second death, or a source that takes longer than `Plan.timeout`, is a failed record.

    Raises:
        UserError: what the processes need is missing, or the disk is full: nothing can be done for any source.
    """
    todo = [(source, 1) for source in reversed(sources)]
    workers = [_Worker(plan) for _ in range(min(plan.workers, len(sources)))]
    try:
        for worker in workers:
            worker.give(*_next(todo, plan))
        while busy := [worker for worker in workers if worker.at is not None]:
            ready = wait([w.pipe for w in busy], timeout=max(0.0, min(w.deadline for w in busy) - time.monotonic()))
            for worker in busy:
                if worker.pipe in ready:
                    done = _answer(worker, todo)
                elif time.monotonic() >= worker.deadline:
                    done = _failed(worker, "timeout", f"it took longer than {plan.timeout:g} s")
                else:
                    continue
                if done is not None:
                    yield done
                if worker.process.exitcode is not None:
                    workers[workers.index(worker)] = worker = _Worker(plan)
                worker.at = None
                if todo:
                    worker.give(*_next(todo, plan))
    finally:
        for worker in workers:
            worker.end()


def _next(todo: list[tuple[Source, int]], plan: Plan) -> tuple[Source, float, int]:
    source, tries = todo.pop()
    return source, plan.timeout, tries


def _answer(worker: _Worker, todo: list[tuple[Source, int]]) -> Done | None:
    """What a process said, or what its death means: None for a source that is put back."""
    try:
        kind, *said = worker.pipe.recv()
    except (EOFError, OSError):
        source = worker.at
        assert source is not None
        if worker.tries < 2:
            worker.end()
            todo.append((source, worker.tries + 1))
            return None
        worker.process.join()
        code = worker.process.exitcode
        words = signal.Signals(-code).name if code and code < 0 else f"exit code {code}"
        return _failed(worker, "crash", f"the process that read it died twice ({words})")
    if kind == "user_error":
        raise UserError(*said)
    return Done(*said)


def _failed(worker: _Worker, reason: str, detail: str) -> Done:
    source = worker.at
    assert source is not None
    worker.end()
    return Done(_lost(source, reason, detail), {})


def _serve(plan: Plan, pipe: Connection, parent: int) -> None:
    """The process: opens the networks, then answers a source with its outcome until the pipe closes."""
    _die_with(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    import cv2

    from faithfulfaces.dataset.clip import Analyst
    from faithfulfaces.dataset.folder import Folder
    from faithfulfaces.dataset.instruments import open_instruments

    if plan.device == "cpu":
        cv2.setNumThreads(1)
    try:
        analyst: Any = None
        while True:
            source = pipe.recv()
            if analyst is None:
                analyst = Analyst(plan.settings, open_instruments(plan.settings, plan.device), Folder(plan.root))
            analyst.timing.clear()
            pipe.send(("done", _outcome(analyst, source), analyst.timing.stages()))
    except EOFError:
        return
    except UserError as error:
        pipe.send(("user_error", error.what, error.fix))
    except OSError as error:
        pipe.send(("user_error", f"{plan.root} cannot be written: {error}", "make room; the same command goes on"))


def _outcome(analyst: Any, source: Source) -> Outcome:
    try:
        made: Outcome = analyst.outcome(source)
        return made
    except (UserError, OSError):
        raise
    except Exception as error:  # noqa: BLE001 - whatever one file provokes costs that file, with its reason
        traceback.print_exc()
        return _lost(source, "error", f"{type(error).__name__}: {error}"[:500])


def _lost(source: Source, reason: str, detail: str) -> Outcome:
    size = source.path.stat().st_size if source.path.is_file() else 0
    record = ClipRecord(
        key=clip_key(source.name, 0), source=source.name, source_bytes=size, reason=reason, detail=detail
    )
    return Outcome(source=source.name, bytes=size, clips=(record,))


def _die_with(parent: int) -> None:
    """Ask Linux to end this process with its parent, which may be killed while this one decodes."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
