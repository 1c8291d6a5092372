"""What the methods on Wan share, on tiny real networks, against the described mathematics."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UniPCMultistepScheduler, WanTransformer3DModel
from PIL import Image
from safetensors.torch import load_file, save_file

from baselines.wan.image import load_image_encoder
from baselines.wan.latents import decode, encode, load_vae, normalised, pixels, posterior
from baselines.wan.loading import expect, load_original, load_part, load_transformer, merged
from baselines.wan.networks import Networks, fits
from baselines.wan.pictures import fit_on_white
from baselines.wan.sampling import euler, noise, sample, text_guided, unipc
from baselines.wan.text import clean, load_prompts
from ffbench.errors import UserError
from tests.baselines import tiny_wan

LATENT_MEAN = (-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508)
LATENT_STD = (2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743)
"""Of Wan 2.1's first eight channels, as published."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("wan") / "i2v"
    tiny_wan.write(made, image=True)
    return made


def refused(match: str, call: Any, *args: Any) -> None:
    with pytest.raises(UserError, match=match) as caught:
        call(*args)
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize(("steps", "shift", "last"), [(50, 16.0, 245), (50, 5.0, None), (40, 3.0, None)])
def test_noise_levels_are_those_of_wans_own_sampler(steps: int, shift: float, last: int | None) -> None:
    scheduler = unipc(shift)
    scheduler.set_timesteps(steps)
    levels = [0.999 * (1 - step / steps) for step in range(steps)]
    shifted = [shift * level / (1 + (shift - 1) * level) for level in levels]
    assert scheduler.sigmas.tolist() == pytest.approx([*shifted, 0.0], abs=1e-6)
    assert scheduler.timesteps.tolist() == [int(1000 * level) for level in shifted]
    assert last in (None, scheduler.timesteps[-1].item())
    if steps == 50 and shift == 16.0:
        theirs = unipc(shift, UniPCMultistepScheduler)
        theirs.set_timesteps(steps)
        assert theirs.timesteps[-1].item() == 255


def test_euler_levels_are_those_of_diffsynth() -> None:
    scheduler = euler(20, 5.0)
    levels = [1 - step / 20 for step in range(20)]
    assert scheduler.sigmas.tolist() == pytest.approx([*(5 * s / (1 + 4 * s) for s in levels), 0.0], abs=1e-6)
    assert scheduler.sigmas[-2].item() == pytest.approx(0.2083, abs=1e-4)


@pytest.mark.parametrize("solver", ["unipc", "euler"])
def test_the_loop_converges_to_the_known_solution_of_an_equation(solver: str) -> None:
    # videos ~ N(0, 1/4): x goes along sqrt(var), var = (1-s)^2/4 + s^2, so its velocity is x * var' / (2 var)
    def variance(s: float) -> float:
        return (1 - s) ** 2 / 4 + s**2

    start = noise(3, (1, 2, 2, 3, 4), "cpu").double()

    def error(steps: int) -> float:
        scheduler = unipc(3.0) if solver == "unipc" else euler(steps, 3.0)
        if solver == "unipc":
            scheduler.set_timesteps(steps)
        # an integer timestep does not tell the level, so levels are taken in turn
        levels = iter(scheduler.sigmas.tolist())
        seen = []

        def velocity(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            assert t.shape == (1,)
            seen.append(t.item())
            s = next(levels)
            return x * (s - (1 - s) / 4) / variance(s)

        end = sample(scheduler, start, velocity)
        assert seen == scheduler.timesteps.tolist()
        expected = start * 0.5 / math.sqrt(variance(scheduler.sigmas[0].item()))
        return ((end - expected).norm() / expected.norm()).item()

    errors = [error(steps) for steps in (25, 50, 100)]
    # Euler and the jump to level 0 are of first order: twice the steps, half the error; a wrong level would stay
    assert errors[1] < 0.6 * errors[0] and errors[2] < 0.6 * errors[1], errors


def test_noise_is_float32_of_the_seed() -> None:
    made = noise(7, (1, 16, 2, 2, 4), "cpu")
    assert made.dtype == torch.float32
    assert torch.equal(made, torch.randn((1, 16, 2, 2, 4), generator=torch.Generator().manual_seed(7)))
    assert not torch.equal(made, noise(8, (1, 16, 2, 2, 4), "cpu"))


@torch.no_grad()
def test_guidance_runs_both_prompts_over_the_same_state(folder: Path) -> None:
    network = load_transformer(folder, torch.float32)
    x, condition = noise(0, (1, 16, 2, 2, 4), "cpu"), noise(1, (1, 20, 2, 2, 4), "cpu")
    texts, image, t = (noise(2, (1, 512, 32), "cpu"), noise(3, (1, 512, 32), "cpu")), noise(4, (1, 5, 20), "cpu"), 500
    got = text_guided(network, texts, 4.0, condition, image)(x, torch.tensor([t]))
    joined = torch.cat([x, condition], 1)
    c, u = (network(joined, torch.tensor([t]), text, image, return_dict=False)[0] for text in texts)
    assert torch.allclose(got, u + 4 * (c - u), atol=1e-5) and (c - u).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("given", "cleaned"),
    [("  a\n person\t boxes ", "a person boxes"), ("Tom &amp;amp; Ann", "Tom & Ann"), ("schÃ¶n", "schön"), ("", "")],
)
def test_prompts_are_cleaned_as_wan_cleans_them(given: str, cleaned: str) -> None:
    assert clean(given) == cleaned


@torch.no_grad()
def test_embeddings_end_in_zeros_and_are_made_once(folder: Path) -> None:
    prompts = load_prompts(folder, torch.float32, "cpu")
    made = prompts("a  person\nboxes")
    own = load_part(folder, "text_encoder", torch.float32)
    alone = own(tiny_wan.words("a person boxes")).last_hidden_state
    assert made.shape == (1, 512, 32) and alone.shape == (1, 4, 32)
    assert torch.allclose(made[:, :4], alone, atol=1e-5) and not made[:, 4:].any()
    assert torch.equal(prompts("a  person\nboxes"), made) and prompts.runs == 1
    assert not torch.equal(prompts("a person dances"), made) and prompts.runs == 2
    assert prompts("a person boxes " * 300).shape == (1, 512, 32)


def test_an_embedding_that_is_not_the_stored_one_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from baselines.wan import text

    def untied(*args: Any) -> Any:
        encoder = load_part(*args)
        # what transformers 5.0 to 5.2 leave behind
        encoder.encoder.embed_tokens = torch.nn.Embedding(*encoder.shared.weight.shape)
        return encoder

    monkeypatch.setattr(text, "load_part", untied)
    refused("input embedding is not the stored one", load_prompts, folder, torch.float32, "cpu")


@torch.no_grad()
def test_latents_are_normalised_by_the_published_statistics(folder: Path) -> None:
    vae = load_vae(folder)
    video = torch.tanh(noise(0, (1, 3, 5, 16, 32), "cpu"))
    theirs = vae.encode(video).latent_dist
    made = encode(vae, video)
    for channel, (mean, std) in enumerate(zip(LATENT_MEAN, LATENT_STD, strict=True)):
        assert torch.allclose(made[:, channel], (theirs.mode()[:, channel] - mean) / std, atol=1e-5)
    drawn = normalised(vae, posterior(vae, video).sample(torch.Generator().manual_seed(1)))
    draw = theirs.mean + theirs.std * torch.randn(made.shape, generator=torch.Generator().manual_seed(1))
    mean, std = (made.new(values).view(8, 1, 1, 1) for values in (LATENT_MEAN, LATENT_STD))
    assert torch.allclose(drawn[:, :8], (draw[:, :8] - mean) / std, atol=1e-5)
    frames = decode(vae, made)
    pictures = (vae.decode(theirs.mode()).sample[0].clamp(-1, 1) + 1) / 2 * 255
    assert frames.shape == (5, 16, 32, 3) and frames.dtype == np.uint8
    assert np.abs(frames - pictures.permute(1, 2, 3, 0).numpy()).max() <= 0.51
    with pytest.raises(FloatingPointError, match="not finite"):
        decode(vae, made * math.nan)


def test_pixels_reach_from_minus_one_to_one() -> None:
    made = pixels(np.array([[[0, 255, 51]]], np.uint8), "cpu")
    assert made.flatten().tolist() == pytest.approx([-1, 1, -0.6])


@torch.no_grad()
def test_image_tokens_are_the_last_layer_but_one(folder: Path) -> None:
    encoder = load_image_encoder(folder, "cpu")
    pictures = torch.rand((2, 3, 28, 28), generator=torch.Generator().manual_seed(0))
    own = load_part(folder, "image_encoder", torch.float32)
    seen = []
    layers = [module for name, module in own.named_modules() if name.endswith("encoder.layers.1")]
    layers[0].register_forward_hook(lambda *args: seen.append(args[2][0] if isinstance(args[2], tuple) else args[2]))
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    own(torch.stack([(pictures[:, c] - mean[c]) / std[c] for c in range(3)], 1))
    assert encoder.size == 28 and seen[0].shape == (2, 5, 20)
    assert torch.allclose(encoder(pictures), torch.cat([seen[0][0], seen[0][1]])[None], atol=1e-5)


def test_pictures_are_fitted_on_white(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for index in range(60):
        height, width = (int(side) for side in rng.integers(1, 200, 2))
        picture = Image.fromarray(rng.integers(0, 200, (height, width, 3), np.uint8))
        picture.save(tmp_path / f"{index}.png")
        try:
            expected = tiny_wan.white_canvas(str(tmp_path / f"{index}.png"), 48, 32)
        except ValueError:
            continue  # a side of 0 pixels stops the authors; here it is 1
        made, region = fit_on_white(picture, 48, 32)
        assert np.array_equal(made.transpose(2, 0, 1), expected.numpy())
        assert (made[~region] == 255).all() and np.array_equal(
            region, region[region.any(1)].any(0) & region.any(1)[:, None]
        )
    thin, region = fit_on_white(Image.new("RGB", (1, 1000)), 48, 32)
    assert region.sum() == 32 and thin.min() == 0


@pytest.mark.parametrize("image", [False, True])
@torch.no_grad()
def test_a_checkpoint_in_wans_own_layout_is_the_same_network(tmp_path: Path, image: bool) -> None:
    network = tiny_wan.write(tmp_path / "base", image=image)["transformer"]
    stored = tiny_wan.write_original(tmp_path / "original", network, shards=3)
    assert "blocks.1.cross_attn.norm_q.weight" in stored and "head.modulation" in stored
    tiny_wan.write(tmp_path / "base", image=image, seed=1)
    loaded = load_original(tmp_path / "original", tmp_path / "base", torch.float32)
    x = noise(0, (1, 36 if image else 16, 2, 2, 4), "cpu"), torch.tensor([300]), noise(1, (1, 512, 32), "cpu")
    tokens = noise(2, (1, 10, 20), "cpu") if image else None
    assert loaded.state_dict().keys() == network.state_dict().keys()
    assert all(torch.equal(tensor, network.state_dict()[key]) for key, tensor in loaded.state_dict().items())
    # sums of unaligned memory may run in another order
    assert torch.allclose(loaded(*x, tokens)[0], network(*x, tokens)[0], atol=1e-5)
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    torch.save(stored, tmp_path / "one.pth")
    again = load_original(tmp_path / "one.pth", tmp_path / "base", torch.float32)
    assert torch.allclose(again(*x, tokens)[0], network(*x, tokens)[0], atol=1e-5)


def test_what_wan_runs_in_float32_stays_so_and_is_not_rounded_before(tmp_path: Path) -> None:
    network = tiny_wan.write(tmp_path / "base", image=False)["transformer"]
    tiny_wan.write_original(tmp_path / "original", network)
    for loaded in (
        load_original(tmp_path / "original", tmp_path / "base", torch.bfloat16),
        load_transformer(tmp_path / "base", torch.bfloat16),
    ):
        weights, source = loaded.state_dict(), network.state_dict()
        kinds = {name: weight.dtype for name, weight in weights.items()}
        assert kinds["blocks.0.attn1.to_q.weight"] == kinds["proj_out.weight"] == torch.bfloat16
        for name in (
            *("scale_shift_table", "blocks.0.scale_shift_table", "blocks.1.norm2.weight"),
            "condition_embedder.time_embedder.linear_1.weight",
        ):
            assert kinds[name] == torch.float32 and torch.equal(weights[name], source[name])
        assert loaded.rope.freqs_cos.dtype == torch.float32
        assert torch.isfinite(loaded(noise(0, (1, 16, 2, 2, 4), "cpu").bfloat16(), torch.tensor([300]), torch.zeros(1, 512, 32).bfloat16())[0]).all()  # fmt: skip  # noqa: E501


def test_a_checkpoint_with_gaps_or_leftovers_is_refused(tmp_path: Path) -> None:
    network = tiny_wan.write(tmp_path / "base", image=False)["transformer"]
    stored = tiny_wan.write_original(tmp_path / "original", network)
    other = tiny_wan.write(tmp_path / "image", image=True)["transformer"]
    tiny_wan.write_original(tmp_path / "other", other)

    def saved(name: str, tensors: dict[str, torch.Tensor]) -> Path:
        (tmp_path / name).mkdir()
        save_file(tensors, tmp_path / name / "a.safetensors")
        return tmp_path / name

    base, f32 = tmp_path / "base", torch.float32
    less = {key: tensor for key, tensor in stored.items() if key != "blocks.1.ffn.0.bias"}
    refused(r"lacks blocks.1.ffn.net.0.proj.bias", load_original, saved("less", less), base, f32)
    more = {**stored, "blocks.2.ffn.0.bias": stored["blocks.1.ffn.0.bias"].clone()}
    refused(r"no place for: blocks.2.ffn.net.0.proj.bias", load_original, saved("more", more), base, f32)
    refused(r"no place for: ", load_original, tmp_path / "other", base, f32)
    wide = {**stored, "patch_embedding.weight": torch.zeros(24, 36, 1, 2, 2)}
    refused("does not fit", load_original, saved("wide", wide), base, f32)
    refused("holds no safetensors", load_original, base, base, f32)
    refused("cannot be read", load_original, base / "model_index.json", base, f32)
    shutil.copytree(tmp_path / "original", tmp_path / "twice")
    save_file({"head.modulation": stored["head.modulation"]}, tmp_path / "twice" / "z.safetensors")
    refused("z.safetensors holds head.modulation again", merged, tmp_path / "twice")
    torch.save({"state": stored}, tmp_path / "nested.pth")
    refused("no dictionary of tensors", merged, tmp_path / "nested.pth")
    torch.save({"a": Path("/")}, tmp_path / "code.pth")
    refused("code.pth cannot be read", merged, tmp_path / "code.pth")


def test_a_folder_whose_parts_do_not_fit_is_refused(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "base")
    base, f32 = tmp_path / "base", torch.float32
    refused("in_channels = 36, this method needs 16", expect, base, "transformer", {"in_channels": 16})
    refused("the base .*nowhere is no folder", expect, tmp_path / "nowhere", "transformer", {})
    weights = base / "transformer" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    save_file({**tensors, "extra.weight": torch.zeros(1)}, weights, {"format": "pt"})
    refused("no place for: extra.weight", load_transformer, base, f32)
    save_file({**tensors, "proj_out.bias": torch.zeros(3)}, weights, {"format": "pt"})
    refused("transformer", load_transformer, base, f32)
    config = base / "vae" / "config.json"
    for change, match in (
        ({"latents_std": None}, "lacks latents_std"),
        ({"z_dim": 48}, "z_dim = 48"),
        ({"_class_name": "AutoencoderKL"}, "_class_name = 'AutoencoderKL'"),
    ):
        config.write_text(json.dumps({**json.loads((folder / "vae/config.json").read_text()), **change}))
        refused(match, load_vae, base)
    config.write_text("[]")
    refused("no JSON object", load_vae, base)
    config.write_text("{")
    refused("is no JSON", load_vae, base)
    index = base / "model_index.json"
    for entry, match in (
        (None, "names no class for text_encoder"),
        (["os", "system"], "text_encoder is os.system"),
        (["transformers", "UMT6"], "text_encoder is transformers.UMT6"),
        (["transformers", "CLIPTextModel"], "text_encoder"),
        (["transformers", "pipeline"], "text_encoder cannot be loaded"),
    ):
        index.write_text(json.dumps({"text_encoder": entry}))
        refused(match, load_part, base, "text_encoder", f32)


def test_networks_go_one_at_a_time_where_asked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network, vae, prompts = load_transformer(folder, torch.float32), load_vae(folder), load_prompts(folder, torch.float32, "cpu")  # fmt: skip  # noqa: E501
    weights = sum(p.numel() * 4 for part in (network, vae, prompts.encoder) for p in part.parameters())
    video = torch.zeros(1, 3, 5, 16, 32)
    made = []
    for wish in ("always", "never"):
        monkeypatch.setenv("FFBENCH_OFFLOAD", wish)
        networks = Networks(network, vae, prompts, "cpu")
        made.append(networks.decode(networks.encode(video)))
    assert np.array_equal(*made)
    monkeypatch.delenv("FFBENCH_OFFLOAD")
    assert fits("cpu", [network])
    for spare, together in ((24 * 2**30, True), (24 * 2**30 - 1, False)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, spare=spare: (0, weights + spare))
        assert fits("cuda:0", (network, vae, prompts.encoder)) is together
    monkeypatch.setenv("FFBENCH_OFFLOAD", "perhaps")
    refused("FFBENCH_OFFLOAD=perhaps is neither always nor never", fits, "cpu", [network])


def test_the_tiny_network_is_the_class_of_the_large_one() -> None:
    assert type(tiny_wan.transformer(image=True)) is WanTransformer3DModel
