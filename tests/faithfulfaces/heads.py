"""A made-up population for the learning test: heads of shaded ellipsoids, ray-traced with exact angles.

Identity is shape and colour of skull, jaw, nose, eyes, brows, mouth, ears and hair. Pose, light, background, scale and
place differ in every view. Angles have the signs of ffbench/extract/pose.py.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from faithfulfaces.data import InMemoryClips
from ffbench.extract.pose import head_rotation

PARTS = 14


def people(count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Centres [N,P,3], radii [N,P,3] and colours [N,P,3] of each head's ellipsoids; y up, z towards the viewer."""
    g = torch.Generator().manual_seed(seed)

    def u(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=g)

    wide, tall, deep = u(0.55, 0.75), u(0.75, 0.95), u(0.65, 0.8)
    eye_x, eye_y, eye_r = u(0.2, 0.32), u(0.02, 0.2), u(0.07, 0.12)
    nose_y, nose_l, nose_w = u(-0.22, -0.08), u(0.12, 0.3), u(0.07, 0.15)
    mouth_y, mouth_w = u(-0.55, -0.4), u(0.12, 0.3)
    jaw_w, jaw_y = u(0.35, 0.55), u(-0.6, -0.4)
    hair = u(0.0, 0.35)
    # colours of people, not of toys: with free colours, hair alone would tell everyone apart
    skin = torch.stack([u(0.95, 1.0), u(0.72, 0.82), u(0.55, 0.7)], -1) * u(0.45, 0.95)[:, None]
    hair_c = torch.stack([u(0.9, 1.0), u(0.7, 0.9), u(0.5, 0.8)], -1) * u(0.05, 0.8)[:, None]
    lips, brow = skin * torch.tensor([0.9, 0.6, 0.6]), hair_c * 0.7
    iris = torch.rand(count, 3, generator=g) * 0.6
    front = deep * 0.93
    parts: list[tuple[tuple[Tensor | float, ...], tuple[Tensor | float, ...], Tensor]] = [
        ((0, 0, 0), (wide, tall, deep), skin),
        ((0, jaw_y, deep * 0.25), (jaw_w, 0.4, 0.5), skin),
        ((0, nose_y, front), (nose_w, 0.2, nose_l), skin * 0.95),
        ((0, 0.25 + hair, -0.1), (wide * 1.08, tall * 0.8, deep * 1.02), hair_c),
        ((0, mouth_y, front * 0.8), (mouth_w, 0.06, 0.15), lips),
        ((0, -1.2, -0.15), (0.33, 0.7, 0.33), skin * 0.8),
    ]
    for side in (-1, 1):
        parts += [
            ((side * eye_x, eye_y, front * 0.85), (eye_r, eye_r * 0.8, eye_r), torch.ones(count, 3) * 0.95),
            ((side * eye_x, eye_y, front * 0.85 + eye_r * 0.7), (eye_r * 0.5,) * 3, iris),
            ((side * eye_x, eye_y + 0.17, front * 0.87), (0.14, 0.035, 0.06), brow),
            ((side * wide, eye_y - 0.1, 0.0), (0.08, 0.2, 0.12), skin * 0.9),
        ]

    def table(index: int) -> Tensor:
        columns = [[torch.as_tensor(v).expand(count) for v in part[index]] for part in parts]
        return torch.stack([torch.stack([c.float() for c in column], -1) for column in columns], 1)

    return table(0), table(1), torch.stack([part[2] for part in parts], 1)


def render(count: int, views: int, size: int, seed: int, max_yaw: float = 60.0) -> InMemoryClips:
    """One clip a person: view 0 near-frontal, the others anywhere within +-max_yaw."""
    centres, radii, colours = people(count, seed)
    g = torch.Generator().manual_seed(seed + 1)
    euler = (torch.rand(count, views, 3, generator=g) * 2 - 1) * torch.tensor([20.0, max_yaw, 10.0])
    euler[:, 0, 1] *= 0.2
    crops = torch.empty(count, views, size, size, 3, dtype=torch.uint8)
    axis = (torch.arange(size) + 0.5) / size * 2 - 1
    pixels = torch.stack(torch.meshgrid(-axis, axis, indexing="ij"), -1).flip(-1).reshape(-1, 2) * 1.25
    for person in range(count):
        turn = torch.from_numpy(head_rotation(euler[person].numpy())).float()
        place = (torch.rand(views, 1, 2, generator=g) - 0.5) * 0.15
        zoom = 0.9 + 0.2 * torch.rand(views, 1, 1, generator=g)
        xy = (pixels * zoom + place)[:, None]
        centre = torch.einsum("vij,pj->vpi", turn, centres[person])[:, :, None]
        shape = torch.einsum("vij,pj,vkj->vpik", turn, radii[person] ** -2, turn)
        d = xy - centre[..., :2]
        a, b = shape[..., 2, 2, None], torch.einsum("vpi,vpni->vpn", shape[..., 2, :2], d)
        c = torch.einsum("vpni,vpij,vpnj->vpn", d, shape[..., :2, :2], d) - 1
        root = b * b - a * c
        depth = (-b + root.clamp_min(0).sqrt()) / a
        height = torch.where(root > 0, depth + centre[..., 2], -torch.inf)
        nearest = height.argmax(1, keepdim=True)
        hit = height.gather(1, nearest)[:, 0] > -torch.inf
        offset = torch.cat([d, depth[..., None]], -1)
        normal = torch.einsum("vpij,vpnj->vpni", shape, offset)
        normal = normal.gather(1, nearest[..., None].expand(-1, -1, -1, 3))[:, 0]
        normal = torch.nn.functional.normalize(normal, dim=-1)
        light = torch.nn.functional.normalize(
            torch.randn(views, 1, 3, generator=g) * 0.5 + torch.tensor([0.0, 0.3, 1.0]), dim=-1
        )
        shade = 0.45 + 0.55 * (normal * light).sum(-1, keepdim=True).clamp_min(0)
        painted = colours[person][nearest[:, 0]] * shade
        ground = torch.rand(views, 1, 3, generator=g).expand_as(painted)
        image = torch.where(hit[..., None], painted, ground)
        crops[person] = (image.clamp(0, 1) * 255).round().to(torch.uint8).view(views, size, size, 3)
    names = [f"head{seed}-{i:04d}" for i in range(count)]
    return InMemoryClips(names, crops.numpy(), euler.numpy().astype(np.float32))
