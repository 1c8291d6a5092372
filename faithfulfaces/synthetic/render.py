"""Sphere marching of batched heads and bodies: parallel rays, bounding volumes, early exit, supersampling.

The camera looks along -z with parallel rays, so the head's angles are exact wherever it stands in the frame. Marching
and shading work on padded lists of the rays that are still alive. Shapes: N frames, R rays, S samples per side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from faithfulfaces.synthetic.body import Body
from faithfulfaces.synthetic.head import EXPRESSION, Head
from faithfulfaces.synthetic.labels import Labels, measure
from faithfulfaces.synthetic.people import Params, Person
from faithfulfaces.synthetic.scene import Frame, Setting, backdrop
from faithfulfaces.synthetic.shade import paint
from faithfulfaces.synthetic.world import CENTRE, VIEW, World

STEPS = (4, 4, 5, 6, 8, 10)
"""March steps between two sortings of the rays that are still alive."""
CHUNK = {"cpu": 1 << 16, "cuda": 1 << 22}
"""Rays drawn at once: on a CPU what its cache holds."""
LABELLED = 64
"""Frames measured at once."""


@dataclass(frozen=True)
class Rendered:
    """Frames with their truth."""

    pixels: NDArray[np.uint8]
    """[N,size,size,3] RGB."""
    labels: Labels


@torch.inference_mode()
def render(
    people: Sequence[Person],
    frames: Sequence[Frame],
    settings: Sequence[Setting],
    size: int,
    device: torch.device | str = "cpu",
    samples: int = 2,
) -> Rendered:
    """Draw one person a frame.

    Args:
        people: N.
        frames: N.
        settings: N.
        size: side in px.
        device: a PyTorch device.
        samples: rays per px side; 2 is smooth at 64 to 256 px.

    Raises:
        ValueError: lists of different lengths, or a size below 8 px.
    """
    if not len(people) == len(frames) == len(settings) or size < 8:
        raise ValueError(f"{len(people)} people, {len(frames)} frames, {len(settings)} settings at {size} px")
    per_chunk = max(1, CHUNK[torch.device(device).type] // (size * samples) ** 2)
    pixels, labels = [], []
    for i in range(0, len(people), per_chunk):
        part = slice(i, i + per_chunk)
        colour = _draw(make_world(people[part], frames[part], device), settings[part], size, samples)
        pixels.append(to_srgb(colour).permute(0, 2, 3, 1).cpu().numpy())
    for i in range(0, len(people), LABELLED):
        part = slice(i, i + LABELLED)
        labels.append(measure(make_world(people[part], frames[part], device), frames[part], size))
    return Rendered(np.concatenate(pixels), Labels.concatenate(labels))


def make_world(people: Sequence[Person], frames: Sequence[Frame], device: torch.device | str) -> World:
    """Fields and poses of N frames."""
    params = Params(people, device)
    expression = torch.tensor([[getattr(f.expression, name) for name in EXPRESSION] for f in frames])
    return World.of(params, Head(params, expression.float().to(device)), Body(params), frames)


def to_srgb(linear: Tensor) -> Tensor:
    """uint8 of linear RGB (IEC 61966-2-1)."""
    c = linear.clamp(0, 1)
    c = torch.where(c <= 0.0031308, 12.92 * c, 1.055 * c.clamp(min=0.0031308) ** (1 / 2.4) - 0.055)
    return (c * 255 + 0.5).to(torch.uint8)


def _grid(world: World, side: int) -> tuple[Tensor, Tensor]:
    """Camera x and y [N,side*side] of the middles of a grid's cells, row by row."""
    line = ((torch.arange(side, device=world.shift.device) + 0.5) / side * 2 - 1) * VIEW
    gy, gx = torch.meshgrid(-line, line, indexing="ij")
    return gx.reshape(1, -1) / world.zoom, gy.reshape(1, -1) / world.zoom + CENTRE


def _draw(world: World, settings: Sequence[Setting], size: int, samples: int) -> Tensor:
    """[N,3,size,size] linear RGB."""
    side, count = size * samples, len(settings)
    canvas = torch.stack([backdrop(s, side, world.shift.device) for s in settings]).flatten(2)
    x, y = _grid(world, side)
    start, end = world.bounds(x, y)
    if samples > 1:
        # one ray a pixel first: its neighbourhood's nearest depth is where the finer rays begin
        coarse = _grid(world, size)
        rough = march(world, coarse, world.bounds(*coarse), VIEW / size)
        near = torch.nn.functional.max_pool2d(rough.reshape(count, 1, size, size), 3, 1, 1)
        near = near + 2 * VIEW / size / world.zoom[..., None, None]
        near = torch.nn.functional.interpolate(near, scale_factor=samples, mode="nearest").flatten(1)
        start = torch.minimum(start, near)
    depth = march(world, (x, y), (start, end), 0.35 * 2 * VIEW / side)
    rays = _alive(torch.isfinite(depth))
    if rays.shape[1]:
        lx, ly, lz = (t.gather(1, rays) for t in (x, y, depth))
        alive, index = torch.isfinite(lz)[:, None], rays[:, None].expand(-1, 3, -1)
        colour = paint(world, settings, lx, ly, lz)
        canvas.scatter_(2, index, torch.where(alive, colour, canvas.gather(2, index)))
    canvas = _blobs(world, canvas, (x, y), depth).reshape(count, 3, side, side)
    return torch.nn.functional.avg_pool2d(canvas, samples)


def march(world: World, at: tuple[Tensor, Tensor], bounds: tuple[Tensor, Tensor], tolerance: float) -> Tensor:
    """Depth of the first surface along -z under camera points.

    Args:
        world: N frames.
        at: camera x and y [N,R], head units.
        bounds: z [N,R] where to begin and where to give up.
        tolerance: distance that counts as touching.

    Returns:
        [N,R] z; -inf for a miss.
    """
    z, end = bounds
    rays = _alive(z > end)
    z = torch.where(z > end, z, -torch.inf)
    for steps in STEPS:
        if not rays.shape[1]:
            break
        lx, ly, lz, le = (t.gather(1, rays) for t in (*at, z, end))
        done = lz < le
        for _ in range(steps):
            distance = world.distance(lx, ly, lz.clamp(min=-3))
            done |= distance < tolerance
            lz = torch.where(done, lz, lz - distance * 0.92)
            done |= lz < le
        z = z.scatter(1, rays, torch.where(lz < le, -torch.inf, lz))
        rays = rays.gather(1, _alive(~done))
    return z


def _alive(mask: Tensor) -> Tensor:
    """[N,M] indices of the true ones first, M the greatest count of any row."""
    most = int(mask.sum(1).max())
    return torch.argsort(mask.to(torch.uint8), dim=1, descending=True, stable=True)[:, :most]


def _blobs(world: World, canvas: Tensor, at: tuple[Tensor, Tensor], z: Tensor) -> Tensor:
    """Draw what passes in front, by its exact crossing with each ray."""
    table = world.blobs
    if table is None:
        return canvas
    x, y = at
    for blob in table.unbind(1):
        cx, cy, cz, rx, ry, rz, angle, *colour = blob[..., None].unbind(1)
        u = ((x - cx) * angle.cos() + (y - cy) * angle.sin()) / rx
        v = ((y - cy) * angle.cos() - (x - cx) * angle.sin()) / ry
        high = 1 - u * u - v * v
        front = cz + rz * high.clamp(min=0).sqrt()
        seen = (high > 0) & (front > z)
        normal = high.clamp(min=0).sqrt()
        light = 0.35 + 0.55 * (0.55 * normal + 0.45 * (v * 0.7 - u * 0.4)).clamp(min=0)
        shine = 0.25 * (normal * 0.75 + v * 0.5 - u * 0.4).clamp(0, 1) ** 12
        painted = torch.stack(colour, 1) * light[:, None] + shine[:, None]
        canvas = torch.where(seen[:, None], painted, canvas)
        z = torch.where(seen, front, z)
    return canvas
