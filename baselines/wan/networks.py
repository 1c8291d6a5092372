"""Transformer, autoencoder and prompt encoder of a method, on a device that may be too small for all at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from numpy.typing import NDArray
from torch import Tensor, nn

from baselines.wan import latents as autoencoder
from baselines.wan.latents import load_vae
from baselines.wan.sampling import Velocity, sample
from baselines.wan.text import PromptEncoder, load_prompts
from ffbench.offload import level, wish


class Networks:
    """What a method on Wan runs on: `prompts`, `encode`, `sample`, `decode`.

    Args:
        transformer: any network that the method's velocity calls; frozen, on the CPU.
        vae: `AutoencoderKLWan` in float32.
        prompts: keeps its own encoder off the device.
        device: a PyTorch device.
    """

    def __init__(self, transformer: nn.Module, vae: nn.Module, prompts: PromptEncoder, device: str) -> None:
        self.transformer, self.vae, self.prompts, self.device = transformer, vae, prompts, device
        self._together = fits(device, (transformer, vae, prompts.encoder))
        if self._together:
            for network in (transformer, vae):
                network.to(device)

    def posterior(self, video_B3THW: Tensor) -> DiagonalGaussianDistribution:
        """On the CPU, see `latents.posterior`."""
        with self._on(self.vae):
            return autoencoder.posterior(self.vae, video_B3THW.to(self.device))

    def encode(self, video_B3THW: Tensor) -> Tensor:
        """Normalised latents on the CPU, of the posterior's mode."""
        return autoencoder.normalised(self.vae, self.posterior(video_B3THW).mode())

    def sample(self, scheduler: Any, latents: Tensor, velocity: Velocity) -> Tensor:
        """Integrate from noise, see `sampling.sample`; the transformer is on the device meanwhile."""
        with self._on(self.transformer):
            return sample(scheduler, latents.to(self.device), velocity)

    def decode(self, latents_BCFhw: Tensor) -> NDArray[np.uint8]:
        """Frames uint8 [T,H,W,3] of the first video, see `latents.decode`."""
        with self._on(self.vae):
            return autoencoder.decode(self.vae, latents_BCFhw)

    @contextmanager
    def _on(self, network: nn.Module) -> Iterator[None]:
        if self._together:
            yield
            return
        network.to(self.device)
        try:
            yield
        finally:
            network.to("cpu")
            if torch.device(self.device).type == "cuda":
                torch.cuda.empty_cache()


def load_networks(base: Path, transformer: nn.Module, dtype: torch.dtype, device: str) -> Networks:
    """A transformer with the autoencoder and prompt encoder of a Wan 2.1 folder in diffusers' layout.

    Raises:
        UserError: a part that is missing, damaged or of another class.
    """
    return Networks(transformer, load_vae(base), load_prompts(base, dtype, device), device)


def fits(device: str, networks: Sequence[nn.Module]) -> bool:
    """Whether the networks stay on the device together, by `ffbench.offload`; on another device than CUDA always.

    Raises:
        UserError: the environment variable says neither always nor never.
    """
    wanted = wish()
    if wanted or torch.device(device).type != "cuda":
        return wanted != "always"
    sizes = [sum(t.numel() * t.element_size() for t in network.parameters()) / 2**30 for network in networks]
    return level(sizes, torch.cuda.mem_get_info(torch.device(device))[1] / 2**30) == "together"
