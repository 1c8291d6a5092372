"""One worker in this process."""

from __future__ import annotations

from collections import deque
from typing import Any

from ffbench.engine.crew import Desk, Event, Gone
from ffbench.engine.schedule import Place
from ffbench.engine.work import Job


class HereCrew:
    """Does a task whenever it is waited for."""

    size = 1

    def __init__(self) -> None:
        self._desk: Desk | None = None
        self._opened = False
        self._left = False
        self._queue: deque[Any] = deque()

    def start(self, number: int, job: Job) -> None:
        """See `Crew`."""
        self._desk, self._opened = Desk(job.worker, job.config), False

    def send(self, number: int, place: Place, payload: Any) -> None:
        """See `Crew`."""
        self._queue.append(payload)

    def leave(self, number: int) -> None:
        """See `Crew`."""
        self.close(0.0)
        self._left = True

    def kill(self, number: int) -> None:
        """See `Crew`."""
        self.close(0.0)

    def wait(self, timeout: float) -> list[tuple[int, Event]]:
        """See `Crew`; it works instead of waiting."""
        if self._left:
            self._left = False
            return [(0, Gone("it was let go"))]
        if self._desk is None or not self._queue:
            return []
        if not self._opened:
            self._opened = True
            return [(0, self._desk.open())]
        payload = self._queue.popleft()
        return [(0, self._desk.do(payload, list(self._queue)))]

    def close(self, patience: float) -> None:
        """See `Crew`."""
        self._queue.clear()
        desk, self._desk = self._desk, None
        if desk is not None:
            desk.close()
