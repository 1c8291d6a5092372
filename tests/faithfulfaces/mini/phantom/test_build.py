"""The small Phantom from rendered people to a row of Table 5, at trial size, on the embedded base."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import WanTransformer3DModel
from filelock import FileLock
from typer.testing import CliRunner

from faithfulfaces.cli import app
from faithfulfaces.mini.build import OutOfTimeError
from faithfulfaces.mini.footage import Footage
from faithfulfaces.mini.phantom.build import ABOUT, Options, build_phantom
from ffbench.cli import app as ffbench_app
from ffbench.embedded import FOLDER
from ffbench.errors import UserError
from tests.faithfulfaces import tiny_vace

BASE = FOLDER / "base"


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory, clips: Footage) -> Path:
    place = tmp_path_factory.mktemp("footage")
    clips.save(place / "train_0000.npz")
    return place


@pytest.fixture(scope="module")
def options(people: Path) -> Options:
    return Options(footage=people, seeds=2, steps=2, videos=4)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, options: Options) -> Path:
    out = tmp_path_factory.mktemp("phantom")
    assert build_phantom(out, options, str) == []
    return out


def weights(out: Path, seed: int = 0) -> dict[str, torch.Tensor]:
    return WanTransformer3DModel.from_pretrained(out / f"seed-{seed}/model/transformer").state_dict()


def test_every_tensor_was_trained_and_seeds_differ(made: Path) -> None:
    first, second = weights(made), weights(made, 1)
    before = WanTransformer3DModel.from_pretrained(BASE / "transformer", torch_dtype=torch.float32).state_dict()
    assert first.keys() == before.keys()
    assert all(not torch.equal(first[name], tensor) for name, tensor in before.items())
    assert any(not torch.equal(first[name], tensor) for name, tensor in second.items())
    about = [json.loads((made / f"seed-{seed}/model" / ABOUT).read_text()) for seed in range(2)]
    assert about == [{"method": "phantom", "seed": seed, "steps": 2} for seed in range(2)]


def test_a_training_goes_on_where_it_stopped(made: Path, options: Options, tmp_path: Path) -> None:
    """Two steps, then two more, are the four of a training that nobody stopped."""
    four = dataclasses.replace(options, seeds=1, steps=4)
    build_phantom(tmp_path / "whole", four, str)
    shutil.copytree(made / "seed-0", tmp_path / "halves/seed-0")
    shutil.rmtree(tmp_path / "halves/seed-0/model")
    said: list[str] = []
    build_phantom(tmp_path / "halves", four, said.append)
    assert [line.partition(" of")[0] for line in said[:1]] == ["phantom, seed 0, 4"]
    log = (tmp_path / "halves/seed-0/run/log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in log] == [2, 4], "it did not begin anew"
    whole, halves = weights(tmp_path / "whole"), weights(tmp_path / "halves")
    assert all(torch.equal(whole[name], tensor) for name, tensor in halves.items())


def test_a_spent_budget_keeps_what_was_learned(options: Options, tmp_path: Path) -> None:
    some = dataclasses.replace(options, seeds=1, steps=21, videos=1)
    with pytest.raises(OutOfTimeError):
        build_phantom(tmp_path, dataclasses.replace(some, minutes=-1), str)
    assert not (tmp_path / "seed-0/run").exists()
    with pytest.raises(OutOfTimeError):
        build_phantom(tmp_path, dataclasses.replace(some, minutes=0.02), str)
    assert not (tmp_path / "seed-0/model").exists()
    said: list[str] = []
    build_phantom(tmp_path, some, said.append)
    assert [line.partition(":")[0] for line in said] == ["phantom, seed 0, 21 of 21", "phantom, seed 0"]


def test_a_second_call_and_another_process_train_nothing(made: Path, options: Options) -> None:
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*.safetensors")}
    said: list[str] = []
    assert build_phantom(made, options, said.append) == []
    with FileLock(made / "seed-1/.lock"):
        assert build_phantom(made, options, said.append) == [made / "seed-1"]
    assert said == [] and {path: path.stat().st_mtime_ns for path in before} == before


def test_footage_is_rendered_where_none_is_given(people: Path, clips: Footage, tmp_path: Path) -> None:
    alone = Options(blocks=1, block=1, seeds=0)
    said: list[str] = []
    build_phantom(tmp_path, alone, said.append)
    assert said == ["footage 1 of 1"]
    assert (Footage.load(tmp_path / "footage/train_0000.npz").pixels == clips.pixels[:1]).all()


def test_what_is_not_there_is_named_in_two_lines(options: Options, tmp_path: Path) -> None:
    for changes, match in (
        ({"base": tmp_path}, "holds no transformer"),
        ({"base": tiny_vace.write(tmp_path / "vace")}, "is not the mini world's"),
        ({"footage": tmp_path}, r"holds no train_0000\.npz"),
        ({"videos": 7}, "Data.video_batch is 7, but there are only 6 clips"),
    ):
        with pytest.raises(UserError, match=match) as caught:
            build_phantom(tmp_path / "out", dataclasses.replace(options, **changes), str)  # type: ignore[arg-type]
        assert len(str(caught.value).splitlines()) == 2


@pytest.mark.slow
def test_the_command_builds_what_table_5_takes(people: Path, tmp_path: Path) -> None:
    """Two trainings through the method's own process, scored, pooled, and formed again from their records."""
    for number in range(3):  # a batch is of 16
        shutil.copy(people / "train_0000.npz", tmp_path / f"train_{number:04d}.npz")
    words = ["mini", "phantom", "--out", str(tmp_path / "phantom"), "--footage", str(tmp_path), "--seeds", "2"]
    done = CliRunner().invoke(app, [*words, "--steps", "1"])
    assert (done.exit_code, done.stdout.strip()) == (0, str(tmp_path / "phantom")), done.output
    words = ["ablate", "table5", "--checkpoints", str(tmp_path), "--limit", "2", "--out", str(tmp_path / "runs")]
    done = CliRunner().invoke(ffbench_app, [*words, "--results", str(tmp_path / "results"), "--json"])
    assert done.exit_code == 0, done.output
    sheet = json.loads(done.stdout)
    assert {line["label"]: line["num_made"] for line in sheet["lines"]} == {
        "phantom": 4, "faithfulfaces@no-aligner": 2, "faithfulfaces": 2,
    }  # fmt: skip
    values = {
        cell["method"]: cell["value"]
        for cell in sheet["cells"]
        if (cell["metric"], cell["group"]) == ("clip_score", "all")
    }
    assert len(set(values.values())) == 3
    records = [json.loads(path.read_text()) for path in sorted((tmp_path / "results").rglob("phantom/*.json"))]
    assert len(records) == 2
    assert CliRunner().invoke(ffbench_app, ["validate", str(tmp_path / "results")]).exit_code == 0
