"""Workers as processes of this machine: one for each GPU, or as many as are asked for."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from ffbench.engine.crew import Event, Gone
from ffbench.engine.devices import gpus
from ffbench.engine.wire import decode
from ffbench.engine.work import Engine, Job
from ffbench.errors import UserError
from ffbench.processes import cpus, kill_group

_BOOT = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from ffbench.engine.process import main; main()"
NUMBER = "FFBENCH_WORKER"
"""Variable that tells a worker which one of its machine or cluster it is."""
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass
class _Hand:
    process: subprocess.Popen[bytes]
    link: Connection


class LocalCrew:
    """Processes by number.

    Start it from a thread that outlives it: on Linux a process follows the thread that started it.

    Raises:
        UserError: for `cuda` on a machine that shows no GPU.
    """

    def __init__(self, engine: Engine) -> None:
        self._gpus = gpus() if engine.device == "cuda" else []
        if engine.device == "cuda" and not self._gpus:
            raise UserError("--device cuda: the driver shows no GPU", "check nvidia-smi, or choose --device cpu")
        self.size = engine.workers or len(self._gpus) or 1
        self._hands: dict[int, _Hand] = {}

    def start(self, number: int, job: Job) -> None:
        """See `Crew`."""
        ours, theirs = socket.socketpair()
        path = [str(Path(entry).resolve()) for entry in sys.path]
        # a group of its own: Ctrl-C reaches the caller alone, and the worker ends with all that it has started
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-P", "-c", _BOOT, json.dumps(path), str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=sys.__stderr__ or None,
                env=self._environment(number),
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        link = Connection(ours.detach())
        self._hands[number] = _Hand(process, link)
        with contextlib.suppress(OSError):  # it died at once: `wait` tells
            link.send((job.worker, job.config))

    def send(self, number: int, payloads: Sequence[Any]) -> None:
        """See `Crew`."""
        self._say(number, list(payloads))

    def leave(self, number: int) -> None:
        """See `Crew`."""
        self._say(number, None)

    def kill(self, number: int) -> None:
        """See `Crew`."""
        if (hand := self._hands.pop(number, None)) is not None:
            hand.link.close()
            kill_group(hand.process)

    def wait(self, timeout: float) -> list[tuple[int, Event]]:
        """See `Crew`."""
        by_link = {hand.link: number for number, hand in self._hands.items()}
        if not by_link:
            return []
        events: list[tuple[int, Event]] = []
        for link in wait(list(by_link), timeout):
            assert isinstance(link, Connection)
            number = by_link[link]
            try:
                events.append((number, decode(link.recv())))
            except (EOFError, OSError):
                events.append((number, Gone(self._post_mortem(number))))
        return events

    def close(self, patience: float) -> None:
        """See `Crew`."""
        if patience:
            for number in self._hands:
                self._say(number, None)
        until = time.monotonic() + patience
        for number, hand in list(self._hands.items()):
            with contextlib.suppress(subprocess.TimeoutExpired):
                hand.process.wait(timeout=max(0.0, until - time.monotonic()))
            self.kill(number)

    def _say(self, number: int, message: Any) -> None:
        with contextlib.suppress(OSError):  # it died: `wait` tells, after what it had answered before
            self._hands[number].link.send(message)

    def _environment(self, number: int) -> dict[str, str]:
        env = dict(os.environ)
        share = str(max(1, cpus() // self.size))
        env |= {name: env.get(name, share) for name in THREADS} | {NUMBER: str(number)}
        if self._gpus:
            env["CUDA_VISIBLE_DEVICES"] = self._gpus[number % len(self._gpus)]
        return env

    def _post_mortem(self, number: int) -> str:
        hand = self._hands.pop(number)
        hand.link.close()
        try:
            code = hand.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            kill_group(hand.process)
            return "the worker closed its side and hung"
        kill_group(hand.process)
        if code < 0:
            return f"the worker was killed by {signal.Signals(-code).name}"
        return f"the worker ended with exit code {code}"
