"""The head as a signed distance field: smoothly joined ellipsoids, a relief of bumps, lids, hair and glasses.

Axes of the head: x to the image's right when it looks at the viewer, y up, z out of the face; the eyes lie near y = 0,
the crown at 1, the chin at -1. The face is symmetric, so x is folded once. All quadratic forms of a point are one
matrix product with its ten monomials. Shapes: N frames, R points, E ellipsoids, G Gaussian bumps.

Ellipsoids: the usual bound k0 (k0 - 1) / k1, k0 = |p / r|, k1 = |p / r^2|. Joins: the quadratic smooth minimum.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from faithfulfaces.synthetic.people import NUM_BUMPS, Params

FAR = 9.0


class Distances(NamedTuple):
    """[N,R] distances to each part, head units."""

    skin: Tensor
    mouth: Tensor
    """Of the hole behind the lips, negative inside."""
    teeth: Tensor
    eye: Tensor
    hair: Tensor
    glasses: Tensor


class Warped(NamedTuple):
    """Folded coordinates on the face at rest, [N,R] each."""

    x: Tensor
    y: Tensor
    z: Tensor


@dataclass(frozen=True)
class Expression:
    """Of one frame. Zero is a face at rest."""

    jaw: float = 0.0
    """0 closed .. 1 wide open."""
    smile: float = 0.0
    """-1 corners down .. 1 up and wide."""
    pucker: float = 0.0
    """0 .. 1 rounded lips."""
    brow: float = 0.0
    """-1 frown .. 1 raised."""
    blink: float = 0.0
    """-0.5 wide .. 1 shut."""
    gaze_x: float = 0.0
    """-1 .. 1, towards the head's own +x."""
    gaze_y: float = 0.0
    """-1 down .. 1 up."""


EXPRESSION = tuple(Expression.__dataclass_fields__)


def smin(a: Tensor, b: Tensor, k: float) -> Tensor:
    """Smooth minimum, at most k/4 below the true one."""
    h = (k - (a - b).abs()).clamp_(min=0)
    return torch.minimum(a, b) - h * h * (0.25 / k)


def smax(a: Tensor, b: Tensor, k: float) -> Tensor:
    """Smooth maximum, at most k/4 above the true one."""
    h = (k - (a - b).abs()).clamp_(min=0)
    return torch.maximum(a, b) + h * h * (0.25 / k)


def monomials(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """[N,10,R] of points [N,R] each: 1 x y z xx yy zz yz xz xy."""
    one = torch.ones_like(x)
    return torch.stack([one, x, y, z, x * x, y * y, z * z, y * z, x * z, x * y], 1)


def quadrics(centre_NE3: Tensor, radius_NE3: Tensor, turn_NE3: Tensor, power: int) -> Tensor:
    """[N,E,10] coefficients of sum_i ((p - c)_i / r_i^power)^2 in axes turned by angles about x, y, z (radians)."""
    cos, sin = turn_NE3.cos(), turn_NE3.sin()
    (cx, cy, cz), (sx, sy, sz) = cos.unbind(-1), sin.unbind(-1)
    rows = [
        torch.stack([cy * cz, cz * sx * sy - cx * sz, sx * sz + cx * cz * sy], -1),
        torch.stack([cy * sz, cx * cz + sx * sy * sz, cx * sy * sz - cz * sx], -1),
        torch.stack([-sy, cy * sx, cx * cy], -1),
    ]
    axes = torch.stack(rows, -2)
    form = (axes / radius_NE3[..., None, :] ** (2 * power)) @ axes.transpose(-1, -2)
    pull = (form @ centre_NE3[..., None])[..., 0]
    const = (pull * centre_NE3).sum(-1, keepdim=True)
    diagonal = torch.diagonal(form, dim1=-2, dim2=-1)
    cross = torch.stack([form[..., 1, 2], form[..., 0, 2], form[..., 0, 1]], -1) * 2
    return torch.cat([const, -2 * pull, diagonal, cross], -1)


def ellipsoids(q0: Tensor, q1: Tensor, m: Tensor) -> Tensor:
    """[N,E,R] distances of points with monomials m."""
    k0 = torch.bmm(q0, m).clamp_(min=1e-8).sqrt_()
    k1 = torch.bmm(q1, m).clamp_(min=1e-8).rsqrt_()
    return k0 * (k0 - 1) * k1


def bump_centres() -> np.ndarray:
    """[K,3] where the relief's bumps sit: a golden-angle lattice over the half face."""
    i = np.arange(NUM_BUMPS)
    azimuth = np.radians(2 + 74 * ((i * 0.6180339887) % 1))
    height = -0.98 + 1.62 * (i + 0.5) / NUM_BUMPS
    ring = np.sqrt(np.clip(1 - (height / 1.25) ** 2, 0.1, 1))
    return np.stack([0.66 * ring * np.sin(azimuth), height, 0.78 * ring * np.cos(azimuth)], -1)


class Head:
    """The field of N heads with one expression each.

    Args:
        p: N people.
        expression_N7: in the order of `EXPRESSION`.
    """

    def __init__(self, p: Params, expression_N7: Tensor) -> None:
        self.p = p
        self.e = {name: expression_N7[:, i : i + 1] for i, name in enumerate(EXPRESSION)}
        # what nobody in the batch has is not computed
        self._gaping = bool((self.e["jaw"] > 0).any())
        self._wearing = bool((p["glasses"] > 0).any())
        self._tufted = [i for i, name in ((11, "curtain"), (12, "afro"), (14, "quiff")) if (p[f"has_{name}"] > 0).any()]
        self._haired = bool((p["hair_cap"] > 0).any())
        self.eye = self._eye()
        self.mouth_y = -0.60 + p["mouth_height"] - 0.25 * p["nose_length"].clamp(min=0)
        self.gape = 0.30 * self.e["jaw"]
        self.nose_y = -0.345 - p["nose_length"]
        self.nose_z = self.front(torch.zeros_like(self.nose_y), self.nose_y)
        self.tip_z = self.nose_z + 0.17 + p["nose_out"]
        centre, radius, turn = self._ellipsoids()
        self._q0, self._q1 = (quadrics(centre, radius, turn, power) for power in (1, 2))
        centre, radius, turn, self._amplitude = self._bumps()
        self._g = quadrics(centre, radius, turn, 1) * -0.25
        self._g[..., 0] += 1

    def front(self, x: Tensor, y: Tensor) -> Tensor:
        """[N,1] z of the bare skull and face at x, y: where eyes, nose and mouth are fastened."""
        p = self.p
        skull = (1 - (x / (0.70 * p["head_width"])) ** 2 - ((y - 0.28) / (0.74 * p["head_height"])) ** 2).clamp(min=0)
        face = (1 - (x / (0.56 * p["face_width"])) ** 2 - ((y + 0.22) / 0.68) ** 2).clamp(min=0)
        back = -0.12 + 0.86 * p["head_depth"] * skull.sqrt()
        return torch.maximum(back, 0.22 + 0.54 * p["face_depth"] * face.sqrt())

    def _eye(self) -> dict[str, Tensor]:
        p = self.p
        radius = 0.122 * p["eye_size"]
        x, y = p["eye_spacing"] + 0.02 * (p["eye_size"] - 1), p["eye_height"]
        z = self.front(x, y) - 0.015 - radius + p["eye_depth"]
        open_ = p["eye_open"] * radius
        lower = -0.36 * open_ * (1 + 0.25 * self.e["smile"].clamp(min=0) * -1)
        upper = 0.52 * open_
        upper = upper + (lower - upper) * self.e["blink"]
        return {"x": x, "y": y, "z": z, "r": radius, "w": 0.97 * radius * p["eye_width"], "up": upper, "low": lower}

    def _ellipsoids(self) -> tuple[Tensor, Tensor, Tensor]:
        """Centres, radii and turns [N,E,3]; the order is that of `distances`."""
        p, e = self.p, self.eye
        hw, fw, jaw_y = p["head_width"], p["face_width"], -0.60 * p["jaw_length"]
        bridge_y0, bridge_z0 = e["y"] + 0.03, self.front(e["y"] * 0, e["y"]) - 0.03 + p["nose_bridge"]
        dy, dz = self.nose_y + 0.01 - bridge_y0, self.tip_z - 0.065 - bridge_z0
        mouth_z = self.front(e["y"] * 0, self.mouth_y)
        cap, end = p["hair_cap"], p["hair_end"]
        # what a person lacks lies far away
        gone = {name: (1 - p[f"has_{name}"]) * 60 for name in ("curtain", "afro", "bun", "quiff")}
        nw, ts, ear = p["nostril_width"], p["tip_size"], p["ear_size"]
        rows: list[tuple[Tensor | float, ...]] = [
            (0, 0.28, -0.12, 0.70 * hw, 0.74 * p["head_height"], 0.86 * p["head_depth"], 0, 0, 0),
            (0, -0.22, 0.22, 0.56 * fw, 0.68, 0.54 * p["face_depth"], 0, 0, 0),
            (0, jaw_y, 0.25, 0.44 * p["jaw_width"], 0.33, 0.42, 0, 0, 0),
            (0.34 * p["jaw_width"], jaw_y + 0.07, 0.10, 0.10 + 0.10 * p["jaw_corner"], 0.20, 0.24, 0, 0, 0),
            (0, -0.87 * p["jaw_length"], 0.51 + p["chin_out"], 0.17 * p["chin_width"], 0.14 * p["chin_height"], 0.15,
             0, 0, 0),
            (0, (self.nose_y + bridge_y0) / 2, bridge_z0 + dz / 2, 0.062 * p["bridge_width"],
             0.62 * (dy**2 + dz**2).sqrt(), 0.085, torch.atan2(-dz, -dy), 0, 0),
            (0, self.nose_y + p["tip_up"], self.tip_z - 0.10, 0.098 * ts, 0.082 * ts, 0.10, 0, 0, 0),
            (0.092 * nw, self.nose_y - 0.03, self.nose_z + 0.045, 0.058 * p["nostril_size"],
             0.058 * p["nostril_size"], 0.085, 0, 0, 0),
            (0.69 * hw, -0.09 + p["ear_height"], -0.10, 0.055, 0.19 * ear, 0.115 * ear, 0.15, -p["ear_flare"], 0.06),
            (0, self.mouth_y, mouth_z - 0.02, 0.95 * p["mouth_width"], 0.5, 0.24, 0, 0, 0),
            (0, 0.28, -0.12, 0.70 * hw + cap, 0.74 * p["head_height"] + cap * 1.25, 0.86 * p["head_depth"] + cap,
             0, 0, 0),
            (0, 0.5 * end + gone["curtain"], -0.26, 0.74 * hw + 0.10 * p["hair_volume"], 0.45 - 0.62 * end, 0.64,
             0, 0, 0),
            (0, 0.42 + gone["afro"], -0.20, 0.90 + 0.22 * p["hair_volume"], 0.86 + 0.2 * p["hair_volume"],
             0.95 + 0.1 * p["hair_volume"], 0, 0, 0),
            (0, 0.98 + 0.1 * p["hair_volume"] + gone["bun"], -0.45, 0.22 + 0.12 * p["hair_volume"], 0.22, 0.25,
             0, 0, 0),
            (0, 0.92 + gone["quiff"], 0.30, 0.50, 0.19 + 0.13 * p["hair_volume"], 0.36, -0.35, 0, 0),
        ]  # fmt: skip
        table = _table(rows, hw)
        return table[..., :3], table[..., 3:6], table[..., 6:9]

    def _bumps(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Centres, radii, turns [N,G,3] and amplitudes [N,1,G] of the relief; the identity's come last."""
        p, e, m, mw = self.p, self.eye, self.mouth_y, self.p["mouth_width"]
        smile, age = self.e["smile"], p["age"]
        grin = smile.clamp(min=0)
        lu, ll, out = p["lip_upper"], p["lip_lower"], p["lip_out"]
        far = 0.25
        mz = self.front(m * 0, m)
        rows: list[tuple[Tensor | float, ...]] = [
            (0.43, -0.20, 0.48, 0.17, 0.13, 0.25, 0, 0, 0, p["cheekbone"]),
            (0.34, -0.50, 0.46, 0.18, 0.20, 0.30, 0, 0, 0, p["cheek_fat"]),
            (0.58, 0.24, 0.36, 0.15, 0.20, 0.30, 0, 0, 0, p["temple"]),
            (0.16, 0.52, 0.66, 0.27, 0.20, 0.30, 0, 0, 0, p["forehead"]),
            (e["x"] * 0.9, p["brow_height"] - 0.01 + e["y"], e["z"] + 0.15, 0.24, 0.07, far, 0, 0, 0.12,
             p["brow_ridge"] + 0.012 * self.e["brow"]),
            (e["x"], e["y"] + 0.01, e["z"] + 0.13, 0.16, 0.105, far, 0, 0, 0, -0.062),
            (0.13, e["y"] + 0.02, e["z"] + 0.15, 0.06, 0.11, far, 0, 0, 0, -0.035),
            (e["x"], e["y"] - 0.145, e["z"] + 0.13, 0.12, 0.035, far, 0, 0, -0.15, -0.022 * p["eye_bag"] - 0.012 * age),
            (e["x"], e["y"] - 0.105, e["z"] + 0.13, 0.11, 0.03, far, 0, 0, -0.1, 0.018 * p["eye_bag"]),
            (0.35 * mw, m + 0.55 * lu, mz, 0.62 * mw, 0.6 * lu + 0.018, far, 0, 0, -0.10, 0.040 * out),
            (0, m - 0.50 * ll, mz, 0.80 * mw, 0.6 * ll + 0.018, far, 0, 0, 0, 0.052 * out),
            (0, m, mz, 1.10 * mw, 0.014, far, 0, 0, 0, -0.032),
            (1.10 * mw, m, mz - 0.05, 0.035, 0.05, far, 0, 0, 0, -0.018 - 0.015 * grin),
            (0, m - ll - 0.075, mz, 0.17, 0.045, far, 0, 0, 0, -0.034),
            (0, m + lu + 0.055, mz, 0.026, 0.07, far, 0, 0, 0, -0.024 * p["philtrum"]),
            (0.20 + 0.4 * (mw - 0.2), -0.50 + 0.5 * p["mouth_height"], 0.58, 0.034, 0.13, far, 0, 0, 0.42,
             -0.004 - 0.016 * age - 0.014 * grin),
            (0.33, -0.33, 0.55, 0.14, 0.11, far, 0, 0, 0, 0.045 * grin),
            (0, -0.84, 0.52, 0.36, 0.26, 0.34, 0, 0, 0, 0.085 * p["beard_length"] * p["beard_chin"]),
            (0.30, -0.62, 0.40, 0.22, 0.25, 0.34, 0, 0, 0, 0.045 * p["beard_length"] * p["beard_cheek"]),
            (0.06, m + lu + 0.06, mz, 0.15, 0.045, far, 0, 0, 0, 0.020 * p["beard_lip"] * p["beard_length"]),
            (0.76 * p["head_width"], -0.07 + p["ear_height"], -0.06, 0.10, 0.09 * p["ear_size"], 0.055, 0, 0, 0,
             -0.035),
            (0, 0.5 * (e["y"] + self.nose_y) + 0.04, self.nose_z + 0.1, 0.05, 0.075, far, 0, 0, 0, p["nose_hump"]),
            (0.042 * p["nostril_width"], self.nose_y - 0.085, self.tip_z - 0.10, 0.030, 0.030, 0.07, 0, 0, 0.4, -0.05),
            (0.075, p["brow_height"] + 0.01 + e["y"], e["z"] + 0.2, 0.024, 0.07, far, 0, 0, 0,
             -0.007 * (-self.e["brow"]).clamp(min=0) - 0.004 * age),
            (0, 0.40, 0.72, 0.28, 0.020, far, 0, 0, 0, -0.012 * age - 0.014 * self.e["brow"].clamp(min=0)),
            (0, 0.50, 0.72, 0.30, 0.020, far, 0, 0, 0, -0.012 * age - 0.010 * self.e["brow"].clamp(min=0)),
        ]  # fmt: skip
        table = _table(rows, m)
        count = len(m)
        centres = torch.from_numpy(bump_centres()).to(table)
        fixed = torch.cat([centres, torch.full_like(centres, 0.15), torch.zeros_like(centres)], 1)
        own = torch.cat([fixed.expand(count, -1, -1), 0.020 * p.relief[..., None]], -1)
        table = torch.cat([table, own], 1)
        return table[..., :3], table[..., 3:6], table[..., 6:9], table[..., 9][:, None]

    def warp(self, x: Tensor, y: Tensor, z: Tensor) -> Warped:
        """Points of the moving face -> the face at rest, folded: the jaw drops, the lips stretch, the corners lift."""
        p, m = self.p, self.mouth_y
        front = torch.sigmoid((z - 0.12) * 12)
        if self._gaping:
            gap = self.gap(x)
            drop = ((m - gap - y) / (2 * self.gape + 1e-4)).clamp(0, 1)
            # between the lips all is the mouth's line; below, what the gap leaves of the drop is stretched in
            stretch = torch.minimum((m - y).clamp(min=0), gap)
            y = y + (stretch + (self.gape - gap) * drop * drop * (3 - 2 * drop)) * front
        near = front * torch.exp(-(((y - m) / 0.22) ** 2))
        # |x| with a round bottom, or every bump at the middle would leave a ridge
        x = x * x * (x * x + 0.0030).rsqrt()
        around = near * torch.exp(-((x / 0.36) ** 2))
        x = x / (1 + (0.20 * self.e["smile"] - 0.34 * self.e["pucker"] - 0.12 * self.e["jaw"]) * around)
        lift = p["mouth_curve"] + 0.055 * self.e["smile"]
        return Warped(x, y - near * lift * ((x / p["mouth_width"]) ** 2).clamp(max=1.6), z)

    def bumps(self, m: Tensor) -> Tensor:
        """[N,G,R] of monomials: (1 - |p / 2r|^2)^4 within two radii, which is near exp(-|p / r|^2) and much cheaper."""
        return torch.bmm(self._g, m).clamp_(min=0).square_().square_()

    def opening(self, w: Warped) -> tuple[Tensor, Tensor, Tensor]:
        """Lid opening as a field in the face's plane (negative between the lids), and the eye's own u, v."""
        e, tilt, p = self.eye, self.p["eye_tilt"], self.p
        dx, dy = w.x - e["x"], w.y - e["y"]
        u, v = dx * tilt.cos() + dy * tilt.sin(), dy * tilt.cos() - dx * tilt.sin()
        s = (u / e["w"]).clamp(-2, 2)
        arch = (1 - s * s).clamp(min=0)
        upper = e["up"] * arch * (1 - p["eye_peak"] * s) - 0.35 * p["lid_droop"] * e["r"] * s.clamp(min=0) * arch
        lower = e["low"] * arch * (1 + 0.3 * p["eye_peak"] * s)
        return torch.maximum(torch.maximum(v - upper, lower - v), u.abs() - e["w"]), u, v

    def distances(self, x: Tensor, y: Tensor, z: Tensor) -> Distances:
        """Distances of head points [N,R] to the parts."""
        w = self.warp(x, y, z)
        m = monomials(*w)
        d = ellipsoids(self._q0, self._q1, m).unbind(1)
        skin = smin(smin(d[0], d[1], 0.22), d[2], 0.14)
        skin = smin(smin(skin, d[3], 0.16), d[4], 0.18)
        skin = smin(smin(skin, d[5], 0.07), smin(d[6], d[7], 0.05), 0.055)
        skin = smin(skin, d[8], 0.03)
        skin = skin - torch.bmm(self._amplitude, self.bumps(m))[:, 0]
        e = self.eye
        ball = ((w.x - e["x"]) ** 2 + (w.y - e["y"]) ** 2 + (w.z - e["z"]) ** 2).sqrt()
        skin = smin(skin, ball - e["r"] - 0.016, 0.035)
        skin = torch.maximum(skin, -torch.maximum(self.opening(w)[0], e["z"] + 0.25 * e["r"] - w.z))
        away = torch.full_like(x, FAR)
        hole, teeth = away, away
        if self._gaping:
            hole = torch.maximum(d[9], self._slot(x, y))
            teeth = self._teeth(w, y)
            skin = torch.maximum(skin, -hole)
        hair = self._hair(x, y, w, d) if self._haired else away
        glasses = self._glasses(w) if self._wearing else away
        return Distances(skin, hole, teeth, ball - e["r"], hair, glasses)

    def gap(self, x: Tensor) -> Tensor:
        """[N,R] height of the gap between the lips at x, head units."""
        width = self.p["mouth_width"] * (0.86 - 0.25 * self.e["pucker"] + 0.1 * self.e["smile"])
        return self.gape * (1 - (x / width) ** 2).clamp(min=0)

    def _slot(self, x: Tensor, y: Tensor) -> Tensor:
        """Distance to the parted lips' gap in the face's plane, or nothing when shut."""
        half = self.gap(x) / 2
        return ((y - (self.mouth_y - half)).abs() - half) * 0.7 + (half < 0.003) * 0.03 + (self.gape < 0.006) * FAR

    def _teeth(self, w: Warped, y: Tensor) -> Tensor:
        """Distance to the upper row, which does not move with the jaw."""
        z = self.front(torch.zeros_like(self.mouth_y), self.mouth_y) - 0.15
        k = (
            (w.x / (0.8 * self.p["mouth_width"])) ** 2 + ((y - self.mouth_y) / 0.055) ** 2 + ((w.z - z) / 0.10) ** 2
        ).sqrt()
        return (k - 1) * 0.055

    def _hair(self, x: Tensor, y: Tensor, w: Warped, d: tuple[Tensor, ...]) -> Tensor:
        p = self.p
        cap = d[10]
        for i in self._tufted:
            cap = smin(cap, d[i], 0.10)
        cap = torch.minimum(cap, d[13])
        line = self.hairline(x, w.x)
        behind = p["hair_side"] - w.z
        face = smax(y - line, behind, 0.10)
        tuft = 0.010 * torch.sin(31 * w.x + 9 * y) * torch.sin(23 * w.z + 17 * y)
        return smax(smax(cap - tuft * (1 - p["shaved"]), -face * 0.42, 0.05), (p["hair_end"] - y) * 0.8, 0.08)

    def hairline(self, x: Tensor, folded: Tensor) -> Tensor:
        """[N,R] height of the hair's front edge at x."""
        p = self.p
        peak = p["widow_peak"] * (torch.exp(-((folded / 0.12) ** 2)) - 0.5) * -1
        temples = p["recede"] * (0.16 + 0.30 * torch.exp(-(((folded - 0.30) / 0.17) ** 2)))
        fringe = p["has_fringe"] * (p["hairline"] - 0.30 + 0.10 * p["hair_part"] * x.clamp(-0.6, 0.6))
        return p["hairline"] + peak + temples - fringe - 0.35 * (folded / 0.62) ** 4 + 0.05 * p["hair_part"] * x

    def lens(self, w: Warped) -> tuple[Tensor, Tensor]:
        """Signed distance to the rim in the lens's plane, and how far in front of that plane."""
        p, e = self.p, self.eye
        gw, gh = p["glasses_width"], p["glasses_height"]
        corner = p["glasses_round"] * torch.minimum(gw, gh)
        a, b = (w.x - e["x"] - 0.01).abs() - gw + corner, (w.y - e["y"] + 0.03).abs() - gh + corner
        rim = (a.clamp(min=0) ** 2 + b.clamp(min=0) ** 2).sqrt() + torch.maximum(a, b).clamp(max=0) - corner
        return rim, w.z - self.lens_z(w.x)

    def lens_z(self, x: Tensor) -> Tensor:
        """[N,R] z of the curved lens at folded x."""
        e = self.eye
        return e["z"] + e["r"] + 0.055 - 0.35 * (x - 0.15).clamp(min=0) ** 2

    def _glasses(self, w: Warped) -> Tensor:
        p, e = self.p, self.eye
        rim, ahead = self.lens(w)
        top = w.y - e["y"] - 0.02
        ring = (rim**2 + ahead**2).sqrt()
        inner, outer = e["x"] - p["glasses_width"] + 0.01, e["x"] + p["glasses_width"] + 0.01
        bridge = ((w.x - inner).clamp(min=0) ** 2 + top**2 + ahead**2).sqrt()
        edge = self.lens_z(outer)
        # the arm runs from the rim's outer edge to the ear
        along = ((edge - w.z) / (edge + 0.10)).clamp(0, 1)
        arm_x = outer + (0.74 * p["head_width"] - outer) * along**0.6
        back = (w.z - edge).clamp(min=0) + (-0.10 - w.z).clamp(min=0)
        arm = ((w.x - arm_x) ** 2 + top**2 + back**2).sqrt()
        frame = torch.minimum(torch.minimum(ring, bridge), arm) - p["glasses_thick"]
        return frame * 0.8 + (1 - p["glasses"]) * FAR


def _table(rows: list[tuple[Tensor | float, ...]], like: Tensor) -> Tensor:
    """[N,len(rows),C] of rows of numbers and [N,1] tensors."""
    flat = [v if isinstance(v, Tensor) else torch.full_like(like, float(v)) for row in rows for v in row]
    return torch.cat(flat, 1).reshape(len(like), len(rows), -1)
