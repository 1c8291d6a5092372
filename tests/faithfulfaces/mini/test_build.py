"""The whole build, small: every stage runs, goes on where it stopped, and ends in folders that pipelines read."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from safetensors.torch import load_file

from faithfulfaces.config import WEIGHTLESS_FACES
from faithfulfaces.mini.build import TRIAL, Build, OutOfTimeError
from faithfulfaces.pipeline import FaithfulFacesPipeline
from ffbench.embedded import FOLDER


def build(out: Path, minutes: float = math.inf, say: Callable[[str], None] = str) -> Build:
    return Build(out, TRIAL, "cpu", minutes, say)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("build")
    with pytest.raises(OutOfTimeError):
        build(out, minutes=0).run()
    assert not list((out / "footage").glob("*.npz")) if (out / "footage").exists() else True
    build(out).run()
    return out


def test_a_second_run_makes_nothing_anew(made: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*.safetensors") if "embedded" not in path.parts}
    lines: list[str] = []
    build(made, say=lines.append).run()
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert lines == ["render", "parts", "instruments", "base", "faithful", "ship"]


def test_what_is_shipped_is_what_the_package_holds(made: Path) -> None:
    """Same files, same tensors' shapes: the embedded folder came out of this command."""
    names = {path.relative_to(made / "embedded") for path in (made / "embedded").rglob("*") if path.is_file()}
    shipped = {path.relative_to(FOLDER) for path in FOLDER.rglob("*") if path.is_file() and path.suffix != ".py"}
    assert names == {path for path in shipped if "__pycache__" not in path.parts and path.parts[0] != "people"}
    for name in names:
        if name.suffix == ".safetensors":
            one, two = (load_file(folder / name) for folder in (made / "embedded", FOLDER))
            assert {k: (v.shape, v.dtype) for k, v in one.items()} == {k: (v.shape, v.dtype) for k, v in two.items()}


def test_figures_of_held_out_people_are_there(made: Path) -> None:
    figures = json.loads((made / "embedded" / "figures.json").read_text())
    assert figures.keys() == {"sizes", "codec", "arc", "cur", "pose", "clip", "features"}
    assert figures["codec"]["psnr"] > 15
    assert 0 < figures["arc"]["auc"] <= 1
    assert figures["clip"]["frames"] > 0


def test_the_pipeline_runs_on_what_was_built(made: Path) -> None:
    pipe = FaithfulFacesPipeline.from_pretrained(
        made / "embedded" / "checkpoint", base=made / "embedded" / "base", dtype=torch.float32, faces=WEIGHTLESS_FACES
    )
    photo = PIL.Image.open(FOLDER / "people" / "person00-frontal.png")
    frames = pipe(
        photo, "boxes in a gym", seed=0, width=64, height=64, num_frames=9, steps=2, guidance=2.0, flow_shift=2.0,
        text_tokens=48, negative_prompt="",
    )  # fmt: skip
    assert frames.shape == (9, 64, 64, 3) and frames.dtype == np.uint8
    assert frames.std() > 1
