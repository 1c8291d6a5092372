"""From a run to a model: what was trained, gathered from all processes, in the files that the pipeline reads."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from faithfulfaces import lora
from faithfulfaces.aligner import PoseSharedIdentityAligner
from faithfulfaces.learner import Learner
from faithfulfaces.lora import LoraWeights
from faithfulfaces.model import ModelConfig, Parts, save_model
from faithfulfaces.parallel import World, barrier
from faithfulfaces.prior import Prior


def release(learner: Learner, folder: Path, world: World) -> None:
    """Write the trained parts as `FaithfulFacesPipeline.from_pretrained` reads them; every process must call.

    A run without a base has no prior to inject S with, and writes nothing. A run without an aligner writes its LoRA, or
    where it has none the base, as diffusers' `save_pretrained` does.
    """
    if learner.transformer is None:
        return
    config = learner.config
    if config.lora is None:
        _release_base(learner.transformer, folder, world)
        return
    adapters = lora.state(learner.transformer)
    # gathering is collective: all processes go through all tensors in one order
    tensors = {name: _whole(tensor) for name, tensor in adapters.tensors.items()}
    states = [_whole_state(part) for part in (learner.aligner, learner.prior) if part is not None]
    if world.first:
        parts = Parts(None, None, LoraWeights(tensors, adapters.alpha))
        if config.aligner is not None:
            aligner, prior = states
            width = len(prior["projection.weight"]) // (6 if config.injection == "modulation" else 1)
            parts = parts._replace(
                aligner=_filled(PoseSharedIdentityAligner(config.aligner), aligner),
                prior=_filled(Prior(config.aligner.dim, width, config.injection), prior),
            )
        about = ModelConfig(
            aligner=config.aligner,
            injection=config.injection,
            base=config.base.folder,
            sampling={name: getattr(config.data, name) for name in ("width", "height", "num_frames", "text_tokens")},
            seed=config.seed,
        )
        save_model(folder, about, parts)
    barrier(world)


def _release_base(transformer: nn.Module, folder: Path, world: World) -> None:
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


def _filled(module: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    module.load_state_dict(state)
    return module
