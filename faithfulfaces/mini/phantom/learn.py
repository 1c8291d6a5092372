"""What the small Phantom is shown in training, which is what its method is shown when it samples in one step.

Shapes: B videos, C channels, F latent frames of a video, L tokens of a prompt, D their width.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from faithfulfaces import losses
from faithfulfaces.backbone import load_transformer
from faithfulfaces.config import Train
from faithfulfaces.data import Videos
from faithfulfaces.learner import Learner

TIMESTEP = 999
"""Of the one step of the sampler: UniPC's first, on Wan's noise levels and on diffusers'."""
WITHOUT_TEXT, WITHOUT_BOTH = 0.1, 0.1
"""Shares of the videos shown with the negative prompt, and with no reference beside it: guidance's other two passes."""


class Fed(NamedTuple):
    """Inputs of the transformer."""

    hidden: Tensor
    """[B,C,F+1,h,w]: noise where the video will be, then the clean reference, or zeros."""
    timestep: Tensor
    """[B] int64."""
    text: Tensor
    """[B,L,D], zeros after the last token."""


def feed(videos: Videos, negative_LD: Tensor, noise: torch.Generator) -> Fed:
    """Inputs of a batch at noise level 1, parts of them hidden.

    Args:
        videos: latents and reference normalised, prompts padded.
        negative_LD: embedding of the negative prompt, padded.
        noise: draws what is hidden, then the noise.
    """
    chance = torch.rand(len(videos.latents), generator=noise, device=videos.latents.device)
    blind = chance < WITHOUT_BOTH
    mute = chance < WITHOUT_BOTH + WITHOUT_TEXT
    start = torch.randn(videos.latents.shape, generator=noise, device=videos.latents.device)
    reference = videos.reference.float() * ~blind.view(-1, 1, 1, 1, 1)
    text = torch.where(mute.view(-1, 1, 1), negative_LD.to(videos.text), videos.text)
    return Fed(torch.cat([start, reference], 2), torch.full_like(chance, TIMESTEP, dtype=torch.int64), text)


class PhantomLearner(Learner):
    """Every tensor of a text-to-video transformer learns; the reference stands behind the video and is not predicted.

    Args:
        config: its base predicts clean latents.
        transformer: `WanTransformer3DModel`.
        negative_LD: embedding of the negative prompt, padded.
    """

    negative_LD: Tensor

    def __init__(self, config: Train, transformer: Any, negative_LD: Tensor) -> None:
        super().__init__(config, transformer)
        self.register_buffer("negative_LD", negative_LD, persistent=False)

    def flow_loss(self, videos: Videos, blank: Tensor, noise: torch.Generator) -> Tensor:
        """Mean squared error of the video's clean latents, said at noise level 1; `blank` is VACE's and not used."""
        fed = feed(videos, self.negative_LD, noise)
        dtype = getattr(torch, self.config.parallel.dtype)
        with torch.autocast(fed.hidden.device.type, dtype, enabled=dtype != torch.float32):
            (prediction,) = self.transformer(
                hidden_states=fed.hidden.to(dtype),
                timestep=fed.timestep,
                encoder_hidden_states=fed.text.to(dtype),
                return_dict=False,
            )
        clean = videos.latents.float()
        return losses.flow_matching_loss(prediction[:, :, : clean.shape[2]], clean, clean.new_ones(len(clean)))


def main_stack(base: Path) -> Any:
    """The text-to-video transformer inside a VACE transformer: all but the branch that sees references. Float32.

    Args:
        base: VACE folder in diffusers' layout.

    Raises:
        UserError: where it holds none.
    """
    from diffusers import WanTransformer3DModel

    vace = load_transformer(base, torch.float32)
    arch = {key: value for key, value in vace.config.items() if not key.startswith(("vace_", "_"))}
    network = WanTransformer3DModel(**arch)
    network.load_state_dict({key: value for key, value in vace.state_dict().items() if not key.startswith("vace_")})
    return network.train()
