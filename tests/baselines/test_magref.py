"""MAGREF on a tiny real network: canvas, mask of where the references are, CLIP of the squashed canvas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from baselines.magref.adapter import Magref, canvas, mask
from ffbench.cards import card_gaps
from ffbench.contract import RefusedError
from ffbench.errors import UserError
from ffbench.methods import card
from tests.baselines import tiny_wan


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    root = tmp_path_factory.mktemp("magref")
    networks = tiny_wan.write(root / "base", image=True)
    # another transformer than the base's, which must not be used
    networks["transformer"] = tiny_wan.transformer(image=True)
    tiny_wan.write_original(root / "checkpoint", networks["transformer"], shards=3)
    return {"root": root, "networks": networks, "references": tiny_wan.photos(root)}


def loaded(made: dict[str, Any], **values: Any) -> Magref:
    folders = {key: made["root"] / key for key in ("base", "checkpoint")}
    return tiny_wan.loaded("magref", folders, **{"num_frames": 9, **values})


def test_the_card_is_complete_and_says_what_magref_was_published_with() -> None:
    own = card("magref")
    assert card_gaps(own) == []
    size = ("width", "height", "num_frames", "fps", "steps", "guidance", "shift", "drop", "dtype")
    assert tuple(own.settings[key] for key in size) == (832, 480, 81, 15.0, 40, 5.0, 3.0, 4, "bfloat16")
    assert str(own.settings["negative_prompt"]).startswith("镜头晃动，色调艳丽")


@torch.no_grad()
def test_the_video_is_what_the_description_says(made: dict[str, Any]) -> None:
    references = made["references"][:1]
    reference = references[0]
    plain = tiny_wan.Restated(made["networks"])
    picture = tiny_wan.white_canvas(reference.path, 32, 16)
    video = torch.cat([picture[:, None], torch.full((3, 8, 16, 32), 127.5)], 1)
    with Image.open(reference.path) as photo:
        width = int(16 * (photo.width / photo.height))
    left = (32 - width) // 2
    region = torch.zeros(81 - 72, 2, 4)
    for y in range(2):
        for x in range(4):
            region[0, y, x] = any(left <= 8 * x + i < left + width for i in range(8))
    # four channels a latent frame: frame 0 four times, then the rest in fours
    stacked = torch.cat([region[:1].repeat(4, 1, 1), region[1:]]).view(3, 4, 2, 4).transpose(0, 1)[None]
    condition = torch.cat([stacked, plain.latents(video)], 1)
    image = plain.tokens(F.interpolate(picture[None] / 127.5 - 1, (28, 28), mode="bicubic")[0] * 0.5 + 0.5)
    cond, uncond = plain.embedding("a person boxes"), plain.embedding("a head")
    x = torch.randn((1, 16, 3, 2, 4), generator=torch.Generator().manual_seed(5))
    solver = plain.solver(3.0, [0.999, 0.666, 0.333])
    for t in solver.timesteps:
        joined = torch.cat([x, condition], 1)
        c, u = (plain.network(joined, t[None], e, image, return_dict=False)[0] for e in (cond, uncond))
        x = solver.step(u + 5.0 * (c - u), t, x, return_dict=False)[0]
    method = loaded(made, negative_prompt="a head")
    tiny_wan.assert_described(method, references, made["references"], x, plain)


def test_the_mask_is_one_only_where_the_first_frame_shows_a_reference() -> None:
    region = np.zeros((480, 832), bool)
    region[:, 300:532] = True
    made = mask(region, 21)
    assert made.shape == (1, 4, 21, 60, 104)
    # columns 300 to 531 touch blocks 37 to 66
    assert made.sum((1, 3, 4)).tolist() == [[4 * 60 * 30.0, *[0.0] * 20]]
    assert made[0, :, 0, :, 37:67].all() and set(made.unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6, 7, 8])
def test_the_canvas_holds_every_reference_once_in_its_own_cell(count: int) -> None:
    colours = [(20 * index, 255 - 20 * index, 7) for index in range(count)]
    made, region = canvas([Image.new("RGB", (30, 40), colour) for colour in colours], 832, 480)
    rows, columns = {1: (1, 1), 2: (1, 2), 3: (1, 3), 4: (2, 2), 5: (2, 3), 6: (2, 3), 7: (2, 4), 8: (2, 4)}[count]
    covered = np.zeros((480, 832), bool)
    for index, colour in enumerate(colours):
        here = (made == colour).all(2)
        y, x = np.nonzero(here)
        row, column = divmod(index, columns)
        assert row * (480 // rows) <= y.min() and y.max() < (row + 1) * (480 // rows)
        right = 832 if column == columns - 1 else (column + 1) * (832 // columns)
        assert column * (832 // columns) <= x.min() and x.max() < right
        height, width = np.ptp(y) + 1, np.ptp(x) + 1
        assert here.sum() == height * width and abs(width / height - 0.75) < 0.01
        assert height == 480 // rows or width >= 832 // columns - 1
        covered |= here
    assert np.array_equal(covered, region) and (made[~region] == 255).all()


def test_more_references_than_the_canvas_holds_are_refused(made: dict[str, Any]) -> None:
    ann = made["references"][0]
    with pytest.raises(RefusedError, match="9 references"):
        tiny_wan.frames(loaded(made), *[ann] * 9)


def test_a_reference_is_prepared_once_and_each_counts(made: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    ann, bob = made["references"]
    method = loaded(made)
    first = tiny_wan.frames(method, ann)
    encoded = []
    encode = method._networks.encode
    monkeypatch.setattr(method._networks, "encode", lambda *args: encoded.append(1) or encode(*args))
    assert np.array_equal(tiny_wan.frames(method, ann), first)
    others = [
        tiny_wan.frames(method, bob),
        tiny_wan.frames(method, ann, bob),
        tiny_wan.frames(method, bob, ann),
        tiny_wan.frames(method, ann, seed=6),
    ]
    assert all(tiny_wan.differ(first, other) for other in others) and len(encoded) == 3


def test_generate_makes_a_video_of_a_case(made: dict[str, Any], tmp_path: Path) -> None:
    folders = {key: made["root"] / key for key in ("base", "checkpoint")}
    record = tiny_wan.generated("magref", tmp_path, made["references"][0], folders)
    assert record.status == "ok" and record.settings["steps"] == 3
    assert record.provenance["notes"]["dropped_frames"] == 4


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"checkpoint": "MAGREF-Video/MAGREF"}, "the checkpoint MAGREF-Video/MAGREF is not on this machine"),
        ({"drop": 9}, "drop = 9 is not in 0..4"),
        ({"drop": -1}, "drop = -1 is not in 0..4"),
        ({"num_frames": 80}, r"num_frames = 80 is not 4 k \+ 1"),
    ],
)
def test_a_setting_that_does_not_fit_is_named(made: dict[str, Any], values: dict[str, Any], match: str) -> None:
    tiny_wan.assert_named("magref", {key: made["root"] / key for key in ("base", "checkpoint")}, values, match)


def test_a_text_to_video_base_and_a_missing_image_encoder_are_refused(made: dict[str, Any], tmp_path: Path) -> None:
    tiny_wan.write(tmp_path / "t2v", image=False)
    with pytest.raises(UserError, match="in_channels = 16, this method needs 36"):
        loaded(made, base=str(tmp_path / "t2v"))
    config = made["root"] / "base" / "transformer" / "config.json"
    (tmp_path / "t2v" / "transformer" / "config.json").write_text(config.read_text())
    with pytest.raises(UserError, match="names no class for image_encoder") as caught:
        loaded(made, base=str(tmp_path / "t2v"))
    assert len(str(caught.value).splitlines()) == 2
