"""LoRA files in the key styles of diffusers, ComfyUI and DiffSynth-Studio.

    diffusers    transformer.blocks.0.attn1.to_q.lora_A.weight       alpha in the header's `lora_adapter_metadata`
    comfyui      diffusion_model.blocks.0.self_attn.q.lora_A.weight  alpha as a tensor `<module>.alpha`
    diffsynth    blocks.0.self_attn.q.lora_A.default.weight          alpha as a tensor `<module>.alpha`

The VACE stack is `vace_blocks` in all three. Tensors are never rescaled, so that any chain of conversions ends with
the same bits; diffusers' own reader of ComfyUI keys knows no `vace_blocks`: give diffusers the diffusers style.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from faithfulfaces.lora import ADAPTER, LoraWeights
from ffbench.errors import UserError

Style = Literal["diffusers", "comfyui", "diffsynth"]
PREFIX: Mapping[Style, str] = {"diffusers": "transformer.", "comfyui": "diffusion_model.", "diffsynth": ""}
WAN_NAMES = {
    "attn1": "self_attn",
    "attn2": "cross_attn",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "o",
    "net.0.proj": "0",
    "net.2": "2",
}
"""diffusers' names of layers inside a block, and Wan's own, which ComfyUI and DiffSynth keep."""
_METADATA = "lora_adapter_metadata"
_BLOCK = r"(?P<block>(?:vace_)?blocks\.\d+)\."
_DIFFUSERS = _BLOCK + r"(?P<part>attn[12]|ffn)\.(?P<layer>to_[qkv]|to_out\.0|net\.0\.proj|net\.2)"
_WAN = _BLOCK + r"(?P<part>self_attn|cross_attn|ffn)\.(?P<layer>[qkvo02])"
_END = r"\.(?P<end>lora_A|lora_B|lora_down|lora_up)\.weight"
_KEYS: Mapping[Style, re.Pattern[str]] = {
    "diffusers": re.compile(r"transformer\." + _DIFFUSERS + _END),
    "comfyui": re.compile(r"diffusion_model\." + _WAN + rf"(?:{_END}|\.alpha)"),
    "diffsynth": re.compile(_WAN + rf"(?:{_END.replace('weight', f'(?:{ADAPTER}.)?weight')}|\.alpha)"),
}
_MATRIX = {"lora_A": "lora_A", "lora_B": "lora_B", "lora_down": "lora_A", "lora_up": "lora_B"}


class LoraFile(NamedTuple):
    """What a file holds, and how its keys were written."""

    weights: LoraWeights
    style: Style


def to_style(weights: LoraWeights, style: Style) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and header of a file of that style.

    Raises:
        UserError: for an unknown style.
    """
    if style not in get_args(Style):
        raise UserError(f"there is no LoRA style {style!r}", f"choose one of: {', '.join(get_args(Style))}")
    out: dict[str, Tensor] = {}
    modules = sorted({key.rpartition(".lora_")[0] for key in weights.tensors})
    for module in modules:
        name = PREFIX[style] + (module if style == "diffusers" else _wan_name(module))
        for matrix in ("lora_A", "lora_B"):
            end = f"{ADAPTER}.weight" if style == "diffsynth" else "weight"
            # a file's tensors must not share memory
            out[f"{name}.{matrix}.{end}"] = weights.tensors[f"{module}.{matrix}.weight"].detach().cpu().clone()
        if style != "diffusers":
            out[f"{name}.alpha"] = torch.tensor(weights.alpha, dtype=torch.float64)
    header = {"format": "pt"}
    if style == "diffusers":
        config = {"r": weights.rank, "lora_alpha": weights.alpha, "target_modules": modules}
        header[_METADATA] = json.dumps({f"transformer.{key}": value for key, value in config.items()}, sort_keys=True)
    return out, header


def from_style(tensors: Mapping[str, Tensor], header: Mapping[str, str], source: str) -> LoraFile:
    """The adapter that a file's tensors and header hold, in whichever style.

    Args:
        tensors: of the file.
        header: its metadata.
        source: the file's name, for messages.

    Raises:
        UserError: naming the first keys that belong to no style, tensors without their partner, or modules whose rank
            or alpha differ.
    """
    style = max(_KEYS, key=lambda candidate: sum(bool(_KEYS[candidate].fullmatch(key)) for key in tensors))
    unmatched = [key for key in tensors if not _KEYS[style].fullmatch(key)]
    if unmatched or not tensors:
        raise UserError(
            f"{source}: {len(unmatched)} of {len(tensors)} keys are none of a VACE LoRA: {', '.join(unmatched[:3])}",
            f"give a LoRA of Wan VACE written in one style: {', '.join(get_args(Style))}",
        )
    matrices: dict[str, Tensor] = {}
    alphas: dict[str, float] = {}
    for key, tensor in tensors.items():
        match = _KEYS[style].fullmatch(key)
        assert match is not None
        module = _module(match)
        if match["end"] is None:
            alphas[module] = float(tensor)
        else:
            matrices[f"{module}.{_MATRIX[match['end']]}.weight"] = tensor
    ranks = _ranks(matrices, source)
    rank = ranks.pop()
    values = set(alphas.values()) or {_header_alpha(header, rank, source)}
    if ranks or len(values) > 1 or (alphas and len(alphas) * 2 != len(matrices)):
        raise UserError(
            f"{source}: rank or alpha differ between modules (ranks {sorted({rank, *ranks})}, alphas {sorted(values)})",
            "give a LoRA of one rank and one alpha",
        )
    return LoraFile(LoraWeights(matrices, values.pop()), style)


def save_lora(path: Path, weights: LoraWeights, style: Style = "diffusers") -> None:
    """Write a safetensors file.

    Raises:
        UserError: for an unknown style.
    """
    tensors, header = to_style(weights, style)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata=header)


def read_lora(path: Path) -> LoraFile:
    """Read a safetensors file of any of the styles.

    Raises:
        UserError: no such file, no safetensors, or no LoRA of VACE (see `from_style`).
    """
    try:
        with safe_open(path, framework="pt") as file:
            return from_style({key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}, str(path))  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} cannot be read as safetensors: {error}", "give a LoRA's .safetensors file") from error


def _wan_name(module: str) -> str:
    match = re.fullmatch(_DIFFUSERS, module)
    if match is None:
        raise ValueError(f"{module} has no name in Wan's own layout")
    return f"{match['block']}.{WAN_NAMES.get(match['part'], match['part'])}.{WAN_NAMES[match['layer']]}"


def _module(match: re.Match[str]) -> str:
    """The module's name in diffusers of a matched key of any style."""
    back = {wan: ours for ours, wan in WAN_NAMES.items()}
    return f"{match['block']}.{back.get(match['part'], match['part'])}.{back.get(match['layer'], match['layer'])}"


def _ranks(matrices: Mapping[str, Tensor], source: str) -> set[int]:
    ranks = set()
    for key, tensor in matrices.items():
        other = key.replace("lora_A", "lora_#").replace("lora_B", "lora_A").replace("lora_#", "lora_B")
        if other not in matrices or tensor.ndim != 2:
            raise UserError(f"{source}: {key} is no matrix with a partner {other}", "give a complete LoRA file")
        ranks.add(tensor.shape[0 if "lora_A" in key else 1])
    return ranks


def _header_alpha(header: Mapping[str, str], rank: int, source: str) -> float:
    """Alpha of diffusers' header; a LoRA without any has alpha = rank, by the custom of all three tools."""
    if _METADATA not in header:
        return float(rank)
    try:
        return float(json.loads(header[_METADATA]).get("transformer.lora_alpha", rank))
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(
            f"{source}: its {_METADATA} cannot be read: {error}", "give the file as it was saved"
        ) from error
