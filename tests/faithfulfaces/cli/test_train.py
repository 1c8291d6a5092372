"""`faithfulfaces train` as a user types it: an aligner by itself to the end, and what is refused in two lines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from faithfulfaces.model import CONFIG, LORA, WEIGHTS, load_model
from tests.faithfulfaces.commands import Command, refused, sampled

RECIPE = """
from dataclasses import replace
from faithfulfaces import recipes

def tiny():
    debug, full = recipes.debug(), recipes.aligner_only()
    data = replace(full.data, shards={shards!r}, pair_batch=8, workers=1)
    return replace(full, aligner=debug.aligner, optim=debug.optim, data=data, steps=3, log_every=1)
"""


def test_an_aligner_trained_alone_becomes_a_model_that_is_looked_into(
    command: Command, world: Path, shards: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(RECIPE.format(shards=str(shards)))
    run = tmp_path / "run"
    result = command("train", "--recipe", f"{tmp_path / 'mine.py'}:tiny", "--out", run)
    assert result.code == 0, result.err
    assert sorted(path.name for path in (run / "model").iterdir()) == ["README.md", CONFIG, WEIGHTS]
    config, parts = load_model(run / "model")
    assert (config.base, config.sampling, parts.prior, parts.lora) == (None, {}, None, None)
    stored: dict[str, torch.Tensor] = {}
    for file in (run / "checkpoints/step_0000003").rglob("*.safetensors"):
        stored |= load_file(file)
    assert parts.aligner is not None
    for name, tensor in parts.aligner.state_dict().items():
        assert torch.equal(stored[f"model.aligner.{name}"], tensor)
    card = (run / "model/README.md").read_text("utf-8")
    assert "base_model" not in card and "crops [B,3,16,16]" in card and "from_pretrained" not in card
    found = command("analyse", run, "--shards", shards, "--out", tmp_path / "a", "--permutations", 19, "--json")
    assert found.code == 0, found.err
    assert json.loads(found.out)["source"] == str(run / "model") and json.loads(found.out)["loss"]["steps"] == [1, 2, 3]
    # it makes no videos, and no LoRA belongs to it
    out = tmp_path / "a.mp4"
    for more in ((), ("--base", world / "base")):
        refused(sampled(command, world, out, "--checkpoint", run, *more), "trained without a base", "analyse")
    exported = ("--style", "comfyui", "--out", tmp_path / "a.safetensors")
    refused(command("export", "--checkpoint", run, *exported), f"model holds no {LORA}")
    assert command("export", "--checkpoint", world / "checkpoint", *exported).code == 0
    file, new = tmp_path / "a.safetensors", tmp_path / "new"
    refused(command("import", file, "--checkpoint", run, "--out", new), "a.safetensors", "trained without a base")
    assert not out.exists() and not new.exists()
    (run / "model" / LORA).write_bytes((world / "checkpoint" / LORA).read_bytes())
    refused(command("analyse", run, "--shards", shards, "--out", tmp_path / "b"), CONFIG, f"and {LORA} is there")


def recipe(folder: Path, change: str, shards: Path | str = "") -> str:
    """A recipe file: `debug` with a change, as `--recipe` takes it."""
    path = folder / "mine.py"
    path.write_text(
        "from dataclasses import replace\nfrom faithfulfaces.config import *\nfrom faithfulfaces import recipes\n"
        f"SHARDS = {str(shards)!r}\n"
        "def changed():\n    debug = recipes.debug()\n    data = replace(debug.data, shards=SHARDS)\n"
        f"    return {change}\n"
    )
    return f"{path}:changed"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("replace(debug, data=replace(data, video_batch=3))", "Data.video_batch 3 is no multiple of 2"),
        ("replace(debug, aligner=replace(debug.aligner, patch=5))", "Aligner.image_size 16 is no multiple of"),
        ("replace(debug, aligner=Aligner(elemnts=3))", "elemnts"),
        ("replace(debug, optim=replace(debug.optim, lr=0))", "Optim.lr must be above 0"),
        ("replace(debug, lora=None)", "Train.lora goes with"),
        ("replace(debug, base=replace(debug.base, folder='/absent'))", "Base.folder /absent"),
        ("replace(debug, data=replace(data, pair_batch=5), base=None)", "Train.lora goes with Train.base"),
        ("data", "gives no faithfulfaces.config.Train"),
    ],
)
def test_a_recipe_that_cannot_be_is_two_lines(command: Command, tmp_path: Path, change: str, words: str) -> None:
    refused(command("train", "--recipe", recipe(tmp_path, change), "--out", tmp_path / "run"), words)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_too_few_people_for_a_batch_are_counted(command: Command, shards: Path, tmp_path: Path) -> None:
    made = recipe(tmp_path, "replace(debug, data=replace(data, pair_batch=10), base=None, lora=None)", shards)
    result = command("train", "--recipe", made, "--out", tmp_path / "run")
    refused(result, "Data.pair_batch is 10, but only 9 identities")


def test_a_loss_that_is_not_finite_ends_the_run_and_names_the_step(command: Command, tmp_path: Path) -> None:
    made = recipe(tmp_path, "replace(debug, base=None, lora=None, optim=replace(debug.optim, lr=1e30, warmup_steps=0))")
    result = command("train", "--recipe", made, "--out", tmp_path / "run")
    assert result.code == 2
    told = [line for line in result.err.splitlines() if not line.startswith("step ")]
    assert len(told) == 2 and "gradient is not finite at step" in told[0] and "loss_pia" in told[0], result.err
    assert "Optim.lr" in told[1]


def test_json_is_of_the_plan_alone(command: Command, tmp_path: Path) -> None:
    refused(command("train", "--recipe", "debug", "--out", tmp_path / "run", "--json"), "--json", "--dry-run")
    assert not (tmp_path / "run").exists()


def test_a_file_where_the_run_should_be_is_two_lines(command: Command, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    made = recipe(tmp_path, "replace(debug, base=None, lora=None, steps=1)")
    refused(command("train", "--recipe", made, "--out", tmp_path / "run"), "run cannot be written: File exists")


def test_a_resumed_run_of_another_shape_names_its_field(command: Command, tmp_path: Path) -> None:
    alone, out = "replace(debug, base=None, lora=None, steps=2)", ("--out", tmp_path / "run")
    assert command("train", "--recipe", recipe(tmp_path, alone), *out).code == 0
    refused(command("train", "--recipe", recipe(tmp_path, alone), *out), "holds a run already")
    wider = recipe(
        tmp_path, "replace(debug, base=None, lora=None, steps=3, aligner=replace(debug.aligner, elements=65))"
    )
    refused(command("train", "--recipe", wider, *out, "--resume"), "aligner.elements: 64 there, 65 here")


def test_shards_that_miss_a_crop_or_latents_are_named(command: Command, shards: Path, tmp_path: Path) -> None:
    import tarfile

    (tmp_path / "bad").mkdir()
    with tarfile.open(shards / "00000.tar") as tar, tarfile.open(tmp_path / "bad/00000.tar", "w") as out:
        for member in tar:
            if member.name != "clip004.crop001.jpg":
                out.addfile(member, tar.extractfile(member))
    alone = recipe(tmp_path, "replace(debug, base=None, lora=None, data=data)", tmp_path / "bad")
    missing = command("train", "--recipe", alone, "--out", tmp_path / "run")
    refused(missing, "shard 00000.tar, sample clip004", "clip004.crop001.jpg is missing")
    whole = recipe(tmp_path, "replace(debug, data=data)", shards)
    refused(command("train", "--recipe", whole, "--out", tmp_path / "run"), "L_FM needs cached latents")
    assert not (tmp_path / "run").exists()
