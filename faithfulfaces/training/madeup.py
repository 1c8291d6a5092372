"""Made-up clips: shapes and ranges of real ones, nothing to learn but a colour; for trials of the machinery."""

from __future__ import annotations

import numpy as np
import torch

from faithfulfaces.config import Train
from faithfulfaces.data import Cached, InMemoryClips

CROPS = 4
CHANNELS, TEXT_DIM = 16, 4096
"""Of Wan's latents and of UMT5-XXL, where the recipe's architecture does not say otherwise."""


def made_up_clips(config: Train) -> InMemoryClips:
    """Twice as many clips as a batch takes, each of its own identity: noise about one colour an identity."""
    count = 2 * max(config.data.pair_batch, config.data.video_batch)
    size = config.aligner.image_size if config.aligner else 8
    rng = np.random.default_rng(config.seed)
    colours = rng.integers(40, 216, (count, 1, 1, 1, 3))
    crops = (colours + rng.integers(-40, 40, (count, CROPS, size, size, 3))).astype(np.uint8)
    euler = rng.uniform(-60, 60, (count, CROPS, 3)).astype(np.float32)
    names = [f"person{i:05d}" for i in range(count)]
    if config.base is None:
        return InMemoryClips(names, crops, euler)
    frames, height, width = config.data.latent_frames, config.data.height // 8, config.data.width // 8
    generator = torch.Generator().manual_seed(config.seed)
    channels, text_dim = config.base.arch.get("in_channels", CHANNELS), config.base.arch.get("text_dim", TEXT_DIM)

    def latents(frames: int) -> torch.Tensor:
        return torch.randn(channels, frames, height, width, generator=generator)

    cached = [
        Cached(latents(frames), latents(1), torch.randn(config.data.text_tokens, text_dim, generator=generator))
        for _ in range(count)
    ]
    return InMemoryClips(names, crops, euler, cached, torch.zeros(channels, frames, height, width))
