"""Phantom on a tiny real network: three passes, clean references behind the video, against the description."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from baselines.phantom.adapter import Phantom, three_passes
from baselines.wan.sampling import noise
from ffbench.cards import card_gaps
from ffbench.errors import UserError
from ffbench.methods import card
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
