"""`faithfulfaces sample | export | import | convert | analyse` as a user types them, on tiny real files."""

from __future__ import annotations

import csv
import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from faithfulfaces import recipes
from faithfulfaces.cli import main
from faithfulfaces.config import Checkpoint, Data, Train
from faithfulfaces.export import save_lora, to_style
from faithfulfaces.lora import LoraWeights
from faithfulfaces.model import CONFIG, LORA, WEIGHTS, load_model, save_model
from faithfulfaces.pipeline import FaithfulFacesPipeline
from faithfulfaces.runs import open_aligner
from faithfulfaces.shards import ShardClips
from faithfulfaces.trainer import Trainer
from ffbench.errors import UserError
from ffbench.video import probe, write_mp4
from tests.faithfulfaces import crops, tiny_vace
from tests.faithfulfaces.tiny_vace import SMALL


class Result(NamedTuple):
    code: int
    out: str
    err: str


Command = Callable[..., Result]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    def call(*arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["faithfulfaces", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            main()
        printed = capsys.readouterr()
        return Result(int(left.value.code or 0), printed.out, printed.err)

    return call


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """base, checkpoint, face.png, empty.png."""
    folder = tmp_path_factory.mktemp("world")
    tiny_vace.write(folder / "base")
    size = {"width": 32, "height": 16, "num_frames": 5}
    config = dataclasses.replace(tiny_vace.CONFIG, base=str(folder / "base"), sampling=size)
    save_model(folder / "checkpoint", config, tiny_vace.parts(config, trained=True))
    tiny_vace.portrait().save(folder / "face.png")
    tiny_vace.landscape().save(folder / "empty.png")
    return folder


def refused(result: Result, *words: str) -> None:
    assert result.code == 2, result
    lines = result.err.strip().splitlines()
    assert len(lines) == 2 and lines[0].startswith("error: ") and lines[1].startswith("fix:   "), result.err
    assert result.out == ""
    for word in words:
        assert word in result.err


# --- sample


def sampled(command: Command, world: Path, out: Path, *more: object) -> Result:
    return command(
        "sample", "--checkpoint", world / "checkpoint", "--image", world / "face.png", "--prompt", "a person boxes",
        "--out", out, "--steps", 2, "--dtype", "float32", *more,
    )  # fmt: skip


def test_a_video_is_what_the_pipeline_makes_at_the_checkpoints_own_size(
    command: Command, world: Path, tmp_path: Path
) -> None:
    result = sampled(command, world, tmp_path / "a.mp4", "--seed", 7)
    assert (result.code, result.out) == (0, f"{tmp_path / 'a.mp4'}\n")
    assert "yaw 3" in result.err or "yaw 4" in result.err
    pipe = FaithfulFacesPipeline.from_pretrained(world / "checkpoint", dtype=torch.float32)
    pipe.vace.set_progress_bar_config(disable=True)
    frames = pipe(tiny_vace.portrait(), "a person boxes", 7, steps=2)
    assert frames.shape == (5, 16, 32, 3)
    assert np.array_equal(frames, pipe(tiny_vace.portrait(), "a person boxes", 7, **SMALL))
    write_mp4(tmp_path / "b.mp4", frames, 16.0)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


@pytest.mark.parametrize(
    "option",
    [
        ("--no-aligner",), ("--no-euler",), ("--euler-noise-degrees", 20), ("--scale", 3), ("--guidance", 1),
        ("--flow-shift", 3), ("--negative-prompt", "a head"), ("--seed", 1), ("--fps", 8), ("--steps", 3),
        ("--num-frames", 9),
    ],
)  # fmt: skip
def test_every_option_reaches_the_video(
    command: Command, world: Path, tmp_path: Path, option: tuple[object, ...]
) -> None:
    # strong guidance: random weights change a pixel by less than H.264 keeps otherwise
    plain = world / "plain.mp4"
    if not plain.exists():
        assert sampled(command, world, plain, "--guidance", 40).code == 0
    assert sampled(command, world, tmp_path / "a.mp4", "--guidance", 40, *option).code == 0
    assert (tmp_path / "a.mp4").read_bytes() != plain.read_bytes()


def test_size_and_base_are_options_too(command: Command, world: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    (world / "base").rename(moved)
    try:
        refused(sampled(command, world, tmp_path / "a.mp4"), "the base", "is no folder")
        result = sampled(command, world, tmp_path / "a.mp4", "--base", moved, "--width", 16, "--height", 32)
    finally:
        moved.rename(world / "base")
    assert result.code == 0
    made = probe(tmp_path / "a.mp4")
    assert (made.width, made.height) == (16, 32)


def test_bad_input_of_sample_is_two_lines(command: Command, world: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.mp4"
    refused(sampled(command, world, out, "--image", world / "empty.png"), "empty.png holds no face")
    refused(sampled(command, world, out, "--image", world / "none.png"), "--image", "none.png")
    (tmp_path / "text.png").write_text("no picture")
    refused(sampled(command, world, out, "--image", tmp_path / "text.png"), "text.png is no readable picture")
    refused(sampled(command, world, out, "--checkpoint", tmp_path / "none"), "the checkpoint", "none")
    refused(sampled(command, world, out, "--steps", 0), "steps = 0")
    refused(sampled(command, world, out, "--width", 33), "width = 33")
    refused(sampled(command, world, tmp_path / "a.gif"), "a.gif is no .mp4 file")
    refused(sampled(command, world, tmp_path / "none" / "a.mp4"), "none/a.mp4")
    refused(sampled(command, world, out, "--device", "tpu"), "tpu")
    refused(sampled(command, world, out, "--faces", "paper"), "are not on this machine")
    assert not out.exists()


def altered(world: Path, folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> Path:
    """A copy of the checkpoint whose tensors were changed."""
    config, parts = load_model(world / "checkpoint")
    save_model(folder, config, parts)
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)
    return folder


def test_a_checkpoint_of_other_shape_names_its_tensor(command: Command, world: Path, tmp_path: Path) -> None:
    def shorter(tensors: dict[str, torch.Tensor]) -> None:
        tensors["aligner.dictionary_CD"] = tensors["aligner.dictionary_CD"][:5].clone()

    def foreign(tensors: dict[str, torch.Tensor]) -> None:
        tensors["aligner.extra"] = torch.zeros(1)

    def wide(tensors: dict[str, torch.Tensor]) -> None:
        for name in ("weight", "bias"):
            if f"prior.projection.{name}" in tensors:
                tensors[f"prior.projection.{name}"] = torch.cat([tensors[f"prior.projection.{name}"]] * 2)

    for change, words in (
        (shorter, "aligner.dictionary_CD is missing or of another shape"),
        (foreign, "unknown aligner.extra"),
        (wide, "width 48, this base has 24"),
    ):
        folder = altered(world, tmp_path / change.__name__, change)
        refused(sampled(command, world, tmp_path / "a.mp4", "--checkpoint", folder), words)


def test_an_unknown_sampling_option_of_the_checkpoint_is_named(command: Command, world: Path, tmp_path: Path) -> None:
    folder = altered(world, tmp_path / "copy", lambda tensors: None)
    about = json.loads((folder / CONFIG).read_text())
    assert about["sampling"] == {"width": 32, "height": 16, "num_frames": 5}
    (folder / CONFIG).write_text(json.dumps(about | {"sampling": {"speed": 3}}))
    refused(sampled(command, world, tmp_path / "a.mp4", "--checkpoint", folder), "unknown sampling option 'speed'")


# --- export, import, convert


def test_a_lora_goes_out_through_every_style_and_comes_back_to_the_bit(
    command: Command, world: Path, tmp_path: Path
) -> None:
    files = {style: tmp_path / f"{style}.safetensors" for style in ("diffusers", "comfyui", "diffsynth")}
    source: object = ("export", "--checkpoint", world / "checkpoint")
    for style, file in files.items():
        result = command(*source, "--style", style, "--out", file)  # type: ignore[misc]
        assert (result.code, result.out) == (0, f"{file}\n")
        assert f"30 modules of rank 4, alpha 4, written as {style}, 0 keys unmatched" in result.err
        source = ("convert", file)
    result = command("import", files["diffsynth"], "--checkpoint", world / "checkpoint", "--out", tmp_path / "back")
    assert (result.code, result.out) == (0, f"{tmp_path / 'back'}\n")
    assert "read as diffsynth, 0 keys unmatched" in result.err
    for name in (WEIGHTS, LORA):
        ours, theirs = load_file(tmp_path / "back" / name), load_file(world / "checkpoint" / name)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert (tmp_path / "back" / CONFIG).read_bytes() == (world / "checkpoint" / CONFIG).read_bytes()


def test_a_finished_run_is_a_checkpoint(command: Command, world: Path, tmp_path: Path) -> None:
    config, parts = load_model(world / "checkpoint")
    save_model(tmp_path / "run/model", config, parts)
    (tmp_path / "run/config.json").write_text(json.dumps(dataclasses.asdict(recipes.debug())))
    out = tmp_path / "a.safetensors"
    assert command("export", "--checkpoint", tmp_path / "run", "--style", "comfyui", "--out", out).code == 0
    assert len(load_file(out)) == 90
    assert sampled(command, world, tmp_path / "a.mp4", "--checkpoint", tmp_path / "run").code == 0


def test_another_lora_changes_the_new_checkpoint_alone(command: Command, world: Path, tmp_path: Path) -> None:
    lora = load_model(world / "checkpoint")[1].lora
    assert lora is not None
    doubled = LoraWeights({key: 2 * tensor for key, tensor in lora.tensors.items()}, lora.alpha)
    save_lora(tmp_path / "a.safetensors", doubled, "comfyui")
    before = (world / "checkpoint" / LORA).read_bytes()
    arguments = ("import", tmp_path / "a.safetensors", "--checkpoint", world / "checkpoint", "--out", tmp_path / "new")
    assert command(*arguments).code == 0
    found = load_model(tmp_path / "new")[1].lora
    assert found is not None and all(torch.equal(found.tensors[k], doubled.tensors[k]) for k in doubled.tensors)
    assert (world / "checkpoint" / LORA).read_bytes() == before
    refused(command(*arguments), "is there already")


def test_bad_input_of_export_is_two_lines(command: Command, world: Path, tmp_path: Path) -> None:
    lora = load_model(world / "checkpoint")[1].lora
    assert lora is not None
    tensors, header = to_style(lora, "comfyui")
    save_file(tensors | {"lora_te.alpha": torch.ones(1)}, tmp_path / "odd.safetensors", metadata=header)
    out, style = ("--out", tmp_path / "b.safetensors"), ("--style", "diffusers")
    refused(command("convert", tmp_path / "odd.safetensors", *style, *out), "odd.safetensors: 1 of 91 keys", "lora_te")
    to = ("--checkpoint", world / "checkpoint", "--out", tmp_path / "new")
    refused(command("import", tmp_path / "odd.safetensors", *to), "1 of 91 keys", "lora_te.alpha")
    wide = {k: torch.cat([t, t], 1 if ".lora_A." in k else 0) for k, t in lora.tensors.items()}
    save_lora(tmp_path / "wide.safetensors", LoraWeights(wide, 4.0))
    refused(command("import", tmp_path / "wide.safetensors", *to), "base of width 48, the checkpoint's has 24")
    refused(command("convert", tmp_path / "none.safetensors", *style, *out), "none.safetensors cannot be read")
    refused(command("export", "--checkpoint", tmp_path / "none", *style, *out), "none")
    refused(command("export", *to[:2], *style, "--out", tmp_path / "b.bin"), "b.bin is no .safetensors file")
    config, parts = load_model(world / "checkpoint")
    save_model(tmp_path / "bare", config, parts._replace(lora=None))
    refused(command("export", "--checkpoint", tmp_path / "bare", *style, *out), f"bare holds no {LORA}")
    assert not (tmp_path / "new").exists() and not (tmp_path / "b.safetensors").exists()


def test_an_unknown_style_is_a_usage_error(command: Command, world: Path, tmp_path: Path) -> None:
    result = command(
        "export", "--checkpoint", world / "checkpoint", "--style", "kohya", "--out", tmp_path / "a.safetensors"
    )
    assert result.code == 2 and "diffsynth" in result.err


# --- analyse


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return crops.write(tmp_path_factory.mktemp("shards"), people=9)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, shards: Path) -> Path:
    """A run of the aligner alone, stopped after its second checkpoint: no model folder."""
    folder = tmp_path_factory.mktemp("run")
    debug = recipes.debug()
    config = Train(
        name="aligner", steps=4, aligner=debug.aligner, optim=debug.optim, log_every=1,
        data=Data(shards=str(shards), pair_batch=8, workers=1), checkpoint=Checkpoint(every=2),
    )  # fmt: skip
    from faithfulfaces.parallel import World

    clips = ShardClips(shards, config.aligner.image_size)
    Trainer(config, clips, World(0, 1, torch.device("cpu"), None), folder).train()
    (folder / "config.json").write_text(json.dumps(dataclasses.asdict(config)))
    return folder


def test_a_run_is_looked_into(command: Command, run: Path, shards: Path, tmp_path: Path) -> None:
    result = command("analyse", run, "--shards", shards, "--out", tmp_path / "a", "--permutations", 19, "--json")
    assert result.code == 0, result.err
    names = {f"{stem}.{end}" for stem in ("dictionary", "identities", "loss") for end in ("png", "pdf", "csv")}
    assert {path.name for path in (tmp_path / "a").iterdir()} == names | {"analysis.json"}
    found = json.loads(result.out)
    assert found == json.loads((tmp_path / "a/analysis.json").read_text())
    assert found["source"] == str(run / "checkpoints/step_0000004") and found["missing"] == {}
    assert [group["faces"] for group in found["dictionary"]["groups"]] == [18, 18, 18, 18, 9]
    assert found["dictionary"]["winner_and_pose"]["permutations"] == 19
    assert found["loss"]["steps"] == [1, 2, 3, 4] and found["loss"]["loss_fm"] == []
    assert [len(one["points"]) for one in found["identities"]] == [56, 56, 56]
    with (tmp_path / "a/dictionary.csv").open() as file:
        rows = list(csv.DictReader(file))
    often = [row for row in rows if row["group"] == "left" and row["list"] == "most activated"]
    assert [int(row["element"]) for row in often] == [
        item["element"] for item in found["dictionary"]["groups"][1]["elements"]
    ]
    assert len((tmp_path / "a/identities.csv").read_text().splitlines()) == 1 + 3 * 56
    told = command("analyse", run, "--shards", shards, "--out", tmp_path / "b", "--permutations", 19)
    assert "bits over 81 faces of 9 people" in told.out and "S: silhouette of 7 people" in told.out
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


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


def test_the_aligner_of_a_run_is_the_one_that_was_trained(run: Path) -> None:
    newest = open_aligner(run)
    step = run / "checkpoints/step_0000002"
    older = open_aligner(step)
    assert (newest.log, older.log, older.source) == (run / "log.jsonl", None, step)
    for opened in (newest, older):
        stored: dict[str, torch.Tensor] = {}
        for file in opened.source.rglob("*.safetensors"):
            stored |= {k.removeprefix("model.aligner."): t for k, t in load_file(file).items()}
        state = opened.aligner.state_dict()
        assert all(torch.equal(stored[name], tensor) for name, tensor in state.items())
        assert not any(parameter.requires_grad for parameter in opened.aligner.parameters())
    assert not torch.equal(newest.aligner.dictionary_CD, older.aligner.dictionary_CD)


def test_a_checkpoint_has_no_loss_and_few_crops_make_no_map(
    command: Command, world: Path, shards: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    result = command("analyse", world / "checkpoint", "--shards", shards, "--out", out, "--poses", 10)
    assert result.code == 0
    assert "no loss.png: there is no log.jsonl" in result.err
    assert "no identities.png: 0 of 9 people have 10 faces" in result.err
    found = json.loads((out / "analysis.json").read_text())
    assert found["loss"] is None and found["identities"] == [] and found["missing"].keys() == {"loss", "identities"}
    assert not list(out.glob("loss.*")) and not list(out.glob("identities.p*"))


def test_bad_input_of_analyse_is_two_lines(command: Command, run: Path, shards: Path, tmp_path: Path) -> None:
    to = ("--shards", shards, "--out", tmp_path / "out")
    refused(command("analyse", tmp_path / "none", *to), "none")
    refused(command("analyse", run, "--shards", tmp_path, "--out", tmp_path / "out"), "no shards", str(tmp_path))
    copy = tmp_path / "copy/checkpoints/step_0000004"
    copy.mkdir(parents=True)
    for file in (run / "checkpoints/step_0000004").iterdir():
        if file.is_file():
            (copy / file.name).write_bytes(file.read_bytes())
    marker = copy / "complete.json"
    about = json.loads(marker.read_text())
    for change, words in (
        ({"elements": 65}, "does not fit this model"),
        ({"elements": 0}, "complete.json cannot be read"),
        ({"speed": 1}, "complete.json cannot be read"),
    ):
        aligner = about["config"]["aligner"] | change
        marker.write_text(json.dumps(about | {"config": about["config"] | {"aligner": aligner}}))
        refused(command("analyse", tmp_path / "copy", *to), words)
    marker.write_text(json.dumps(about | {"config": about["config"] | {"aligner": None}}))
    refused(command("analyse", tmp_path / "copy", *to), "was trained without an aligner")
    assert not (tmp_path / "out").exists()


def test_a_shard_with_a_missing_crop_is_named(command: Command, run: Path, tmp_path: Path) -> None:
    import tarfile

    crops.write(tmp_path, people=3)
    with tarfile.open(tmp_path / "00000.tar") as tar:
        kept = [(member, tar.extractfile(member)) for member in tar if member.name != "clip001.crop002.jpg"]
        with tarfile.open(tmp_path / "part.partial", "w") as out:
            for member, data in kept:
                out.addfile(member, data)
    (tmp_path / "part.partial").replace(tmp_path / "00000.tar")
    result = command("analyse", run, "--shards", tmp_path, "--out", tmp_path / "out")
    refused(result, "shard 00000.tar, sample clip001", "clip001.crop002.jpg is missing")


def test_broken_weights_are_no_aligner(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "step_0000004"
    copy.mkdir()
    for file in (run / "checkpoints/step_0000004").iterdir():
        if file.suffix == ".safetensors":
            tensors = load_file(file)
            if "model.aligner.dictionary_CD" in tensors:
                tensors["model.aligner.dictionary_CD"][3] = float("nan")
            from safetensors import safe_open

            with safe_open(file, "pt") as opened:
                save_file(tensors, copy / file.name, metadata=opened.metadata())
        elif file.is_file():
            (copy / file.name).write_bytes(file.read_bytes())
    with pytest.raises(UserError, match="dictionary_CD holds values that are not finite"):
        open_aligner(copy)


# --- all commands


def test_help_is_light() -> None:
    code = (
        "import sys\nfrom faithfulfaces.cli import main\nsys.argv = ['faithfulfaces', 'sample', '--help']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'numpy', 'matplotlib', 'diffusers', 'PIL'} & set(sys.modules)\n"
        "print(heavy or '{}', file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stderr.strip() == "{}"
    assert "--no-euler" in done.stdout
