"""From requests to videos by way of a vendor's queue: announce, submit, ask, fetch, with a journal beside.

One thread looks after all jobs of a batch, so each runs at the vendor while the others do. A job is never submitted
twice: an order is announced in the journal before it is sent, and where no answer tells what became of it, the vendor
is asked for a task with the order's mark.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from baselines.http.client import BusyError, MissingError, Network, Secrets, UnsureError
from baselines.http.fetch import ExpiredError, FetchError, UnsafeError, fetch_video
from baselines.http.journal import Entry, Journal
from ffbench.contract import Output, RefusedError, Request
from ffbench.records import Scalar, digest


@dataclass(frozen=True)
class Answer:
    """What the vendor says about a task."""

    url: str = ""
    """Of the video; empty while the task is queued or worked on."""
    facts: Mapping[str, Scalar] = field(default_factory=dict)
    """For the record, such as the units that the vendor counts."""


class Vendor(Protocol):
    """One vendor's dialect. Every method may raise BusyError, UnsureError and UserError."""

    secrets: Secrets

    def submit(self, request: Request, mark: str) -> str:
        """Order a video; the task id. RefusedError and RuntimeError mean that nothing was ordered."""
        ...

    def find(self, request: Request, order: Entry, known: set[str]) -> str | None:
        """The id of the task that carries an order's mark, None where the vendor has none; `known` are others' ids."""
        ...

    def ask(self, task: str) -> Answer:
        """How a task stands. RefusedError and RuntimeError: it failed; MissingError: the vendor has forgotten it."""
        ...


@dataclass(frozen=True)
class Pace:
    """Waiting, in seconds."""

    poll: float = 5.0
    first: float = 1.0
    """First pause after a throttling answer; doubled each time, plus a random half."""
    longest: float = 64.0
    settle: float = 5.0
    """After a submission without an answer: how long a task may take to become visible."""
    patience: float = 5400.0
    """Longest time with a job, queueing included."""
    faults: int = 8
    """Faults of the vendor in a row after which a job is given up for this run."""


@dataclass
class _Job:
    key: str
    request: Request
    order: Entry | None
    unsure: bool = False
    """Nobody knows whether the order was accepted."""
    due: float = 0.0
    began: float = field(default_factory=time.monotonic)
    busy: int = 0
    faults: int = 0
    error: Exception | None = None

    @property
    def finished(self) -> bool:
        return self.error is not None or bool(self.order and self.order.sha256)


class Jobs:
    """All jobs of one worker. Asked again for the same request, it gives the same answer without a new order."""

    def __init__(self, vendor: Vendor, state: Path, name: str, network: Network, pace: Pace) -> None:
        self._vendor = vendor
        self._journal = Journal(state, name)
        self._network = network
        self._pace = pace
        self._jobs: dict[str, _Job] = {}

    def outputs(self, requests: Sequence[Request]) -> Iterator[Output]:
        """One Output a request, in order; a copy of each video stays in the journal's folder.

        Raises:
            RefusedError, RuntimeError: what became of the request in front; the others go on when they are asked for.
            UserError: at once, for any job: the account or the key is the user's to mend.
        """
        for job in [self._job(request) for request in requests]:
            while not job.finished:
                self._advance()
            if job.error is not None:
                raise job.error
            assert job.order is not None
            target = Path(job.request.folder, "video.mp4")
            try:
                os.link(self._journal.video(job.order.mark), target)
            except OSError:  # a file system without hard links
                shutil.copyfile(self._journal.video(job.order.mark), target)
            yield Output(video=str(target), notes={"task": job.order.task, **job.order.facts})

    def _job(self, request: Request) -> _Job:
        case = request.case
        key = digest([case.suite, case.suite_version, case.case_id, request.seed], 12)
        if key not in self._jobs:
            order = self._journal.entry(key)
            if order is not None and order.ended:
                order = None
            if order is not None and order.sha256 and not _holds(self._journal.video(order.mark), order.sha256):
                order = Entry(order.mark, order.utc, order.task)  # gone or changed: the vendor may still have it
            unsure = order is not None and not order.task
            due = time.monotonic() + (self._pace.settle if unsure else 0.0)
            self._jobs[key] = _Job(key, request, order, unsure, due)
        job = self._jobs[key]
        job.request = request
        return job

    def _advance(self) -> None:
        """Bring the job that is due first one step on, after waiting for its time."""
        job = min((job for job in self._jobs.values() if not job.finished), key=lambda job: job.due)
        time.sleep(max(0.0, job.due - time.monotonic()))
        most = self._pace.faults
        try:
            self._step(job)
        except BusyError as error:
            job.busy += 1
            self._wait(job, job.busy, f"the vendor was busy all the time: {self._clean(error)}")
        except (UnsureError, FetchError) as error:
            job.faults += 1
            if job.faults > most and isinstance(error, ExpiredError):
                self._end(job, f"the video has expired at the vendor: {error}", RuntimeError)
            elif job.faults > most:
                job.error = RuntimeError(f"given up after {job.faults} faults: {self._clean(error)}{_again(job)}")
            self._wait(job, job.faults, self._clean(error))
        except UnsafeError as error:
            job.error = RuntimeError(self._clean(error) + _again(job))
        except MissingError as error:
            self._end(job, f"the vendor has forgotten the task: {error}", RuntimeError)
        except RefusedError as error:
            self._end(job, str(error), RefusedError)
        except RuntimeError as error:
            self._end(job, str(error), RuntimeError)

    def _end(self, job: _Job, why: str, kind: type[Exception]) -> None:
        text = self._vendor.secrets.hide(why)
        self._journal.ended(job.key, text)
        job.error = kind(text)

    def _step(self, job: _Job) -> None:
        if job.order is None:
            job.order = self._journal.announce(job.key)
        if job.order.task:
            self._follow(job, job.order)
            return
        if job.unsure:
            task = self._look(job.request, job.order)
            job.unsure = False
        else:
            task = self._submit(job, job.order)
        if task is not None:
            job.order = self._journal.accepted(job.key, task)
            job.busy = job.faults = 0
            job.due = time.monotonic() + self._pace.poll

    def _look(self, request: Request, order: Entry) -> str | None:
        try:
            return self._vendor.find(request, order, self._journal.tasks())
        except RuntimeError as error:  # no answer to the question is no reason to order again
            raise UnsureError(f"cannot tell whether {order.mark} was accepted: {error}") from None

    def _submit(self, job: _Job, order: Entry) -> str:
        try:
            return self._vendor.submit(job.request, order.mark)
        except UnsureError:
            job.unsure = True
            raise

    def _follow(self, job: _Job, order: Entry) -> None:
        answer = self._vendor.ask(order.task)
        job.busy = 0
        if not answer.url:
            job.faults = 0
            job.due = time.monotonic() + self._pace.poll
            self._give_up_late(job, "not finished")
            return
        sha256 = fetch_video(answer.url, self._journal.video(order.mark), self._network)
        job.order = self._journal.arrived(job.key, sha256, answer.facts)

    def _wait(self, job: _Job, times: int, why: str) -> None:
        """Exponential back-off with jitter; after an unanswered submission at least until the task can be seen."""
        pause = min(self._pace.longest, self._pace.first * 2.0 ** (times - 1)) * random.uniform(1.0, 1.5)
        job.due = time.monotonic() + max(pause, self._pace.settle if job.unsure else 0.0)
        self._give_up_late(job, why)

    def _give_up_late(self, job: _Job, why: str) -> None:
        if job.error is None and time.monotonic() - job.began > self._pace.patience:
            job.error = RuntimeError(f"{self._pace.patience:.0f} s have passed: {why}{_again(job)}")

    def _clean(self, error: Exception) -> str:
        return self._vendor.secrets.hide(str(error))


def _holds(path: Path, sha256: str) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest() == sha256


def _again(job: _Job) -> str:
    """What the user can do about a job that was given up but may still succeed at the vendor."""
    task = f" task {job.order.task}" if job.order and job.order.task else " an order that may have been accepted"
    return f"; --redo failed goes on with{task} and orders nothing new" if job.order else ""
