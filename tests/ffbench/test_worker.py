"""The worker's loop on real adapters, and the worker as the process that it really is."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ffbench import worker
from ffbench.contract import Output, RefusedError, Request, Runtime
from ffbench.errors import UserError
from ffbench.records import Case, Reference, to_json

FRAMES = np.arange(2 * 4 * 6 * 3, dtype=np.uint8).reshape(2, 4, 6, 3)


class Obedient:
    """Does what the prompt says; counts how often it was called."""

    calls: list[int]

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.calls = CALLS
        self.settings = settings

    def load(self, runtime: Runtime) -> None:
        if self.settings.get("load") == "user":
            raise UserError("no weights", "pull them")
        if self.settings.get("load") == "bug":
            raise ZeroDivisionError("in load")

    def generate(self, requests: Sequence[Request]) -> Iterator[Output]:
        self.calls.append(len(requests))
        for request in requests:
            assert not list(Path(request.folder).iterdir())
            yield ACTIONS[request.case.prompt](request)


def raises(error: BaseException) -> Any:
    def action(request: Request) -> Output:
        Path(request.folder, "leftover").write_text("half")
        raise error

    return action


CALLS: list[int] = []
ACTIONS: dict[str, Any] = {
    "frames": lambda r: Output(FRAMES, 8.0, notes={"seed": r.seed, "nan": float("nan"), "odd": Path("x")}),
    "flipped": lambda r: Output(FRAMES[:, ::-1], 8.0),
    "video": lambda r: Output(video="clip.mp4"),
    "both": lambda r: Output(FRAMES, 8.0, "clip.mp4"),
    "float": lambda r: Output(FRAMES.astype(np.float32), 8.0),  # type: ignore[arg-type]
    "grey": lambda r: Output(FRAMES[..., 0], 8.0),
    "empty": lambda r: Output(FRAMES[:0], 8.0),
    "fps": lambda r: Output(FRAMES, 0.0),
    "bug": raises(ZeroDivisionError("by nought")),
    "exit": raises(SystemExit(3)),
    "refuse": raises(RefusedError("moderation said no")),
    "user": raises(UserError("no credit", "pay")),
    "full": raises(OSError(28, "No space left on device")),
    "cuda": raises(RuntimeError("CUDA error: device-side assert triggered")),
}


@pytest.fixture
def ask(tmp_path: Path) -> Iterator[Any]:
    """Run the loop in this process: prompts in, answers out."""
    CALLS.clear()

    def run(*batches: Sequence[str], **settings: str) -> list[dict[str, Any]]:
        lines = [json.dumps({"load": order(settings, f"{__name__}:Obedient")})]
        index = 0
        for batch in batches:
            items = []
            for prompt in batch:
                folder = tmp_path / f"request-{index}"
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                items.append({"index": index, "case": case(prompt), "seed": 7 + index, "folder": str(folder)})
                index += 1
            lines.append(json.dumps({"batch": items}))
        answers: list[dict[str, Any]] = []
        worker.serve([line.encode() for line in lines], lambda message: answers.append(dict(message)))
        return answers

    yield run


def order(settings: Mapping[str, Any], target: str) -> dict[str, Any]:
    runtime = {"device": "cpu", "weights_dir": "", "identities": {}}
    return {"target": target, "settings": dict(settings), "runtime": runtime}


def case(prompt: str) -> dict[str, Any]:
    made = Case("s", "1", "c", "id", (Reference("/nowhere.png", "0" * 64),), "p", prompt)
    loaded: dict[str, Any] = json.loads(to_json(made))
    return loaded


def test_frames_arrive_as_the_bytes_they_are(ask: Any, tmp_path: Path) -> None:
    ready, first, second = ask(["frames", "flipped"])
    assert ready["ready"]["python"] == sys.version.split()[0] and ready["ready"]["packages"]["numpy"] == np.__version__
    assert first["status"] == "ok" and first["fps"] == 8.0 and first["shape"] == [2, 4, 6, 3] and first["seconds"] >= 0
    assert first["notes"] == {"seed": 7, "nan": "nan", "odd": "x"}
    for answer, expected in ((first, FRAMES), (second, FRAMES[:, ::-1])):
        raw = (tmp_path / f"request-{answer['index']}" / answer["frames"]).read_bytes()
        assert raw == expected.tobytes()
    assert ask(["video"])[1]["video"] == "clip.mp4"


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [
        ("both", "either frames or the path"),
        ("float", "float32"),
        ("grey", r"[2, 4, 6]"),
        ("empty", "empty"),
        ("fps", "fps"),
        ("bug", "ZeroDivisionError: by nought (test_worker.py:"),
        ("exit", "SystemExit: 3"),
    ],
)
def test_a_bad_output_is_a_failed_answer_and_the_next_goes_on(ask: Any, prompt: str, reason: str) -> None:
    _, bad, good = ask([prompt], ["frames"])
    assert bad["status"] == "failed" and reason in bad["error"] and str(Path.home()) not in bad["error"]
    assert good["status"] == "ok"


def test_only_the_guilty_one_of_a_batch_fails(ask: Any) -> None:
    answers = ask(["frames", "bug", "refuse", "frames"])[1:]
    assert [answer["index"] for answer in answers] == [0, 1, 2, 3]
    assert [answer["status"] for answer in answers] == ["ok", "failed", "refused", "ok"]
    assert answers[2]["error"] == "moderation said no"
    assert CALLS == [4, 1, 1, 1]


def test_an_output_too_few_is_named(ask: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Obedient, "generate", lambda self, requests: iter(()))
    assert "without an output" in ask(["frames"])[1]["error"]


def test_user_error_full_disk_and_lost_gpu_end_the_worker(ask: Any) -> None:
    assert ask(["user", "frames"])[1:] == [{"index": 0, "user_error": ["no credit", "pay"]}]
    assert ask(["full"], ["frames"])[1:] == [{"index": 0, "errno": 28}]
    lost = ask(["cuda"], ["frames"])[1:]
    assert len(lost) == 1 and lost[0]["lost"] and lost[0]["status"] == "failed"


def test_load_passes_errors_on(ask: Any) -> None:
    assert ask(["frames"], load="user") == [{"user_error": ["no weights", "pull them"]}]
    (answer,) = ask(["frames"], load="bug")
    assert answer["error"].startswith("ZeroDivisionError: in load (test_worker.py:")


def start(folder: Path, source: str) -> subprocess.Popen[bytes]:
    (folder / "tiny.py").write_text(source)
    boot = f"import sys; sys.path[:0] = [{str(folder)!r}, {str(Path(worker.__file__).parents[1])!r}]; "
    argv = [sys.executable, "-P", "-c", boot + "from ffbench.worker import main; main()"]
    return subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    )


def tell(process: subprocess.Popen[bytes], message: Mapping[str, Any]) -> None:
    assert process.stdin is not None
    process.stdin.write(json.dumps(message).encode() + b"\n")
    process.stdin.flush()


NOISY = """
import os, subprocess, sys
from ffbench.contract import Output
print("at import")
class M:
    def __init__(self, settings): print("in init")
    def load(self, runtime): os.write(1, b"{\\"ready\\": 0}\\n")
    def generate(self, requests):
        for request in requests:
            sys.stdout.write("garbage without end"); sys.stdout.flush()
            subprocess.run(["echo", "from a child"])
            assert sys.stdin.read() == ""
            yield Output(video="v.mp4")
"""


def test_prints_cannot_reach_the_protocol_and_input_is_shut(tmp_path: Path) -> None:
    process = start(tmp_path, NOISY)
    tell(process, {"load": order({}, "tiny:M")})
    tell(process, {"batch": [{"index": 0, "case": case("x"), "seed": 0, "folder": str(tmp_path)}]})
    assert process.stdout is not None
    lines = [json.loads(process.stdout.readline()) for _ in range(2)]
    rest, _ = process.communicate(timeout=30)
    assert "python" in lines[0]["ready"] and lines[1]["video"] == "v.mp4"
    assert rest == b"" and process.returncode == 0


STALLING = """
import subprocess, sys, time
from pathlib import Path
class M:
    def __init__(self, settings): pass
    def load(self, runtime): pass
    def generate(self, requests):
        child = subprocess.Popen(["sleep", "600"])
        Path(requests[0].folder, "pid.tmp").write_text(str(child.pid))
        Path(requests[0].folder, "pid.tmp").rename(Path(requests[0].folder, "pid"))
        time.sleep(600)
        yield
"""


@pytest.mark.parametrize("how", ["eof", "sigterm"])
def test_a_busy_worker_dies_with_its_host_and_takes_its_children_along(tmp_path: Path, how: str) -> None:
    process = start(tmp_path, STALLING)
    tell(process, {"load": order({}, "tiny:M")})
    tell(process, {"batch": [{"index": 0, "case": case("x"), "seed": 0, "folder": str(tmp_path)}]})
    pid_file = tmp_path / "pid"
    wait_until(pid_file.exists)
    child = int(pid_file.read_text())
    assert process.stdin is not None and process.stdout is not None
    if how == "eof":
        process.stdin.close()
    else:
        process.send_signal(signal.SIGTERM)
    process.wait(timeout=20)
    wait_until(lambda: not alive(child))
    process.stdout.close()
    if how == "sigterm":
        process.stdin.close()


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie that nobody has reaped yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition: Any, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def test_the_worker_needs_the_standard_library_alone(tmp_path: Path) -> None:
    code = (
        "import sys; import ffbench.worker; "
        "extra = {m.partition('.')[0] for m in sys.modules} - set(sys.stdlib_module_names) - {'__main__', 'ffbench'}; "
        "sys.exit(repr(extra) if extra else 0)"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(worker.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-S", "-c", code], env=env, cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_process_that_leaves_does_what_was_put_off_to_its_end() -> None:
    code = (
        "import atexit; from ffbench.worker import leave; atexit.register(print, 'late'); "
        "print('early'); leave(); print('never')"
    )
    env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    left = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    assert left.stdout.split() == ["early", "late"]
