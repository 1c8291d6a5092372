"""SkyReels-A2 on a tiny real network: references as first frames, a mask that fits one of them, CLIP of each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from baselines.skyreels_a2.adapter import SkyreelsA2, mask
from ffbench.cards import card_gaps
from ffbench.errors import UserError
from ffbench.methods import card
from tests.baselines import tiny_wan


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    root = tmp_path_factory.mktemp("skyreels")
    return {
        "networks": tiny_wan.write(root / "base", image=True),
        "base": str(root / "base"),
        "references": tiny_wan.photos(root),
    }


def loaded(made: dict[str, Any], **values: Any) -> SkyreelsA2:
    return tiny_wan.loaded("skyreels_a2", {"base": made["base"]}, **{"num_frames": 9, **values})


def test_the_card_is_complete_and_says_what_it_was_published_with() -> None:
    own = card("skyreels_a2")
    assert card_gaps(own) == [] and own.licence == "Skywork Community License"
    size = ("width", "height", "num_frames", "fps", "steps", "guidance", "shift", "drop", "dtype")
    assert tuple(own.settings[key] for key in size) == (832, 480, 81, 15.0, 50, 5.0, 8.0, 4, "bfloat16")


@pytest.mark.parametrize("count", [1, 2])
@torch.no_grad()
def test_the_video_is_what_the_description_says(made: dict[str, Any], count: int) -> None:
    references = made["references"][:count]
    plain = tiny_wan.Restated(made["networks"])
    draws = torch.Generator().manual_seed(5)
    x = torch.randn((1, 16, 3, 2, 4), generator=draws)
    pictures = [tiny_wan.white_canvas(reference.path, 32, 16) for reference in references]
    shown = [pictures[0], *pictures[1:] * 4] if count == 2 else pictures
    video = torch.stack([*shown, *[torch.full((3, 16, 32), 127.5)] * (9 - len(shown))], 1)
    posterior = plain.vae.encode(video[None] / 127.5 - 1).latent_dist
    drawn = posterior.mean + posterior.std * torch.randn(posterior.mean.shape, generator=draws)
    # what the authors' mask means: a frame of pixels is a reference or not, the first counts four times
    frame_is_reference = [float(index < len(shown)) for index in range(9)]
    fours = torch.tensor([*[frame_is_reference[0]] * 4, *frame_is_reference[1:]]).view(3, 4)
    flags = fours.T[None, :, :, None, None].expand(1, 4, 3, 2, 4)
    condition = torch.cat([flags, (drawn - plain.mean) / plain.std], 1)
    tokens = []
    for reference in references:
        square = tiny_wan.white_canvas(reference.path, 512, 512).byte().permute(1, 2, 0).numpy()
        small = Image.fromarray(square).resize((28, 28), Image.Resampling.BICUBIC)
        tokens.append(plain.tokens(torch.tensor(np.asarray(small)).permute(2, 0, 1) / 255))
    image = torch.cat(tokens, 1)
    cond, uncond = plain.embedding("a person boxes"), plain.embedding("a head")
    solver = plain.solver(8.0, None)
    for t in solver.timesteps:
        joined = torch.cat([x, condition], 1)
        c, u = (plain.network(joined, t[None], e, image, return_dict=False)[0] for e in (cond, uncond))
        x = solver.step(u + 5.0 * (c - u), t, x, return_dict=False)[0]
    assert image.shape == (1, 5 * count, 20)
    method = loaded(made, negative_prompt="a head")
    tiny_wan.assert_described(method, references, made["references"], x, plain)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_mask_covers_one_latent_frame_a_reference(count: int) -> None:
    made = mask(count, torch.zeros(1, 16, 21, 60, 104))
    assert made.shape == (1, 4, 21, 60, 104), "upstream's mask of one reference has 22 latent frames"
    assert made.sum((1, 3, 4)).tolist() == [[*[4 * 60 * 104.0] * count, *[0.0] * (21 - count)]]


def test_the_seed_also_draws_the_reference_latents(made: dict[str, Any]) -> None:
    ann, bob = made["references"]
    method = loaded(made)
    first = tiny_wan.frames(method, ann)
    assert np.array_equal(tiny_wan.frames(method, ann), first)
    others = [
        tiny_wan.frames(method, ann, seed=6),
        tiny_wan.frames(method, bob),
        tiny_wan.frames(method, ann, bob),
        tiny_wan.frames(method, bob, ann),
    ]
    assert all(tiny_wan.differ(first, other) for other in others)


def test_a_foreign_class_name_of_the_transformer_is_no_hindrance(made: dict[str, Any], tmp_path: Path) -> None:
    import json
    import shutil

    shutil.copytree(made["base"], tmp_path / "base")
    config = tmp_path / "base" / "transformer" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "_class_name": "A2Model"}))
    ann = made["references"][0]
    assert np.array_equal(
        tiny_wan.frames(loaded(made, base=str(tmp_path / "base")), ann), tiny_wan.frames(loaded(made), ann)
    )


def test_generate_makes_a_video_of_a_case(made: dict[str, Any], tmp_path: Path) -> None:
    folders = {"base": made["base"]}
    record = tiny_wan.generated("skyreels_a2", tmp_path, made["references"][0], folders)
    assert record.status == "ok" and record.settings["steps"] == 3


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"base": "Skywork/SkyReels-A2"}, "the base Skywork/SkyReels-A2 is not on this machine"),
        ({"drop": 9}, "drop = 9 is not in 0..4"),
        ({"dtype": "fp8"}, "no dtype 'fp8'"),
    ],
)
def test_a_setting_that_does_not_fit_is_named(made: dict[str, Any], values: dict[str, Any], match: str) -> None:
    tiny_wan.assert_named("skyreels_a2", {"base": made["base"]}, values, match)


def test_a_text_to_video_folder_is_refused(made: dict[str, Any], tmp_path: Path) -> None:
    tiny_wan.write(tmp_path / "t2v", image=False)
    with pytest.raises(UserError, match="in_channels = 16, this method needs 36"):
        loaded(made, base=str(tmp_path / "t2v"))
