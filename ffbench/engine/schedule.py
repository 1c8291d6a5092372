"""Which task a free worker gets next, and what becomes of the tasks of a worker that died. Pure bookkeeping."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

MAX_DEATHS = 2
"""Workers that one task may cost; then it is given up."""


class Place(NamedTuple):
    """A task: its job, and its index there."""

    job: int
    task: int


class Schedule:
    """The tasks of several jobs.

    Args:
        groups: for each job the group of every task, in the order of the tasks.
        batches: for each job how many tasks are done together, at most.
    """

    def __init__(self, groups: Sequence[Sequence[str]], batches: Sequence[int] = ()) -> None:
        self._groups = groups
        self._batches = batches or [1] * len(groups)
        self._waiting: list[dict[str, deque[int]]] = []
        for names in groups:
            by_group: dict[str, deque[int]] = {}
            for task, name in enumerate(names):
                by_group.setdefault(name, deque()).append(task)
            self._waiting.append(by_group)
        self._deaths: Counter[Place] = Counter()
        self._alone: set[Place] = set()
        self.left = sum(len(names) for names in groups)
        """Tasks without an end."""

    def next(self, last: Place | None, others: Iterable[Place]) -> Place | None:
        """The task for a worker that was given `last` before, while the workers beside it were given `others`.

        First of the same job and group, then of a group that nobody else is at, then of the longest one. A worker whose
        job has none left takes the first job that has.
        """
        open_jobs = [job for job, waiting in enumerate(self._waiting) if waiting]
        if not open_jobs:
            return None
        job = last.job if last is not None and last.job in open_jobs else open_jobs[0]
        waiting = self._waiting[job]
        mine = self._groups[job][last.task] if last is not None and last.job == job else None
        if mine is None or mine not in waiting:
            taken = {self._groups[job][one.task] for one in others if one.job == job}
            mine = next((name for name in waiting if name not in taken), None) or _longest(waiting)
        queue = waiting[mine]
        task = queue.popleft()
        if not queue:
            del waiting[mine]
        return Place(job, task)

    def batch(self, last: Place | None, others: Sequence[Place], workers: int) -> list[Place]:
        """Tasks of one job to be done together, as `next` chooses them; few enough that all `workers` get some."""
        first = self.next(last, others)
        if first is None:
            return []
        together = [first]
        waiting = 1 + sum(len(queue) for queue in self._waiting[first.job].values())
        size = min(self._batches[first.job], -(-waiting // workers))
        while len(together) < size and first not in self._alone:
            more = self.next(together[-1], others)
            if more is None or more.job != first.job or more in self._alone:
                self.put_back([more] if more else [])
                break
            together.append(more)
        return together

    def ended(self) -> None:
        """One task has its result."""
        self.left -= 1

    def put_back(self, places: Sequence[Place]) -> None:
        """Tasks that a worker had not begun wait again, before the others of their groups."""
        for job, task in reversed(places):
            self._waiting[job].setdefault(self._groups[job][task], deque()).appendleft(task)

    def died(self, places: Sequence[Place]) -> bool:
        """A worker died over tasks that it did together: they wait again, or the only one is given up (True).

        Of several nobody knows the guilty one, so each is done alone from then on.
        """
        if len(places) == 1:
            self._deaths[places[0]] += 1
            if self._deaths[places[0]] >= MAX_DEATHS:
                return True
        else:
            self._alone.update(places)
        self.put_back(places)
        return False


def _longest(waiting: Mapping[str, deque[int]]) -> str:
    return max(waiting, key=lambda name: len(waiting[name]))
