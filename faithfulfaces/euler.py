"""Euler-angle embedding: the timestep encoding of diffusion models, one for each angle (paper, Section 3.3).

Shapes: B face crops, F frequencies, D width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

NUM_FREQUENCIES = 64


def sinusoids(degrees: Tensor, shortest_period: float, longest_period: float) -> Tensor:
    """Encode angles by sines and cosines whose periods form a geometric series.

    A head turns by tens of degrees and the estimator errs by a few, so the fastest period must be of that size: the
    1..10000 of timesteps would turn once in 6 degrees, and an estimator's error would move every fast component.

    Args:
        degrees: [...] angles in degrees, any float dtype; computed in float32.
        shortest_period: period of the fastest sinusoid, degrees.
        longest_period: period of the slowest one, degrees.

    Returns:
        [..., 2F] float32 in -1..1: F cosines, then F sines.
    """
    steps = torch.arange(NUM_FREQUENCIES, device=degrees.device, dtype=torch.float32) / (NUM_FREQUENCIES - 1)
    periods = shortest_period * (longest_period / shortest_period) ** steps
    phase = degrees.float().unsqueeze(-1) * (2 * math.pi / periods)
    return torch.cat([phase.cos(), phase.sin()], dim=-1)


class EulerEmbedding(nn.Module):
    """Pitch, yaw and roll to one vector that is added to every token of the face.

    Each angle has an MLP of its own (Linear, SiLU, Linear), and the three results are summed. The last layers start at
    zero: at step 0 the aligner sees the tokens alone, and a poor start of the encoding cannot hurt it.

    Args:
        dim: D.
        shortest_period: of `sinusoids`, degrees.
        longest_period: of `sinusoids`, degrees.
    """

    def __init__(self, dim: int, shortest_period: float, longest_period: float) -> None:
        super().__init__()
        self.periods = (shortest_period, longest_period)
        self.angles = nn.ModuleList()
        for _ in range(3):
            first, last = nn.Linear(2 * NUM_FREQUENCIES, dim), nn.Linear(dim, dim)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
            self.angles.append(nn.Sequential(first, nn.SiLU(), last))

    def forward(self, euler_B3: Tensor) -> Tensor:
        """[B,3] pitch, yaw, roll in degrees -> [B,D] in the dtype of the weights.

        Raises:
            ValueError: for another shape.
        """
        if euler_B3.ndim != 2 or euler_B3.shape[1] != 3:
            raise ValueError(f"euler must be [B,3] (pitch, yaw, roll in degrees), got {tuple(euler_B3.shape)}")
        waves_B3F = sinusoids(euler_B3, *self.periods).to(next(self.parameters()).dtype)
        return sum((mlp(waves_B3F[:, i]) for i, mlp in enumerate(self.angles)), start=waves_B3F.new_zeros(()))
