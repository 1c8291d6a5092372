"""Rotary positions that diffusers' table cannot give: negative ones, and grids that do not start at zero."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

THETA = 10000.0


def grid(shape: tuple[int, int, int], start: tuple[int, int, int] = (0, 0, 0)) -> Tensor:
    """Positions int64 [F*h*w,3] of a block of tokens in the order of the transformer: frame, row, column.

    Args:
        shape: frames, rows and columns of tokens.
        start: position of the first token on each axis.
    """
    axes = [torch.arange(first, first + count) for first, count in zip(start, shape, strict=True)]
    return torch.cartesian_prod(*axes)


def rotary(rope: Any, positions_N3: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines [1,N,1,d] float32 as `WanRotaryPosEmbed` lays them out, each value twice.

    Pair i of an axis with D channels turns by p * theta^(-2i/D) (Su et al. 2021), computed in float64.

    Args:
        rope: the transformer's `rope`, for the channels of each axis.
        positions_N3: integers of either sign, on the device that the result is wanted on.
    """
    angles = []
    for position, width in zip(positions_N3.T, (rope.t_dim, rope.h_dim, rope.w_dim), strict=True):
        exponents = torch.arange(0, width, 2, dtype=torch.float64, device=position.device) / width
        angles.append(torch.outer(position.double(), 1.0 / THETA**exponents))
    angle_1N1d = torch.cat(angles, 1).repeat_interleave(2, 1)[None, :, None]
    return angle_1N1d.cos().float(), angle_1N1d.sin().float()
