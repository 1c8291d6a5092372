"""Pictures and videos to latents of Wan's autoencoder and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from numpy.typing import NDArray
from torch import Tensor, nn

from baselines.wan.loading import expect, load_part
from ffbench.errors import UserError


def load_vae(folder: Path) -> nn.Module:
    """`AutoencoderKLWan` of a folder in diffusers' layout, in float32, with the statistics of its latents.

    Raises:
        UserError: another class, a damaged part, or no statistics: diffusers would put Wan's in their place in silence.
    """
    config = expect(folder, "vae", {"_class_name": "AutoencoderKLWan", "z_dim": 16})
    for key in ("latents_mean", "latents_std"):
        if len(config.get(key) or ()) != 16:
            raise UserError(f"{folder / 'vae' / 'config.json'} lacks {key} of its 16 channels", "restore the file")
    vae: nn.Module = load_part(folder, "vae", torch.float32)
    return vae


def pixels(picture: NDArray[np.uint8], device: str) -> Tensor:
    """[3,H,W] float32 in -1..1 from uint8 [H,W,3]."""
    return torch.from_numpy(picture.copy()).permute(2, 0, 1).to(device).float() / 127.5 - 1


@torch.no_grad()
def posterior(vae: Any, video_B3THW: Tensor) -> DiagonalGaussianDistribution:
    """What the autoencoder says of a video, on the CPU; `mode()` or `sample(generator)` of it are latents [B,16,F,h,w].

    Args:
        vae: on the video's device.
        video_B3THW: float32 in -1..1, T = 4 k + 1.
    """
    return DiagonalGaussianDistribution(vae.encode(video_B3THW.to(vae.dtype)).latent_dist.parameters.cpu())


def normalised(vae: Any, z_BCFhw: Tensor) -> Tensor:
    """(z - mean) / std in float32, as the transformer is trained on them."""
    mean, std = _statistics(vae, z_BCFhw)
    made: Tensor = (z_BCFhw.float() - mean) / std
    return made


def encode(vae: Any, video_B3THW: Tensor) -> Tensor:
    """Normalised latents [B,16,F,h,w] float32 on the CPU, of the posterior's mode; arguments as of `posterior`."""
    return normalised(vae, posterior(vae, video_B3THW).mode())


@torch.no_grad()
def decode(vae: Any, latents_BCFhw: Tensor) -> NDArray[np.uint8]:
    """Frames uint8 [T,H,W,3] of the first video of a batch of normalised latents.

    Raises:
        FloatingPointError: values that are not finite.
    """
    mean, std = _statistics(vae, latents_BCFhw)
    video_3THW = vae.decode((latents_BCFhw[:1].float() * std + mean).to(vae.dtype), return_dict=False)[0][0].float()
    if not torch.isfinite(video_3THW).all():
        raise FloatingPointError("the network made values that are not finite; try dtype bfloat16 or float32")
    frames = ((video_3THW.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 3, 0)
    return frames.cpu().numpy()


def _statistics(vae: Any, like: Tensor) -> tuple[Tensor, Tensor]:
    mean, std = (
        torch.tensor(values, device=like.device).view(1, -1, 1, 1, 1)
        for values in (vae.config.latents_mean, vae.config.latents_std)
    )
    return mean, std
