"""N spawned processes that take sources one by one; one that dies or hangs costs one source."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import math
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
DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS})
"""No fault of one file: nothing can be written for any."""


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
        self.ready = False
        """Its networks are open."""
        self.at: Source | None = None
        self.deadline = math.inf
        self.tries = 0

    @property
    def waiting(self) -> bool:
        """Nothing is expected of it."""
        return self.ready and self.at is None

    def give(self, source: Source, timeout: float, tries: int) -> None:
        self.at, self.deadline, self.tries = source, time.monotonic() + timeout, tries
        # where it died meanwhile, the wait tells
        with contextlib.suppress(OSError):
            self.pipe.send(source)

    @property
    def ended(self) -> bool:
        return self.pipe.closed

    def end(self) -> int | None:
        """Kill it where it lives, and say how it ended."""
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
        while todo or any(worker.at for worker in workers):
            busy = [worker for worker in workers if not worker.waiting]
            until = min(worker.deadline for worker in busy) - time.monotonic()
            heard = wait([w.pipe for w in busy], timeout=None if until == math.inf else max(0.0, until))
            for worker in busy:
                if worker.pipe in heard:
                    done = _answer(worker, todo)
                elif time.monotonic() >= worker.deadline:
                    done = _failed(worker, "timeout", f"it took longer than {plan.timeout:g} s")
                else:
                    continue
                if done is not None:
                    yield done
                if worker.ended:
                    workers.remove(worker)
                    workers += [_Worker(plan)] if todo else []
                elif todo:
                    source, tries = todo.pop()
                    worker.give(source, plan.timeout, tries)
    finally:
        for worker in workers:
            worker.end()


def _answer(worker: _Worker, todo: list[tuple[Source, int]]) -> Done | None:
    """What a process said, or what its death means: None where it is ready, or its source is put back."""
    try:
        kind, *said = worker.pipe.recv()
    except (EOFError, OSError):
        source = worker.at
        if source is None:
            raise UserError(
                f"a process died while it opened the networks (exit code {worker.end()})",
                "is there memory for that many --workers?",
            ) from None
        # it has closed its end: let it die of what it dies of
        worker.process.join(5)
        code = worker.end()
        if worker.tries < 2:
            todo.append((source, worker.tries + 1))
            return None
        words = signal.Signals(-code).name if code and code < 0 else f"exit code {code}"
        return _failed(worker, "crash", f"the process that read it died twice ({words})")
    if kind == "user_error":
        raise UserError(*said)
    worker.ready, worker.at, worker.deadline = True, None, math.inf
    return None if kind == "ready" else Done(*said)


def _failed(worker: _Worker, reason: str, detail: str) -> Done:
    source = worker.at
    assert source is not None
    if not worker.ended:
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
        analyst = Analyst(plan.settings, open_instruments(plan.settings, plan.device), Folder(plan.root))
        pipe.send(("ready",))
        while True:
            source = pipe.recv()
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
    except UserError:
        raise
    except Exception as error:
        # what one file provokes costs that file, unless no file could be written
        if isinstance(error, OSError) and error.errno in DISK:
            raise
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
