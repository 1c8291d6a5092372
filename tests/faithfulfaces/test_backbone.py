"""The base folder: what loads, in which precision, and what is refused before anything runs on it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import UMT5EncoderModel

from faithfulfaces.backbone import PIECES, load_transformer, load_vace, load_vae
from ffbench.errors import UserError
from tests.faithfulfaces import tiny_vace


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_vace.write(tmp_path_factory.mktemp("base") / "vace")


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(original, tmp_path / "vace"))


def change(path: Path, **values: object) -> None:
    config = {**json.loads(path.read_text("utf-8")), **values}
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}), "utf-8")


def test_every_piece_loads_frozen_in_its_precision(original: Path) -> None:
    pipe = load_vace(original)
    for net in (pipe.transformer, pipe.vae, pipe.text_encoder):
        assert not net.training and not any(p.requires_grad for p in net.parameters())
    assert {p.dtype for p in pipe.vae.parameters()} == {torch.float32}
    assert pipe.text_encoder.shared.weight.dtype == torch.bfloat16
    kinds = {name: p.dtype for name, p in pipe.transformer.named_parameters()}
    kept = ("scale_shift_table", "time_embedder", "norm1", "norm2", "norm3")
    for name, dtype in kinds.items():
        listed = any(part in kept for part in name.split("."))
        assert dtype == (torch.float32 if listed else torch.bfloat16), name
    assert sum(dtype == torch.float32 for dtype in kinds.values()) > 10


def test_the_weights_are_those_of_the_folder(original: Path) -> None:
    stored = load_file(original / "transformer" / "diffusion_pytorch_model.safetensors")
    loaded = load_transformer(original, torch.float32).state_dict()
    assert loaded.keys() == stored.keys()
    assert all(torch.equal(loaded[key], stored[key]) for key in stored)


@pytest.mark.parametrize("part", PIECES)
def test_a_missing_piece_is_named(folder: Path, part: str) -> None:
    shutil.rmtree(folder / part)
    with pytest.raises(UserError, match=f"has no {part}: ") as caught:
        load_vace(folder)
    assert str(folder) in caught.value.what and "Wan2.1-VACE-14B-diffusers" in caught.value.fix


@pytest.mark.parametrize("part", ["transformer", "vae", "text_encoder"])
def test_a_piece_without_its_weights_is_named(folder: Path, part: str) -> None:
    for path in (folder / part).glob("*.safetensors"):
        path.unlink()
    with pytest.raises(UserError, match=f"vace/{part} cannot be loaded"):
        load_vace(folder)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def other_shape(path: Path) -> None:
    tensors = load_file(path)
    tensors["proj_out.bias"] = torch.zeros(3)
    save_file(tensors, path, metadata={"format": "pt"})


@pytest.mark.parametrize("damage", [cut, other_shape])
def test_damaged_weights_are_named(folder: Path, damage: Callable[[Path], None]) -> None:
    damage(folder / "transformer" / "diffusion_pytorch_model.safetensors")
    with pytest.raises(UserError, match="vace/transformer cannot be loaded"):
        load_transformer(folder)


def test_a_cut_tokenizer_is_named(folder: Path) -> None:
    (folder / "tokenizer" / "tokenizer.json").unlink()
    with pytest.raises(UserError, match="vace/tokenizer cannot be loaded"):
        load_vace(folder)


@pytest.mark.parametrize(
    ("part", "name"),
    [("transformer", "WanTransformer3DModel"), ("vae", "AutoencoderKL"), ("scheduler", "DDIMScheduler")],
)
def test_another_class_is_refused(folder: Path, part: str, name: str) -> None:
    change(folder / PIECES[part], _class_name=name)
    with pytest.raises(UserError, match=f"says {name}, and FaithfulFaces is built on"):
        load_vace(folder)


@pytest.mark.parametrize("key", ["latents_mean", "latents_std"])
def test_the_statistics_of_the_latents_must_be_there(folder: Path, key: str) -> None:
    config = folder / PIECES["vae"]
    change(config, **{key: [1.0] * 15})
    with pytest.raises(UserError, match=f"lacks {key} of its 16"):
        load_vae(folder)
    change(config, **{key: None})
    with pytest.raises(UserError, match=f"lacks {key} of its 16"):
        load_vae(folder)
    change(config, latents_mean=[0.0] * 16, latents_std=[0.0] * 16)
    with pytest.raises(UserError, match="not above 0"):
        load_vae(folder)


def test_wans_own_layout_and_broken_json_are_explained(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(UserError, match="there is no base folder"):
        load_transformer(tmp_path / "absent")
    (tmp_path / "wan").mkdir()
    (tmp_path / "wan" / "Wan2.1_VAE.pth").touch()
    with pytest.raises(UserError, match="Wan's own layout, not diffusers'"):
        load_transformer(tmp_path / "wan")
    (folder / PIECES["vae"]).write_text("{", "utf-8")
    with pytest.raises(UserError, match="is no JSON"):
        load_vae(folder)


def test_an_untied_text_embedding_is_refused(original: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As transformers 5.0 to 5.2 load it: the shared embedding from the file, the encoder's own from nowhere."""
    load = UMT5EncoderModel.from_pretrained

    def untied(*args: object, **options: object) -> UMT5EncoderModel:
        encoder = load(*args, **options)
        encoder.encoder.embed_tokens = torch.nn.Embedding(*encoder.shared.weight.shape, dtype=torch.bfloat16)
        return encoder

    monkeypatch.setattr(UMT5EncoderModel, "from_pretrained", untied)
    with pytest.raises(UserError, match="text encoder's input embedding") as caught:
        load_vace(original)
    assert "5.0 to 5.2" in caught.value.fix
