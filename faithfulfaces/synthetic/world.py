"""Heads on bodies in camera space: rotations, bounding volumes, the joint field."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from faithfulfaces.synthetic.body import Body
from faithfulfaces.synthetic.head import Distances, Head, smin
from faithfulfaces.synthetic.people import Params
from faithfulfaces.synthetic.scene import Frame
from ffbench.extract.pose import head_rotation

VIEW = 1.36
"""Half the frame's side in head units at zoom 1."""
CENTRE = -0.16
"""Height of the frame's middle."""
PIVOT = (0.0, -0.62, -0.22)
"""Where the head turns on the neck."""
LOW, BACK = -2.4, -1.9


@dataclass(frozen=True)
class World:
    """N posed people; camera axes x right, y up, z to the viewer."""

    params: Params
    head: Head
    body: Body
    rotation: Tensor
    """[N,3,3] of the head."""
    body_rotation: Tensor
    shift: Tensor
    """[N,2]."""
    zoom: Tensor
    """[N,1]."""
    blobs: Tensor | None
    """[N,O,10] centre, radius, angle, colour of what passes in front; a radius of zero-size blobs fills up."""

    @staticmethod
    def of(params: Params, head: Head, body: Body, frames: Sequence[Frame]) -> World:
        """Pose people as their frames say."""
        device = params.seed.device

        def tensor(values: object) -> Tensor:
            return torch.tensor(np.asarray(values, np.float32)).to(device)

        turn = head_rotation(np.array([[f.pitch, f.yaw, f.roll] for f in frames]))
        body_turn = head_rotation(np.array([[0.0, f.body_yaw, 0.0] for f in frames]))
        most = max(len(f.blobs) for f in frames)
        empty = (0.0, 99.0, 0.0, 0.01, 0.01, 0.01, 0.0, 0.0, 0.0, 0.0)
        rows = [[(*b.centre, *b.radius, b.angle, *b.colour) for b in f.blobs] for f in frames]
        blobs = tensor([row + [empty] * (most - len(row)) for row in rows]) if most else None
        shift, zoom = tensor([f.shift for f in frames]), tensor([[f.zoom] for f in frames])
        return World(params, head, body, tensor(turn), tensor(body_turn), shift, zoom, blobs)

    def to_head(self, x: Tensor, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Camera points [N,R] in the head's axes."""
        return self._local(self.rotation, x, y, z)

    def to_body(self, x: Tensor, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Camera points [N,R] in the body's axes."""
        return self._local(self.body_rotation, x, y, z)

    def _local(self, rotation: Tensor, x: Tensor, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """R^T (p - shift - pivot) + pivot."""
        px, py, pz = PIVOT
        a, b, c = x - self.shift[:, :1] - px, y - self.shift[:, 1:] - py, z - pz
        r = rotation[..., None]
        return tuple(r[:, 0, i] * a + r[:, 1, i] * b + r[:, 2, i] * c + PIVOT[i] for i in range(3))  # type: ignore[return-value]

    def to_camera(self, points_NP3: Tensor) -> Tensor:
        """[N,P,3] head points in camera axes."""
        pivot = torch.tensor(PIVOT, device=points_NP3.device)
        turned = (points_NP3 - pivot) @ self.rotation.transpose(1, 2) + pivot
        return turned + torch.nn.functional.pad(self.shift, (0, 1))[:, None]

    def bounds(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """[N,R] z where a ray enters and leaves the bounding volumes: a sphere of head and hair, a slab of the body."""
        p = self.params
        big = p["has_curtain"] * (-p["hair_end"] - 0.75).clamp(min=0)
        radius = 1.32 + 0.28 * self.head.e["jaw"] + 0.27 * p["has_afro"] + 0.20 * p["has_bun"] + 0.12 * p["has_quiff"]
        centre = torch.stack([torch.zeros_like(big), -0.10 - 0.5 * big, torch.zeros_like(big) + 0.05], -1)
        cx, cy, cz = self.to_camera(centre)[:, 0, :, None].unbind(1)
        inside = (radius + 0.55 * big) ** 2 - (x - cx) ** 2 - (y - cy) ** 2
        half = inside.clamp(min=0).sqrt()
        on_head = inside > 0
        below = y - self.shift[:, 1:]
        on_body = (below < -0.60) & ((x - self.shift[:, :1]).abs() < torch.where(below < -1.05, 1.6, 0.75))
        start = torch.where(on_head, cz + half, -torch.inf)
        end = torch.where(on_head, cz - half, torch.inf)
        start = torch.where(on_body, start.clamp(min=0.62), start)
        end = torch.where(on_body, end.clamp(max=-0.62), end)
        return start, end

    def parts(self, x: Tensor, y: Tensor, z: Tensor) -> tuple[Distances, Tensor]:
        """Distances of camera points to the head's parts and to the body."""
        return self.head.distances(*self.to_head(x, y, z)), self.body.distance(*self.to_body(x, y, z))

    def distance(self, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        """[N,R] to anything."""
        head, body = self.parts(x, y, z)
        flesh = smin(head.skin, body, 0.06)
        return torch.minimum(
            torch.minimum(torch.minimum(flesh, head.eye), head.teeth), torch.minimum(head.hair, head.glasses)
        )
