"""Every native method alike: checkpoints in the authors' own key layout, and what is encoded once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from diffusers import WanTransformer3DModel, WanVACETransformer3DModel
from safetensors.torch import load_file
from torch import Tensor

from baselines.wan.loading import load_transformer
from ffbench.errors import UserError
from ffbench.methods import METHODS, card
from ffbench.records import Reference
from tests.baselines import tiny_wan
from tests.baselines.plain_wan import PlainWan
from tests.baselines.test_concat_id import adaln
from tests.baselines.test_standin import low_rank
from tests.faithfulfaces import tiny_vace

WAN = ("vace", "phantom", "magref", "skyreels_a2", "standin", "concat_id")
OWN_FOLDER = ("vace", "skyreels_a2", "standin")
"""Those whose transformer comes out of the base folder; the others name their own checkpoint."""


class World(NamedTuple):
    """A method's folder, the transformer that was drawn for it, and two people."""

    root: Path
    transformer: torch.nn.Module
    references: tuple[Reference, Reference]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], World]:
    made: dict[str, World] = {}

    def of(name: str) -> World:
        if name not in made:
            root = tmp_path_factory.mktemp(name)
            made[name] = World(root, write(name, root), tiny_wan.photos(root))
        return made[name]

    return of


def write(name: str, root: Path) -> torch.nn.Module:
    """The published files of a method in small, its transformer in diffusers' layout inside base/."""
    if name == "vace":
        pipe = tiny_vace.pipeline()
        tiny_wan.loud(pipe.transformer)
        pipe.save_pretrained(root / "base")
        return pipe.transformer
    network = tiny_wan.write(root / "base", image=name in ("magref", "skyreels_a2"))["transformer"]
    torch.save(low_rank(), root / "standin.ckpt")
    return network


def originals(name: str, world: World, root: Path) -> dict[str, str]:
    """The same method with its transformer as the authors publish it, and nothing of it elsewhere."""
    shutil.copytree(world.root / "base", root / "base")
    shutil.copy(world.root / "standin.ckpt", root) if name == "standin" else None
    for file in (root / "base" / "transformer").glob("*.safetensors"):
        file.unlink()
    where = root / "base" / "transformer" if name in OWN_FOLDER else root / "checkpoint"
    tensors = tiny_wan.write_original(where, world.transformer, shards=3)
    if name == "concat_id":
        torch.save({**tensors, **adaln()}, root / "checkpoint.pt")
    return settings(name, root)


def settings(name: str, root: Path) -> dict[str, str]:
    """What names a method's weights in a folder of this test."""
    files = {"standin": "standin.ckpt", "concat_id": "checkpoint.pt", "phantom": "checkpoint", "magref": "checkpoint"}
    chosen = {"base": str(root / "base")}
    if name in files:
        chosen["checkpoint"] = str(root / files[name])
    if name in ("standin", "concat_id"):
        chosen["reference"] = "as-is"
    return chosen


def loaded(name: str, chosen: dict[str, str], **values: Any) -> Any:
    return tiny_wan.loaded(name, chosen, **{"num_frames": 9, **values})


def in_diffusers_layout(name: str, world: World) -> Any:
    """The method on the transformer that was drawn, without any conversion."""
    if name in OWN_FOLDER:
        return loaded(name, settings(name, world.root))
    chosen = originals(name, world, world.root.with_name(f"{world.root.name}-converted"))
    method = loaded(name, chosen)
    inner = method._networks.transformer
    # in place of what was converted, the network that it was written from
    if name == "concat_id":
        inner.transformer = world.transformer
    else:
        method._networks.transformer = world.transformer
    return method


@pytest.mark.parametrize("name", WAN)
def test_a_checkpoint_in_the_authors_key_layout_makes_the_same_video(
    name: str, world: Callable[[str], World], tmp_path: Path
) -> None:
    made = world(name)
    expected = tiny_wan.frames(in_diffusers_layout(name, made), made.references[0])
    chosen = originals(name, made, tmp_path)
    keys = {key for file in tmp_path.rglob("*-of-*.safetensors") for key in load_file(file)}
    assert "head.modulation" in keys and not any("attn1" in key or "scale_shift_table" in key for key in keys)
    got = tiny_wan.frames(loaded(name, chosen), made.references[0])
    assert np.ptp(expected) > 20 and np.abs(got.astype(int) - expected).max() <= 1
    # other weights make another video: the equality is no accident of a weak network
    (where,) = {file.parent for file in tmp_path.rglob("*-of-*.safetensors")}
    torch.manual_seed(9)
    other = tiny_wan.loud(type(made.transformer).from_config(made.transformer.config))
    tensors = tiny_wan.write_original(where, other, shards=3)
    if name == "concat_id":
        torch.save({**tensors, **adaln()}, tmp_path / "checkpoint.pt")
    assert tiny_wan.differ(tiny_wan.frames(loaded(name, chosen), made.references[0]), expected)


@pytest.mark.parametrize("name", OWN_FOLDER)
@pytest.mark.parametrize("change", ["gap", "leftover", "shape"])
def test_original_shards_in_a_base_folder_must_fit_it(
    name: str, change: str, world: Callable[[str], World], tmp_path: Path
) -> None:
    chosen = originals(name, world(name), tmp_path)
    file = min((tmp_path / "base" / "transformer").glob("*.safetensors"))
    tensors = load_file(file)
    first = next(key for key in sorted(tensors) if key.startswith("blocks."))
    if change == "gap":
        del tensors[first]
    else:
        tensors[first if change == "shape" else "blocks.7.ffn.0.bias"] = torch.zeros(3)
    from safetensors.torch import save_file

    save_file(tensors, file)
    match = {"gap": "lacks blocks", "leftover": "no place for: blocks.7.ffn", "shape": "does not fit"}[change]
    with pytest.raises(UserError, match=match) as caught:
        loaded(name, chosen)
    assert len(str(caught.value).splitlines()) == 2


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def far(got: Tensor, expected: Tensor) -> float:
    """Largest difference relative to the largest value."""
    return float((got.double() - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("t", [937.5, 208.0])
@torch.no_grad()
def test_converted_image_to_video_is_the_mathematics_in_float64(
    world: Callable[[str], World], tmp_path: Path, t: float
) -> None:
    made = world("magref")
    tensors = tiny_wan.write_original(tmp_path / "checkpoint", made.transformer)
    network = load_transformer(original_base(made, tmp_path, tensors), torch.float32)
    x, text, tokens = drawn(36, 2, 4, 6, seed=0), drawn(512, 32, seed=1), drawn(5, 20, seed=2)
    got = network(x[None], torch.tensor([t]), text[None], tokens[None], return_dict=False)[0][0]
    assert far(got, PlainWan(tensors)(x, t, text, tokens)) < 5e-5
    assert far(got, PlainWan(tensors)(x, t, text, -tokens)) > 5e-4, "the image shows"


@pytest.mark.parametrize("t", [937.5, 208.0])
@torch.no_grad()
def test_converted_vace_is_the_mathematics_in_float64(world: Callable[[str], World], tmp_path: Path, t: float) -> None:
    made = world("vace")
    tensors = tiny_wan.write_original(tmp_path / "checkpoint", made.transformer)
    network = load_transformer(original_base(made, tmp_path, tensors), torch.float32, WanVACETransformer3DModel)
    x, text, control = drawn(16, 3, 4, 6, seed=0), drawn(512, 32, seed=1), drawn(96, 3, 4, 6, seed=2)
    got = network(x[None], torch.tensor([t]), text[None], control_hidden_states=control[None], return_dict=False)[0][0]
    assert far(got, PlainWan(tensors)(x, t, text, control=control)) < 5e-5
    assert far(got, PlainWan(tensors)(x, t, text)) > 5e-4, "the control branch shows"


def original_base(made: World, root: Path, tensors: dict[str, Tensor]) -> Path:
    """A folder with the configuration of a base and shards in the original layout."""
    (root / "base" / "transformer").mkdir(parents=True)
    shutil.copy(made.root / "base" / "transformer" / "config.json", root / "base" / "transformer")
    for shard in (root / "checkpoint").iterdir():
        shutil.copy(shard, root / "base" / "transformer")
    return root / "base"


@torch.no_grad()
def test_vace_with_scale_0_is_plain_text_to_video_on_all_frames(world: Callable[[str], World]) -> None:
    made = world("vace")
    plain = WanTransformer3DModel(
        **{
            key: value
            for key, value in made.transformer.config.items()
            if not key.startswith("_") and key not in ("vace_layers", "vace_in_channels")
        }
    ).eval()
    weights = {key: value for key, value in made.transformer.state_dict().items() if "vace" not in key}
    plain.load_state_dict(weights)
    # two frames of video behind one of the reference, which text-to-video takes for three frames of video
    x, text, control = drawn(1, 16, 3, 4, 6, seed=0), drawn(1, 512, 32, seed=1), drawn(1, 96, 3, 4, 6, seed=2)
    t = torch.tensor([500.0])
    scales = [torch.full((2,), scale) for scale in (0.0, 1.0)]
    off, on = (
        made.transformer(x, t, text, control_hidden_states=control, control_hidden_states_scale=scale)[0]
        for scale in scales
    )
    expected = plain(x, t, text)[0]
    assert torch.equal(off, expected) and (on - expected).abs().max() > 1e-2


@pytest.mark.parametrize("name", WAN)
def test_a_prompt_and_a_person_are_encoded_once(name: str, world: Callable[[str], World], tmp_path: Path) -> None:
    made = world(name)
    method = loaded(name, originals(name, made, tmp_path))
    prompts = method._prompts if name == "vace" else method._networks.prompts
    vae = method._pipe.vae if name == "vace" else method._networks.vae
    runs: dict[str, int] = {"text": 0, "vae": 0}
    prompts.encoder.register_forward_hook(lambda *_: runs.update(text=runs["text"] + 1))
    encode = vae.encode

    def counted(*args: Any, **options: Any) -> Any:
        runs["vae"] += 1
        return encode(*args, **options)

    vae.encode = counted
    videos: dict[tuple[str, str, int], np.ndarray] = {}
    for seed in (5, 6):
        for person in made.references:
            for prompt in ("a person boxes", "a person dances", "the person turns"):
                videos[person.path, prompt, seed] = tiny_wan.frames(method, person, prompt=prompt, seed=seed)
    # VACE also encodes a grey video twice beside each person
    assert runs == {"text": 4, "vae": 6 if name == "vace" else 2}, "three prompts, the negative one; two people"
    again, repeated = (made.references[1], "a person dances", 6), {"prompt": "a person dances", "seed": 6}
    fresh = tiny_wan.frames(loaded(name, originals(name, made, tmp_path / "again")), again[0], **repeated)
    assert np.array_equal(fresh, videos[again[0].path, again[1], again[2]]), "what is remembered changes nothing"
    assert len({made.tobytes() for made in videos.values()}) == len(videos)


def test_without_guidance_the_negative_prompt_is_not_encoded(world: Callable[[str], World]) -> None:
    made = world("vace")
    method = loaded("vace", settings("vace", made.root), guidance=1.0)
    tiny_wan.frames(method, made.references[0])
    assert method._prompts.runs == 1


def test_consisid_was_published_in_the_key_layout_of_diffusers() -> None:
    """Its authors' script and diffusers read one and the same folder; these are keys of the authors' own modules."""
    from tests.baselines.tiny_consisid import whole

    keys = whole().transformer.state_dict().keys()
    face = {
        *("latents", "proj_out", "layers.0.0.norm1.weight", "layers.0.0.to_q.weight", "layers.0.0.to_kv.weight"),
        *("layers.0.0.to_out.weight", "layers.0.1.0.weight", "layers.0.1.1.weight", "layers.0.1.3.weight"),
        *("mapping_0.0.weight", "mapping_0.6.bias", "id_embedding_mapping.6.weight"),
    }
    assert {f"local_facial_extractor.{key}" for key in face} <= keys
    crossed = {f"perceiver_cross_attention.1.{name}.weight" for name in ("norm1", "norm2", "to_q", "to_kv", "to_out")}
    assert crossed <= keys


def test_every_native_method_is_here() -> None:
    native = {name for name in METHODS if card(name).kind == "open" and card(name).environment == "embedded"}
    assert native == {*WAN, "consisid"}
    assert all(json.dumps(dict(card(name).settings)) for name in native)
