"""Trained variants: the recipe's parts really change, processes share the work, and ffbench's pipeline reads them."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from diffusers import WanVACETransformer3DModel
from filelock import FileLock
from typer.testing import CliRunner

from faithfulfaces import recipes, runs
from faithfulfaces.cli import app
from faithfulfaces.mini.assemble import assemble
from faithfulfaces.mini.build import TRIAL, Build, OutOfTimeError
from faithfulfaces.mini.variants import VARIANTS, Options, build_variants, order, variant
from faithfulfaces.model import load_model
from faithfulfaces.pipeline import FaithfulFacesPipeline
from ffbench.cli import app as ffbench_app
from ffbench.embedded import FOLDER
from ffbench.errors import UserError

SIZES = dataclasses.replace(TRIAL, train_blocks=2, measure_blocks=1, test_blocks=1, faithful_steps=2)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("variants")
    stages = Build(out, SIZES, "cpu", float("inf"), str)
    stages.render()
    stages.parts()
    # an untrained base does: what is looked at is what is trained on it
    torch.manual_seed(0)
    WanVACETransformer3DModel(**recipes.MINI_ARCH).save_pretrained(out / "base")
    assemble(out / "parts", out / "base", out / "base_folder")
    options = Options(only=("full", "no-euler", "no-aligner"), seeds=1, sizes=SIZES)
    assert build_variants(out, options, str) == []
    return out


def model(out: Path, name: str, seed: int = 0) -> Path:
    return out / "variants" / name / f"seed-{seed}" / "model"


def test_the_rows_of_table_2_come_first_with_every_seed() -> None:
    found = order((), 3)
    assert found[:9] == [(name, seed) for seed in range(3) for name in ("full", "no-euler", "no-aligner")]
    assert {name for name, _ in found[9:15]} == {"pooling-sum", "pooling-mean"}
    assert len(found) == len(set(found)) == 30
    assert order(("pooling-mean",), 2) == [("pooling-mean", 0), ("pooling-mean", 1)]


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_changes_one_thing_of_the_recipe(name: str) -> None:
    """Told by the differing fields of both recipes, not by how they were made."""
    one, two = (dataclasses.asdict(variant(n, 2, Path("base"), SIZES)) for n in ("full", name))
    assert one["seed"] == two["seed"] == 2
    changed = {key for key in one if one[key] != two[key]}
    assert changed == (set() if name == "full" else {"aligner"})
    if name not in ("full", "no-aligner"):
        inner = {key: two["aligner"][key] for key in one["aligner"] if one["aligner"][key] != two["aligner"][key]}
        part = {"no-euler": "euler"}.get(name, name.partition("-")[0])
        assert inner == {part: False if part == "euler" else {"sum": "sum", "mean": "mean"}.get(
            name.partition("-")[2]) or int(name.partition("-")[2])}  # fmt: skip
    assert one["aligner"]["elements"] == recipes.mini().aligner.elements == 512


def test_checkpoints_say_what_was_trained(made: Path) -> None:
    configs = {name: json.loads((model(made, name) / "config.json").read_text()) for name in
               ("full", "no-euler", "no-aligner")}  # fmt: skip
    assert [config["seed"] for config in configs.values()] == [0, 0, 0]
    assert configs["full"]["aligner"]["euler"] is True
    assert configs["no-euler"]["aligner"]["euler"] is False
    assert configs["no-aligner"]["aligner"] is None
    assert {Path(config["base"]) for config in configs.values()} == {made / "base_folder"}
    assert not (model(made, "no-aligner") / "model.safetensors").exists()


def test_without_an_aligner_the_lora_learns_and_samples(made: Path) -> None:
    config, parts = load_model(model(made, "no-aligner"))
    assert parts.aligner is None and parts.prior is None
    assert parts.lora is not None
    learned = [tensor.abs().max() for key, tensor in parts.lora.tensors.items() if "lora_B" in key]
    assert learned and all(value > 0 for value in learned)
    pipe = FaithfulFacesPipeline.from_pretrained(model(made, "no-aligner"), dtype=torch.float32)
    with PIL.Image.open(FOLDER / "people" / "person00-frontal.png") as photo:
        image = photo.convert("RGB")
    frames = pipe(image, "boxes in a gym", seed=0)
    assert frames.shape == (9, 64, 64, 3)
    # there is no prior that a scale could change, and the LoRA is in
    assert np.array_equal(frames, pipe(image, "boxes in a gym", seed=0, scale=3.0, euler_noise_degrees=20.0))
    full = FaithfulFacesPipeline.from_pretrained(model(made, "full"), dtype=torch.float32)
    assert not np.array_equal(frames, full(image, "boxes in a gym", seed=0, aligner=False))
    pipe.save_pretrained(made / "again")
    again = load_model(made / "again")
    assert again[0] == config
    assert again[1].lora is not None
    assert all(torch.equal(again[1].lora.tensors[key], tensor) for key, tensor in parts.lora.tensors.items())


def test_a_second_call_trains_nothing_anew(made: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (made / "variants").rglob("*.safetensors")}
    lines: list[str] = []
    build_variants(made, Options(only=("full", "no-aligner"), seeds=1, sizes=SIZES), lines.append)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert lines == []


def test_what_another_process_trains_is_left_to_it(made: Path) -> None:
    folder = model(made, "full", 1).parent
    folder.mkdir()
    with FileLock(folder / ".lock"):
        assert build_variants(made, Options(only=("full",), seeds=2, sizes=SIZES), str) == [folder]
    assert not model(made, "full", 1).exists()


def test_a_spent_budget_stops_it_and_the_same_call_goes_on(made: Path) -> None:
    options = Options(only=("pooling-mean",), seeds=1, sizes=SIZES, minutes=0)
    with pytest.raises(OutOfTimeError):
        build_variants(made, options, str)
    assert not model(made, "pooling-mean").exists()
    build_variants(made, dataclasses.replace(options, minutes=float("inf")), str)
    assert json.loads((model(made, "pooling-mean") / "config.json").read_text())["aligner"]["pooling"] == "mean"


def test_the_builds_own_training_is_taken_over(made: Path) -> None:
    """The same recipe would give the same weights; another one is trained."""
    before = model(made, "full").parent
    (made / "faithful").mkdir()
    shutil.copytree(before / "model", made / "faithful" / "model")
    shutil.copy(before / "run" / runs.CONFIG, made / "faithful" / runs.CONFIG)
    shutil.rmtree(before)
    lines: list[str] = []
    build_variants(made, Options(only=("full",), seeds=1, sizes=SIZES), lines.append)
    assert [line.partition(":")[0] for line in lines] == ["full, seed 0"], "no step was trained"
    config, _ = load_model(model(made, "full"))
    assert Path(config.base) == made / "base_folder"
    lines.clear()
    build_variants(made, Options(only=("full",), seeds=2, sizes=SIZES), lines.append)
    assert lines[0].startswith("full, seed 1, 2 of 2: loss_fm")


@pytest.mark.slow
def test_table_2_of_the_trainings_is_made_by_ffbench(made: Path, tmp_path: Path) -> None:
    """Two seeds of each row through the method's own process, scored, pooled and formed again from its records."""
    build_variants(made, Options(only=("full", "no-euler", "no-aligner"), seeds=2, sizes=SIZES), str)
    words = ["ablate", "table2", "--checkpoints", str(made), "--limit", "2", "--out", str(tmp_path / "runs")]
    done = CliRunner().invoke(ffbench_app, [*words, "--results", str(tmp_path / "results"), "--json"])
    assert done.exit_code == 0, done.output
    sheet = json.loads(done.stdout)
    assert {line["label"]: line["num_made"] for line in sheet["lines"]} == {"✓ / ✓": 4, "✓ / ×": 4, "× / ×": 4}
    values = {
        cell["method"]: cell["value"]
        for cell in sheet["cells"]
        if (cell["metric"], cell["group"]) == ("clip_score", "all")
    }
    assert len(set(values.values())) == 3, "the checkpoints make different videos"
    assert any("rows of 2 trainings" in note for note in sheet["notes"])
    records = sorted((tmp_path / "results").rglob("*.jsonl"))
    assert len(records) == 6
    assert "no-aligner/seed-1/model" in "".join(path.with_suffix(".json").read_text() for path in records)
    assert CliRunner().invoke(ffbench_app, ["validate", str(tmp_path / "results")]).exit_code == 0


def test_wrong_words_are_answered_in_two_lines(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no variant 'ful'"):
        Options(only=("ful",))
    with pytest.raises(UserError, match="holds no base") as caught:
        build_variants(tmp_path, Options(), str)
    assert "faithfulfaces mini build --out" in caught.value.fix


def test_the_command_says_where_they_are(made: Path) -> None:
    words = ["mini", "variants", "--out", str(made), "--trial", "--only", "no-euler", "--seeds", "1"]
    done = CliRunner().invoke(app, words)
    assert (done.exit_code, done.stdout.strip()) == (0, str(made / "variants"))
    with FileLock(model(made, "no-euler").parent / ".lock"):
        shutil.move(model(made, "no-euler"), made / "kept")
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 1
        assert "1 trainings are in the hands of another process" in done.stderr
        shutil.move(made / "kept", model(made, "no-euler"))
