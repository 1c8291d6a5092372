"""The sampling loop of Wan: flow matching from noise (sigma 1) to a video (sigma 0)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler
from torch import Tensor, nn

Velocity = Callable[[Tensor, Tensor], Tensor]
"""(latents [B,C,F,h,w] float32, timestep [1]) -> velocity noise - video, of the latents' shape, float32."""


class WanUniPC(UniPCMultistepScheduler):
    """diffusers' UniPC on the noise levels of Wan's own sampler: linspace(0.999, 0, n + 1) without its end, shifted.

    diffusers' own levels are linspace(1, 0.001, n + 1): for 50 steps and shift 16 the last timestep is 255, not 245.
    """

    def set_timesteps(self, num_inference_steps: int | None = None, device: Any = None, **options: Any) -> None:
        """As diffusers', with the levels of Wan unless others are given."""
        options.setdefault("sigmas", np.linspace(0.999, 0.0, (num_inference_steps or 0) + 1)[:-1])
        super().set_timesteps(num_inference_steps, device=device, **options)


def unipc(
    shift: float, cls: type[UniPCMultistepScheduler] = WanUniPC, prediction: str = "flow_prediction"
) -> UniPCMultistepScheduler:
    """UniPC for flow matching: on Wan's noise levels, or with `UniPCMultistepScheduler` on diffusers' own.

    `prediction` is what the network says, in diffusers' words: Wan's say the velocity, a small one may say `sample`.
    """
    return cls(prediction_type=prediction, use_flow_sigmas=True, num_train_timesteps=1000, flow_shift=shift)


def euler(steps: int, shift: float) -> FlowMatchEulerDiscreteScheduler:
    """Euler on the noise levels of DiffSynth: linspace(1, 0, n + 1) without its end, shifted once. Steps are set."""
    scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=shift)
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 0.0, steps + 1)[:-1].tolist())
    return scheduler


def noise(seed: int, shape: tuple[int, ...], device: str) -> Tensor:
    """Standard normal noise in float32, drawn on the CPU: alike for every device."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device)


@torch.no_grad()
def sample(scheduler: Any, latents: Tensor, velocity: Velocity) -> Tensor:
    """Integrate from noise to latents of a video; the scheduler's steps are set.

    Args:
        scheduler: of diffusers, after `set_timesteps`.
        latents: noise [B,C,F,h,w] float32.
        velocity: of the method, guidance included.
    """
    for t in scheduler.timesteps:
        latents = scheduler.step(velocity(latents, t[None].to(latents.device)), t, latents, return_dict=False)[0]
    return latents


def predict(network: nn.Module, latents: Tensor, t: Tensor, text: Tensor, image: Tensor | None = None) -> Tensor:
    """Velocity of `WanTransformer3DModel` in float32; the inputs are cast to the network's dtype.

    Args:
        network: on the latents' device.
        latents: [B,C,F,h,w], C as the network's `in_channels`.
        t: timestep [1] in 0..1000.
        text: [B,512,D].
        image: [B,N,D'] tokens of CLIP, for networks that see an image.
    """
    dtype = network.dtype
    out = network(
        hidden_states=latents.to(dtype),
        timestep=t.expand(len(latents)),
        encoder_hidden_states=text.to(dtype),
        encoder_hidden_states_image=None if image is None else image.to(dtype),
        return_dict=False,
    )[0]
    return out.float()


def guided(conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance: u + scale (c - u) (Ho & Salimans 2022)."""
    return unconditional + scale * (conditional - unconditional)


def text_guided(
    network: nn.Module,
    texts: tuple[Tensor, Tensor],
    scale: float,
    condition: Tensor | None = None,
    image: Tensor | None = None,
) -> Velocity:
    """Classifier-free guidance on the text alone: condition and image tokens are in both passes.

    Args:
        network: `WanTransformer3DModel`.
        texts: embeddings [1,512,D] of prompt and negative prompt.
        scale: of the guidance.
        condition: channels [1,C',F,h,w] behind those of the state, for image-to-video networks.
        image: tokens [1,N,D'] of CLIP.
    """

    def velocity(latents: Tensor, t: Tensor) -> Tensor:
        x = latents if condition is None else torch.cat([latents, condition], 1)
        prompted, negative = (predict(network, x, t, text, image) for text in texts)
        return guided(prompted, negative, scale)

    return velocity
