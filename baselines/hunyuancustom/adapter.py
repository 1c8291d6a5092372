"""Runs the authors' single-GPU script once for each batch of requests, inside the method's own environment.

The script reads a list of JSON files, one a request, and writes one MP4 a request, named after the reference image: so
each request's photograph gets a name of its own. What it prints is never parsed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ffbench.contract import Output, Request, Runtime
from ffbench.errors import UserError
from ffbench.offload import wish
from ffbench.records import Scalar

SCRIPT = Path("hymm_sp", "sample_gpu_poor.py")
FPS = 25.0
"""Written into that script."""
_TAIL = 1000
_SOURCE = "https://github.com/Tencent-Hunyuan/HunyuanCustom"


class HunyuanCustom:
    """One run of the script a batch; a video is handed on as soon as the next is begun."""

    def __init__(self, settings: Mapping[str, Scalar]) -> None:
        self._set = settings
        if settings["fps"] != FPS:
            raise UserError(f"hunyuancustom writes {FPS:g} frames per second, not {settings['fps']}", "leave fps out")

    def load(self, runtime: Runtime) -> None:
        """Check device, clone and weights; the script loads them itself.

        Raises:
            UserError: for what is missing.
        """
        if not runtime.device.startswith("cuda"):
            raise UserError(f"hunyuancustom runs on CUDA alone, not on {runtime.device}", "give --device cuda")
        self._upstream = self._folder("upstream", "", f"git clone {_SOURCE}, commit abffb8f")
        models = self._folder(
            "models", str(self._upstream / "models"), "pull tencent/HunyuanCustom, see docs/methods.md"
        )
        self._models = models
        fp8 = "_fp8" if self._set["fp8"] else ""
        self._weights = models / "hunyuancustom_720P" / f"mp_rank_00_model_states{fp8}.pt"
        for path in (self._upstream / SCRIPT, self._weights):
            if not path.is_file():
                raise UserError(f"hunyuancustom needs {path}, which is not there", "see docs/methods.md, HunyuanCustom")
        self._env = {**os.environ, "MODEL_BASE": str(models), "PYTHONPATH": str(self._upstream), "DISABLE_SP": "1"}
        # it changes no video, so it is no setting; what fits is not asked of the GPU, which the script wants whole
        self._offload = wish() == "always"
        if self._offload:
            self._env["CPU_OFFLOAD"] = "1"
        _, colon, number = runtime.device.partition(":")
        if colon:
            self._env["CUDA_VISIBLE_DEVICES"] = number
        self._notes: dict[str, Scalar] = {"upstream": commit_of(self._upstream), "matting": "none"}

    def generate(self, requests: Sequence[Request]) -> Iterator[Output]:
        """One video file a request."""
        home = Path(requests[-1].folder)  # of the last one, since each folder goes with its answer
        made = home / "made"
        orders = [self._order(request, home, made, number) for number, request in enumerate(requests)]
        (home / "orders.list").write_text("".join(f"{path}\n" for path, _ in orders), "utf-8")
        argv = [sys.executable, str(SCRIPT), "--input-json", str(home / "orders.list"), "--save-path", str(made)]
        script = _Script([*argv, *self._options()], self._upstream, self._env)
        try:
            for number, (request, (_, video)) in enumerate(zip(requests, orders, strict=True)):
                following = orders[number + 1][1] if number + 1 < len(orders) else None
                while script.running() and not (following and following.exists()):
                    time.sleep(0.2)
                if not video.is_file() or not (script.ended_well() or (following and following.exists())):
                    words = (
                        script.tail().replace(str(self._models), "<models>").replace(str(self._upstream), "<upstream>")
                    )
                    raise RuntimeError(f"{SCRIPT.name} {script.how()}, without this video{words}")
                target = Path(request.folder, "video.mp4")
                shutil.move(str(video), target)
                yield Output(video=str(target), notes=self._notes)
        finally:
            script.end()

    def _order(self, request: Request, home: Path, made: Path, number: int) -> tuple[Path, Path]:
        """The JSON file of a request, and where the script will put its video."""
        name = f"order-{number}"
        shutil.copyfile(request.case.references[0].path, home / f"{name}.png")
        video = made / f"{name}_4090.mp4"
        order = {
            "seg_item_image_path": str(home / f"{name}.png"),
            "pos_prompt": f"{self._set['positive_prefix']}{request.case.prompt}",
            "neg_prompt": self._set["negative_prompt"],
            "seed": request.seed,
            "item_prompt": request.case.subject,
            "output": str(video),
        }
        path = home / f"{name}.json"
        path.write_text(json.dumps(order), "utf-8")
        return path, video

    def _options(self) -> list[str]:
        get = self._set
        options = ["--ckpt", str(self._weights), "--video-size", str(get["height"]), str(get["width"])]
        options += ["--sample-n-frames", str(get["num_frames"]), "--infer-steps", str(get["steps"])]
        options += ["--cfg-scale", str(get["guidance"]), "--flow-shift-eval-video", str(get["shift"])]
        options += ["--use-deepcache", str(int(bool(get["deepcache"]))), "--precision", str(get["dtype"])]
        return options + ["--use-fp8"] * bool(get["fp8"]) + ["--cpu-offload"] * self._offload

    def _folder(self, name: str, otherwise: str, how: str) -> Path:
        given = str(self._set[name]) or otherwise
        if not given:
            raise UserError(f"hunyuancustom has no {name}: the setting is empty", f"{how}, then --set {name}=FOLDER")
        if not Path(given).is_dir():
            raise UserError(f"the {name} {given} is no folder on this machine", f"{how}, then --set {name}=FOLDER")
        return Path(given).absolute()


class _Script:
    """A process in the worker's own group, so that it ends with the worker; its output goes to the worker's log."""

    def __init__(self, argv: Sequence[str], folder: Path, env: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            argv, cwd=folder, env=dict(env), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        self._last = b""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        while chunk := os.read(self._process.stdout.fileno(), 65536):
            self._last = (self._last + chunk)[-_TAIL:]
            sys.stderr.buffer.write(chunk)
            sys.stderr.buffer.flush()

    def running(self) -> bool:
        return self._process.poll() is None

    def ended_well(self) -> bool:
        return self._process.poll() == 0

    def how(self) -> str:
        code = self._process.wait()
        return f"ended with exit code {code}" if code >= 0 else f"was killed by signal {-code}"

    def tail(self) -> str:
        self._reader.join(timeout=5)
        words = self._last.decode("utf-8", "replace").strip()
        return f"; its last words:\n{words}" if words else ""

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join(timeout=5)
        if self._process.stdout is not None:
            self._process.stdout.close()


def commit_of(clone: Path) -> str:
    """The commit that a git clone stands at, read without git; `unknown` where it is no clone."""
    try:
        head = (clone / ".git" / "HEAD").read_text("utf-8").strip()
        if not head.startswith("ref: "):
            return head if re.fullmatch(r"[0-9a-f]{40}", head) else "unknown"
        name = head[5:]
        if (clone / ".git" / name).is_file():
            return (clone / ".git" / name).read_text("utf-8").strip()
        packed = (clone / ".git" / "packed-refs").read_text("utf-8")
    except OSError:
        return "unknown"
    found = re.search(rf"^([0-9a-f]{{40}}) {re.escape(name)}$", packed, re.MULTILINE)
    return found[1] if found else "unknown"
