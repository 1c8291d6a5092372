"""Colours of the parts: skin with its relief, lips, brows, beard, eyes, hair. Linear RGB.

Shapes: N frames, R points. Edges are soft (sigmoids of about the width of a pixel at 128 px).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from faithfulfaces.synthetic.head import Head, Warped, monomials
from faithfulfaces.synthetic.people import NUM_BUMPS


def _waves(count: int, low: float, high: float, seed: int) -> Tensor:
    """[count,3] wave vectors of random direction, lengths from low to high."""
    rng = np.random.default_rng(seed)
    v = rng.normal(size=(count, 3))
    v *= (np.geomspace(low, high, count) / np.linalg.norm(v, axis=1))[:, None]
    return torch.from_numpy(v.astype(np.float32))


COARSE, FINE = _waves(10, 3, 14, 1), _waves(14, 60, 110, 2)


def noise(points_N3R: Tensor, waves_F3: Tensor, phase_N1: Tensor) -> Tensor:
    """[N,R] about zero with deviation near one: a sum of sines whose phases come from the person."""
    waves = waves_F3.to(points_N3R)
    shift = phase_N1[..., None] * torch.arange(1, len(waves) + 1, device=waves.device)[None, :, None] * 0.7548
    turn = torch.einsum("fc,ncr->nfr", waves, points_N3R) + shift
    return turn.sin_().sum(1) * math.sqrt(2 / len(waves))


def mix(a: Tensor, b: Tensor, share_NR: Tensor) -> Tensor:
    """[N,3,R] from a to b."""
    return a + (b - a) * share_NR[:, None]


def step(x: Tensor, width: float) -> Tensor:
    """0 below, 1 above zero, over `width`."""
    return torch.sigmoid(x * (4 / width))


def skin_colour(head: Head, w: Warped, points_N3R: Tensor) -> Tensor:
    """[N,3,R] of the whole head without hair: blotches, cheeks, lids, lips, brows, beard."""
    p, e = head.p, head.eye
    m = monomials(*w)
    bumps = head.bumps(m)[:, -NUM_BUMPS:]
    base = p.colour["skin"]
    coarse, fine = noise(points_N3R, COARSE, p.seed), noise(points_N3R, FINE, p.seed)
    colour = base * (1 + torch.bmm(p.tint, bumps)) * (1 + 0.05 * (p["blotch"] * coarse)[:, None])
    front = step(w.z - 0.25, 0.2)

    def spot(x: Tensor | float, y: Tensor | float, rx: float, ry: float) -> Tensor:
        return torch.exp(-(((w.x - x) / rx) ** 2) - ((w.y - y) / ry) ** 2) * front

    red = spot(0.36, -0.28, 0.17, 0.15) + 0.8 * spot(0.0, head.nose_y, 0.11, 0.09) + 0.4 * spot(0, -0.86, 0.15, 0.1)
    ruddy = torch.tensor([1.04, 0.70, 0.68], device=base.device)[None, :, None]
    colour = mix(colour, colour * ruddy, (0.15 + 0.85 * p["ruddy"]) * red)
    dark = torch.tensor([0.70, 0.58, 0.58], device=base.device)[None, :, None]
    under = spot(e["x"], e["y"] - 0.13, 0.13, 0.05) * (0.15 + 0.6 * p["eye_bag"])
    colour = mix(colour, colour * dark, under + 0.45 * spot(e["x"], e["y"] + 0.07, 0.14, 0.06))
    spots = step(fine - 1.15, 0.5) * p["freckles"].clamp(min=0) * (spot(0.22, -0.22, 0.34, 0.22) + 0.1 * front)
    colour = mix(colour, colour * torch.tensor([0.55, 0.42, 0.35], device=base.device)[None, :, None], spots)
    colour = colour * (1 + 0.012 * fine[:, None])
    colour = _lips(head, w, colour, front)
    colour = _beard(head, w, colour, front, fine)
    colour = _brows(head, w, colour, front, fine)
    return _lids(head, w, colour)


def _lips(head: Head, w: Warped, colour: Tensor, front: Tensor) -> Tensor:
    p, m = head.p, head.mouth_y
    s = w.x / p["mouth_width"]
    arch = 1 - s * s
    top = m + p["lip_upper"] * arch * (1 - p["cupid"] * 0.55 * torch.exp(-((w.x / 0.045) ** 2))) * (1.08 - 0.1 * s)
    low = m - p["lip_lower"] * arch
    lips = step(top - w.y, 0.022) * step(w.y - low, 0.026) * front
    colour = mix(colour, p.colour["lips"].expand_as(colour), lips * (0.65 + 0.30 * p["lip_red"]))
    line = torch.exp(-(((w.y - m) / 0.010) ** 2)) * step(1.02 - s, 0.15) * front
    return mix(colour, colour * 0.25, 0.8 * line)


def _beard(head: Head, w: Warped, colour: Tensor, front: Tensor, fine: Tensor) -> Tensor:
    p, m, mw = head.p, head.mouth_y, head.p["mouth_width"]
    s = w.x / mw
    lip = step(m + p["lip_upper"] * (1 - s * s) - w.y, 0.03) * step(w.y - m + p["lip_lower"] * (1 - s * s), 0.03)
    upper = torch.exp(-(((w.y - m - p["lip_upper"] - 0.055) / 0.055) ** 2) - (w.x / (mw * 1.05)) ** 4)
    under = m - p["lip_lower"] - 0.03
    chin = step(under + 0.05 - w.y, 0.10) * torch.exp(-((w.x / (mw * 0.95)) ** 4)) * step(w.z - 0.05, 0.2)
    side = torch.exp(-(((w.x - mw * 1.12) / 0.06) ** 2) - ((w.y - m + 0.03) / 0.13) ** 2)
    cheek = step(-0.38 - 0.55 * (0.45 - w.x).clamp(min=0) - w.y, 0.16) * step(w.z + 0.02, 0.15)
    chin = torch.maximum(chin, side * front)
    cover = torch.maximum(
        p["beard_lip"] * upper * front, torch.maximum(p["beard_chin"] * chin, p["beard_cheek"] * cheek)
    )
    cover = cover * (1 - lip) * (0.92 + 0.06 * fine).clamp(0, 1)
    hair = p.colour["brow"] * (1 + 0.20 * fine[:, None])
    return mix(colour, hair, 0.88 * cover.clamp(0, 1))


def _brows(head: Head, w: Warped, colour: Tensor, front: Tensor, fine: Tensor) -> Tensor:
    p, e, raise_ = head.p, head.eye, head.e["brow"]
    inner = 0.5 * p["brow_gap"] + 0.045
    length = 0.29 * p["brow_length"]
    t = (w.x - inner) / length
    frown = (-raise_).clamp(min=0)
    middle = p["brow_height"] + e["y"] + p["brow_slope"] * (t - 0.4) * 0.16 + 0.055 * raise_
    middle = middle + p["brow_arch"] * (1 - ((t - 0.6) / 0.6) ** 2) - 0.05 * frown * (1 - t).clamp(0, 1)
    thick = p["brow_thickness"] * (1.15 - 0.65 * t.clamp(0, 1)) + 0.004
    cover = torch.exp(-(((w.y - middle) / thick) ** 4)) * step(t + 0.02, 0.14) * step(1.02 - t, 0.16) * front
    cover = cover * (0.92 + 0.10 * fine).clamp(0, 1) * p["brow_density"]
    return mix(colour, p.colour["brow"] * (1 + 0.12 * fine[:, None]), cover)


def _lids(head: Head, w: Warped, colour: Tensor) -> Tensor:
    p, e = head.p, head.eye
    f, u, v = head.opening(w)
    near = step(w.z - e["z"] - 0.3 * e["r"], 0.05) * torch.exp(-((u / (1.25 * e["w"])) ** 6))
    lash = torch.exp(-((f / (0.014 + 0.008 * p["lash"])) ** 2)) * near
    share = lash * torch.where(v > 0.5 * (e["up"] + e["low"]), 0.35 + 0.6 * p["lash"], 0.15 + 0.25 * p["lash"])
    colour = mix(colour, colour * 0.10, share)
    crease = torch.exp(-(((f - p["lid_fold"]) / 0.010) ** 2)) * step(v - e["low"] * 0.5, 0.03) * near
    return mix(colour, colour * 0.45, 0.75 * crease)


def eye_colour(head: Head, w: Warped, x: Tensor) -> Tensor:
    """[N,3,R] white, iris with rings and spokes, pupil; the gaze moves both irises the same way."""
    p, e = head.p, head.eye
    side = torch.sign(x)
    gx = head.e["gaze_x"] * 0.45 * side
    u, v = (w.x - e["x"]) / e["r"] - gx + 0.03, (w.y - e["y"]) / e["r"] - 0.35 * head.e["gaze_y"] - 0.02
    r = (u * u + v * v + 1e-6).sqrt()
    white = torch.tensor([0.86, 0.84, 0.82], device=x.device)[None, :, None]
    white = white * (1 - 0.25 * (r[:, None] - 0.5).clamp(0, 1))
    size = p["iris_size"]
    spokes = 1 + 0.18 * torch.sin(torch.atan2(v, u) * 14 + p.seed) * step(r - 0.4 * size, 0.1)
    iris = p.colour["iris"] * (1.25 * spokes * (1 - 0.75 * step(r - 0.88 * size, 0.12)))[:, None]
    colour = mix(white.expand(-1, 3, x.shape[1]), iris, step(size - r, 0.10))
    colour = mix(colour, colour * 0.03, step(0.40 * size - r, 0.09))
    # the upper lid shades the ball
    shade = step(v + 0.10 - e["up"] / e["r"], 0.30)
    return colour * (1 - 0.40 * shade)[:, None]


def hair_colour(head: Head, points_N3R: Tensor) -> Tensor:
    """[N,3,R] strands: fine stripes around the head's axis, waved by the curl."""
    p = head.p
    x, y, z = points_N3R.unbind(1)
    around = torch.atan2(x, z + 0.15)
    wave = p["hair_curl"] * torch.sin(y * 16 + 3 * torch.sin(around * 5))
    strands = torch.sin(around * 46 + 2.2 * wave + p.seed) + torch.sin(around * 27 + 1.3 * wave + y * 5)
    return p.colour["hair"] * (1 + 0.17 * strands[:, None])
