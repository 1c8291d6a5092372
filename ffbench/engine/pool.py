"""Workers that stay open between runs, and the one loop that feeds them, whatever they are."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from ffbench.engine.crew import PATIENCE, Crew, Done, Event, Gone, Opened, Raised
from ffbench.engine.schedule import Place, Schedule
from ffbench.engine.work import Engine, Job, Result
from ffbench.errors import UserError
from ffbench.progress import note

MAX_FALLS = 5
"""Workers that may die one after the other, without a result between them, before the run stops; at least as many as
there are workers. A task of a `deadly` job that is given up has its result."""
QUIET = 60.0
"""Seconds without any worker at work after which a line says so."""


@dataclass
class _Slot:
    """One worker, or the place of one."""

    job: Job | None = None
    """What it was started for."""
    open: bool = False
    leaving: bool = False
    sent: deque[Place] = field(default_factory=deque)
    """Tasks that are its own; it has them in hand once it is open."""
    last: Place | None = None

    def serves(self, job: Job) -> bool:
        """Whether it was opened with what a job asks for."""
        return self.job is not None and (self.job.worker, self.job.config) == (job.worker, job.config)


class Pool:
    """Workers of an engine. Made by `open_pool`; one run at a time."""

    def __init__(self, crew: Crew) -> None:
        self._crew = crew
        self._slots = [_Slot() for _ in range(crew.size)]
        self._falls = 0

    @property
    def size(self) -> int:
        """How many workers there are at most."""
        return len(self._slots)

    def run(self, jobs: Sequence[Job]) -> Iterator[Result]:
        """The results of all tasks of all jobs, as they come.

        A worker that dies is replaced, and its task is given to another; the task over which a second one dies is
        `lost`.

        Raises:
            UserError: what a worker asks of the user; a worker that cannot be opened; workers that die again and again.
            OSError: a worker's disk is full.
        """
        plan = Schedule([[task.group for task in job.tasks] for job in jobs], [job.batch for job in jobs])
        for slot in self._slots:
            slot.last = None
        idle = 0.0
        try:
            while plan.left:
                self._feed(plan, jobs)
                events = self._crew.wait(1.0)
                idle = 0.0 if events or any(slot.open for slot in self._slots) else idle + 1.0
                if idle == QUIET:
                    note(f"no worker has started after {QUIET:.0f} s; still waiting")
                for number, event in events:
                    yield from self._take(plan, jobs, number, event)
        finally:
            for number, slot in enumerate(self._slots):
                if slot.sent:  # the caller has stopped early; nobody will ask for what is on its way
                    self._crew.kill(number)
                    self._slots[number] = _Slot()

    def _feed(self, plan: Schedule, jobs: Sequence[Job]) -> None:
        for number, slot in enumerate(self._slots):
            while not slot.leaving and (not slot.sent or self._may_wait(slot)):
                others = [one.sent[-1] for one in self._slots if one.sent and one is not slot]
                places = plan.batch(slot.last, others, self.size)
                if not places and self._takes_over(plan, number, slot):
                    continue
                if not places or not self._fits(number, jobs[places[0].job], places[0]):
                    plan.put_back(places)
                    break
                slot = self._slots[number]  # a new one where the worker was of no use
                slot.sent.extend(places)
                slot.last = places[-1]
                if slot.open:
                    self._hand(number, jobs, places)

    def _hand(self, number: int, jobs: Sequence[Job], places: Sequence[Place]) -> None:
        self._crew.send(number, [jobs[place.job].tasks[place.task].payload for place in places])

    def _may_wait(self, slot: _Slot) -> bool:
        return slot.open and slot.job is not None and slot.job.batch == 1 and len(slot.sent) <= slot.job.ahead

    def _takes_over(self, plan: Schedule, number: int, slot: _Slot) -> bool:
        """Whether tasks of workers that are not open yet wait again, for an open one that would have nothing to do.

        There may be no room for those workers as long as this one stands; if it cannot do their tasks, it makes room.
        """
        if not slot.open or slot.sent:
            return False
        opening = [one for one in self._slots if one.job is not None and one.sent and not one.open]
        mine = [one for one in opening if slot.job is not None and one.serves(slot.job)]
        for one in mine[:1]:
            plan.put_back(one.sent)
            one.sent.clear()
        if opening and not mine:
            slot.leaving = True
            self._crew.leave(number)
        return bool(mine)

    def _fits(self, number: int, job: Job, place: Place) -> bool:
        """Whether a task of a job can be given to the worker of a slot now; if that only stands in the way, it goes."""
        slot = self._slots[number]
        if slot.sent and place.job != slot.sent[0].job:
            return False
        if slot.job is not None and not slot.serves(job):
            if slot.open:
                slot.leaving = True
                self._crew.leave(number)
                return False
            self._crew.kill(number)
            slot = self._slots[number] = _Slot(last=slot.last)
        if slot.job is None:
            self._crew.start(number, job)
        slot.job = job
        return True

    def _take(self, plan: Schedule, jobs: Sequence[Job], number: int, event: Event) -> Iterator[Result]:
        slot = self._slots[number]
        match event:
            case Opened():
                slot.open = True
                if slot.sent:
                    self._hand(number, jobs, slot.sent)
            case Done(value):
                self._falls = 0
                plan.ended()
                place = slot.sent.popleft()
                yield Result(place.job, place.task, value)
            case Raised(error):
                if isinstance(error, UserError | OSError):
                    raise error
                self._falls = 0
                plan.ended()
                place = slot.sent.popleft()
                yield Result(place.job, place.task, error=str(error))
            case Gone(reason):
                self._slots[number] = _Slot(last=slot.last)
                if not slot.leaving:
                    self._falls += 1
                    done = self._finished(jobs, slot)
                    for place, value in done.items():
                        self._falls = 0
                        plan.ended()
                        yield Result(place.job, place.task, value)
                    if done:
                        plan.put_back([place for place in slot.sent if place not in done])
                    else:
                        yield from self._fallen(plan, slot, reason)

    def _finished(self, jobs: Sequence[Job], slot: _Slot) -> dict[Place, Any]:
        """What a dead worker had done without saying so; then it had begun none of the others, as far as one knows."""
        values = {}
        for place in slot.sent if slot.open else ():
            job = jobs[place.job]
            value = job.finished(job.tasks[place.task].payload) if job.finished else None
            if value is not None:
                values[place] = value
        return values

    def _fallen(self, plan: Schedule, slot: _Slot, reason: str) -> Iterator[Result]:
        """A worker died: the task in work is to blame where it was open, the ones behind it are not."""
        together = slot.job.batch if slot.job else 1
        sent = list(slot.sent)
        blamed = sent[:together] if slot.open else []
        plan.put_back(sent[len(blamed) :])
        if blamed and plan.died(blamed):
            plan.ended()
            if slot.job and slot.job.deadly:
                self._falls = 0
            yield Result(blamed[0].job, blamed[0].task, error=reason, lost=True)
        if self._falls >= max(MAX_FALLS, 2 * self.size):
            raise UserError(
                f"{self._falls} workers died one after the other without a result; the last: {reason}",
                "see what is above; the same command goes on",
            )


@contextmanager
def open_pool(engine: Engine) -> Iterator[Pool]:
    """Workers of an engine, ended at the end: in peace, or at once after an error.

    Raises:
        UserError: for a Ray cluster that cannot be had.
    """
    crew = _crew(engine)
    patience = 0.0
    try:
        yield Pool(crew)
        patience = PATIENCE
    finally:
        crew.close(patience)


def _crew(engine: Engine) -> Crew:
    if engine.kind == "ray":
        from ffbench.engine.cluster import RayCrew

        return RayCrew(engine)
    if engine.kind == "local":
        from ffbench.engine.local import LocalCrew

        return LocalCrew(engine)
    from ffbench.engine.here import HereCrew

    return HereCrew()
