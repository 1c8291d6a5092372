"""Real clips all the way: `data build`, prompts, `encode`, `train`, each as it is typed."""

import json
import math
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from faithfulfaces.cli import app
from faithfulfaces.dataset import manifest
from faithfulfaces.dataset.caption import mend
from faithfulfaces.dataset.folder import Folder
from tests.faithfulfaces import tiny_vace

pytest.importorskip("pyarrow")
pytest.importorskip("scenedetect")
pytestmark = pytest.mark.slow

RECIPE = """
import dataclasses
from faithfulfaces.recipes import debug

def real():
    made = debug()
    data = dataclasses.replace(
        made.data, shards={encoded!r}, width=160, height=96, num_frames=13, text_tokens=12, pair_batch=2, video_batch=2
    )
    return dataclasses.replace(
        made, data=data, base=dataclasses.replace(made.base, folder={base!r}, arch={{}}), steps=3
    )
"""


def call(*words: object) -> str:
    done = CliRunner().invoke(app, list(map(str, words)))
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.stderr
    return done.stderr


def test_real_clips_are_built_encoded_and_trained_on(assets: Path, tmp_path: Path) -> None:
    """Two that turn far and a talking head; 61 frames, hence a bound below 120, which the whole clips pass."""
    names = ("opens2v/faceobj_14.mp4", "intel_demo/demo.mp4", "liveportrait/d12.mp4")
    listed = tmp_path / "list.txt"
    listed.write_text("\n".join(str(assets / "videos" / name) for name in names))
    pack = assets / "models" / "insightface" / "models" / "small_y1"
    table = {
        "video": {"width": 160, "height": 96, "fps": 0, "min_fps": 5, "frames": 61, "max_seconds": 60, "shots": "none"},
        "subject": {"stride": 2, "threshold": 90},
        "networks": {
            "detector_weights": str(pack / "det_scrfd_2.5g.onnx"),
            "pose": "3ddfa",
            "pose_weights": str(assets / "models" / "pose" / "3ddfa_v2_mb05_120x120.onnx"),
            "pose_aux": str(assets / "models" / "pose" / "3ddfa_v2_param_mean_std.npz"),
        },
        "samples": {"val": 0.0},
    }
    (tmp_path / "settings.json").write_text(json.dumps(table))
    out = tmp_path / "out"
    call("data", "build", "--videos", listed, "--out", out, "--settings", tmp_path / "settings.json")
    rows = {Path(row["source"]).name: row for row in manifest.read(Folder(out).manifest)}
    assert {name: (row["verdict"], row["reason"]) for name, row in rows.items()} == {
        "faceobj_14.mp4": ("qualified", ""),
        "demo.mp4": ("qualified", ""),
        "d12.mp4": ("rejected", "still"),
    }
    for name, prompt in (("faceobj_14.mp4", "a person turns the head"), ("demo.mp4", "a person boxes")):
        mend(Folder(out).captions, rows[name]["key"], prompt, "ann")
    call("data", "combine", out)

    recipe, encoded = tmp_path / "recipe.py", tmp_path / "encoded"
    base = tiny_vace.write(tmp_path / "base" / "vace")
    recipe.write_text(RECIPE.format(encoded=str(encoded), base=str(base)))
    said = call(
        "encode", "--shards", out / "shards" / "train", "--base", base, "--out", encoded, "--recipe", f"{recipe}:real"
    )
    assert "encoded 2 clips in 1 shards;" in said
    steps = re.findall(
        r"loss_pia (\S+)  loss_fm (\S+)", call("train", "--recipe", f"{recipe}:real", "--out", tmp_path / "run")
    )
    assert len(steps) == 3
    assert all(math.isfinite(float(value)) for step in steps for value in step)
