"""What surrounds a head in one frame: pose, clothes, backdrop, light and what passes in front."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from faithfulfaces.synthetic.head import Expression
from faithfulfaces.synthetic.people import linear

Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Blob:
    """An ellipsoid in front of the camera: a glove, a hand, a prop. Head units, camera axes, angle in radians."""

    centre: tuple[float, float, float]
    radius: tuple[float, float, float]
    colour: Colour
    """Linear RGB."""
    angle: float = 0.0
    """Turn in the image plane, counter-clockwise."""


@dataclass(frozen=True)
class Setting:
    """Of a whole clip."""

    backdrop: str = "plain"
    cloth: Colour = (0.16, 0.19, 0.24)
    """Linear RGB."""
    trim: Colour = (0.5, 0.5, 0.5)
    neckline: float = 0.15
    light: float = -0.5
    """Azimuth of the key light in radians, negative from image-left."""
    seed: int = 0
    """Of the backdrop's blurred shapes."""


@dataclass(frozen=True)
class Frame:
    """Pose and expression of one frame; angles in degrees, signs in ffbench/extract/pose.py."""

    pitch: float = 0.0
    yaw: float = 0.0
    roll: float = 0.0
    body_yaw: float = 0.0
    shift: tuple[float, float] = (0.0, 0.0)
    """Of the body in head units, image-right and up."""
    zoom: float = 1.0
    expression: Expression = field(default_factory=Expression)
    blobs: tuple[Blob, ...] = ()


# top, middle, bottom, accent (sRGB) and the pattern of the accent
BACKDROPS: Mapping[str, tuple[Colour, Colour, Colour, Colour, str]] = {
    "plain": ((150, 158, 164), (140, 148, 154), (120, 128, 134), (150, 158, 164), "none"),
    "brick-walled boxing gym": ((96, 50, 40), (132, 70, 54), (70, 46, 40), (240, 190, 110), "bricks"),
    "city rooftop at sunrise": ((96, 120, 176), (246, 170, 120), (84, 78, 92), (60, 60, 84), "towers"),
    "windy sandy beach": ((130, 180, 222), (96, 160, 190), (222, 200, 150), (240, 244, 246), "horizon"),
    "cluttered home garage": ((88, 90, 92), (112, 104, 92), (70, 66, 62), (170, 120, 60), "boxes"),
    "living room in the evening": ((92, 64, 50), (150, 104, 70), (74, 52, 46), (250, 204, 130), "glow"),
    "night market": ((18, 20, 44), (44, 30, 66), (30, 24, 38), (244, 80, 160), "lights"),
    "salt flat at dusk": ((104, 84, 150), (240, 140, 84), (214, 214, 222), (250, 190, 120), "horizon"),
    "wooden pier on a misty lake": ((186, 196, 200), (164, 178, 182), (124, 104, 84), (70, 96, 84), "trees"),
    "reading hall of a library": ((96, 66, 40), (120, 80, 46), (74, 48, 30), (60, 140, 90), "shelves"),
    "railway platform in winter": ((196, 210, 224), (164, 178, 194), (128, 134, 142), (250, 252, 255), "snow"),
    "sunlit restaurant kitchen": ((240, 234, 218), (226, 222, 208), (170, 164, 156), (200, 120, 70), "tiles"),
    "mirrored rehearsal studio": ((222, 226, 230), (206, 210, 214), (184, 154, 116), (246, 248, 250), "windows"),
    "theatre stage with red curtain": ((96, 10, 20), (140, 18, 28), (70, 42, 30), (190, 40, 44), "curtain"),
    "autumn park": ((226, 170, 80), (206, 120, 40), (140, 80, 36), (240, 200, 90), "leaves"),
    "lecture hall": ((150, 160, 176), (126, 124, 124), (96, 74, 56), (190, 214, 244), "windows"),
    "town square in the rain": ((134, 142, 150), (116, 122, 128), (88, 90, 94), (170, 190, 204), "rain"),
    "garden party at night": ((14, 26, 24), (26, 44, 34), (38, 36, 28), (252, 208, 120), "lights"),
    "dim room with a rainy window": ((34, 40, 58), (44, 52, 74), (30, 28, 34), (120, 150, 200), "rain"),
    "roller coaster on a sunny day": ((70, 150, 234), (130, 190, 244), (110, 170, 96), (240, 244, 248), "beams"),
    "inventor's workshop": ((66, 52, 38), (84, 66, 44), (52, 42, 36), (130, 220, 120), "lights"),
}


def backdrop(setting: Setting, side: int, device: torch.device | str = "cpu") -> Tensor:
    """[3,side,side] linear RGB: a vertical gradient with the blurred shapes of the place."""
    *colours, pattern = BACKDROPS[setting.backdrop]
    top, middle, bottom, accent = torch.tensor([linear(c) for c in colours if not isinstance(c, str)])
    line = (torch.arange(side) + 0.5) / side
    y, x = torch.meshgrid(line, line, indexing="ij")
    rng = np.random.default_rng([7, setting.seed])
    horizon = float(rng.uniform(0.48, 0.62))
    soft = 0.06 if pattern in ("horizon", "towers") else 0.3
    up = torch.sigmoid((horizon - y) / soft * 2)
    sky = top[:, None, None] + (middle - top)[:, None, None] * (y / horizon).clamp(0, 1)
    picture = bottom[:, None, None] * (1 - up) + sky * up
    share = _pattern(pattern, x, y, rng).clamp(0, 1)
    accented: Tensor = picture + (accent[:, None, None] - picture) * share
    return accented.to(device)


def _pattern(name: str, x: Tensor, y: Tensor, rng: np.random.Generator) -> Tensor:
    """[side,side] 0..1 share of the accent's colour."""
    u, v = (float(rng.uniform()) for _ in range(2))

    def bands(at: Tensor, count: float, sharp: float) -> Tensor:
        return torch.sigmoid((torch.sin(at * count * 2 * math.pi + u * 6) - 0.6) * sharp)

    def dots(count: int, low: float, high: float, radius: float) -> Tensor:
        out = torch.zeros_like(x)
        for cx, cy, r in zip(rng.uniform(0, 1, count), rng.uniform(low, high, count), rng.uniform(0.6, 1.5, count),
                             strict=True):  # fmt: skip
            out = out + torch.exp(-((((x - cx) ** 2 + (y - cy) ** 2) / (radius * r) ** 2) ** 2))
        return out

    wall = torch.sigmoid((0.62 - y) * 30)
    makers = {
        "none": lambda: torch.zeros_like(x),
        "bricks": lambda: 0.10 * bands(y, 12, 6) + 0.06 * bands(x + 0.04 * torch.floor(y * 12), 7, 6)
        + 0.5 * dots(2, 0.05, 0.2, 0.10),
        "towers": lambda: 0.8 * torch.sigmoid((y - 0.42 + 0.12 * torch.sin(torch.floor(x * 7) * (2 + u))) * 40) * wall,
        "horizon": lambda: 0.35 * torch.exp(-(((y - 0.50) / 0.03) ** 2)) + 0.3 * dots(2, 0.1, 0.35, 0.12),
        "boxes": lambda: 0.5
        * torch.sigmoid(torch.sin(torch.floor(x * 6) * 3.1 + torch.floor(y * 5) * (5 + u)) * 5 - 2),
        "glow": lambda: 0.8 * torch.exp(-(((x - 0.12 - 0.7 * (v > 0.5)) ** 2 + (y - 0.3) ** 2) / 0.02)),
        "lights": lambda: 0.8 * dots(14, 0.05, 0.6, 0.028),
        "trees": lambda: 0.55 * torch.sigmoid((torch.sin(x * 26 + 6 * u) * 0.1 + y - 0.36) * 30)
        * torch.sigmoid((0.55 - y) * 30),
        "shelves": lambda: 0.45 * bands(x, 11, 4) * bands(y, 3, 3) + 0.6 * dots(2, 0.3, 0.5, 0.06),
        "snow": lambda: 0.7 * dots(26, 0, 1, 0.016),
        "tiles": lambda: 0.12 * torch.maximum(bands(x, 9, 8), bands(y, 9, 8)) + 0.6 * dots(3, 0.05, 0.2, 0.07),
        "windows": lambda: 0.7 * bands(x, 2.5, 8) * torch.sigmoid((0.5 - y) * 30),
        "curtain": lambda: 0.5 * bands(x + 0.01 * torch.sin(y * 9), 8, 2) * torch.sigmoid((0.8 - y) * 20),
        "leaves": lambda: 0.6 * dots(24, 0, 1, 0.03),
        "rain": lambda: 0.35 * bands(x * 3 + y * 0.6 + 0.15 * torch.sin(y * 11), 9, 5) * (0.4 + 0.6 * wall),
        "beams": lambda: 0.75 * torch.maximum(bands(x + y, 2, 9), bands(x - y, 1.5, 9)),
    }  # fmt: skip
    return makers[name]()
