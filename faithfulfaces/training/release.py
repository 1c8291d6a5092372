"""From a run to a model: what was trained, gathered from all processes, in the files that the pipeline reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from faithfulfaces import lora
from faithfulfaces.aligner import PoseSharedIdentityAligner
from faithfulfaces.config import Train
from faithfulfaces.learner import Learner
from faithfulfaces.lora import LoraWeights
from faithfulfaces.model import ModelConfig, Parts, base_width, save_model
from faithfulfaces.parallel import World, barrier
from faithfulfaces.prior import Prior


def release(learner: Learner, folder: Path, world: World) -> None:
    """Write the trained parts as `faithfulfaces.model.load_model` reads them; every process must call.

    An aligner that was trained without a base has no prior to inject S with, and is written by itself. A run without an
    aligner writes its LoRA, or where it has none the base, as diffusers' `save_pretrained` does.
    """
    config = learner.config
    if config.aligner is None and config.lora is None:
        _release_base(learner.transformer, folder, world)
        return
    # gathering is collective: all processes go through all tensors in one order
    adapters = None
    if config.lora is not None:
        found = lora.state(learner.transformer)
        adapters = LoraWeights({name: _whole(tensor) for name, tensor in found.tensors.items()}, found.alpha)
    states = [_whole_state(part) for part in (learner.aligner, learner.prior) if part is not None]
    if world.first:
        sizes = ("width", "height", "num_frames", "text_tokens") if config.base is not None else ()
        about = ModelConfig(
            aligner=config.aligner,
            injection=config.injection,
            base=config.base.folder if config.base is not None else None,
            sampling={name: getattr(config.data, name) for name in sizes},
            seed=config.seed,
        )
        save_model(folder, about, _parts(config, states, adapters))
    barrier(world)


def _parts(config: Train, states: Sequence[dict[str, Tensor]], adapters: LoraWeights | None) -> Parts:
    """On the CPU, from the gathered tensors of the aligner and, after them, of the prior."""
    if config.aligner is None:
        return Parts(None, None, adapters)
    aligner = PoseSharedIdentityAligner(config.aligner)
    aligner.load_state_dict(states[0])
    if config.base is None:
        return Parts(aligner, None, None)
    prior = Prior(config.aligner.dim, base_width(states[1]["projection.weight"], config.injection), config.injection)
    prior.load_state_dict(states[1])
    return Parts(aligner, prior, adapters)


def _release_base(transformer: Any, folder: Path, world: World) -> None:
    state = _whole_state(transformer)
    if world.first:
        with torch.device("meta"):
            plain = type(transformer).from_config(dict(transformer.config))
        plain.load_state_dict(state, assign=True)
        plain.save_pretrained(str(folder))
    barrier(world)


def _whole(tensor: Tensor) -> Tensor:
    whole = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return whole.detach().cpu()


def _whole_state(module: nn.Module) -> dict[str, Tensor]:
    return {name: _whole(parameter) for name, parameter in module.named_parameters()}
