"""The truth of a frame: angles, five points, the face's box and what hides it, from the field itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from faithfulfaces.synthetic.scene import Frame
from faithfulfaces.synthetic.world import CENTRE, VIEW, World

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Labels:
    """One row a frame."""

    angles: Floats
    """[N,3] pitch, yaw, roll in degrees; signs in ffbench/extract/pose.py."""
    box: Floats
    """[N,4] x1 y1 x2 y2 px around the face from forehead to chin, hidden parts included."""
    points: Floats
    """[N,5,2] px in the order of `FaceTrack.points`: the person's right eye first."""
    visible: NDArray[np.bool_]
    """[N,5] points that nothing hides, the head itself included."""
    seen: Floats
    """[N] share of the face's surface that shows: about 0.5 frontal, 0 from behind."""

    @staticmethod
    def concatenate(parts: Sequence[Labels]) -> Labels:
        """Rows of all parts."""
        return Labels(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Labels)))


def measure(world: World, frames: Sequence[Frame], size: int) -> Labels:
    """Labels of N posed frames at `size` px."""
    five = _five_points(world)
    face = _face_points(world)
    camera = world.to_camera(torch.cat([five, face], 1))
    shown = _shows(world, camera)
    flat = torch.stack([camera[..., 0], CENTRE - camera[..., 1]], -1) * world.zoom[..., None]
    px = ((flat / VIEW + 1) / 2 * size).cpu().numpy()
    box = np.concatenate([px[:, 5:].min(1), px[:, 5:].max(1)], 1)
    visible = shown.cpu().numpy()
    angles = np.array([[f.pitch, f.yaw, f.roll] for f in frames], np.float32)
    seen = visible[:, 5:].mean(1).astype(np.float32)
    return Labels(angles, box, px[:, :5], visible[:, :5], seen)


def _five_points(world: World) -> Tensor:
    """[N,5,3] head points: eyes, nose tip, mouth corners."""
    head = world.head
    e, p = head.eye, head.p
    lift = p["mouth_curve"] + 0.055 * head.e["smile"]
    widen = 1 + 0.20 * head.e["smile"] - 0.34 * head.e["pucker"] - 0.12 * head.e["jaw"]
    corner_x, corner_y = p["mouth_width"] * widen * 0.98, head.mouth_y + lift - head.gape / 2
    nose_y = head.nose_y + p["tip_up"]
    zero = torch.zeros_like(nose_y)
    x = torch.cat([-e["x"], e["x"], zero, -corner_x, corner_x], 1)
    y = torch.cat([e["y"], e["y"], nose_y, corner_y, corner_y], 1)
    z = torch.full_like(x, 1.3)
    for _ in range(16):
        z = z - 0.92 * _flesh(world, x, y, z)
    return torch.stack([x, y, z], -1)


def _face_points(world: World) -> Tensor:
    """[N,P,3] where rays from the middle of the head leave the face: forehead to chin, cheek to cheek."""
    head = world.head
    azimuth = torch.deg2rad(torch.linspace(-72, 72, 9, device=world.shift.device))
    height = torch.linspace(-0.95, 0.56, 9, device=world.shift.device)
    a, h = (g.reshape(1, -1) for g in torch.meshgrid(azimuth, height, indexing="ij"))
    chin = 0.87 * head.p["jaw_length"] + 0.13 * head.p["chin_height"] + head.gape
    y = torch.where(h < 0, h * chin, h * head.p["head_height"])
    reach = torch.full_like(y, 1.3)
    for _ in range(14):
        # a ray that misses, below the chin, ends on the axis: beyond it, it would run away on the far side
        reach = (reach - 0.92 * _flesh(world, reach * a.sin(), y, reach * a.cos())).clamp(min=0)
    return torch.stack([reach * a.sin(), y, reach * a.cos()], -1)


def _flesh(world: World, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    d = world.head.distances(x, y, z)
    return torch.minimum(d.skin, d.eye)


def _shows(world: World, camera_NP3: Tensor) -> Tensor:
    """[N,P] whether the way from a surface point to the camera is free."""
    x, y, z = camera_NP3.unbind(-1)
    at = z + 0.05
    free = torch.ones_like(x, dtype=torch.bool)
    for _ in range(12):
        distance = world.distance(x, y, at)
        free &= distance > 0.004
        at = at + distance.clamp(min=0.06)
    if world.blobs is not None:
        for blob in world.blobs.unbind(1):
            cx, cy, cz, rx, ry, rz, angle = blob[:, :7, None].unbind(1)
            u = ((x - cx) * angle.cos() + (y - cy) * angle.sin()) / rx
            v = ((y - cy) * angle.cos() - (x - cx) * angle.sin()) / ry
            high = 1 - u * u - v * v
            free &= ~((high > 0) & (cz + rz * high.clamp(min=0).sqrt() > z))
    return free
