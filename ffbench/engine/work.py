"""What is given to an engine, what comes back, and what a worker is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

Kind = Literal["here", "local", "ray"]


@dataclass(frozen=True)
class Engine:
    """Where work runs. Nothing here may change a result."""

    kind: Kind = "here"
    """`here`: this process; `local`: processes of this machine; `ray`: actors of a cluster."""
    workers: int = 0
    """How many; 0: one for each GPU, or without GPUs 1 here and one for each CPU of a cluster."""
    address: str = ""
    """Of a Ray cluster that stands; without one a cluster of this machine is started and ended."""
    device: str = "cpu"
    """`cpu`; `cuda` gives each worker a GPU of its own; `cuda:N` is one GPU for all."""


@dataclass(frozen=True)
class Task:
    """One piece of work. It crosses to another process, so it is small and names files instead of holding them."""

    payload: Any
    group: str = ""
    """Tasks of a group share something costly: one worker does them one after the other where that keeps all busy."""


@dataclass(frozen=True)
class Job:
    """Tasks that one kind of worker does."""

    worker: str
    """`package.module:Class`, importable wherever the engine runs; see `Worker`."""
    config: Any
    """What the class is called with. Workers that are open with an equal one are used again."""
    tasks: Sequence[Task]
    gpus: int = 0
    """GPUs that a worker needs."""
    memory_gib: float = 0.0
    """Memory of the machine that a worker needs; a cluster keeps it free."""
    batch: int = 1
    """Tasks that a worker is given together, at most; those have no effect on each other's values."""
    ahead: int = 0
    """Tasks that may wait at a worker beside the one in work, so that it can prepare them."""
    finished: Callable[[Any], Any] | None = None
    """Called here with the payload of a task whose worker died: the task's value, where the worker had written down all
    of it and could no longer say so; else None."""
    deadly: bool = False
    """Tasks kill workers by themselves, as damaged files do: however many are lost in a row, the run goes on."""


@dataclass(frozen=True)
class Result:
    """How one task ended. Exactly one comes for each task."""

    job: int
    task: int
    """Index in the job's tasks."""
    value: Any = None
    error: str = ""
    """What the worker raised, or how it died; empty for a value."""
    lost: bool = False
    """The worker died over this task, twice."""


class Worker(Protocol):
    """Made and used in one thread of one process.

    `UserError`, and an `OSError` of a full disk, raised anywhere in it, end the whole run. Any other exception of `do`
    is the error of that task, and of `open` a `UserError`.

    A class may have `each(payloads)`: it yields the values of several tasks in order, where a job has `batch`.

    A class may have `abandon()`: called in this process in place of `close` where work is broken off.

    A class may have `ahead(payload)`: while a task is in work it is called, from any thread, with one that waits behind
    it, and may begin to prepare that one in a thread of its own. It may come late, twice or never, and returns at once.
    """

    def __init__(self, config: Any) -> None: ...

    def open(self) -> None:
        """Load what all tasks need."""
        ...

    def do(self, payload: Any) -> Any:
        """Do one task; the value crosses to another process."""
        ...

    def close(self) -> None:
        """Let go of what `open` took, in peace; not called in a process that is killed."""
        ...
