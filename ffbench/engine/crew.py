"""What the loop asks of workers, and what it hears from them."""

from __future__ import annotations

import errno
import importlib
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ffbench.engine.work import Job, Worker
from ffbench.errors import UserError

PATIENCE = 10.0
"""Seconds that an idle worker is given to end in peace."""
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class Opened:
    """The worker has loaded what it needs."""


@dataclass(frozen=True)
class Done:
    """The oldest task that the worker was sent has this value."""

    value: Any


@dataclass(frozen=True)
class Raised:
    """The oldest task that the worker was sent, or its opening, has raised."""

    error: Exception


@dataclass(frozen=True)
class Gone:
    """The worker has ended; how."""

    reason: str


Event = Opened | Done | Raised | Gone


class Crew(Protocol):
    """Workers by number, each working through what it is sent in order."""

    size: int

    def start(self, number: int, job: Job) -> None:
        """Begin to open a worker; `Opened`, `Raised` or `Gone` follows."""
        ...

    def send(self, number: int, payloads: Sequence[Any]) -> None:
        """Queue tasks that are done together; also before the worker is open."""
        ...

    def leave(self, number: int) -> None:
        """Let a worker end in peace; `Gone` follows."""
        ...

    def kill(self, number: int) -> None:
        """End a worker at once; nothing follows."""
        ...

    def wait(self, timeout: float) -> list[tuple[int, Event]]:
        """What has happened, by worker, in order; waits for something up to `timeout` seconds."""
        ...

    def close(self, patience: float) -> None:
        """End all workers, within `patience` seconds where they are idle."""
        ...


class Desk:
    """A worker's own side: makes the class, and turns what it raises into events."""

    def __init__(self, target: str, config: Any) -> None:
        self._target = target
        self._config = config
        self._worker: Worker | None = None
        self._busy = False

    def open(self) -> Event:
        """Make and open the worker."""
        module, _, name = self._target.partition(":")
        try:
            worker: Worker = getattr(importlib.import_module(module), name)(self._config)
            worker.open()
        except Exception as error:  # noqa: BLE001 - it crosses to the caller, who stops
            told = _told(error)
            if isinstance(told, UserError | OSError):
                return Raised(told)
            return Raised(
                UserError(
                    f"a worker ({name}) could not open: {told}", "the traceback is above, or in the logs of the cluster"
                )
            )
        self._worker = worker
        return Opened()

    def ahead(self, payload: Any) -> None:
        """Let the worker prepare a task that will come, if it is at work and can."""
        prepare = getattr(self._worker, "ahead", None)
        if prepare is not None and self._busy:
            prepare(payload)

    def do(self, payloads: Sequence[Any], queued: Callable[[], Iterable[Sequence[Any]]]) -> Iterator[Event]:
        """Do tasks together, while those that are queued behind them are prepared; an event for each, in order."""
        waiting = list(payloads)
        self._busy = True  # from here on whoever adds to the queue calls `ahead`
        for several in list(queued()):
            for one in several:
                self.ahead(one)
        try:
            while waiting:
                try:
                    for value in self._values(waiting):
                        del waiting[0]
                        yield Done(value)
                    if waiting:
                        raise RuntimeError(f"the worker ended with {len(waiting)} tasks undone")
                except Exception as error:  # noqa: BLE001 - it becomes the task's result
                    del waiting[0]
                    yield Raised(_told(error))
        finally:
            self._busy = False

    def _values(self, payloads: Sequence[Any]) -> Iterator[Any]:
        assert self._worker is not None
        each = getattr(self._worker, "each", None)
        return each(tuple(payloads)) if each is not None else map(self._worker.do, tuple(payloads))

    def close(self, in_peace: bool = True) -> None:
        """Close the worker, if it is open."""
        worker, self._worker = self._worker, None
        if worker is not None:
            (worker.close if in_peace else getattr(worker, "abandon", worker.close))()


def _told(error: Exception) -> Exception:
    """The error in a form that crosses to any process: types of the caller's alone, texts without folders."""
    if isinstance(error, UserError):
        return UserError(error.what, error.fix)
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        return OSError(error.errno, error.strerror)
    traceback.print_exception(error)
    last = traceback.extract_tb(error.__traceback__)[-3:]
    where = " < ".join(f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in reversed(last))
    return RuntimeError(f"{type(error).__name__}: {error} ({where})")
