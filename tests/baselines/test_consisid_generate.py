"""ConsisID through the command line, every network of its real class: faces under hashes that the user states."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from ffbench.video import read_clip
from tests.baselines import tiny_consisid
from tests.ffbench.extract.test_detect import red_finder
from tests.ffbench.small_networks import write_recogniser

# not by importing them, which takes seconds of every collection
if not all(map(importlib.util.find_spec, ("facexlib", "consisid_eva_clip"))):
    pytest.skip("pip install 'ffbench[consisid]'", allow_module_level=True)

SMALL = {"width": 16, "height": 16, "num_frames": 9, "steps": 2, "dtype": "float32"}


class World(NamedTuple):
    """A model's folder, the hash of its list, two suites of one name, and where its packages are."""

    model: Path
    pins: str
    suites: tuple[Path, Path]
    path: str


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    root = tmp_path_factory.mktemp("consisid")
    model = root / "model"
    path = tiny_consisid.packages(root / "packages")
    face = {"LFE_id_dim": 16 + tiny_consisid.EMBED, "LFE_vit_dim": tiny_consisid.WIDTH}
    tiny_consisid.whole(**face).save_pretrained(model)
    encoder = model / "face_encoder"
    tiny_consisid.write_face_networks(encoder)
    (encoder / "models/antelopev2").mkdir(parents=True)
    red_finder(encoder / "models/antelopev2/scrfd_10g_bnkps.onnx")
    write_recogniser(encoder / "models/antelopev2/glintr100.onnx", 0)
    write_tower(path, encoder / "EVA02_CLIP_L_336_psz14_s6B.pt")
    suites = root / "one" / "people", root / "other" / "people"
    for seed, suite in enumerate(suites):
        suite.mkdir(parents=True)
        tiny_consisid.portrait(suite / "ann.png", seed=seed)
        (suite / "prompts.txt").write_text("a person boxes\n")
    tiny_consisid.portrait(suites[0] / "nobody.png", face=False)
    yield World(model, tiny_consisid.write_list(encoder), suites, path)
    shutil.rmtree(root)


def write_tower(path: str, file: Path) -> None:
    """Weights of the small EVA-CLIP, made where it goes by the published name."""
    code = (
        "import sys, torch; from consisid_eva_clip import create_model\n"
        f"torch.manual_seed(0); network = create_model({tiny_consisid.EVA!r}, force_custom_clip=True)\n"
        # its head starts at nothing
        "torch.nn.init.normal_(network.visual.head.weight); torch.save(network.state_dict(), sys.argv[1])\n"
    )
    subprocess.run([sys.executable, "-c", code, str(file)], check=True, env={**os.environ, "PYTHONPATH": path})


def ffbench(world: World, out: Path, suite: Path, **values: str) -> subprocess.CompletedProcess[str]:
    """`ffbench generate --method consisid`."""
    chosen = {**SMALL, "base": str(world.model), "pins": world.pins, **values}
    words = [word for key, value in chosen.items() for word in ("--set", f"{key}={value}")]
    argv = [str(Path(sys.executable).with_name("ffbench")), "generate", "--method", "consisid"]
    argv += ["--suite", str(suite), "--out", str(out), *words]
    env = {**os.environ, "PYTHONPATH": world.path, "OMP_NUM_THREADS": "1"}
    return subprocess.run(argv, check=False, capture_output=True, text=True, env=env)


def made(world: World, out: Path, suite: Path, summary: str) -> tuple[Path, list[dict[str, Any]]]:
    """The run's folder and its records, by the name of their case."""
    done = ffbench(world, out, suite)
    (run,) = out.glob("*/consisid")
    log = "".join(path.read_text() for path in run.rglob("*.log"))
    assert summary in done.stdout + done.stderr, done.stderr + log
    lines = (run / "generations.jsonl").read_text().splitlines()
    return run, sorted(map(json.loads, lines), key=lambda record: str(record["case_id"]))


@pytest.mark.slow
def test_a_face_becomes_a_video_of_its_own_and_nobody_is_refused(world: World, tmp_path: Path) -> None:
    run, (ann, nobody) = made(world, tmp_path / "one", world.suites[0], "1 ok, 0 failed, 1 refused")
    assert (nobody["status"], nobody["error"]) == ("refused", "ConsisID finds no face in the reference")
    assert nobody["video"] == ""
    file = ann["provenance"]["video"]
    assert [file[key] for key in ("frames", "width", "height", "fps")] == [9, 16, 16, 8.0]
    assert {key: ann["settings"][key] for key in ("pins", *SMALL)} == {"pins": world.pins, **SMALL}
    again, (other,) = made(world, tmp_path / "other", world.suites[1], "1 ok, 0 failed, 0 refused")
    # the same name, prompt and seed
    assert (other["case_id"], other["seed"]) == (ann["case_id"], ann["seed"])
    first, second = (
        read_clip(place / record["video"], ["all"]).frames["all"].pixels.astype(int)
        for place, record in ((run, ann), (again, other))
    )
    assert np.ptp(first) > 20 and np.abs(first - second).mean() > 3, "another photograph, another video"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("missing file", "glintr100.onnx is not on this machine"),
        ("changed file", "parsing_bisenet.pth has sha256"),
    ],
)
def test_what_the_list_does_not_vouch_for_is_refused_in_two_lines(
    world: World, tmp_path: Path, change: str, said: str
) -> None:
    model = tmp_path / "model"
    shutil.copytree(world.model, model)
    encoder = model / "face_encoder"
    if change == "missing file":
        (encoder / "models/antelopev2/glintr100.onnx").unlink()
    else:
        with (encoder / "parsing_bisenet.pth").open("ab") as stream:
            stream.write(b"\n")
    done = ffbench(world, tmp_path / "runs", world.suites[1], base=str(model))
    lines = done.stderr.strip().splitlines()
    assert done.returncode == 2 and said in lines[-2] and "Traceback" not in done.stderr, done.stderr
    assert not list((tmp_path / "runs").rglob("*.mp4"))
