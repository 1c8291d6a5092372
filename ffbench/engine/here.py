"""One worker in this process."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

from ffbench.engine.crew import PATIENCE, Desk, Event, Gone
from ffbench.engine.work import Job


class HereCrew:
    """Does a task whenever it is waited for."""

    size = 1

    def __init__(self) -> None:
        self._desk: Desk | None = None
        self._opened = False
        self._left = False
        self._queue: deque[Sequence[Any]] = deque()
        self._work: Iterator[Event] = iter(())

    def start(self, number: int, job: Job) -> None:
        """See `Crew`."""
        self._desk, self._opened = Desk(job.worker, job.config), False

    def send(self, number: int, payloads: Sequence[Any]) -> None:
        """See `Crew`."""
        self._queue.append(payloads)

    def leave(self, number: int) -> None:
        """See `Crew`."""
        self.close(PATIENCE)
        self._left = True

    def kill(self, number: int) -> None:
        """See `Crew`."""
        self.close(0.0)

    def wait(self, timeout: float) -> list[tuple[int, Event]]:
        """See `Crew`; it works instead of waiting."""
        if self._left:
            self._left = False
            return [(0, Gone("it was let go"))]
        if self._desk is None:
            return []
        if not self._opened:
            self._opened = True
            return [(0, self._desk.open())]
        event = next(self._work, None)
        if event is None and self._queue:
            payloads = self._queue.popleft()
            self._work = self._desk.do(payloads, lambda: self._queue)
            event = next(self._work)
        return [(0, event)] if event else []

    def close(self, patience: float) -> None:
        """See `Crew`."""
        self._queue.clear()
        self._work = iter(())
        desk, self._desk = self._desk, None
        if desk is not None:
            desk.close(in_peace=patience > 0)
