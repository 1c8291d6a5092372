"""Self-attention of Stand-In: the reference's own projections, and video tokens that see its keys and values."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn
from torch import Tensor, nn

Rotary = tuple[Tensor, Tensor]
PROJECTIONS = ("q", "k", "v")


class LowRank(nn.Module):
    """up(down(x)) in float32, whatever x is; the scale is 1."""

    def __init__(self, down: Tensor, up: Tensor) -> None:
        super().__init__()
        self.down = nn.Parameter(down.float(), requires_grad=False)
        self.up = nn.Parameter(up.float(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """[...,D] to [...,D], of the dtype of x."""
        return (x.float() @ self.down.T @ self.up.T).type_as(x)


class SeesReference:
    """Self-attention of diffusers' Wan, with the reference's keys and values after the video's; none: unchanged."""

    def __init__(self) -> None:
        self.reference: tuple[Tensor, Tensor] | None = None

    def __call__(
        self, attn: Any, x: Tensor, context: None = None, mask: None = None, rotary_emb: Rotary | None = None
    ) -> Tensor:
        """Tokens [B,N,D] to what attention adds to them; `context` and `mask` are of cross-attention, never given."""
        assert rotary_emb is not None
        q, k, v = project(attn, x, rotary_emb)
        if self.reference is not None:
            k, v = (
                torch.cat([own, other.expand(len(own), -1, -1, -1)], 1)
                for own, other in zip((k, v), self.reference, strict=True)
            )
        return attend(attn, q, k, v)


def project(attn: Any, x: Tensor, turn: Rotary, pairs: Any = None) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values [B,N,heads,d]: linear (with low rank), normalised over all heads, turned."""
    q, k, v = (
        linear(x) if pairs is None else linear(x) + pairs[name](x)
        for name, linear in zip(PROJECTIONS, (attn.to_q, attn.to_k, attn.to_v), strict=True)
    )
    q, k, v = (y.unflatten(2, (attn.heads, -1)) for y in (attn.norm_q(q), attn.norm_k(k), v))
    return turned(q, turn), turned(k, turn), v


def turned(x: Tensor, turn: Rotary) -> Tensor:
    """Each pair of channels rotated by its angle; x [B,N,heads,d], angles as of `rotary`."""
    cos, sin = turn[0][..., 0::2], turn[1][..., 1::2]
    a, b = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2).type_as(x)


def attend(attn: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)) v and the output projection; [B,N,heads,d] to [B,N,D]."""
    out = dispatch_attention_fn(q, k, v).flatten(2).type_as(q)
    return attn.to_out[1](attn.to_out[0](out))
