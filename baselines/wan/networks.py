"""Transformer, autoencoder and prompt encoder of a method, on a device that may be too small for all at once."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from baselines.wan import latents as autoencoder
from baselines.wan.latents import load_vae
from baselines.wan.sampling import Velocity, sample
from baselines.wan.text import PromptEncoder, load_prompts
from ffbench.errors import UserError

OFFLOAD = "FFBENCH_OFFLOAD"
"""`always` or `never`; by default what the device's memory asks for. It changes no video, so it is no setting."""
ROOM = 24 * 2**30
"""Bytes for activations beside the weights: an estimate for 81 frames of 832x480, not measured."""


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

    def encode(self, video_B3THW: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Normalised latents, see `latents.encode`."""
        with self._on(self.vae):
            return autoencoder.encode(self.vae, video_B3THW.to(self.device), generator)

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
    """Whether the device's memory holds the networks together with room to work.

    Raises:
        UserError: the environment variable says neither always nor never.
    """
    wish = os.environ.get(OFFLOAD, "")
    if wish not in ("", "always", "never"):
        raise UserError(f"{OFFLOAD}={wish} is neither always nor never", f"unset {OFFLOAD}, or give one of the two")
    if wish or torch.device(device).type != "cuda":
        return wish != "always"
    weights = sum(tensor.numel() * tensor.element_size() for network in networks for tensor in network.parameters())
    return bool(torch.cuda.mem_get_info(torch.device(device))[1] >= weights + ROOM)
