"""Neck, shoulders and clothes as a signed distance field in the body's own axes (those of a frontal head)."""

from __future__ import annotations

import torch
from torch import Tensor

from faithfulfaces.synthetic.head import ellipsoids, monomials, quadrics, smin
from faithfulfaces.synthetic.people import Params

NECKLINE = -1.22


class Body:
    """The field of N bodies; `neck` ends inside the head."""

    def __init__(self, p: Params) -> None:
        n, s = p["neck_width"], p["shoulders"]
        zero = torch.zeros_like(n)
        rows = [
            (zero, zero - 1.00, zero - 0.20, 0.35 * n, zero + 0.66, 0.34 * n),
            (zero, zero - 1.40, zero - 0.26, 0.62 * s, zero + 0.24, zero + 0.34),
            (zero, zero - 1.84, zero - 0.24, 1.26 * s, zero + 0.46, zero + 0.46),
            (zero, zero - 2.40, zero - 0.12, 1.05 * s, zero + 0.95, zero + 0.55),
        ]
        table = torch.cat([v for row in rows for v in row], 1).reshape(len(n), len(rows), 6)
        turn = torch.zeros_like(table[..., :3])
        self._q0, self._q1 = (quadrics(table[..., :3], table[..., 3:], turn, power) for power in (1, 2))

    def distance(self, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        """[N,R] of body points."""
        neck, slope, shoulders, chest = ellipsoids(self._q0, self._q1, monomials(x, y, z)).unbind(1)
        return smin(smin(neck, slope, 0.22), smin(shoulders, chest, 0.2), 0.24)


def cloth(x: Tensor, y: Tensor, z: Tensor, neckline: Tensor) -> Tensor:
    """[N,R] 0 skin .. 1 cloth: below a round neckline that hangs lower in front by `neckline` [N,1]."""
    front = torch.sigmoid(z * 8) * torch.exp(-((x / 0.38) ** 2))
    edge = NECKLINE - neckline * front
    return torch.sigmoid((edge - y) * 90)
