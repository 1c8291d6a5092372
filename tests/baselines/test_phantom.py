"""Phantom on a tiny real network: three passes, clean references behind the video, against the description."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from diffusers import WanTransformer3DModel
from PIL import Image

from baselines.phantom.adapter import Phantom, three_passes
from baselines.wan.sampling import noise
from faithfulfaces.data import VideoSampler
from faithfulfaces.mini import footage
from faithfulfaces.mini.codec import PatchCodec
from faithfulfaces.mini.phantom.build import Options, build_phantom, open_clips
from faithfulfaces.mini.phantom.learn import feed
from ffbench.cards import card_gaps, for_suite
from ffbench.contract import Runtime
from ffbench.embedded import FOLDER
from ffbench.errors import UserError
from ffbench.methods import card, find
from ffbench.records import Reference
from tests.baselines import tiny_wan


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    root = tmp_path_factory.mktemp("phantom")
    networks = tiny_wan.write(root / "base", image=False)
    # another transformer than the base's, which must not be used
    networks["transformer"] = tiny_wan.transformer(image=False)
    tiny_wan.write_original(root / "checkpoint", networks["transformer"])
    return {"root": root, "networks": networks, "references": tiny_wan.photos(root)}


def loaded(made: dict[str, Any], **values: Any) -> Phantom:
    return tiny_wan.loaded("phantom", {key: made["root"] / key for key in ("base", "checkpoint")}, **values)


def test_the_card_is_complete_and_says_what_phantom_was_published_with() -> None:
    own = card("phantom")
    assert card_gaps(own) == []
    size = ("width", "height", "num_frames", "fps", "steps", "guidance_image", "guidance_text", "shift", "dtype")
    assert tuple(own.settings[key] for key in size) == (832, 480, 121, 24.0, 50, 5.0, 7.5, 5.0, "bfloat16")


@pytest.mark.parametrize("count", [1, 2])
@torch.no_grad()
def test_the_video_is_what_the_description_says(made: dict[str, Any], count: int) -> None:
    references = made["references"][:count]
    plain = tiny_wan.Restated(made["networks"])
    given = torch.cat([plain.latents(tiny_wan.white_canvas(r.path, 32, 16)[:, None]) for r in references], 2)
    text, negative = plain.embedding("a person boxes"), plain.embedding("a head")
    x = torch.randn((1, 16, 2 + count, 2, 4), generator=torch.Generator().manual_seed(5))
    solver = plain.solver(5.0, [0.999, 0.666, 0.333])
    for t in solver.timesteps:
        x[:, :, 2:] = given
        pos_it, pos_i = (plain.network(x, t[None], e, return_dict=False)[0] for e in (text, negative))
        blank = x.clone()
        blank[:, :, 2:] = 0
        neg = plain.network(blank, t[None], negative, return_dict=False)[0]
        x = solver.step(neg + 5.0 * (pos_i - neg) + 7.5 * (pos_it - pos_i), t, x, return_dict=False)[0]
    method = loaded(made, negative_prompt="a head")
    tiny_wan.assert_described(method, references, made["references"], x[:, :, :2], plain)


@torch.no_grad()
def test_without_references_it_is_guidance_on_the_text_alone(made: dict[str, Any]) -> None:
    network = made["networks"]["transformer"]
    texts = noise(0, (1, 512, 32), "cpu"), noise(1, (1, 512, 32), "cpu")
    x, t = noise(2, (1, 16, 3, 2, 4), "cpu"), torch.tensor([500])
    zeros = torch.zeros(1, 16, 1, 2, 4)
    blank = torch.cat([x[:, :, :2], zeros], 2)
    c, u = (network(blank, t, text, return_dict=False)[0] for text in texts)
    for image in (0.0, 5.0, 100.0):
        got = three_passes(network, zeros, texts, (image, 7.5))(x, t)
        assert torch.allclose(got, u + 7.5 * (c - u), atol=1e-4)
    with_image = three_passes(network, noise(3, (1, 16, 1, 2, 4), "cpu"), texts, (5.0, 7.5))(x, t)
    assert (with_image - got).abs().max() > 1e-2


def test_what_the_solver_makes_of_the_references_is_never_seen(made: dict[str, Any]) -> None:
    network = made["networks"]["transformer"]
    texts = noise(0, (1, 512, 32), "cpu"), noise(1, (1, 512, 32), "cpu")
    velocity = three_passes(network, noise(3, (1, 16, 2, 2, 4), "cpu"), texts, (5.0, 7.5))
    x = noise(2, (1, 16, 4, 2, 4), "cpu")
    other = torch.cat([x[:, :, :2], 9 * x[:, :, 2:]], 2)
    assert torch.equal(velocity(x, torch.tensor([500])), velocity(other, torch.tensor([500])))


def test_each_setting_of_the_guidance_counts_and_people_are_encoded_once(
    made: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    ann, bob = made["references"]
    method = loaded(made)
    base = tiny_wan.frames(method, ann)
    encoded = []
    encode = method._networks.encode
    monkeypatch.setattr(method._networks, "encode", lambda *args: encoded.append(1) or encode(*args))
    assert np.array_equal(tiny_wan.frames(method, ann), base)
    others = [
        tiny_wan.frames(method, bob),
        tiny_wan.frames(method, ann, seed=6),
        tiny_wan.frames(method, ann, prompt="a person dances"),
    ]
    assert len(encoded) == 1, "ann was encoded before, bob once"
    others += [tiny_wan.frames(loaded(made, **{key: 1.0}), ann) for key in ("guidance_image", "guidance_text", "shift")]
    assert all(tiny_wan.differ(base, other) for other in others)


def test_generate_makes_a_video_of_a_case(made: dict[str, Any], tmp_path: Path) -> None:
    folders = {key: made["root"] / key for key in ("base", "checkpoint")}
    record = tiny_wan.generated("phantom", tmp_path, made["references"][0], folders)
    assert record.status == "ok" and record.settings["steps"] == 3


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"checkpoint": "bytedance-research/Phantom"}, "the checkpoint bytedance-research/Phantom is not on this"),
        ({"base": ""}, "setting base is empty"),
        ({"num_frames": 120}, r"num_frames = 120 is not 4 k \+ 1"),
        ({"height": 490}, "height = 490 is no multiple of 16"),
    ],
)
def test_a_setting_that_does_not_fit_is_named(made: dict[str, Any], values: dict[str, Any], match: str) -> None:
    tiny_wan.assert_named("phantom", {key: made["root"] / key for key in ("base", "checkpoint")}, values, match)


def test_an_image_to_video_base_is_refused(made: dict[str, Any], tmp_path: Path) -> None:
    tiny_wan.write(tmp_path / "i2v", image=True)
    with pytest.raises(UserError, match="in_channels = 36, this method needs 16") as caught:
        loaded(made, base=str(tmp_path / "i2v"))
    assert "--set base" in caught.value.fix


class Small(NamedTuple):
    """A small Phantom of one training step, and the one person that it saw."""

    model: Path
    footage: Path
    prompt: str
    photograph: Reference


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    root = tmp_path_factory.mktemp("small")
    seen = footage.clips("train", 0, count=1)
    seen.save(root / "train_0000.npz")
    Image.fromarray(seen.portraits[0, 0]).save(root / "photograph.png")
    build_phantom(root, Options(footage=root, blocks=1, seeds=1, steps=1, videos=1), str)
    return Small(root / "seed-0/model", root, str(seen.captions[0]), Reference(str(root / "photograph.png"), "a" * 64))


def on_mini(**values: Any) -> Phantom:
    """The method as `ffbench generate --suite mini-views` sets it."""
    settings: Mapping[str, Any] = for_suite(find("phantom"), "mini-views").settings
    method = Phantom({**settings, **values})
    method.load(Runtime("cpu", ""))
    return method


def of(model: Path) -> dict[str, str]:
    return {"base": str(model), "checkpoint": str(model)}


@torch.no_grad()
def test_the_small_one_is_trained_on_what_the_method_shows_it(small: Small) -> None:
    """Every row of a batch is one of the three passes of the guidance, tensor by tensor; the noise is noise."""
    method = on_mini(**of(small.model))
    passes: list[dict[str, torch.Tensor]] = []
    method._networks.transformer.register_forward_pre_hook(lambda _, __, given: passes.append(given), with_kwargs=True)
    list(method.generate([tiny_wan.request(small.photograph, prompt=small.prompt)]))
    assert len(passes) == 3, "one step"
    clips, negative = open_clips(FOLDER / "base", [small.footage / "train_0000.npz"])
    sampler = VideoSampler(clips, 1, 0, 48)
    batch = sampler.collate([0] * 40, [sampler.read(0)] * 40)
    fed = feed(batch, negative, torch.Generator().manual_seed(0))
    times = [0, 0, 0]
    for hidden, timestep, text in zip(*fed, strict=True):
        alike = [
            torch.allclose(hidden[:, 5:], one["hidden_states"][0, :, 5:], atol=1e-5)
            and torch.allclose(text, one["encoder_hidden_states"][0], atol=1e-5)
            for one in passes
        ]
        assert sum(alike) == 1
        shown = passes[alike.index(True)]
        times[alike.index(True)] += 1
        assert torch.equal(timestep[None], shown["timestep"])
        assert hidden.shape == shown["hidden_states"].shape[1:] and hidden.dtype == shown["hidden_states"].dtype
        for start in (hidden[:, :5], shown["hidden_states"][0, :, :5]):
            assert abs(float(start.mean())) < 0.05 and float(start.std()) == pytest.approx(1, abs=0.05)
    assert all(times), f"every pass is learned: {times}"


@torch.no_grad()
def test_the_small_ones_video_is_what_its_network_says_in_one_step(small: Small) -> None:
    network = WanTransformer3DModel.from_pretrained(small.model / "transformer").eval()
    codec = PatchCodec.from_pretrained(FOLDER / "base" / "vae")
    clips, _ = open_clips(FOLDER / "base", [small.footage / "train_0000.npz"])
    reference, text = clips.cached(0).reference, torch.zeros(1, 48, 128)
    text[0, : len(clips.cached(0).text)] = clips.cached(0).text
    start = torch.randn((1, 48, 6, 8, 8), generator=torch.Generator().manual_seed(5))[:, :, :5]
    (said,) = network(torch.cat([start, reference[None]], 2), torch.tensor([999]), text, return_dict=False)
    expected = ((codec.decode(said[:, :, :5])[0][0] + 1) * 127.5).permute(1, 2, 3, 0).numpy()
    got = tiny_wan.frames(on_mini(**of(small.model)), small.photograph, prompt=small.prompt)
    assert got.shape == (9, 64, 64, 3) and np.ptp(got) > 20
    assert np.abs(got - expected).max() <= 1


def test_each_scale_of_the_small_ones_guidance_counts(small: Small) -> None:
    base = tiny_wan.frames(on_mini(**of(small.model)), small.photograph)
    for name in ("guidance_image", "guidance_text"):
        other = tiny_wan.frames(on_mini(**of(small.model), **{name: 9.0}), small.photograph)
        assert tiny_wan.differ(base, other), name


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({}, "phantom has no base and no checkpoint of the mini world's size yet"),
        ({"base": "FOLDER"}, "setting checkpoint is empty"),
        ({"base": "FOLDER", "checkpoint": str(FOLDER / "base")}, "holds what the network has no place for"),
        ({"base": "FOLDER", "checkpoint": "FOLDER", "num_frames": 8}, r"num_frames = 8 is not 2 k \+ 1"),
        ({"base": str(FOLDER / "checkpoint"), "checkpoint": "FOLDER"}, "config.json"),
    ],
)
def test_what_does_not_fit_the_mini_world_is_two_lines(small: Small, values: dict[str, Any], match: str) -> None:
    with pytest.raises(UserError, match=match) as caught:
        on_mini(**{key: str(small.model) if value == "FOLDER" else value for key, value in values.items()})
    assert len(str(caught.value).splitlines()) == 2
    if not values:
        assert "faithfulfaces mini phantom --out FOLDER" in caught.value.fix
