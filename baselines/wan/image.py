"""Pictures to the tokens that Wan's image-to-video networks attend to."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from baselines.wan.loading import load_part

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
"""Of RGB in 0..1, as CLIP was trained (Radford et al. 2021)."""


class ImageEncoder:
    """CLIP's vision network up to its last layer but one; on the device only while it encodes."""

    def __init__(self, network: nn.Module, device: str) -> None:
        self.network, self.device = network, device
        self.size = int(network.config.image_size)
        """Side of its input in pixels (224)."""

    @torch.no_grad()
    def __call__(self, pixels_N3SS: Tensor) -> Tensor:
        """Tokens [1,N*(1+P),D] of N pictures, one after the other, on the device; pixels in 0..1, of side `size`."""
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
        normalised = ((pixels_N3SS.float().cpu() - mean) / std).to(self.device, self.network.dtype)
        self.network.to(self.device)
        tokens: Tensor = self.network(normalised, output_hidden_states=True).hidden_states[-2]
        self.network.to("cpu")
        return tokens.flatten(0, 1)[None]


def load_image_encoder(folder: Path, device: str) -> ImageEncoder:
    """The image encoder of a folder in diffusers' layout, in float32.

    Raises:
        UserError: as `load_part`.
    """
    return ImageEncoder(load_part(folder, "image_encoder", torch.float32), device)
