"""VACE's control input without a source video: everything is to be made, one reference stands before it.

Shapes: B videos, F latent frames, h x w latent grid.
"""

from __future__ import annotations

import torch
from torch import Tensor

MASK_CHANNELS = 64
"""8 x 8 pixels of the mask for each latent pixel."""


def vace_context(reference_B16fhw: Tensor, blank_16Fhw: Tensor) -> Tensor:
    """What `WanVACEPipeline` builds from a reference image alone, from latents that are cached.

    The source is grey and the mask is one everywhere, so the inactive and the reactive half are both the grey video.

    Args:
        reference_B16fhw: latents of the reference images (f frames, one each).
        blank_16Fhw: latents of the grey video.

    Returns:
        [B,96,f+F,h,w] in the dtype of the reference: 32 channels of latents, 64 of mask.
    """
    blank = blank_16Fhw.to(reference_B16fhw).expand(len(reference_B16fhw), -1, -1, -1, -1)
    zeros = torch.zeros_like(reference_B16fhw)
    latents = torch.cat([torch.cat([reference_B16fhw, blank], 2), torch.cat([zeros, blank], 2)], 1)
    mask = latents.new_ones(len(latents), MASK_CHANNELS, *latents.shape[2:])
    mask[:, :, : reference_B16fhw.shape[2]] = 0
    return torch.cat([latents, mask], 1)
