"""Stand-In on a tiny real Wan: cached keys and values are joint masked attention, restated in float64."""

from __future__ import annotations

import hashlib
import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from baselines.faces.antelopev2 import Face
from baselines.faces.pinned import BISENET
from baselines.standin import faces
from baselines.standin.adapter import StandIn
from baselines.standin.network import StandInNetwork
from ffbench.cards import card_gaps
from ffbench.contract import Runtime
from ffbench.errors import UserError
from ffbench.methods import card, find
from tests.baselines import tiny_wan
from tests.baselines.plain_wan import PlainWan, cells

LAYERS, WIDTH, RANK = 2, 24, 4


def low_rank(seed: int = 1) -> dict[str, Tensor]:
    """Weights of the published key layout, large enough to matter."""
    draw = torch.Generator().manual_seed(seed)
    shapes = {"down": (RANK, WIDTH), "up": (WIDTH, RANK)}
    return {
        f"blocks.{index}.self_attn.{name}_loras.{part}.weight": torch.randn(shape, generator=draw) / 3
        for index in range(LAYERS)
        for name in "qkv"
        for part, shape in shapes.items()
    }


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A base folder and checkpoint, and the same weights restated."""
    root = tmp_path_factory.mktemp("standin")
    networks = tiny_wan.write(root / "base", image=False)
    torch.save({"state_dict": low_rank()}, root / "standin.ckpt")
    original = tiny_wan.write_original(root / "original", networks["transformer"])
    return {"root": root, "networks": networks, "original": original, "references": tiny_wan.photos(root)}


@pytest.fixture
def network(world: dict[str, Any]) -> StandInNetwork:
    transformer = tiny_wan.transformer(image=False)
    transformer.load_state_dict(world["networks"]["transformer"].state_dict())
    return StandInNetwork(transformer, low_rank(), "here")


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


LATENTS, REFERENCE, TEXT = drawn(1, 16, 2, 4, 6, seed=2), drawn(1, 16, 1, 8, 8, seed=3), drawn(1, 512, 32, seed=4)
OURS = {"start": (-1, 2, 3), "own_time": True, "own_weights": True, "one_way": True, "text": False}


def joint(original: dict[str, Tensor], lora: dict[str, Tensor], t: float, **changed: Any) -> Tensor:
    """One pass over video and reference tokens together, with an explicit mask; `changed` breaks one of the rules."""
    rules = {**OURS, **changed}
    wan, video = PlainWan(original), LATENTS[0].shape[1] * 2 * 3
    x = torch.cat([wan.patches(LATENTS[0]), wan.patches(REFERENCE[0])])
    positions = torch.cat([cells((2, 2, 3)), cells((1, 4, 4), *rules["start"])])
    is_reference = torch.arange(len(x)) >= video
    seen = ~(is_reference[:, None] & ~is_reference[None]) if rules["one_way"] else torch.ones(len(x), len(x)).bool()
    context, embedding, still = wan.context(TEXT[0]), wan.time(t), wan.time(0.0 if rules["own_time"] else t)
    looks = torch.ones_like(is_reference) if rules["text"] else ~is_reference
    for index in range(wan.layers):
        tables = wan.table(index, embedding), wan.table(index, still)
        shift, scale, gate, shift_ffn, scale_ffn, gate_ffn = (
            torch.where(is_reference[:, None], other, own) for own, other in zip(*tables, strict=True)
        )
        y = wan.normed(x) * (1 + scale) + shift
        name = f"blocks.{index}.self_attn"
        extra = {}
        for part in "qkv":
            down, up = (lora[f"{name}.{part}_loras.{side}.weight"].double() for side in ("down", "up"))
            extra[part] = y @ down.T @ up.T * (is_reference[:, None] if rules["own_weights"] else 1)
        q, k, v = wan.projected(name, y, extra)
        x = x + gate * wan.attend(name, wan.turned(q, positions), wan.turned(k, positions), v, seen)
        x = x + wan.looked_up(index, x, context) * looks[:, None]
        x = x + gate_ffn * wan.fed(index, wan.normed(x) * (1 + scale_ffn) + shift_ffn)
    return wan.head(x[:video], embedding, (2, 2, 3))


def run(network: StandInNetwork, t: float) -> Tensor:
    return network(LATENTS, torch.tensor([t]), encoder_hidden_states=TEXT, return_dict=False)[0][0]


AGREE = 5e-5
"""diffusers turns the timestep's waves in float32: 3.5e-5 off at 937.5. The weakest broken rule is .5 off."""


def distance(a: Tensor, b: Tensor) -> float:
    """Largest difference relative to the largest value."""
    return float((a.double() - b).abs().max() / b.abs().max())


def test_the_card_is_complete_and_says_what_standin_was_published_with() -> None:
    own = card("standin")
    assert card_gaps(own) == []
    size = ("width", "height", "num_frames", "fps", "steps", "guidance", "shift", "dtype")
    assert tuple(own.settings[key] for key in size) == (832, 480, 81, 25.0, 20, 5.0, 5.0, "bfloat16")


def test_cached_keys_and_values_are_joint_masked_attention(world: dict[str, Any], network: StandInNetwork) -> None:
    network.look_at(REFERENCE)
    for t in (937.5, 208.0, 0.0):
        # the second and third pass read what the first one left
        assert distance(run(network, t), joint(world["original"], low_rank(), t)) < AGREE


@pytest.mark.parametrize(
    "changed",
    [
        {"start": (0, 2, 3)},
        {"start": (2, 2, 3)},
        {"start": (-1, 0, 3)},
        {"start": (-1, 2, 0)},
        {"own_time": False},
        {"own_weights": False},
        {"one_way": False},
        {"text": True},
    ],
    ids=str,
)
def test_every_rule_of_the_reference_shows(
    world: dict[str, Any], network: StandInNetwork, changed: dict[str, Any]
) -> None:
    network.look_at(REFERENCE)
    assert distance(run(network, 500.0), joint(world["original"], low_rank(), 500.0, **changed)) > 10 * AGREE


def test_without_a_reference_it_is_plain_wan(world: dict[str, Any], network: StandInNetwork) -> None:
    plain = world["networks"]["transformer"](LATENTS, torch.tensor([500.0]), TEXT, return_dict=False)[0][0]
    assert torch.equal(run(network, 500.0), plain)
    network.look_at(REFERENCE)
    assert distance(run(network, 500.0), plain) > 1e-3
    network.look_at(None)
    assert torch.equal(run(network, 500.0), plain)


def test_both_passes_of_guidance_see_the_reference_and_a_batch_does_as_one(network: StandInNetwork) -> None:
    network.look_at(REFERENCE)
    alone = [network(LATENTS, torch.tensor([500.0]), text, return_dict=False)[0] for text in (TEXT, -TEXT)]
    two = network(
        LATENTS.repeat(2, 1, 1, 1, 1), torch.tensor([500.0] * 2), torch.cat([TEXT, -TEXT]), return_dict=False
    )[0]
    assert distance(two, torch.cat(alone)) < AGREE and distance(*alone) > 10 * AGREE


def test_timesteps_are_rounded_to_the_networks_type(network: StandInNetwork) -> None:
    network.transformer.to(torch.bfloat16)
    x = LATENTS.bfloat16()
    made = [network(x, torch.tensor([t]), TEXT.bfloat16(), return_dict=False)[0] for t in (937.0, 936.0)]
    assert torch.equal(*made), "bfloat16 holds multiples of 4 there"


def loaded(world: dict[str, Any], **values: Any) -> StandIn:
    root = world["root"]
    paths = {"base": str(root / "base"), "checkpoint": str(root / "standin.ckpt"), "reference": "as-is"}
    method = StandIn({**find("standin").settings, **tiny_wan.SIZE, **paths, **values})
    method.load(Runtime("cpu", str(root)))
    return method


def test_a_video_is_the_described_one(world: dict[str, Any], network: StandInNetwork) -> None:
    ann = world["references"][0]
    method = loaded(world, negative_prompt="blurred")
    (output,) = method.generate([tiny_wan.request(ann)])
    plain = tiny_wan.Restated(world["networks"])
    network.look_at(plain.latents(tiny_wan.white_canvas(ann.path, 512, 512)[:, None]))
    sigmas = [5 * u / (1 + 4 * u) for u in (1, 2 / 3, 1 / 3)] + [0.0]
    x = torch.randn((1, 16, 2, 2, 4), generator=torch.Generator().manual_seed(5))
    for now, then in itertools.pairwise(sigmas):
        t = torch.tensor([now * 1000])
        yes, no = (network(x, t, plain.embedding(text), return_dict=False)[0] for text in ("a person boxes", "blurred"))
        x = x + (then - now) * (no + 5.0 * (yes - no))
    expected = plain.frames(x)
    assert output.frames is not None and output.frames.shape == (5, 16, 32, 3) and output.fps == 25.0
    assert np.abs(output.frames.astype(int) - expected.astype(int)).max() <= 1 and expected.std() > 1
    digest = hashlib.sha256((world["root"] / "standin.ckpt").read_bytes()).hexdigest()
    assert output.notes == {"sha256 checkpoint": digest}


def test_people_differ_and_come_back_the_same(world: dict[str, Any]) -> None:
    method, (ann, bob) = loaded(world), world["references"]
    outputs = list(method.generate([tiny_wan.request(person) for person in (ann, bob, ann)]))
    first, second, third = (output.frames for output in outputs)
    assert np.array_equal(first, third) and not np.array_equal(first, second)
    assert method._networks.prompts.runs == 2, "one prompt and the negative one"


def test_generate_makes_a_video_of_each_case(world: dict[str, Any], tmp_path: Path) -> None:
    folders: dict[str, Any] = {
        "base": world["root"] / "base",
        "checkpoint": world["root"] / "standin.ckpt",
        "reference": "as-is",
    }
    ann, bob = world["references"]
    notes = tiny_wan.generated("standin", tmp_path, ann, folders, bob).provenance["notes"]
    assert notes["sha256 checkpoint"] == hashlib.sha256(folders["checkpoint"].read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("break_it", "match"),
    [
        (lambda state: state.pop("blocks.1.self_attn.k_loras.up.weight"), "lacks blocks.1.self_attn.k_loras.up"),
        (lambda state: state.update({"blocks.2.self_attn.q_loras.up.weight": torch.ones(1)}), "no place for"),
        (lambda state: state.update({"blocks.0.self_attn.v_loras.down.weight": torch.ones(4, 9)}), "not of width 24"),
    ],
)
def test_weights_of_another_base_are_refused(world: dict[str, Any], break_it: Any, match: str, tmp_path: Path) -> None:
    state = low_rank()
    break_it(state)
    save_file(state, tmp_path / "broken.safetensors")
    with pytest.raises(UserError, match=match) as caught:
        loaded(world, checkpoint=str(tmp_path / "broken.safetensors"))
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"base": "absent"}, "the base absent is not on this machine"),
        ({"checkpoint": "absent.ckpt"}, "the checkpoint absent.ckpt is not on this machine"),
        ({"checkpoint": "."}, "the checkpoint . is a folder"),
        ({"reference": "guess"}, "no reference 'guess'"),
        ({"num_frames": 6}, "num_frames = 6 is not 4 k"),
        ({"reference": "face"}, "scrfd_10g_bnkps.onnx is not on this machine"),
    ],
)
def test_what_is_missing_or_wrong_is_named(world: dict[str, Any], values: dict[str, Any], match: str) -> None:
    with pytest.raises(UserError, match=match) as caught:
        loaded(world, **values)
    assert len(str(caught.value).splitlines()) == 2


def face(*box: float) -> Face:
    return Face(np.array(box, np.float32), np.zeros((5, 2), np.float32))


def test_the_crop_is_half_as_large_again_and_squared_with_white() -> None:
    picture = np.zeros((400, 300, 3), np.uint8)
    picture[..., 0] = np.arange(300) % 256
    # box 60 x 80 around (150, 200): 120 px of the picture, enlarged to 512
    cut = faces.crop(picture, face(120, 160, 180, 240))
    import cv2

    assert np.array_equal(cut, cv2.resize(picture[140:260, 90:210], (512, 512), interpolation=cv2.INTER_AREA))
    # at the left edge only 80 of 120 columns are left, white stands beside them
    edge = faces.crop(picture, face(0, 160, 40, 240))
    assert (edge[:, :80] == 255).all() and (edge[:, -80:] == 255).all() and (edge[:, 120:390, 1] == 0).all()


@pytest.mark.parametrize("found", [None, face(5, 8, 296, 395)], ids=["nobody", "all four edges"])
def test_the_whole_picture_where_there_is_nothing_to_cut(found: Face | None) -> None:
    picture = np.zeros((400, 200, 3), np.uint8)
    whole = faces.crop(picture, found if found is None else face(5, 8, 196, 395))
    assert (whole[:, :127] == 255).all() and (whole[:, 130:380] == 0).all() and (whole[:, 386:] == 255).all()


def test_three_edges_are_not_four() -> None:
    cut = faces.crop(np.zeros((400, 200, 3), np.uint8), face(5, 20, 196, 395))
    assert (cut[:, :120] == 255).all() and not (cut[:10] == 255).all()
    smaller = faces.crop(np.zeros((400, 200, 3), np.uint8), face(20, 5, 60, 45))
    assert (smaller == 0).mean() > 0.8


class Stripes(torch.nn.Module):
    """A parser that says background where red is dark, and hair elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.nothing = torch.nn.Parameter(torch.zeros(1))

    def forward(self, image: Tensor) -> tuple[Tensor]:
        assert image.min() >= -1 and image.max() <= 1 and image.shape[:2] == (1, 3)
        background = (image[:, 0] < 0).float()
        classes = torch.zeros(1, 19, *image.shape[2:])
        classes[:, 0], classes[:, 17] = background, 1 - background
        return (classes,)


def test_background_becomes_white_and_nothing_else() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (512, 512, 3), np.uint8)
    made = faces.on_white(picture, Stripes())
    dark = picture[..., 0] < 128
    assert (made[dark] == 255).all() and np.array_equal(made[~dark], picture[~dark])


@pytest.mark.parametrize("found", [True, False])
def test_the_face_that_is_found_is_cut_out_and_the_record_says_so(world: dict[str, Any], found: bool) -> None:
    ann = world["references"][0]
    box = face(60, 60, 120, 130) if found else None
    method = loaded(world)
    seen: list[np.ndarray] = []
    canvas = method.canvas
    method.canvas = lambda crop: seen.append(canvas(crop)) or seen[-1]
    method._detector = SimpleNamespace(largest=lambda picture: box)
    method._parser = Stripes()
    (output,) = method.generate([tiny_wan.request(ann)])
    photograph = np.asarray(tiny_wan.portrait())
    assert np.array_equal(seen[0], faces.on_white(faces.crop(photograph, box), Stripes()))
    assert output.notes["reference_face"] == ("largest" if found else "none: whole photograph")


def test_the_real_parser_loads_its_own_weights_alone(tmp_path: Path) -> None:
    bisenet = pytest.importorskip("facexlib.parsing.bisenet", exc_type=ImportError)
    true, other = tmp_path / "parsing.pth", tmp_path / "other.pth"
    torch.save(bisenet.BiSeNet(num_class=19).state_dict(), true)
    torch.save({"a": torch.ones(1)}, other)
    hashes = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in (true, other)}
    parser = faces.open_parser(true, "cpu", hashes[true])
    assert faces.on_white(np.zeros((64, 64, 3), np.uint8), parser).shape == (64, 64, 3)
    with pytest.raises(UserError, match="does not fit BiSeNet"):
        faces.open_parser(other, "cpu", hashes[other])
    with pytest.raises(UserError, match="has sha256"):
        faces.open_parser(true, "cpu", BISENET)


def test_a_missing_package_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "facexlib.parsing.bisenet", None)
    with pytest.raises(UserError, match="facexlib") as caught:
        faces.open_parser(tmp_path / "parsing.pth", "cpu", BISENET)
    assert "reference=as-is" in caught.value.fix and len(str(caught.value).splitlines()) == 2
