"""From footage to what the trainer learns from: crops with their angles, cached latents and texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from faithfulfaces.data import Cached, InMemoryClips
from faithfulfaces.faces import resized
from faithfulfaces.mini.codec import PatchCodec
from faithfulfaces.mini.footage import FRAMES, SIZE, Footage
from faithfulfaces.mini.words import embed
from faithfulfaces.pose import window

CROP = 48
"""Side of the aligner's crops in px."""
CROPS = 6
"""A clip: the portrait, which is also the reference, and five of its frames."""
BOX = 1.42
"""Factor on the labels' box: MTCNN's is 0.945 of it on portraits, and the model enlarges MTCNN's by 1.5."""


def clips_of(footage: Footage, codec: PatchCodec, tokenizer: Any, encoder: nn.Module, seed: int = 0) -> InMemoryClips:
    """Clips for both losses, one a person."""
    crops, euler = _crops(footage, seed)
    texts = embed(tokenizer, encoder, [str(text) for text in footage.captions])
    videos = _latents(codec, torch.from_numpy(footage.pixels))
    references = _latents(codec, _references(footage)[:, None])
    cached = [Cached(v, r, t) for v, r, t in zip(videos, references, texts, strict=True)]
    return InMemoryClips([str(seed) for seed in footage.seeds], crops, euler, cached, blank_of(codec))


@torch.no_grad()
def blank_of(codec: PatchCodec) -> Tensor:
    """[z,F,8,8] latents of the grey video."""
    return codec.encode(torch.zeros(1, 3, FRAMES, SIZE, SIZE)).latent_dist.mode()[0]


def crop_of(image: NDArray[np.uint8], box: NDArray[np.floating]) -> NDArray[np.uint8]:
    """The enlarged box as `FaceReader` cuts it, from exact labels; the whole image for a box outside of it."""
    inside = window(image, box, BOX)
    if inside is None:
        return image
    left, top, right, bottom = inside
    return np.ascontiguousarray(image[top:bottom, left:right])


def canvas_of(crop: NDArray[np.uint8], size: int = SIZE) -> Tensor:
    """uint8 [size,size,3]: the crop as large as it fits on white, as diffusers' VACE pipeline prepares a reference."""
    height, width = crop.shape[:2]
    scale = min(size / height, size / width)
    new_h, new_w = int(height * scale), int(width * scale)
    image = torch.from_numpy(crop.copy()).permute(2, 0, 1)[None].float()
    image = F.interpolate(image, (new_h, new_w), mode="bilinear", align_corners=False)[0]
    canvas = torch.full((3, size, size), 255.0)
    top, left = (size - new_h) // 2, (size - new_w) // 2
    canvas[:, top : top + new_h, left : left + new_w] = image
    return canvas.round().permute(1, 2, 0).to(torch.uint8)


def _crops(footage: Footage, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    rng = np.random.default_rng([31, seed])
    crops: list[list[NDArray[np.uint8]]] = []
    euler = []
    for i in range(len(footage.seeds)):
        shown = np.flatnonzero(footage.shown[i])
        shown = shown if len(shown) else np.array([FRAMES - 1])
        # a turn from the back shows the face in few frames: then some come twice
        frames = rng.permutation(shown)[: CROPS - 1]
        frames = np.concatenate([frames, rng.choice(shown, CROPS - 1 - len(frames))]).astype(int)
        row = [crop_of(footage.portraits[i, 0], footage.portrait_box[i, 0])]
        row += [crop_of(footage.pixels[i, t], footage.box[i, t]) for t in frames]
        crops.append([resized(crop, CROP) for crop in row])
        euler.append(np.stack([footage.portrait_angles[i, 0], *footage.angles[i, frames]]))
    return np.array(crops, np.uint8), np.array(euler, np.float32)


def _references(footage: Footage) -> Tensor:
    """uint8 [n,64,64,3]."""
    pairs = zip(footage.portraits[:, 0], footage.portrait_box[:, 0], strict=True)
    return torch.stack([canvas_of(crop_of(photo, box)) for photo, box in pairs])


@torch.no_grad()
def _latents(codec: PatchCodec, videos: Tensor) -> Sequence[Tensor]:
    out: list[Tensor] = []
    for chunk in videos.split(64):
        x = chunk.permute(0, 4, 1, 2, 3).float() / 127.5 - 1
        out += list(codec.encode(x).latent_dist.mode())
    return out
