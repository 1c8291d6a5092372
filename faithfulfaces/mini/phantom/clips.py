"""Clips as the small Phantom learns from them: the reference is the whole photograph."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from faithfulfaces.data import Cached, InMemoryClips
from faithfulfaces.mini.codec import PatchCodec
from faithfulfaces.mini.dataset import blank_of
from faithfulfaces.mini.footage import SIZE, Footage
from faithfulfaces.mini.words import embed


def photograph_of(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """uint8 [64,64,3] of a square photograph [n,n,3]: Lanczos, as Phantom fits it; a square leaves no white."""
    return np.asarray(Image.fromarray(picture).resize((SIZE, SIZE), Image.Resampling.LANCZOS))


def phantom_clips(footage: Footage, codec: PatchCodec, tokenizer: Any, encoder: nn.Module) -> InMemoryClips:
    """One clip a person, for L_FM alone: there are no crops."""
    count = len(footage.seeds)
    texts = embed(tokenizer, encoder, [str(text) for text in footage.captions])
    photographs = np.stack([photograph_of(photo) for photo in footage.portraits[:, 0]])[:, None]
    cached = [
        Cached(video, photograph, text)
        for video, photograph, text in zip(
            latents(codec, footage.pixels), latents(codec, photographs), texts, strict=True
        )
    ]
    crops, angles = np.zeros((count, 1, 1, 1, 3), np.uint8), np.zeros((count, 1, 3), np.float32)
    return InMemoryClips([str(seed) for seed in footage.seeds], crops, angles, cached, blank_of(codec))


def padded(text_TD: Tensor, length: int) -> Tensor:
    """[length,D], zeros after the last token."""
    row = text_TD.new_zeros(length, text_TD.shape[1])
    row[: len(text_TD)] = text_TD[:length]
    return row


@torch.no_grad()
def latents(codec: PatchCodec, videos: NDArray[np.uint8]) -> list[Tensor]:
    """[z,F,8,8] of each of the videos [n,T,64,64,3]."""
    made: list[Tensor] = []
    for chunk in torch.from_numpy(videos).split(64):
        made += list(codec.encode(chunk.permute(0, 4, 1, 2, 3).float() / 127.5 - 1).latent_dist.mode())
    return made
