"""`faithfulfaces sample | export | import | convert` as a user types them, on tiny real files."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from faithfulfaces import recipes
from faithfulfaces.export import save_lora, to_style
from faithfulfaces.lora import LoraWeights
from faithfulfaces.model import CONFIG, LORA, WEIGHTS, load_model, save_model
from faithfulfaces.pipeline import FaithfulFacesPipeline
from ffbench.video import probe, write_mp4
from tests.faithfulfaces import tiny_vace
from tests.faithfulfaces.commands import Command, refused, sampled
from tests.faithfulfaces.tiny_vace import SMALL

# --- sample


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


def test_a_photograph_that_lies_on_its_side_is_turned_upright(command: Command, world: Path, tmp_path: Path) -> None:
    with Image.open(world / "face.png") as upright:
        lying, exif = upright.convert("RGB").transpose(Image.Transpose.ROTATE_90), Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise
    lying.save(tmp_path / "lying.png", exif=exif)
    assert sampled(command, world, tmp_path / "a.mp4").code == 0
    assert sampled(command, world, tmp_path / "b.mp4", "--image", tmp_path / "lying.png").code == 0
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_bad_input_of_sample_is_two_lines(command: Command, world: Path, tmp_path: Path, no_weights: None) -> None:
    out = tmp_path / "a.mp4"
    refused(sampled(command, world, out, "--image", world / "empty.png"), "empty.png holds no face")
    refused(sampled(command, world, out, "--image", world / "none.png"), "--image", "none.png")
    (tmp_path / "cut.png").write_bytes((world / "face.png").read_bytes()[:500])
    refused(sampled(command, world, out, "--image", tmp_path / "cut.png"), "cut.png is no readable picture")
    (tmp_path / "text.png").write_text("no picture")
    refused(sampled(command, world, out, "--image", tmp_path / "text.png"), "text.png is no readable picture")
    refused(sampled(command, world, out, "--checkpoint", tmp_path / "none"), "the checkpoint", "none")
    refused(sampled(command, world, out, "--steps", 0), "steps = 0")
    refused(sampled(command, world, out, "--width", 33), "width = 33")
    refused(sampled(command, world, tmp_path / "a.gif"), "a.gif is no .mp4 file")
    refused(sampled(command, world, tmp_path / "none" / "a.mp4"), "none/a.mp4")
    refused(sampled(command, world, out, "--device", "tpu"), "tpu")
    for option, words in (("--guidance", "guidance = nan"), ("--scale", "scale = nan")):
        refused(sampled(command, world, out, option, "nan"), words)
    refused(sampled(command, world, out, "--seed", 2**63), "--seed")
    refused(sampled(command, world, out, "--image", tmp_path), "--image", "is no file")
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
