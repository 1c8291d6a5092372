"""The frozen base: a VACE folder in diffusers' layout (14B, 1.3B or tiny), checked before anything runs on it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ffbench.errors import UserError

if TYPE_CHECKING:
    from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanVACEPipeline, WanVACETransformer3DModel
    from torch import nn

PIECES = {
    "transformer": "transformer/config.json",
    "vae": "vae/config.json",
    "text_encoder": "text_encoder/config.json",
    "tokenizer": "tokenizer/tokenizer_config.json",
    "scheduler": "scheduler/scheduler_config.json",
}
"""Part of a base folder -> the file that says that it is there."""
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
_FETCH = "download Wan-AI/Wan2.1-VACE-14B-diffusers (or -1.3B-diffusers) whole and give its folder"


def load_vace(folder: Path, dtype: torch.dtype = torch.bfloat16) -> WanVACEPipeline:
    """Pipeline of diffusers from a base folder, on the CPU, frozen and in evaluation mode.

    Args:
        folder: with transformer, vae, text_encoder, tokenizer and scheduler.
        dtype: of transformer and text encoder; the modules of diffusers' float32 list and the VAE stay in float32.

    Raises:
        UserError: a piece is missing, damaged, or not of the class that VACE needs.
    """
    _config(folder, "transformer")
    pipeline = load_encoders(folder, dtype)
    pipeline.register_modules(transformer=load_transformer(folder, dtype))
    return pipeline


def load_encoders(folder: Path, dtype: torch.dtype = torch.bfloat16) -> WanVACEPipeline:
    """As `load_vace` without the transformer: what encodes videos, references and prompts.

    Args:
        folder: with vae, text_encoder, tokenizer and scheduler.
        dtype: of the text encoder.

    Raises:
        UserError: as `load_vace`.
    """
    from diffusers import WanVACEPipeline

    # what is small first: no minutes of reading before a refusal
    for part in ("vae", "text_encoder", "tokenizer"):
        _config(folder, part)
    return WanVACEPipeline(
        scheduler=load_scheduler(folder),
        tokenizer=_load_tokenizer(folder),
        vae=load_vae(folder),
        text_encoder=_load_text_encoder(folder, dtype),
        transformer=None,
    )


def load_scheduler(folder: Path) -> UniPCMultistepScheduler:
    """The sampler that the base was published with.

    Raises:
        UserError: as `load_vace`.
    """
    from diffusers import UniPCMultistepScheduler

    config = _config(folder, "scheduler")
    _expect_class(folder, "scheduler", config, "UniPCMultistepScheduler")
    return UniPCMultistepScheduler.from_config(config)


def load_transformer(folder: Path, dtype: torch.dtype = torch.bfloat16) -> WanVACETransformer3DModel:
    """The diffusion transformer alone, frozen.

    It comes from `from_pretrained`, which alone keeps norms, modulation tables and time embedding in float32.

    Raises:
        UserError: as `load_vace`.
    """
    from diffusers import WanVACETransformer3DModel

    _expect_class(folder, "transformer", _config(folder, "transformer"), "WanVACETransformer3DModel")
    return _pretrained(WanVACETransformer3DModel, folder, "transformer", torch_dtype=dtype)


def load_vae(folder: Path) -> AutoencoderKLWan:
    """The video autoencoder in float32, with the statistics of its latents; the mini world's has a class of its own.

    Raises:
        UserError: as `load_vace`, or when the folder's own configuration lacks the statistics: diffusers would put the
            published ones in their place without a word.
    """
    config = _config(folder, "vae")
    cls = _vae_class(folder, config)
    for key in ("latents_mean", "latents_std"):
        values = config.get(key)
        if not isinstance(values, list) or len(values) != config.get("z_dim", 16):
            raise UserError(
                f"{folder / PIECES['vae']} lacks {key} of its {config.get('z_dim', 16)} latent channels",
                "restore the file of the published folder",
            )
    if min(config["latents_std"]) <= 0:
        raise UserError(f"{folder / PIECES['vae']}: latents_std holds a value that is not above 0", "restore the file")
    return _pretrained(cls, folder, "vae", torch_dtype=torch.float32)


def _vae_class(folder: Path, config: Mapping[str, Any]) -> Any:
    if config.get("_class_name") == "PatchCodec":
        from faithfulfaces.mini.codec import PatchCodec

        return PatchCodec
    from diffusers import AutoencoderKLWan

    _expect_class(folder, "vae", config, "AutoencoderKLWan")
    return AutoencoderKLWan


def check_tied(text_encoder: Any) -> None:
    """Let only a text encoder pass whose input embedding is the shared one that the file holds.

    transformers 5.0 to 5.2 leave it uninitialised: prompts then become noise, and nothing else would tell.

    Raises:
        UserError: otherwise.
    """
    shared, used = text_encoder.shared.weight, text_encoder.encoder.embed_tokens.weight
    if not torch.equal(shared, used):
        raise UserError(
            "the text encoder's input embedding is not the shared one of its file",
            "use transformers 4.49 or newer, but none of 5.0 to 5.2",
        )


def _load_text_encoder(folder: Path, dtype: torch.dtype) -> nn.Module:
    from transformers import UMT5EncoderModel

    encoder: nn.Module = _pretrained(UMT5EncoderModel, folder, "text_encoder", dtype=dtype)
    check_tied(encoder)
    return encoder


def _load_tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
    except (OSError, ValueError) as error:
        raise UserError(f"{folder / 'tokenizer'} cannot be loaded: {_line(error)}", _FETCH) from error


def _pretrained(cls: Any, folder: Path, part: str, **options: Any) -> Any:
    from safetensors import SafetensorError

    try:
        model = cls.from_pretrained(folder / part, local_files_only=True, use_safetensors=True, **options)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{folder / part} cannot be loaded: {_line(error)}", _FETCH) from error
    return model.eval().requires_grad_(False)


def _config(folder: Path, part: str) -> Mapping[str, Any]:
    path = folder / PIECES[part]
    if not folder.is_dir():
        raise UserError(f"there is no base folder {folder}", _FETCH)
    if not path.is_file():
        other = any(folder.glob("*.pth")) or (folder / "config.json").is_file()
        layout = "; this is Wan's own layout, not diffusers'" if other else ""
        raise UserError(f"the base folder {folder} has no {part}: {path.name} is missing{layout}", _FETCH)
    try:
        config = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is no JSON: {error}", "restore the file of the published folder") from error
    return dict(config)


def _expect_class(folder: Path, part: str, config: Mapping[str, Any], name: str) -> None:
    found = config.get("_class_name")
    if found != name:
        raise UserError(
            f"{folder / PIECES[part]} says {found}, and FaithfulFaces is built on {name}", "give a Wan 2.1 VACE folder"
        )


def _line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
