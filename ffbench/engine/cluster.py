"""Workers as actors of a Ray cluster, one that stands or one of this machine alone.

Ray is an optional extra. ffbench must be installed on every machine of the cluster and see the same folders.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import socket
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
KNOCK = 10.0
"""Seconds in which the address of a cluster must take a connection; Ray itself would try for minutes."""


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
        UserError: if Ray is not installed, the cluster does not answer, or none of its nodes is large enough for a job.
    """

    def __init__(self, engine: Engine) -> None:
        try:
            import ray
        except ImportError as error:
            raise UserError("--engine ray needs Ray", "pip install 'ffbench[ray]'") from error
        if engine.device.startswith("cuda:"):
            raise UserError(f"--engine ray chooses the GPUs, so --device {engine.device} cannot", "give --device cuda")
        self._ray: Any = ray
        self._aside = contextlib.ExitStack()
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_raylet_start_wait_time_s", "120")  # a busy machine is slow to start it
        self._path: list[str] = []
        self._env: dict[str, str] = {}
        if engine.address:
            self._env = {key: value for key, value in os.environ.items() if key.startswith("FFBENCH_")}
        else:
            self._path = [str(Path(entry).resolve()) for entry in sys.path]
        self._aside.enter_context(contextlib.redirect_stdout(sys.stderr))  # Ray tells of dead workers on stdout
        try:
            self.size = self._connect(engine)
        except BaseException:
            self._aside.close()
            raise
        self._actors: dict[int, Any] = {}
        self._fitting: set[tuple[int, int]] = set()
        self._asked: dict[Any, tuple[int, str]] = {}
        self._open: set[int] = set()

    def _connect(self, engine: Engine) -> int:
        """Connect; how many workers there are to be."""
        self._reach(engine)
        kind = "GPU" if engine.device == "cuda" else "CPU"
        size = engine.workers or int(self._ray.cluster_resources().get(kind, 0))
        if not size:
            self._ray.shutdown()
            raise UserError(f"the Ray cluster has no {kind}", "add a node that has some, or give --workers")
        return size

    def _reach(self, engine: Engine) -> None:
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        options["address"] = engine.address or "local"  # nothing: any cluster that happens to stand here
        if engine.address:
            _knock(engine.address)
        else:
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
                    raise _nobody(engine.address or "this machine", reason) from error
                note(f"Ray did not start ({reason}); trying again")

    def start(self, number: int, job: Job) -> None:
        """See `Crew`."""
        options: dict[str, Any] = {"num_cpus": 1, "num_gpus": job.gpus, "max_restarts": 0}
        if job.memory_gib:
            options["memory"] = int(job.memory_gib * 2**30)
        self._fit(job.gpus, options.get("memory", 0))
        if self._env:
            options["runtime_env"] = {"env_vars": self._env}
        actor = self._ray.remote(RemoteDesk).options(**options).remote((job.worker, job.config), number, self._path)
        self._actors[number] = actor
        self._asked[actor.open.remote()] = (number, "open")

    def _fit(self, gpus: int, memory: int) -> None:
        """See to it that some node could hold such an actor; a later one may wait for a node that was lost."""
        if (gpus, memory) in self._fitting:
            return
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        wanted = {"CPU": 1, "GPU": gpus, "memory": memory}
        if not any(all(node.get(name, 0) >= amount for name, amount in wanted.items()) for node in nodes):
            asked = ["1 CPU", *[f"{gpus} GPU"] * bool(gpus), *[f"{memory / 2**30:.1f} GiB of memory"] * bool(memory)]
            raise UserError(
                f"a worker needs {' and '.join(asked)}; no node of the Ray cluster has that",
                "add such a node, or say with --memory GIB what a worker really takes",
            )
        self._fitting.add((gpus, memory))

    def send(self, number: int, payloads: Sequence[Any]) -> None:
        """See `Crew`."""
        self._asked[self._actors[number].work.remote(list(payloads))] = (number, "work")

    def leave(self, number: int) -> None:
        """See `Crew`."""
        self._asked[self._actors[number].close.remote()] = (number, "close")

    def kill(self, number: int) -> None:
        """See `Crew`."""
        self._asked = {ref: asked for ref, asked in self._asked.items() if asked[0] != number}
        self._open.discard(number)
        actor = self._actors.pop(number, None)
        if actor is not None:
            self._ray.kill(actor)

    def wait(self, timeout: float) -> list[tuple[int, Event]]:
        """See `Crew`."""
        if not self._asked:
            return []
        self._ray.wait(list(self._asked), num_returns=1, timeout=timeout)
        # all that is there, in the order of asking: that an actor was open has to be heard before its death over a task
        ready, _ = self._ray.wait(list(self._asked), num_returns=len(self._asked), timeout=0)
        events: list[tuple[int, Event]] = []
        for ref in sorted(ready, key=list(self._asked).index):
            number, what = self._asked.pop(ref, (-1, ""))
            if not what:
                continue  # of an actor that was found dead just before
            try:
                answer = self._ray.get(ref)
            except self._ray.exceptions.RayError as error:
                self.kill(number)
                events.append((number, Gone(_reason(error))))
                continue
            if what == "work":
                events += [(number, decode(message)) for message in answer]
            elif what == "open":
                self._open.add(number)
                events.append((number, decode(answer)))
            else:
                self.kill(number)
                events.append((number, Gone("it was let go")))
        return events

    def close(self, patience: float) -> None:
        """See `Crew`."""
        if patience:
            # one that found no room yet would never answer
            leaving = [self._actors[number].close.remote() for number in self._open]
            with contextlib.suppress(self._ray.exceptions.RayError):
                self._ray.wait(leaving, num_returns=len(leaving), timeout=patience) if leaving else None
        for number in list(self._actors):
            self.kill(number)
        self._ray.shutdown()
        self._aside.close()


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"the worker's actor died ({type(error).__name__}): {lines[0] if lines else 'no reason given'}"


def _knock(address: str) -> None:
    """Find out at once whether anything listens at an address; those that Ray looks up itself are left to it."""
    found = re.fullmatch(r"(?:ray://)?([^/:]+|\[[^/]+\]):(\d{1,5})", address)
    if not found:
        if address == "auto":
            return
        raise UserError(
            f"--address {address!r} is no address", "write HOST:PORT as ray start --head prints it, or auto"
        )
    try:
        socket.create_connection((found[1].strip("[]"), int(found[2])), KNOCK).close()
    except (OSError, OverflowError) as error:
        raise _nobody(address, str(error)) from error


def _nobody(address: str, reason: str) -> UserError:
    return UserError(
        f"no Ray cluster at {address}: {reason}",
        "start one with ray start --head and give its --address, or use --engine local",
    )
