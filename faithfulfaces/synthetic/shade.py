"""Light on the surfaces: a key and a fill lamp with wrapped Lambert terms, sky and ground, occlusion, highlights."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from faithfulfaces.synthetic.body import cloth
from faithfulfaces.synthetic.scene import Setting
from faithfulfaces.synthetic.surface import eye_colour, hair_colour, mix, skin_colour, step
from faithfulfaces.synthetic.world import World

H = 0.006
REACH = 0.09
"""How far along the normal the occlusion looks, head units."""


def normals(world: World, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """[N,3,R] unit gradients by four points of a tetrahedron."""
    out = torch.zeros(len(x), 3, x.shape[1], device=x.device)
    for sign in ((1, -1, -1), (-1, -1, 1), (-1, 1, -1), (1, 1, 1)):
        value = world.distance(x + sign[0] * H, y + sign[1] * H, z + sign[2] * H)
        out += torch.tensor(sign, device=x.device)[None, :, None] * value[:, None]
    return torch.nn.functional.normalize(out, dim=1)


def paint(world: World, settings: Sequence[Setting], x: Tensor, y: Tensor, depth: Tensor) -> Tensor:
    """[N,3,R] linear RGB of surface points under camera points; anything where the depth is -inf."""
    z = depth.clamp(min=-3)
    normal = normals(world, x, y, z)
    albedo, gloss = _materials(world, settings, x, y, z)
    nx, ny, nz = (REACH * normal).unbind(1)
    shadow = 0.25 + 0.72 * (world.distance(x + nx, y + ny, z + nz) / REACH).clamp(0, 1)
    return _light(settings, normal, albedo, gloss, shadow)


def _materials(world: World, settings: Sequence[Setting], x: Tensor, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """Albedo [N,3,R] and highlight [N,R] by whichever part is nearest."""
    hx, hy, hz = world.to_head(x, y, z)
    bx, by, bz = world.to_body(x, y, z)
    d, body = world.parts(x, y, z)
    head, p = world.head, world.params
    points = torch.stack([hx, hy, hz], 1)
    w = head.warp(hx, hy, hz)
    skin = skin_colour(head, w, points)
    hair = hair_colour(head, points)
    # a shaved head keeps its hairline as a shadow
    stubble = step(hy - head.hairline(hx, w.x), 0.08) + step(p["hair_side"] - 0.05 - hz, 0.1) * step(hy + 0.25, 0.1)
    bare = p["shaved"] * (p["hair_cap"] < 0) * 0.38 + (1 - p["shaved"]) * 0.8 * (p["hair_cap"] > 0)
    scalp = step(0.68 * p["head_width"] - w.x, 0.06) * (d.skin < d.hair)
    skin = mix(skin, hair, stubble.clamp(0, 1) * bare * scalp)
    skin = mix(skin, hair, 0.9 * step(0.012 - (d.hair - d.skin), 0.02))
    inside = step(0.006 - d.mouth, 0.01)
    skin = mix(skin, torch.tensor([0.10, 0.014, 0.014], device=x.device)[None, :, None].expand_as(skin), inside)
    colour = torch.stack([torch.tensor(s.cloth) for s in settings]).to(x.device)[..., None]
    trim = torch.stack([torch.tensor(s.trim) for s in settings]).to(x.device)[..., None]
    neckline = torch.tensor([[s.neckline] for s in settings], device=x.device)
    weave = 1 + 0.05 * torch.sin(bx * 60) * torch.sin(by * 60)
    covered = cloth(bx, by, bz, neckline)
    hem = covered * (1 - cloth(bx, by + 0.05, bz, neckline))
    clothes = mix(colour * weave[:, None], trim.expand_as(skin), hem)
    neck = mix(skin, clothes, covered)
    albedo = torch.where((body < d.skin)[:, None], neck, skin)
    gloss = 0.10 * p["gloss"] * (1 - covered) * torch.ones_like(x)
    nearest = torch.minimum(d.skin, body)
    glass = p.colour["frame"].expand_as(albedo)
    for part, paint_, shine in (
        (d.teeth, torch.tensor([0.72, 0.69, 0.62], device=x.device)[None, :, None].expand_as(albedo), 0.2),
        (d.eye, eye_colour(head, w, hx), 0.9),
        (d.hair, hair, 0.07),
        (d.glasses, glass, 0.35),
    ):
        closer = part < nearest
        albedo = torch.where(closer[:, None], paint_, albedo)
        gloss = torch.where(closer, torch.full_like(gloss, shine), gloss)
        nearest = torch.minimum(nearest, part)
    return _through_lens(world, (hx, hy, hz), albedo), gloss


def _through_lens(world: World, at: tuple[Tensor, Tensor, Tensor], albedo: Tensor) -> Tensor:
    """Darken what is seen through a tinted lens: the ray crosses the lens's plane inside the rim."""
    head, p = world.head, world.params
    hx, hy, hz = at
    # the ray back to the camera in head axes
    ray = world.rotation[:, 2, :, None]
    ahead = (head.lens_z(hx.abs()) - hz) / ray[:, 2].clamp(min=0.2)
    cross = head.warp(hx + ahead * ray[:, 0], hy + ahead * ray[:, 1], hz + ahead * ray[:, 2])
    inside = step(-head.lens(cross)[0], 0.02) * (ahead > 0) * p["glasses"] * (ray[:, 2] > 0.2)
    return albedo * (1 - inside * p["lens_tint"])[:, None]


def _light(settings: Sequence[Setting], normal: Tensor, albedo: Tensor, gloss: Tensor, shadow: Tensor) -> Tensor:
    device = normal.device
    azimuth = [s.light for s in settings]
    key = torch.tensor([[0.80 * math.sin(a), 0.52, 0.80 * math.cos(a)] for a in azimuth], device=device)
    fill = torch.tensor([[-0.85 * math.sin(a), 0.05, 0.60] for a in azimuth], device=device)
    key, fill = (torch.nn.functional.normalize(v, dim=1)[..., None] for v in (key, fill))
    on_key, on_fill = ((normal * v).sum(1) for v in (key, fill))
    wrapped = ((on_key + 0.18) / 1.18).clamp(min=0) * shadow.clamp(max=1)
    soft = ((on_fill + 0.35) / 1.35).clamp(min=0)
    sky = 0.5 + 0.5 * normal[:, 1]
    warm = torch.tensor([1.0, 0.96, 0.90], device=device)[None, :, None]
    cool = torch.tensor([0.92, 0.97, 1.0], device=device)[None, :, None]
    light = warm * (0.80 * wrapped)[:, None] + cool * ((0.22 * soft + 0.16 + 0.16 * sky) * shadow)[:, None]
    # skin lets red through where the light fades
    fade = torch.exp(-(((on_key - 0.02) / 0.22) ** 2))
    light = light * (1 + fade[:, None] * torch.tensor([0.10, 0.0, -0.02], device=device)[None, :, None])
    halfway = torch.nn.functional.normalize(key + torch.tensor([0.0, 0.0, 1.0], device=device)[None, :, None], dim=1)
    facing = (normal * halfway).sum(1).clamp(min=0)
    spark = gloss * (facing**28 + 0.5 * (facing**120) * (gloss > 0.5)) * shadow
    rim = 0.04 * (1 - normal[:, 2].clamp(0, 1)) ** 3
    return albedo * light + (spark + rim * shadow)[:, None]
