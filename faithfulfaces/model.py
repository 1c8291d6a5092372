"""A trained FaithfulFaces on disk: what training adds to the base, in files that the ecosystem reads.

config.json                        shapes of the aligner, injection, face reading, base
model.safetensors                  aligner.* and prior.*, float32; no prior.* where the aligner was trained by itself
                                   (absent where only the LoRA was trained)
pytorch_lora_weights.safetensors   LoRA in diffusers' style (absent where only the aligner was trained)
README.md                          model card
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from faithfulfaces.aligner import PoseSharedIdentityAligner
from faithfulfaces.config import Aligner, Faces
from faithfulfaces.export import read_lora, save_lora
from faithfulfaces.lora import LoraWeights
from faithfulfaces.prior import Injection, Prior
from ffbench.errors import UserError
from ffbench.weights import load_state_dict

CONFIG, WEIGHTS, LORA, CARD = "config.json", "model.safetensors", "pytorch_lora_weights.safetensors", "README.md"
FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What `config.json` holds."""

    aligner: Aligner | None = field(default_factory=Aligner)
    """None: trained without one, a LoRA alone."""
    injection: Injection = "add"
    faces: Faces = field(default_factory=Faces)
    base: str | None = "Wan-AI/Wan2.1-VACE-14B-diffusers"
    """Folder or hub name of the base that it was trained on; None: an aligner by itself, which makes no videos."""
    sampling: Mapping[str, int | float | str | bool] = field(default_factory=dict)
    """Fields of `faithfulfaces.pipeline.Sampling` that this checkpoint wants otherwise, such as its frames' size."""
    seed: int | None = None
    """`Train.seed`: tells trainings of one recipe apart."""


class Parts(NamedTuple):
    """What training makes; everything else is the base's."""

    aligner: PoseSharedIdentityAligner | None
    """None, and no prior, where the LoRA was trained alone."""
    prior: Prior | None
    """None, and no LoRA, where the aligner was trained alone."""
    lora: LoraWeights | None


def save_model(folder: Path, config: ModelConfig, parts: Parts, dtype: torch.dtype = torch.float32) -> None:
    """Write the four files, tensors rounded to `dtype`; that of a part that was not trained is left out."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"format": FORMAT, **asdict(config)}, indent=2, sort_keys=True)
    (folder / CONFIG).write_text(text + "\n", "utf-8")
    for name in (WEIGHTS, LORA):
        (folder / name).unlink(missing_ok=True)
    nets = {"aligner": parts.aligner, "prior": parts.prior}
    tensors = {
        f"{name}.{key}": tensor.detach().cpu().to(dtype).contiguous()
        for name, net in nets.items()
        if net is not None
        for key, tensor in net.state_dict().items()
    }
    if tensors:
        save_file(tensors, folder / WEIGHTS)
    if parts.lora is not None:
        rounded = {name: tensor.to(dtype) for name, tensor in parts.lora.tensors.items()}
        save_lora(folder / LORA, parts.lora._replace(tensors=rounded))
    (folder / CARD).write_text(_model_card(config, parts), "utf-8")


def load_model(folder: Path) -> tuple[ModelConfig, Parts]:
    """Read what `save_model` wrote, in float32 on the CPU, frozen and in evaluation mode.

    Raises:
        UserError: naming the file or field that is missing, unknown, damaged or of another shape.
    """
    if not folder.is_dir():
        raise UserError(
            f"there is no FaithfulFaces checkpoint folder {folder}", "give that of a finished run or of save_pretrained"
        )
    config = _read_config(folder / CONFIG)
    lora = read_lora(folder / LORA).weights if (folder / LORA).is_file() else None
    if config.aligner is None:
        return config, Parts(None, None, _alone(folder, lora))
    tensors = load_state_dict(folder / WEIGHTS)
    aligner, prior = PoseSharedIdentityAligner(config.aligner), None
    nets: dict[str, nn.Module] = {"aligner": aligner}
    if config.base is not None:
        gate = tensors.get("prior.projection.weight")
        width = base_width(gate, config.injection) if gate is not None else 1
        nets["prior"] = prior = Prior(config.aligner.dim, width, config.injection)
    elif lora is not None:
        raise UserError(
            f"{folder / CONFIG} says that the aligner was trained without a base, and {LORA} is there",
            "give the files of one save_pretrained",
        )
    own = {f"{name}.{key}" for name, net in nets.items() for key in net.state_dict()}
    for name, net in nets.items():
        state = net.state_dict()
        unfit = [k for k, v in state.items() if getattr(tensors.get(f"{name}.{k}"), "shape", None) != v.shape]
        if unfit:
            raise UserError(
                f"{folder / WEIGHTS}: {name}.{unfit[0]} is missing or of another shape than {CONFIG} says "
                f"({len(unfit)} such tensors)",
                "give the two files of one save_pretrained",
            )
        net.load_state_dict({key: tensors[f"{name}.{key}"] for key in state})
        net.eval().requires_grad_(False)
    if tensors.keys() - own:
        raise UserError(
            f"{folder / WEIGHTS} holds the unknown {min(tensors.keys() - own)} ({len(tensors.keys() - own)} such keys)",
            "give the two files of one save_pretrained",
        )
    return config, Parts(aligner, prior, lora)


def _alone(folder: Path, lora: LoraWeights | None) -> LoraWeights:
    """The LoRA of a checkpoint that has nothing else."""
    if lora is None:
        raise UserError(f"{folder} has neither an aligner nor {LORA}", "give the files of one save_pretrained")
    if (folder / WEIGHTS).exists():
        raise UserError(
            f"{folder / CONFIG} says that there is no aligner, and {WEIGHTS} is there",
            "give the files of one save_pretrained",
        )
    return lora


def with_lora(parts: Parts, config: ModelConfig, lora: LoraWeights, source: str) -> Parts:
    """The parts with another LoRA.

    Args:
        parts: of the checkpoint.
        config: of the checkpoint.
        lora: for the same base; rank and targets are free.
        source: the LoRA's file, for messages.

    Raises:
        UserError: when the LoRA's attentions are of another width than the base that the prior was trained on, or the
            aligner was trained without a base.
    """
    if config.base is None:
        raise UserError(
            f"{source}: the checkpoint's aligner was trained without a base, so there is nothing that a LoRA adapts",
            "give a checkpoint that was trained on a base",
        )
    if parts.prior is None:
        return parts._replace(lora=lora)
    width = base_width(parts.prior.projection.weight, config.injection)
    for key, tensor in sorted(lora.tensors.items()):
        wide = tensor.shape[1 if ".lora_A." in key else 0]
        if ".attn" in key and wide != width:
            raise UserError(
                f"{source}: {key} is made for a base of width {wide}, the checkpoint's has {width}",
                "give a LoRA of the same base (14B: 5120, 1.3B: 1536)",
            )
    return parts._replace(lora=lora)


def base_of(config: ModelConfig) -> str:
    """Folder or hub name of the base that the parts were trained on.

    Raises:
        UserError: the aligner was trained by itself: no prior carries S into a base.
    """
    if config.base is None:
        raise UserError(
            "the checkpoint holds an aligner that was trained without a base, and makes no videos",
            "train on a base (recipe vace1_3b), or look into the aligner (faithfulfaces analyse)",
        )
    return config.base


def base_width(projection: Tensor, injection: Injection) -> int:
    """Width of the base that a prior's projection [out, D] was made for; `modulation` speaks to each token sixfold."""
    return len(projection) // (6 if injection == "modulation" else 1)


def _read_config(path: Path) -> ModelConfig:
    try:
        data = json.loads(path.read_text("utf-8"))
        if data.pop("format", None) != FORMAT:
            raise ValueError(f"its format is not {FORMAT}")
        nested = {"aligner": Aligner, "faces": Faces}
        return ModelConfig(
            **{
                key: _build(nested[key], value) if key in nested and value is not None else value
                for key, value in _known(data).items()
            }
        )
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: {error}", "give a folder of save_pretrained of this version") from error


def _known(data: Mapping[str, Any]) -> Mapping[str, Any]:
    unknown = sorted(data.keys() - {item.name for item in dataclasses.fields(ModelConfig)})
    if unknown:
        raise ValueError(f"unknown field {unknown[0]!r}")
    return data


def _build(cls: Any, value: Mapping[str, Any]) -> Any:
    unknown = sorted(value.keys() - {item.name for item in dataclasses.fields(cls)})
    if unknown:
        raise ValueError(f"unknown field {cls.__name__}.{unknown[0]}")
    return cls(**value)


_VIDEOS = """---
base_model: {base}
library_name: ffbench
pipeline_tag: text-to-video
tags: [identity-preserving, faithfulfaces, wan, vace, lora]
---

# FaithfulFaces

Identity-preserving text-to-video: one photograph of a face, one prompt, one seed.

```python
from faithfulfaces.pipeline import FaithfulFacesPipeline

pipe = FaithfulFacesPipeline.from_pretrained("this folder or repository", device="cuda")
frames = pipe(image, "a person boxes in a gym", seed=0)  # uint8 [81,480,832,3], 16 frames a second
```
"""
_FEATURES = """---
library_name: ffbench
pipeline_tag: image-feature-extraction
tags: [faithfulfaces, face]
---

# FaithfulFaces: the pose-shared identity aligner

One face crop and its Euler angles to one vector that stays the same when the head turns. It was trained without a base
and makes no videos; `faithfulfaces analyse` looks into it.

```python
from pathlib import Path

from faithfulfaces.model import load_model

aligner = load_model(Path("this folder"))[1].aligner
s = aligner(crops, euler).s_BD  # crops [B,3,{size},{size}] in -1..1, euler [B,3] pitch, yaw, roll in degrees
```
"""


def _model_card(config: ModelConfig, parts: Parts) -> str:
    facts = {"base": config.base or "none", "aligner": "none"}
    if config.aligner is not None:
        facts = {
            "base": config.base or "none",
            "dictionary": f"{config.aligner.elements} elements of {config.aligner.dim}, "
            f"{config.aligner.pooling} pooling",
            "Euler embedding": "yes" if config.aligner.euler else "no",
            "transformer blocks before the dictionary": str(config.aligner.depth),
        }
    if config.aligner is not None and config.base is None:
        head = _FEATURES.format(size=config.aligner.image_size)
    else:
        head = _VIDEOS.format(base=config.base)
        facts["injection of S"] = config.injection if config.aligner is not None else "none"
    facts["LoRA on q, k, v"] = f"rank {parts.lora.rank}, alpha {parts.lora.alpha:g}" if parts.lora else "none"
    rows = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    return f"""{head}
| part | value |
|---|---|
{rows}

The training data, its licence and measured results are the publisher's to add. A likeness may only be made of people
who agreed to it.
"""
