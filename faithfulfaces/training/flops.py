"""Work of one video in the base: tokens and floating-point operations, counted from shapes.

A multiplication with its addition is two operations. Norms, activations and embeddings are left out (below 1%).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from faithfulfaces.config import Data

PEAK_BF16 = {"H20": 148e12, "A100": 312e12, "H100": 989e12, "H200": 989e12}
"""Dense bf16 operations a second by NVIDIA's data sheets; keys are parts of a device's name."""


@dataclass(frozen=True)
class VideoWork:
    """Of one video in one forward and one backward, adapters included, base frozen."""

    tokens: int
    """Of the noisy video with its reference frame in front."""
    forward: float
    backward: float
    """Gradients of inputs everywhere, of weights for the adapters alone."""

    @property
    def model(self) -> float:
        """What utilisation is counted by: forward and backward, without recomputation."""
        return self.forward + self.backward

    def done(self, recomputed: bool) -> float:
        """What the device really does: with activation checkpointing the forward runs twice."""
        return self.model + (self.forward if recomputed else 0.0)


def num_tokens(data: Data) -> int:
    """Tokens of a video: an 8x8x4 VAE, 2x2 patches, and one reference frame."""
    frames = data.latent_frames + 1
    return frames * (data.height // 16) * (data.width // 16)


def video_work(transformer: Any, data: Data) -> VideoWork:
    """Count the work of a `WanVACETransformer3DModel`, or one without VACE (any device, meta too), on one video."""
    tokens, width = num_tokens(data), _width(transformer.config)
    linear = adapters = 0.0
    for name, module in transformer.named_modules():
        if isinstance(module, nn.Linear) and ("blocks." in name):
            # keys and values of cross-attention are made of the text
            rows = data.text_tokens if ".attn2.to_k" in name or ".attn2.to_v" in name else tokens
            work = 2.0 * rows * module.in_features * module.out_features
            linear += work
            adapters += work if ".lora_" in name else 0.0
    blocks = len(transformer.blocks) + len(getattr(transformer, "vace_blocks", ()))
    attention = 4.0 * blocks * width * tokens * (tokens + data.text_tokens)
    return VideoWork(tokens, linear + attention, linear + adapters + 2 * attention)


def utilisation(operations_per_second: float, device_name: str) -> float | None:
    """Share of the device's peak; None for a device whose peak is not in the table."""
    # the longest name first: H200 is no H20
    for name in sorted(PEAK_BF16, key=len, reverse=True):
        if name in device_name:
            return operations_per_second / PEAK_BF16[name]
    return None


def _width(arch: Mapping[str, Any]) -> int:
    return int(arch["num_attention_heads"] * arch["attention_head_dim"])
