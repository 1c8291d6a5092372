"""HunyuanCustom's adapter in a second virtual environment, with a small stand-in for the authors' script.

The stand-in takes the real script's options and files (names, JSON keys, output names as at commit abffb8f) and makes a
video of a prepared clip, with what it was given beside it.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
import venv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from baselines.hunyuancustom.adapter import HunyuanCustom, commit_of
from ffbench import methods
from ffbench.contract import Request, Runtime
from ffbench.errors import UserError
from ffbench.generate import GenerateOptions, GenerateSummary, generate
from ffbench.methods import set_up
from ffbench.records import Case
from ffbench.suites import Suite
from ffbench.video import write_mp4
from tests.ffbench.test_generate import make_suite

SCRIPT = """
import argparse, json, os, pathlib, signal, sys, time
parser = argparse.ArgumentParser()
parser.add_argument("--input-json")
parser.add_argument("--save-path")
parser.add_argument("--ckpt")
parser.add_argument("--video-size", type=int, nargs="+")
parser.add_argument("--sample-n-frames", type=int, default=1)
parser.add_argument("--infer-steps", type=int, default=100)
parser.add_argument("--cfg-scale", type=float)
parser.add_argument("--flow-shift-eval-video", type=float)
parser.add_argument("--use-deepcache", type=int)
parser.add_argument("--precision")
parser.add_argument("--use-fp8", action="store_true")
parser.add_argument("--cpu-offload", action="store_true")
args = parser.parse_args()
assert args.input_json.endswith(".list")
print("loading", args.ckpt, flush=True)
for line in open(args.input_json).readlines():
    order = json.load(open(line.strip()))
    image = order["seg_item_image_path"]
    assert open(image, "rb").read(8) == b"\\x89PNG\\r\\n\\x1a\\n"
    if "crash" in order["pos_prompt"]:
        sys.exit("CUDA out of memory. Tried to allocate 20.00 GiB")
    if "killed" in order["pos_prompt"]:
        os.kill(os.getpid(), signal.SIGKILL)
    if "hang" in order["pos_prompt"]:
        time.sleep(600)
    if "nothing" in order["pos_prompt"]:
        continue
    name = os.path.basename(os.path.splitext(image)[0])
    os.makedirs(args.save_path, exist_ok=True)
    seen = {"order": order, "args": vars(args), "prefix": sys.prefix, "cwd": os.getcwd(), "pid": os.getpid(),
            "env": {k: os.environ.get(k) for k in ("MODEL_BASE", "PYTHONPATH", "DISABLE_SP", "CUDA_VISIBLE_DEVICES",
                                                   "CPU_OFFLOAD")}}
    with open("seen.jsonl", "a") as log:
        log.write(json.dumps(seen) + "\\n")
    clip = pathlib.Path("clip.mp4").read_bytes()
    with open(f"{args.save_path}/{name}_4090.mp4", "wb") as video:
        video.write(clip[:100])
        video.flush()
        time.sleep(0.3)
        video.write(clip[100:])
    assert f"{args.save_path}/{name}_4090.mp4" == order["output"]
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A second virtual environment's interpreter, without any package."""
    folder = tmp_path_factory.mktemp("other")
    venv.EnvBuilder(with_pip=False, symlinks=True).create(folder / "env")
    return str(folder / "env" / "bin" / "python")


@pytest.fixture
def upstream(tmp_path: Path) -> Path:
    folder = tmp_path / "HunyuanCustom"
    (folder / "hymm_sp").mkdir(parents=True)
    (folder / "hymm_sp" / "sample_gpu_poor.py").write_text(SCRIPT)
    weights = folder / "models" / "hunyuancustom_720P"
    weights.mkdir(parents=True)
    for name in ("mp_rank_00_model_states.pt", "mp_rank_00_model_states_fp8.pt"):
        (weights / name).write_bytes(b"")
    write_mp4(folder / "clip.mp4", np.full((9, 32, 48, 3), 90, np.uint8), 25.0)
    return folder


@pytest.fixture(autouse=True)
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The product's own folder under another package, whose card asks for the Python that is here."""
    package = tmp_path / "site" / "here" / "hunyuancustom"
    shutil.copytree(methods.card("hunyuancustom").folder, package, ignore=shutil.ignore_patterns("__pycache__"))
    (package.parent / "__init__.py").write_text("")
    card = (package / "card.toml").read_text("utf-8")
    assert 'python = "3.10"' in card
    (package / "card.toml").write_text(card.replace('"3.10"', '"{}.{}"'.format(*sys.version_info[:2])), "utf-8")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    target = "here.hunyuancustom.adapter:HunyuanCustom"
    monkeypatch.setattr(methods, "METHODS", {**methods.METHODS, "hunyuancustom": target})
    monkeypatch.setenv("FFBENCH_ENVIRONMENTS", str(tmp_path / "environments"))


def run(tmp_path: Path, upstream: Path, python: str, *prompts: str, **values: Any) -> GenerateSummary:
    tmp_path.mkdir(exist_ok=True)
    with (tmp_path / "setup.log").open("wb") as log:
        set_up("hunyuancustom", python, True, log)
    made = make_suite(tmp_path / "photos", ("ann",), prompts)
    cases = tuple(Case(**{**vars(case), "subject": "woman"}) for case in made.cases)
    options = GenerateOptions((f"upstream={upstream}",), device="cuda:1", **values)
    return generate(Suite("mine", "1", "for tests", cases), "hunyuancustom", tmp_path / "runs", options)


def seen(upstream: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (upstream / "seen.jsonl").read_text().splitlines()]


def test_without_an_environment_there_are_two_lines(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        generate(make_suite(tmp_path / "p"), "hunyuancustom", tmp_path / "runs", GenerateOptions())
    assert str(caught.value).replace("{}.{}".format(*sys.version_info[:2]), "3.10") == (
        "error: hunyuancustom needs its own environment, and none is set up\n"
        "fix:   ffbench methods setup hunyuancustom --python python3.10"
    )


def test_a_batch_is_one_run_of_the_script_and_each_request_arrives_whole(
    tmp_path: Path, upstream: Path, python: str
) -> None:
    nasty = 'it\'s "quoted"\nnew line $(touch pwned) ../ 😀'
    (upstream / ".git").mkdir()
    (upstream / ".git" / "HEAD").write_text("a" * 40 + "\n")
    done = run(tmp_path, upstream, python, "a", nasty, "c", "d", "e")
    assert (done.ok, done.failed) == (5, 0), [r.error for r in done.run.generations().values()]
    got = seen(upstream)
    assert len({one["pid"] for one in got}) == 2  # a batch of four, and one
    records = list(done.run.generations().values())
    assert [one["order"]["seed"] for one in got] == [record.seed for record in records]
    order = got[1]["order"]
    assert order["pos_prompt"] == f"Realistic, High-quality. {nasty}" and order["item_prompt"] == "woman"
    assert order["neg_prompt"].startswith("Aerial view")
    args = got[0]["args"]
    assert (args["video_size"], args["sample_n_frames"], args["infer_steps"]) == ([720, 1280], 129, 30)
    assert (args["cfg_scale"], args["flow_shift_eval_video"], args["use_deepcache"]) == (7.5, 13.0, 1)
    assert (args["precision"], args["use_fp8"], args["cpu_offload"]) == ("bf16", False, False)
    models = str(upstream / "models")
    assert got[0]["env"] == {
        "MODEL_BASE": models, "PYTHONPATH": str(upstream), "DISABLE_SP": "1", "CUDA_VISIBLE_DEVICES": "1",
        "CPU_OFFLOAD": None,
    }  # fmt: skip
    assert got[0]["cwd"] == str(upstream) and got[0]["prefix"] == str(Path(python).parents[1])
    assert not list(tmp_path.rglob("pwned"))
    assert records[0].provenance["notes"] == {"upstream": "a" * 40, "matting": "none"}
    clip = (upstream / "clip.mp4").read_bytes()
    assert [done.run.video(record).read_bytes() for record in records] == [clip] * 5
    assert "loading" in (done.run.root / "logs" / "worker.log").read_text()


def test_offload_is_told_to_the_script_and_is_not_in_the_key(
    tmp_path: Path, upstream: Path, python: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = set()
    for wish in ("", "always", "never"):
        monkeypatch.setenv("FFBENCH_OFFLOAD", wish)
        done = run(tmp_path / f"x{wish}", upstream, python, "a")
        keys |= done.run.generations().keys()
        told = wish == "always"
        got = seen(upstream)[-1]
        assert (got["args"]["cpu_offload"], got["env"]["CPU_OFFLOAD"]) == (told, "1" if told else None)
    assert len(keys) == 1 and "cpu_offload" not in methods.card("hunyuancustom").settings
    monkeypatch.setenv("FFBENCH_OFFLOAD", "perhaps")
    with pytest.raises(UserError, match="FFBENCH_OFFLOAD=perhaps is neither"):
        run(tmp_path / "perhaps", upstream, python, "a")


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [
        ("crash", r"exit code 1, without this video; its last words:\n(.|\n)*CUDA out of memory"),
        ("killed", "killed by signal 9, without this video"),
        ("nothing", "ended with exit code 0, without this video"),
    ],
)
def test_a_script_that_fails_costs_the_guilty_request_alone(
    prompt: str, reason: str, tmp_path: Path, upstream: Path, python: str
) -> None:
    done = run(tmp_path, upstream, python, "a", prompt, "c")
    records = list(done.run.generations().values())
    assert [record.status for record in records] == ["ok", "failed", "ok"]
    assert re.search(reason, records[1].error), records[1].error
    assert str(tmp_path) not in records[1].error


def test_a_script_that_hangs_ends_with_its_worker_and_the_next_case_runs(
    tmp_path: Path, upstream: Path, python: str
) -> None:
    start = time.monotonic()
    done = run(tmp_path, upstream, python, "hang", "b", timeout=3.0)
    records = list(done.run.generations().values())
    assert [record.status for record in records] == ["failed", "ok"] and time.monotonic() - start < 60
    assert "timed out" in records[0].error
    time.sleep(0.2)
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert str(upstream) not in listed and str(done.run.root) not in listed


def test_the_script_ends_with_the_batch(tmp_path: Path, upstream: Path) -> None:
    made = HunyuanCustom(settings(upstream=str(upstream)))
    made.load(Runtime("cuda", ""))
    asked = []
    for number, case in enumerate(make_suite(tmp_path / "photos", ("ann",), ("a", "b", "hang")).cases):
        (tmp_path / str(number)).mkdir()
        asked.append(Request(case, number, str(tmp_path / str(number))))
    outputs = made.generate(asked)
    assert Path(next(outputs).video).is_file()  # handed on while the script goes on
    pid = str(seen(upstream)[0]["pid"])
    assert Path("/proc", pid).exists() or sys.platform != "linux"
    outputs.close()  # type: ignore[attr-defined]
    assert not Path("/proc", pid).exists()


def settings(**values: Any) -> dict[str, Any]:
    return {**methods.card("hunyuancustom").settings, **values}


def test_what_is_missing_is_named(tmp_path: Path, upstream: Path) -> None:
    def load(device: str = "cuda", **values: Any) -> None:
        HunyuanCustom(settings(**values)).load(Runtime(device, ""))

    load(upstream=str(upstream), fp8=True)
    with pytest.raises(UserError, match="CUDA alone, not on cpu"):
        load("cpu", upstream=str(upstream))
    with pytest.raises(UserError, match="has no upstream"):
        load()
    with pytest.raises(UserError, match="no folder"):
        load(upstream=str(upstream), models=str(tmp_path / "gone"))
    with pytest.raises(UserError, match="25 frames per second, not 16"):
        load(upstream=str(upstream), fps=16.0)
    (upstream / "models" / "hunyuancustom_720P" / "mp_rank_00_model_states_fp8.pt").unlink()
    with pytest.raises(UserError, match=r"needs .*_fp8\.pt"):
        load(upstream=str(upstream), fp8=True)


def test_the_commit_of_a_clone_is_read_without_git(tmp_path: Path) -> None:
    git = tmp_path / ".git"
    assert commit_of(tmp_path) == "unknown"
    (git / "refs" / "heads").mkdir(parents=True)
    (git / "HEAD").write_text("ref: refs/heads/main\n")
    (git / "packed-refs").write_text(f"# pack\n{'b' * 40} refs/heads/main\n")
    assert commit_of(tmp_path) == "b" * 40
    (git / "refs" / "heads" / "main").write_text("c" * 40 + "\n")
    assert commit_of(tmp_path) == "c" * 40
