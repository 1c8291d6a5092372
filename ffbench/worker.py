"""The process that a method runs in: JSON lines in, JSON lines out.

Standard library only (NumPy where a method returns frames, and it has it then), Python 3.10 or newer: this file also
runs inside the foreign environments of methods. In: one `load` line, then `batch` lines. Out: one `ready` line, then
one line a request in order. Nothing else can reach the real stdout: the descriptor is moved away before a method is
imported, and what libraries print goes to the log.
"""

from __future__ import annotations

import atexit
import ctypes
import errno
import gc
import importlib
import importlib.metadata
import json
import math
import os
import platform
import queue
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from ffbench.contract import Method, Output, RefusedError, Request, Runtime
from ffbench.errors import UserError
from ffbench.records import Case, from_json

Answer = Callable[[Mapping[str, Any]], None]
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the system says when a file cannot grow: the disk, the quota or the process's file limit."""
_PACKAGES = {
    "torch": "torch",
    "diffusers": "diffusers",
    "transformers": "transformers",
    "onnxruntime": "onnxruntime",
    "numpy": "numpy",
    "cv2": "opencv-python",
    "PIL": "pillow",
}
_MAX_ERROR = 1500
_GRACE = 1.0


def serve(lines: Iterable[bytes], answer: Answer) -> None:
    """Load the method that the first line names and answer every request of the lines after it.

    Returns early where the method cannot load, has failed for good (a lost CUDA context) or asks the user for help.
    """
    method: Method | None = None
    for line in lines:
        message = json.loads(line)
        if method is None:
            method = _load(message["load"], answer)
            if method is None:
                return
        elif not _batch(method, [_request(item) for item in message["batch"]], answer):
            return


def _load(order: Mapping[str, Any], answer: Answer) -> Method | None:
    module, _, name = order["target"].partition(":")
    try:
        method: Method = getattr(importlib.import_module(module), name)(order["settings"])
        method.load(Runtime(**order["runtime"]))
    except UserError as error:
        answer({"user_error": [error.what, error.fix]})
        return None
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a method raises is passed on with its reason
        traceback.print_exc()
        answer({"error": _describe(error)})
        return None
    answer({"ready": _environment()})
    return method


def _request(item: Mapping[str, Any]) -> tuple[int, Request]:
    return item["index"], Request(from_json(Case, json.dumps(item["case"])), item["seed"], item["folder"])


def _batch(method: Method, waiting: list[tuple[int, Request]], answer: Answer) -> bool:
    """Answer every request of a batch; False where the process cannot go on."""
    error = _attempt(method, waiting, answer)
    if error is None:
        return True
    if len(waiting) > 1:
        # one of several is guilty: each alone tells which
        for index, request in waiting:
            shutil.rmtree(request.folder, ignore_errors=True)
            Path(request.folder).mkdir()
            if not _batch(method, [(index, request)], answer):
                return False
        return True
    traceback.print_exception(error)
    index = waiting[0][0]
    if isinstance(error, UserError):
        answer({"index": index, "user_error": [error.what, error.fix]})
        return False
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        answer({"index": index, "errno": error.errno})
        return False
    text = str(error) if isinstance(error, RefusedError) else _describe(error)
    lost = "CUDA error" in text
    status = "refused" if isinstance(error, RefusedError) else "failed"
    answer({"index": index, "status": status, "error": text, "lost": lost})
    error.__traceback__ = None  # frees the tensors that its frames hold
    gc.collect()
    return not lost


def _attempt(method: Method, waiting: list[tuple[int, Request]], answer: Answer) -> BaseException | None:
    """Answer and take away from `waiting` until the method raises."""
    try:
        outputs = iter(method.generate([request for _, request in waiting]))
        while waiting:
            started = time.monotonic()
            _reset_peak()
            output = next(outputs, None)
            if output is None:
                return RuntimeError("the method ended without an output for this request")
            index, request = waiting[0]
            made = _deliver(output, request)
            answer(
                {"index": index, "status": "ok", "seconds": time.monotonic() - started, "peak_gib": _peak_gib(), **made}
            )
            waiting.pop(0)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a method may raise anything; it becomes a record
        return error
    return None


def _deliver(output: Output, request: Request) -> dict[str, Any]:
    notes = {str(key): _plain(value) for key, value in output.notes.items()}
    if (output.frames is None) == (not output.video):
        raise ValueError("an Output holds either frames or the path of a video")
    if output.frames is None:
        return {"video": str(output.video), "notes": notes}
    import numpy as np

    frames = output.frames
    shape = tuple(getattr(frames, "shape", ()))
    if not isinstance(frames, np.ndarray) or frames.dtype != np.uint8 or len(shape) != 4 or shape[3] != 3:
        kind = f"{type(frames).__name__} {getattr(frames, 'dtype', '')} {list(shape)}"
        raise ValueError(f"frames must be a uint8 array [T,H,W,3], got {kind}")
    if 0 in shape:
        raise ValueError(f"frames are empty: {list(shape)}")
    if not (math.isfinite(output.fps) and output.fps > 0):
        raise ValueError(f"fps must be above zero, got {output.fps!r}")
    # plain bytes: numpy's own writers lose the errno of a full disk
    Path(request.folder, "frames.rgb").write_bytes(np.ascontiguousarray(frames).data)
    return {"frames": "frames.rgb", "shape": list(shape), "fps": float(output.fps), "notes": notes}


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, str | bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return str(value)


def _describe(error: BaseException) -> str:
    """Type, message and the last three frames by file name, without the folders of this machine."""
    last = traceback.extract_tb(error.__traceback__)[-3:]
    where = " < ".join(f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in reversed(last))
    text = f"{type(error).__name__}: {str(error)[:_MAX_ERROR]}"
    return f"{text} ({where})" if where else text


def _environment() -> dict[str, Any]:
    """Versions of the packages that the method has imported, and the GPU that it uses."""
    packages = {}
    for module, name in _PACKAGES.items():
        if module in sys.modules:
            try:
                packages[name] = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                packages[name] = str(getattr(sys.modules[module], "__version__", "unknown"))
    cuda = _cuda()
    gpu = str(cuda.get_device_name()) if cuda else ""
    return {"python": platform.python_version(), "packages": packages, "gpu": gpu}


def _cuda() -> Any:
    """`torch.cuda` where the method uses it, else None; torch is never imported for this."""
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    return cuda if cuda is not None and cuda.is_initialized() else None


def _reset_peak() -> None:
    cuda = _cuda()
    if cuda:
        cuda.reset_peak_memory_stats()


def _peak_gib() -> float | None:
    cuda = _cuda()
    return cuda.max_memory_allocated() / 2**30 if cuda else None


class _Inbox:
    """Lines of the host as they come; the end of them while a request is worked on means that the host has died."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._lines: queue.Queue[bytes] = queue.Queue()
        self._idle = threading.Event()
        self._gone = threading.Event()
        threading.Thread(target=self._read, daemon=True).start()

    def __iter__(self) -> Iterator[bytes]:
        while True:
            self._idle.set()
            line = self._lines.get()
            self._idle.clear()
            if not line or self._gone.is_set():
                return
            yield line

    def _read(self) -> None:
        for line in self._stream:
            self._lines.put(line)
        self._gone.set()
        # a host that has its last answer may close before this process is back at its inbox
        if not self._idle.wait(timeout=_GRACE):
            end_group()
        self._lines.put(b"")


def end_group(*_: object) -> None:
    """Kill this process with everything that it has started; also a signal handler."""
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def leave() -> NoReturn:
    """End this process in peace without the interpreter's teardown, which takes 1.6 s with torch and diffusers."""
    atexit._run_exitfuncs()  # what a method has put there is done all the same
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _follow_parent() -> None:
    """Ask Linux for a signal when the parent dies; elsewhere the end of stdin alone has to do."""
    signal.signal(signal.SIGTERM, end_group)
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)


def main() -> None:
    """Speak on the real stdin and stdout; everything else that is printed goes to stderr."""
    inbox = os.fdopen(os.dup(0), "rb")
    outbox = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    _follow_parent()

    def answer(message: Mapping[str, Any]) -> None:
        outbox.write(json.dumps(message, ensure_ascii=True, allow_nan=False).encode() + b"\n")
        outbox.flush()

    serve(_Inbox(inbox), answer)
    leave()


if __name__ == "__main__":
    main()
