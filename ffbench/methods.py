"""Methods by name, and the process that a method runs in.

No method is imported here: its card is read from disk, and its adapter is imported by `ffbench.worker` in a process of
its own, with the interpreter that the card asks for.
"""

from __future__ import annotations

import difflib
import importlib.metadata
import importlib.util
import json
import math
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, BinaryIO, Self

from ffbench.cards import Card, card_gaps, read_card, with_variant
from ffbench.contract import Request, Runtime
from ffbench.environments import chosen, setup
from ffbench.errors import UserError
from ffbench.processes import group_memory, kill_group
from ffbench.records import Scalar, Status

__all__ = ["METHODS", "Answer", "MethodProcess", "card", "card_gaps", "find", "interpreter", "names", "set_up"]

METHODS: Mapping[str, str] = {
    "oracle": "baselines.oracle.adapter:Oracle",
    "still": "baselines.still.adapter:Still",
    "sway": "baselines.sway.adapter:Sway",
    "impostor": "baselines.impostor.adapter:Impostor",
    "command": "baselines.command.adapter:Command",
    "faithfulfaces": "baselines.faithfulfaces.adapter:FaithfulFaces",
    "vace": "baselines.vace.adapter:Vace",
    "phantom": "baselines.phantom.adapter:Phantom",
    "magref": "baselines.magref.adapter:Magref",
    "skyreels_a2": "baselines.skyreels_a2.adapter:SkyreelsA2",
    "consisid": "baselines.consisid.adapter:ConsisID",
    "standin": "baselines.standin.adapter:StandIn",
    "concat_id": "baselines.concat_id.adapter:ConcatID",
    "hunyuancustom": "baselines.hunyuancustom.adapter:HunyuanCustom",
    "kling": "baselines.kling.adapter:Kling",
    "vidu": "baselines.vidu.adapter:Vidu",
}
ENTRY_POINTS = "ffbench.methods"
MAX_DEATHS = 5
"""Workers that may die one after the other, without a video between them, before the command stops."""
LOAD_TIMEOUT = 3600.0
_WATCH = 1.0
_CARRIED = ("__init__", "errors", "records", "contract", "offload", "worker")
_BOOT = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from ffbench.worker import main; main()"


def names() -> dict[str, str]:
    """Every method's target by name: those of this project, and those that installed packages offer."""
    found = {entry.name: entry.value for entry in importlib.metadata.entry_points(group=ENTRY_POINTS)}
    return {**found, **METHODS}


def card(name: str) -> Card:
    """The card of a method of the table.

    Raises:
        UserError: for an unknown name (naming the nearest), or a card that cannot be read.
    """
    targets = names()
    if name not in targets:
        close = difflib.get_close_matches(name, targets, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise UserError(f"there is no method {name!r}{hint}", f"choose one of: {', '.join(sorted(targets))}")
    module = targets[name].partition(":")[0]
    top, *below = module.split(".")[:-1] or [module]
    spec = importlib.util.find_spec(top)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            f"method {name!r} points to {module}, and there is no package {top!r}", "install the package that holds it"
        )
    return read_card(Path(spec.submodule_search_locations[0], *below, "card.toml"), name, targets[name])


def find(name: str) -> Card:
    """The card for `name` or `name@variant`.

    Raises:
        UserError: for an unknown method or variant.
    """
    base, at, variant = name.partition("@")
    return with_variant(card(base), variant) if at else card(base)


def interpreter(card: Card) -> str:
    """The Python that runs a method: this one, or that of the method's own environment.

    Raises:
        UserError: if the method needs an environment of its own and none is set up.
    """
    base = card.name.partition("@")[0]
    python, _ = chosen(base)
    if not python and card.environment != "embedded":
        raise UserError(
            f"{base} needs its own environment, and none is set up",
            f"ffbench methods setup {base} --python python{card.python}",
        )
    return python or sys.executable


def set_up(name: str, python: str, as_is: bool, log: IO[bytes]) -> str:
    """Give a method an environment of its own (`ffbench.environments.setup`); its interpreter.

    Raises:
        UserError: for an unknown method, or an environment that does not work.
    """
    found = card(name)
    with tempfile.TemporaryDirectory() as folder:
        worker = None if found.environment == "embedded" else pack_worker(found, Path(folder))
        return setup(found, python, worker, as_is, log)


def pack_worker(card: Card, folder: Path) -> Path:
    """One zip with the worker and the method's folder: all that a foreign interpreter needs.

    The packages above the method are there as empty ones, so that nothing else of theirs is imported.
    """
    package = card.target.partition(":")[0].split(".")[:-1]
    path = folder / "worker.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("__main__.py", "from ffbench.worker import main\n\nmain()\n")
        for name in _CARRIED:
            archive.write(Path(__file__).with_name(f"{name}.py"), f"ffbench/{name}.py")
        for depth in range(1, len(package)):
            archive.writestr("/".join([*package[:depth], "__init__.py"]), "")
        for file in sorted(card.folder.rglob("*")):
            if file.is_file() and "__pycache__" not in file.parts:
                archive.write(file, "/".join([*package, *file.relative_to(card.folder).parts]))
    return path


@dataclass(frozen=True)
class Answer:
    """What a method answered to one request; files are named relative to the request's folder."""

    index: int
    status: Status
    error: str = ""
    frames: str = ""
    """File of raw uint8 RGB bytes, `shape` [T,H,W,3]."""
    shape: tuple[int, ...] = ()
    video: str = ""
    fps: float = 0.0
    seconds: float = 0.0
    """Since the answer before; in a batch that is made as one, the first answer carries the time of all."""
    peak_gib: float | None = None
    """GPU memory; None where no GPU was used."""
    notes: Mapping[str, Scalar] = field(default_factory=dict)


class _DiedError(Exception):
    """The worker is gone or of no more use; the message says how."""


class _KilledError(_DiedError):
    """It is gone and nobody here has ended it, so its request may be innocent and is given to another once."""


class MethodProcess:
    """A method in a process of its own, which is started again when it dies.

    Use as a context manager. `place` is a scratch folder, `log` collects what the method prints. Start it from a
    thread that outlives it: on Linux the worker follows the thread that started it.
    """

    def __init__(
        self, card: Card, settings: Mapping[str, Scalar], runtime: Runtime, place: Path, log: Path, timeout: float
    ) -> None:
        self._card = card
        self._order = {"target": card.target, "settings": dict(settings), "runtime": asdict(runtime)}
        self._place = place
        self._log = log
        self._timeout = timeout
        self._process: subprocess.Popen[bytes] | None = None
        self._lines: queue.Queue[bytes] = queue.Queue()
        self._log_start = 0
        self._deaths = 0
        self._peak = 0.0
        self.memory_gib = math.inf
        """Memory of this machine that the worker and what it has started may take together; checked each second."""
        self.environment: Mapping[str, Any] = {}
        """What the worker says about itself: python, packages, gpu."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.close(0.0 if kind else 10.0)

    def close(self, patience: float) -> None:
        """End the process: at once, or within so many seconds where it is idle."""
        self._end(patience)

    def run(self, requests: Sequence[Request]) -> Iterator[Answer]:
        """Answers to all requests, in order; a request that kills or stalls the worker is a failed answer.

        Raises:
            UserError: if the method asks the user for help, cannot load, or dies again and again.
            OSError: with the worker's errno, if its disk is full.
        """
        waiting = deque(enumerate(requests))
        alone = 0
        again: set[int] = set()
        while waiting:
            size = 1 if alone else self._card.batch
            sent = [waiting[i] for i in range(min(size, len(waiting)))]
            alone = max(0, alone - 1)
            try:
                self._send(sent)
                while sent and self._process:
                    message = self._receive(self._timeout * len(sent))
                    if message.pop("lost", False):
                        self._end(patience=10.0)
                        _empty(request for _, request in sent[1:])
                    answer = _answer(sent[0][0], message)
                    sent.pop(0)
                    waiting.popleft()
                    self._deaths = 0
                    yield answer
            except _DiedError as death:
                self._end(patience=0.0)
                if len(sent) > 1:
                    # one of several is guilty: each alone tells which
                    alone = len(sent)
                    _empty(request for _, request in sent)
                    continue
                if isinstance(death, _KilledError) and sent[0][0] not in again:
                    again.add(sent[0][0])
                    alone = 1
                    _empty(request for _, request in sent)
                    # counted when it ends the case: a case that kills two workers is one bad case
                    continue
                waiting.popleft()
                yield Answer(sent[0][0], "failed", str(death))
                self._count_death(death)

    def _count_death(self, death: _DiedError) -> None:
        self._deaths += 1
        if self._deaths >= MAX_DEATHS:
            first = str(death).splitlines()[0]
            raise UserError(
                f"the worker of {self._card.name} died {MAX_DEATHS} times without a video: {first}",
                f"see {self._log}; the same command goes on, with --redo failed it tries those again",
            )

    def _start(self) -> None:
        python = interpreter(self._card)
        env = {**os.environ, "PYTHONFAULTHANDLER": "1", "PYTHONUNBUFFERED": "1"}
        if self._card.environment == "embedded" and python != sys.executable:
            argv = [python, "-I", "-u", "-X", "faulthandler", "-c", "from ffbench.worker import main; main()"]
        elif self._card.environment == "embedded":
            path = [str(Path(entry).resolve()) for entry in sys.path]
            argv = [python, "-P", "-c", _BOOT, json.dumps(path)]
        else:
            argv = [python, str(pack_worker(self._card, self._place))]
            env = {key: value for key, value in env.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
        with self._log.open("ab") as log:
            log.write(f"--- {datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {self._card.name}\n".encode())
            log.flush()
            self._log_start = log.tell()
            # a group of its own, so that it ends with all that it has started, and Ctrl-C reaches the host alone
            self._process = subprocess.Popen(
                argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=env, start_new_session=True
            )
        self._lines, self._peak = queue.Queue(), 0.0
        threading.Thread(target=_pump, args=(self._process.stdout, self._lines), daemon=True).start()
        try:
            self._write({"load": self._order})
            ready = self._receive(LOAD_TIMEOUT)
        except _DiedError as death:
            self._end(patience=0.0)
            raise UserError(f"{self._card.name} could not start: {death}", f"see {self._log}") from death
        if "error" in ready:
            self._end(patience=0.0)
            raise UserError(f"{self._card.name} could not load: {ready['error']}", f"the traceback is in {self._log}")
        self.environment = ready["ready"]

    def _send(self, batch: Sequence[tuple[int, Request]]) -> None:
        if self._process and self._process.poll() is not None:
            self._end(patience=0.0)  # it died between two batches, which is no request's fault
        if self._process is None:
            self._start()
        self._log_start = self._log.stat().st_size
        self._write({"batch": [{"index": index, **asdict(request)} for index, request in batch]})

    def _write(self, message: Mapping[str, Any]) -> None:
        assert self._process is not None and self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()
        except OSError as error:
            raise _KilledError(self._post_mortem()) from error

    def _receive(self, timeout: float) -> dict[str, Any]:
        line, until = None, time.monotonic() + timeout
        while line is None:
            try:
                line = self._lines.get(timeout=min(_WATCH, max(0.0, until - time.monotonic())))
            except queue.Empty as error:
                self._watch()
                if time.monotonic() >= until:
                    raise _DiedError(f"timed out: no answer after {timeout:g} s{self._log_tail()}") from error
        if not line:
            raise _KilledError(self._post_mortem())
        try:
            message: dict[str, Any] = json.loads(line)
        except ValueError as error:
            raise _DiedError(f"the worker answered with {line[:80]!r}, which is no JSON") from error
        if "user_error" in message:
            raise UserError(*message["user_error"])
        if "errno" in message:
            raise OSError(message["errno"], os.strerror(message["errno"]))
        return message

    def _watch(self) -> None:
        assert self._process is not None
        taken = group_memory(self._process.pid)
        self._peak = max(self._peak, taken)
        if taken > self.memory_gib:
            raise _DiedError(
                f"the worker took {taken:.1f} GiB of memory, above the limit of {self.memory_gib:g}{self._log_tail()}"
            )

    def _post_mortem(self) -> str:
        assert self._process is not None
        try:
            code = self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            return f"the worker closed its side and hangs{self._log_tail()}"
        if code < 0:
            name = signal.Signals(-code).name if -code in list(signal.Signals) else f"signal {-code}"
            memory = f"; out of memory? It was seen at {self._peak:.1f} GiB" if -code == signal.SIGKILL else ""
            return f"the worker was killed by {name}{memory}{self._log_tail()}"
        return f"the worker ended with exit code {code}{self._log_tail()}"

    def _log_tail(self) -> str:
        """What the worker printed since it got the batch, its last lines."""
        with self._log.open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(self._log_start, size - 2000))
            lines = stream.read().decode("utf-8", "replace").strip().splitlines()[-10:]
        return "; its last words:\n" + "\n".join(lines) if lines else ""

    def _end(self, patience: float) -> None:
        """Let the worker leave, and kill it with all that it has started if it does not."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        try:
            process.stdin.close()
            if patience:
                process.wait(timeout=patience)
        except (OSError, subprocess.TimeoutExpired):
            pass
        if process.returncode is None:
            kill_group(process)


def _pump(stream: BinaryIO, lines: queue.Queue[bytes]) -> None:
    with stream:
        for line in stream:
            lines.put(line)
    lines.put(b"")


def _answer(index: int, message: Mapping[str, Any]) -> Answer:
    if message.get("index") != index:
        raise _DiedError(f"the worker answered request {message.get('index')} instead of {index}")
    return Answer(**{**message, "shape": tuple(message.get("shape", ()))})


def _empty(requests: Iterable[Request]) -> None:
    for request in requests:
        shutil.rmtree(request.folder)
        Path(request.folder).mkdir()
