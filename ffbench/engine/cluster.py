"""Workers as actors of a Ray cluster, one that stands or one of this machine alone.

Ray is an optional extra. ffbench must be installed on every machine of the cluster and see the same folders.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ffbench.engine.crew import Desk, Event, Gone
from ffbench.engine.local import NUMBER
from ffbench.engine.wire import decode, encode
from ffbench.engine.work import Engine, Job
from ffbench.errors import UserError
from ffbench.processes import cpus
from ffbench.progress import note

STARTS = 3
"""Attempts to start a cluster of this machine: Ray waits half a minute for it, which a busy machine may exceed."""
STORE_BYTES = 200 * 2**20
"""Of Ray's object store on this machine: tasks and results are small."""


class RemoteDesk:
    """A worker's own side, inside an actor."""

    def __init__(self, job: tuple[str, Any], number: int, path: Sequence[str]) -> None:
        sys.path.extend(entry for entry in path if entry not in sys.path)
        os.environ[NUMBER] = str(number)
        self._desk = Desk(*job)

    def open(self) -> tuple[Any, ...]:
        """Make and open the worker."""
        return encode(self._desk.open())

    def work(self, payloads: Sequence[Any]) -> list[tuple[Any, ...]]:
        """Do tasks together."""
        return [encode(event) for event in self._desk.do(payloads, lambda: [])]

    def close(self) -> None:
        """Close the worker."""
        self._desk.close()


class RayCrew:
    """Actors by number; each asks the cluster for the GPUs and the memory of its job.

    Where the cluster has no room for all of them, those that find some do the work.

    Raises:
        UserError: if Ray is not installed, or the cluster does not answer.
    """

    def __init__(self, engine: Engine) -> None:
        try:
            import ray
        except ImportError as error:
            raise UserError("--engine ray needs Ray", "pip install 'ffbench[ray]'") from error
        self._ray: Any = ray
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_raylet_start_wait_time_s", "120")  # a busy machine is slow to start it
        self._path: list[str] = []
        self._env: dict[str, str] = {}
        if engine.address:
            self._env = {key: value for key, value in os.environ.items() if key.startswith("FFBENCH_")}
        else:
            self._path = [str(Path(entry).resolve()) for entry in sys.path]
        self._connect(engine)
        resources = self._ray.cluster_resources()
        kind = "GPU" if engine.device.startswith("cuda") else "CPU"
        self.size = engine.workers or int(resources.get(kind, 0))
        if not self.size:
            ray.shutdown()
            raise UserError(f"the Ray cluster has no {kind}", "add a node that has some, or give --workers")
        self._actors: dict[int, Any] = {}
        self._asked: dict[Any, tuple[int, str]] = {}

    def _connect(self, engine: Engine) -> None:
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        options["address"] = engine.address or "local"  # nothing: any cluster that happens to stand here
        if not engine.address:
            size = max(engine.workers, cpus())
            options |= {"num_cpus": size, "include_dashboard": False, "object_store_memory": STORE_BYTES}
        for left in reversed(range(1 if engine.address else STARTS)):
            try:
                self._ray.init(**options)
                return
            except Exception as error:  # also a bare one: a node that is late
                self._ray.shutdown()
                reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
                if not left:
                    raise UserError(
                        f"no Ray cluster at {engine.address or 'this machine'}: {reason}",
                        "start one with ray start --head and give its --address, or use --engine local",
                    ) from error
                note(f"Ray did not start ({reason}); trying again")

    def start(self, number: int, job: Job) -> None:
        """See `Crew`."""
        options: dict[str, Any] = {"num_cpus": 1, "num_gpus": job.gpus, "max_restarts": 0}
        if job.memory_gib:
            options["memory"] = int(job.memory_gib * 2**30)
        if self._env:
            options["runtime_env"] = {"env_vars": self._env}
        actor = self._ray.remote(RemoteDesk).options(**options).remote((job.worker, job.config), number, self._path)
        self._actors[number] = actor
        self._asked[actor.open.remote()] = (number, "open")

    def send(self, number: int, payloads: Sequence[Any]) -> None:
        """See `Crew`."""
        self._asked[self._actors[number].work.remote(list(payloads))] = (number, "work")

    def leave(self, number: int) -> None:
        """See `Crew`."""
        self._asked[self._actors[number].close.remote()] = (number, "close")

    def kill(self, number: int) -> None:
        """See `Crew`."""
        self._asked = {ref: asked for ref, asked in self._asked.items() if asked[0] != number}
        actor = self._actors.pop(number, None)
        if actor is not None:
            self._ray.kill(actor)

    def wait(self, timeout: float) -> list[tuple[int, Event]]:
        """See `Crew`."""
        if not self._asked:
            return []
        ready, _ = self._ray.wait(list(self._asked), num_returns=1, timeout=timeout)
        events: list[tuple[int, Event]] = []
        for ref in ready:
            number, what = self._asked.pop(ref)
            try:
                answer = self._ray.get(ref)
            except self._ray.exceptions.RayError as error:
                self.kill(number)
                events.append((number, Gone(_reason(error))))
                continue
            if what == "work":
                events += [(number, decode(message)) for message in answer]
            elif what == "open":
                events.append((number, decode(answer)))
            else:
                self.kill(number)
                events.append((number, Gone("it was let go")))
        return events

    def close(self, patience: float) -> None:
        """See `Crew`."""
        if patience:
            leaving = [actor.close.remote() for actor in self._actors.values()]
            with contextlib.suppress(self._ray.exceptions.RayError):
                self._ray.wait(leaving, num_returns=len(leaving), timeout=patience) if leaving else None
        for number in list(self._actors):
            self.kill(number)
        self._ray.shutdown()


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"the worker's actor died ({type(error).__name__}): {lines[0] if lines else 'no reason given'}"
