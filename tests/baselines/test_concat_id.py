"""Concat-ID on a tiny real Wan: positions, missing text, AdaLN and its quirk, restated in float64."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from insightface.utils import face_align
from PIL import Image
from torch import Tensor
from transformers import SegformerConfig, SegformerForSemanticSegmentation, SegformerImageProcessor

from baselines.concat_id import faces
from baselines.concat_id.adapter import ConcatID
from baselines.concat_id.network import ConcatIDNetwork, split
from baselines.faces.antelopev2 import Face, open_detector
from baselines.faces.pinned import SCRFD
from baselines.wan.rotary import grid, rotary
from ffbench.cards import card_gaps
from ffbench.contract import RefusedError, Runtime
from ffbench.errors import UserError
from ffbench.methods import card, find
from tests.baselines import tiny_wan
from tests.baselines.plain_wan import PlainWan, cells

WIDTH = 24
FRAMES, ROWS, COLUMNS = SHAPE = (2, 2, 3)


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


LATENTS, REFERENCE, TEXT = drawn(1, 16, 2, 4, 6, seed=2), drawn(1, 16, 1, 4, 6, seed=3), drawn(1, 512, 32, seed=4)


def adaln(seed: int = 1) -> dict[str, Tensor]:
    """What the second stage adds, in the published key layout."""
    return {
        "time_projection_ref.1.weight": drawn(6 * WIDTH, WIDTH, seed=seed) / 5,
        "time_projection_ref.1.bias": drawn(6 * WIDTH, seed=seed + 1) / 5,
        "blocks.0.modulation_ref": drawn(1, 6, WIDTH, seed=seed + 2) / 2,
        "blocks.1.modulation_ref": drawn(1, 6, WIDTH, seed=seed + 3) / 2,
    }


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    root = tmp_path_factory.mktemp("concat_id")
    networks = tiny_wan.write(root / "base", image=False)
    # as they are drawn, a reference changes no pixel by half a grey level
    for block in networks["transformer"].blocks:
        block.attn1.to_v.weight.mul_(8)
        block.attn1.to_out[0].weight.mul_(8)
        # drawn as ones, it could be mistaken for a norm without weights
        block.norm2.weight.add_(drawn(WIDTH, seed=7) / 4)
    original = tiny_wan.write_original(root / "original", networks["transformer"])
    torch.save(original, root / "first_stage.pt")
    torch.save({**original, **adaln()}, root / "second_stage_adaln.pt")
    return {"root": root, "networks": networks, "original": original, "references": tiny_wan.photos(root)}


def network(world: dict[str, Any], added: dict[str, Tensor]) -> ConcatIDNetwork:
    transformer = tiny_wan.transformer(image=False)
    transformer.load_state_dict(world["networks"]["transformer"].state_dict())
    made = ConcatIDNetwork(transformer, added, "here")
    made.reference = REFERENCE
    return made


def plain(weights: dict[str, Tensor], t: float, *, start: tuple = (FRAMES, 0, COLUMNS), **broken: bool) -> Tensor:
    """One pass in float64, the reference's rules token by token; `broken` turns one of them around."""
    wan, own = PlainWan(weights), "time_projection_ref.1.weight" in weights and not broken.get("shared")
    video = FRAMES * ROWS * COLUMNS
    x = torch.cat([wan.patches(LATENTS[0]), wan.patches(REFERENCE[0])])
    positions = torch.cat([cells(SHAPE), cells((1, ROWS, COLUMNS), *start)])
    is_reference = (torch.arange(len(x)) >= video)[:, None]
    context, embedding = wan.context(TEXT[0]), wan.time(t)
    seen = ~is_reference.T.expand(len(x), -1) if broken.get("blind") else torch.ones(len(x), len(x)).bool()
    for index in range(wan.layers):
        table = wan.table(index, embedding)
        other = wan.table(index, embedding, "_ref") if own else table
        quirk = (0, 1) if own and not broken.get("mended") else (3, 4)
        rows = [torch.where(is_reference, other[j], table[i]) for i, j in enumerate((0, 1, 2, *quirk, 5))]
        y = wan.normed(x) * (1 + rows[1]) + rows[0]
        name = f"blocks.{index}.self_attn"
        q, k, v = wan.projected(name, y)
        x = x + rows[2] * wan.attend(name, wan.turned(q, positions), wan.turned(k, positions), v, seen)
        x = x + wan.looked_up(index, x, context) * (1 if broken.get("text") else ~is_reference)
        x = x + rows[5] * wan.fed(index, wan.normed(x) * (1 + rows[4]) + rows[3])
    return wan.head(x[:video], embedding, SHAPE)


def run(made: Any, t: float = 500.0) -> Tensor:
    return made(LATENTS, torch.tensor([t]), TEXT, return_dict=False)[0][0]


AGREE = 5e-5
"""diffusers turns the timestep's waves in float32: 3.5e-5 off at 937.5. The weakest broken rule is 1.7e-3 off."""


def distance(a: Tensor, b: Tensor) -> float:
    """Largest difference relative to the largest value."""
    return float((a.double() - b).abs().max() / b.abs().max())


def test_the_card_is_complete_and_says_what_concat_id_was_published_with() -> None:
    own = card("concat_id")
    assert card_gaps(own) == []
    size = ("width", "height", "num_frames", "fps", "steps", "guidance", "shift", "dtype", "negative_prompt")
    assert tuple(own.settings[key] for key in size) == (832, 480, 81, 16.0, 50, 5.0, 5.0, "bfloat16", "...")
    assert own.licence.startswith("none") and "not 14B" in own.summary
    first = find("concat_id@first-stage").settings
    assert first == {**own.settings, "checkpoint": "yongzhong/Concat-ID-Wan/first_stage.pt"}


@pytest.mark.parametrize("added", [{}, adaln()], ids=["first", "adaln"])
@pytest.mark.parametrize("t", [937.5, 208.0])
def test_both_stages_are_the_described_network(world: dict[str, Any], added: dict[str, Tensor], t: float) -> None:
    assert distance(run(network(world, added), t), plain({**world["original"], **added}, t)) < AGREE


@pytest.mark.parametrize(
    "broken",
    [
        {"start": (FRAMES - 1, 0, COLUMNS)},
        {"start": (FRAMES, 0, 0)},
        {"start": (FRAMES, ROWS, COLUMNS)},
        {"text": True},
        {"shared": True},
        {"mended": True},
        {"blind": True},
    ],
    ids=str,
)
def test_every_rule_of_the_reference_shows(world: dict[str, Any], broken: dict[str, Any]) -> None:
    assert distance(run(network(world, adaln())), plain({**world["original"], **adaln()}, 500.0, **broken)) > 10 * AGREE


def test_without_a_reference_it_is_plain_wan(world: dict[str, Any]) -> None:
    expected = run(world["networks"]["transformer"])
    for added in ({}, adaln()):
        made = network(world, added)
        assert distance(run(made), expected) > 1e-3
        made.reference = None
        assert distance(run(made), expected) < 1e-6


def test_the_stages_differ_by_the_quirk_alone_where_the_second_copies_the_first(world: dict[str, Any]) -> None:
    original = world["original"]
    copied = {
        "time_projection_ref.1.weight": original["time_projection.1.weight"],
        "time_projection_ref.1.bias": original["time_projection.1.bias"],
        **{f"blocks.{index}.modulation_ref": original[f"blocks.{index}.modulation"] for index in range(2)},
    }
    first, second = run(network(world, {})), run(network(world, copied))
    assert distance(second, first) > 1e-4
    assert distance(first, plain({**original, **copied}, 500.0, mended=True)) < AGREE
    assert distance(second, plain({**original, **copied}, 500.0)) < AGREE


def test_timesteps_are_rounded_to_the_networks_type(world: dict[str, Any]) -> None:
    made = network(world, adaln())
    made.to(torch.bfloat16)
    x, text = LATENTS.bfloat16(), TEXT.bfloat16()
    assert torch.equal(*(made(x, torch.tensor([t]), text)[0] for t in (937.0, 936.0)))


def test_positions_of_the_table_are_the_tables_own_and_others_follow(world: dict[str, Any]) -> None:
    rope = tiny_wan.transformer(image=False).rope
    cosines, sines = rope(torch.zeros(1, 16, 3, 8, 10))
    ours = rotary(rope, grid((3, 4, 5)))
    assert torch.equal(ours[0], cosines) and torch.equal(ours[1], sines)
    shifted = rotary(rope, grid((1, 2, 2), (-1, 7, 40)))
    assert torch.equal(grid((1, 2, 2), (-1, 7, 40)), cells((1, 2, 2), -1, 7, 40))
    pairs = torch.view_as_complex(torch.stack([part[0, :, 0, ::2].double() for part in shifted], -1))
    for row, (frame, y, x) in enumerate(cells((1, 2, 2), -1, 7, 40).tolist()):
        turns = [frame, frame / 100, y, y / 100, x, x / 100]
        assert torch.allclose(pairs[row], torch.exp(1j * torch.tensor(turns, dtype=torch.float64)), atol=1e-6)


def loaded(world: dict[str, Any], **values: Any) -> ConcatID:
    root = world["root"]
    paths = {"base": str(root / "base"), "checkpoint": str(root / "second_stage_adaln.pt"), "reference": "as-is"}
    method = ConcatID({**find("concat_id").settings, **tiny_wan.SIZE, **paths, **values})
    method.load(Runtime("cpu", str(root)))
    return method


@pytest.mark.parametrize("stage", ["first", "adaln"])
def test_a_video_is_the_described_one(world: dict[str, Any], stage: str) -> None:
    ann = world["references"][0]
    file = world["root"] / {"first": "first_stage.pt", "adaln": "second_stage_adaln.pt"}[stage]
    (output,) = loaded(world, checkpoint=str(file)).generate([tiny_wan.request(ann)])
    restated, made = tiny_wan.Restated(world["networks"]), network(world, adaln() if stage == "adaln" else {})
    canvas = faces.on_black(np.asarray(Image.open(ann.path)), 32, 16)
    made.reference = restated.latents(torch.tensor(canvas).permute(2, 0, 1)[:, None].float())
    x = torch.randn((1, 16, 2, 2, 4), generator=torch.Generator().manual_seed(5))
    for now, then in itertools.pairwise([*(5 * u / (1 + 4 * u) for u in (1, 2 / 3, 1 / 3)), 0.0]):
        t = torch.tensor([now * 1000])
        yes, no = (made(x, t, restated.embedding(text))[0] for text in ("a person boxes", "..."))
        x = x + (then - now) * (no + 5.0 * (yes - no))
    expected = restated.frames(x)
    assert output.frames is not None and output.fps == 16.0 and expected.std() > 1
    assert np.abs(output.frames.astype(int) - expected.astype(int)).max() <= 1
    assert output.notes == {"stage": stage, "sha256 checkpoint": hashlib.sha256(file.read_bytes()).hexdigest()}


def test_people_differ_and_come_back_the_same(world: dict[str, Any]) -> None:
    method, (ann, bob) = loaded(world), world["references"]
    first, second, third = (
        output.frames for output in method.generate([tiny_wan.request(person) for person in (ann, bob, ann)])
    )
    assert np.array_equal(first, third) and not np.array_equal(first, second)
    assert method._networks.prompts.runs == 2, "one prompt and the negative one"


def test_generate_makes_a_video_of_each_case(world: dict[str, Any], tmp_path: Path) -> None:
    folders: dict[str, Any] = {
        "base": world["root"] / "base",
        "checkpoint": world["root"] / "first_stage.pt",
        "reference": "as-is",
    }
    ann, bob = world["references"]
    notes = tiny_wan.generated("concat_id", tmp_path, ann, folders, bob).provenance["notes"]
    assert notes["sha256 checkpoint"] == hashlib.sha256(folders["checkpoint"].read_bytes()).hexdigest()


def test_what_the_second_stage_adds_is_told_from_the_rest() -> None:
    base = {"time_projection.1.weight": torch.ones(1), "blocks.0.modulation": torch.ones(1)}
    stored, added = split({**base, **adaln()})
    assert stored.keys() == base.keys() and added.keys() == adaln().keys()


@pytest.mark.parametrize(
    ("break_it", "match"),
    [
        (lambda state: state.pop("blocks.1.modulation_ref"), "lacks blocks.1.modulation_ref"),
        (lambda state: state.pop("blocks.1.self_attn.q.weight"), "lacks blocks.1.attn1.to_q.weight"),
        (lambda state: state.update({"blocks.2.modulation_ref": torch.ones(1, 6, WIDTH)}), "no place for"),
        (lambda state: state.update({"blocks.1.modulation_ref": torch.ones(1, 6, 8)}), r"is \[1, 6, 8\], not"),
    ],
)
def test_weights_of_another_base_are_refused(world: dict[str, Any], break_it: Any, match: str, tmp_path: Path) -> None:
    state = {**world["original"], **adaln()}
    break_it(state)
    torch.save(state, tmp_path / "broken.pt")
    with pytest.raises(UserError, match=match) as caught:
        loaded(world, checkpoint=str(tmp_path / "broken.pt"))
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"base": "absent"}, "the base absent is not on this machine"),
        ({"checkpoint": "absent.pt"}, "the checkpoint absent.pt is not on this machine"),
        ({"checkpoint": "."}, "the checkpoint . is a folder"),
        ({"reference": "guess"}, "no reference 'guess'"),
        ({"height": 40}, "height = 40 is no multiple of 16"),
        ({"reference": "face"}, "scrfd_10g_bnkps.onnx is not on this machine"),
    ],
)
def test_what_is_missing_or_wrong_is_named(world: dict[str, Any], values: dict[str, Any], match: str) -> None:
    with pytest.raises(UserError, match=match) as caught:
        loaded(world, **values)
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.filterwarnings("ignore:.*estimate.*:FutureWarning")  # insightface's, of scikit-image
def test_the_face_is_aligned_as_insightface_aligns_it() -> None:
    rng = np.random.default_rng(0)
    picture = cv2.resize(rng.integers(0, 256, (9, 9, 3), np.uint8), (300, 300), interpolation=cv2.INTER_CUBIC)
    points = np.array([[120, 110], [185, 120], [150, 150], [118, 185], [172, 192]], np.float32)
    expected = face_align.norm_crop(picture, points, image_size=448)
    made = faces.aligned(picture, Face(np.zeros(4, np.float32), points))
    assert np.abs(made.astype(int) - expected.astype(int)).max() <= 1


@pytest.fixture(scope="module")
def parser_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny real SegFormer of 19 classes."""
    folder = tmp_path_factory.mktemp("parser")
    torch.manual_seed(0)
    config = SegformerConfig(
        num_encoder_blocks=2,
        depths=[1, 1],
        sr_ratios=[2, 1],
        hidden_sizes=[8, 8],
        patch_sizes=[7, 3],
        strides=[4, 2],
        num_attention_heads=[1, 2],
        mlp_ratios=[2, 2],
        decoder_hidden_size=8,
        num_labels=19,
    )
    SegformerForSemanticSegmentation(config).save_pretrained(folder)
    SegformerImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)
    return folder


def test_what_is_no_face_becomes_black_at_the_pictures_own_size(parser_folder: Path) -> None:
    picture = np.random.default_rng(1).integers(1, 256, (40, 56, 3), np.uint8)
    network, prepare = (
        cls.from_pretrained(parser_folder) for cls in (SegformerForSemanticSegmentation, SegformerImageProcessor)
    )
    with torch.no_grad():
        logits = network.eval()(prepare(images=Image.fromarray(picture), return_tensors="pt")["pixel_values"]).logits
    # bilinear by hand: pixel centres, edges held
    whole = np.stack([stretched(channel, 40, 56) for channel in logits[0].double().numpy()])
    labels = whole.argmax(0)
    assert len(np.unique(labels)) > 2
    for black in ((), tuple(np.unique(labels)[:1]), tuple(np.unique(labels)[1:])):
        kept = ~np.isin(labels, black)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(faces, "BLACK", black or (0,) * (0 not in labels))
            parser = faces.open_parser(parser_folder, "cpu") if black else None
            if parser is None:
                continue
            if kept.mean() < 0.4:
                with pytest.raises(RefusedError, match="40%"):
                    parser.cut(picture)
            else:
                made = parser.cut(picture)
                assert np.array_equal(made[kept], picture[kept]) and not made[~kept].any()


def stretched(channel: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear interpolation between pixel centres."""
    rows, columns = (
        np.clip((np.arange(n) + 0.5) * m / n - 0.5, 0, m - 1)
        for n, m in zip((height, width), channel.shape, strict=True)
    )
    across = np.stack([np.interp(columns, np.arange(channel.shape[1]), row) for row in channel])
    return np.stack([np.interp(rows, np.arange(channel.shape[0]), column) for column in across.T], 1)


LABELS = (
    "background skin nose glasses left-eye right-eye left-brow right-brow left-ear right-ear mouth upper-lip lower-lip"
)
LABELS += " hair hat earring necklace neck cloth"
"""Of jonathandinu/face-parsing, in its order."""


class EveryClass(torch.nn.Module):
    """A parser that sees the nineteen classes from left to right, whatever the picture."""

    def __init__(self) -> None:
        super().__init__()
        self.device = torch.device("cpu")

    def forward(self, image: Tensor) -> SimpleNamespace:
        seen = torch.arange(image.shape[3]) * 19 // image.shape[3]
        return SimpleNamespace(logits=torch.nn.functional.one_hot(seen, 19).T.float()[None, :, None].repeat(1, 1, 8, 1))


def test_background_and_what_is_worn_go_hair_and_neck_stay() -> None:
    def prepare(images: np.ndarray, return_tensors: str) -> dict[str, Tensor]:
        return {"pixel_values": torch.tensor(images).permute(2, 0, 1)[None].float()}

    cut = faces.Parser(EveryClass(), prepare).cut(np.full((8, 190, 3), 200, np.uint8))
    black = {name for index, name in enumerate(LABELS.split()) if not cut[:, 10 * index + 5].any()}
    assert black == {"background", "hat", "earring", "necklace", "cloth"}


@pytest.mark.parametrize(("share", "enough"), [(0.39, False), (0.41, True)])
def test_two_fifths_of_the_crop_have_to_be_face(share: float, enough: bool) -> None:
    class Edge(EveryClass):
        """Skin on the left, background right of it."""

        def forward(self, image: Tensor) -> SimpleNamespace:
            logits = torch.zeros(1, 19, *image.shape[2:])
            logits[:, 1, :, : round(share * image.shape[3])] = 9
            logits[:, 0] += 1
            return SimpleNamespace(logits=logits)

    def prepare(images: np.ndarray, return_tensors: str) -> dict[str, Tensor]:
        return {"pixel_values": torch.tensor(images).permute(2, 0, 1)[None].float()}

    parser = faces.Parser(Edge(), prepare)
    with contextlib.nullcontext() if enough else pytest.raises(RefusedError, match="39% of the reference's crop"):
        assert parser.cut(np.full((8, 200, 3), 200, np.uint8)).any()


@pytest.mark.parametrize("found", [True, False])
def test_the_face_that_is_found_is_aligned_and_the_record_says_so(world: dict[str, Any], found: bool) -> None:
    ann, seen = world["references"][0], []
    points = np.array([[60, 80], [110, 80], [85, 110], [65, 140], [105, 140]], np.float32)
    face = Face(np.array([30, 30, 150, 190], np.float32), points) if found else None
    method = loaded(world)
    method._detector = SimpleNamespace(largest=lambda picture: face)
    method._parser = SimpleNamespace(cut=lambda picture: seen.append(picture) or picture)
    (output,) = method.generate([tiny_wan.request(ann)])
    photograph = np.asarray(Image.open(ann.path))
    assert np.array_equal(seen[0], photograph if face is None else faces.aligned(photograph, face))
    assert output.notes["reference_face"] == ("largest" if found else "none: whole photograph")


def test_another_network_is_no_parser(parser_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no SegFormer") as caught:
        faces.open_parser(tmp_path, "cpu")
    assert len(str(caught.value).splitlines()) == 2
    SegformerForSemanticSegmentation(SegformerConfig.from_pretrained(parser_folder, num_labels=4)).save_pretrained(
        tmp_path
    )
    SegformerImageProcessor().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="is not the face parser"):
        faces.open_parser(tmp_path, "cpu")


@pytest.mark.parametrize(
    ("size", "inside"),
    [((448, 448), (0, 176, 480, 656)), ((100, 10), (0, 392, 480, 440)), ((10, 100), (198, 0, 281, 832))],
)
def test_the_canvas_is_black_and_as_large_as_the_video(size: tuple[int, int], inside: tuple[int, ...]) -> None:
    picture = np.full((*size, 3), 200, np.uint8)
    made = faces.on_black(picture, 832, 480)
    top, left, bottom, right = inside
    assert made.shape == (480, 832, 3) and (made[top:bottom, left:right] >= 199).all()
    made[top:bottom, left:right] = 0
    assert not made.any()


def test_overshoot_of_the_scaling_is_cut_off() -> None:
    picture = np.zeros((60, 60, 3), np.uint8)
    picture[:, 30:] = 255
    made = faces.on_black(picture, 832, 480)[240, 176:656, 0].astype(int)
    assert (made[:232] < 30).all() and (made[248:] > 225).all()


@pytest.mark.filterwarnings("ignore:.*estimate.*:FutureWarning")
def test_the_largest_real_face_is_found_and_cut(assets: Path, parser_folder: Path) -> None:
    file = "models/insightface/models/small_y1/det_scrfd_2.5g.onnx"
    sha256 = hashlib.sha256((assets / file).read_bytes()).hexdigest()
    detector = open_detector(Runtime("cpu", str(assets)), file, sha256)
    portrait, empty = (np.asarray(photo) for photo in (tiny_wan.portrait(), tiny_wan.landscape()))
    face = detector.largest(portrait)
    assert face is not None and detector.largest(np.zeros_like(empty)) is None
    smaller = cv2.resize(portrait, None, fx=0.4, fy=0.4)
    both = np.full((300, 400, 3), 128, np.uint8)
    both[:100, :88], both[:250, 150:370] = smaller, portrait
    largest = detector.largest(both)
    assert largest is not None and largest.box[0] > 150
    expected = face_align.norm_crop(portrait, face.points, image_size=448).astype(int)
    assert np.abs(faces.aligned(portrait, face) - expected).max() <= 1 and expected.std() > 20
    with pytest.raises(UserError, match="has sha256"):
        open_detector(Runtime("cpu", str(assets)), file, SCRFD)
