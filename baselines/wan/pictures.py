"""Reference photographs as the methods want them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

WHITE = (255, 255, 255)


def read(path: str) -> Image.Image:
    """A reference as RGB."""
    with Image.open(path) as image:
        return image.convert("RGB")


def fit_on_white(image: Image.Image, width: int, height: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Scale to fit, aspect kept (Lanczos, sizes rounded down), and centre on white.

    Returns:
        uint8 [height,width,3], and where the picture is: bool [height,width].
    """
    ratio = image.width / image.height
    # in this order of operations, so that rounding errors cut the pixels that they cut for the authors
    inner = (width, max(int(width / ratio), 1)) if ratio > width / height else (max(int(height * ratio), 1), height)
    left, top = (width - inner[0]) // 2, (height - inner[1]) // 2
    canvas = Image.new("RGB", (width, height), WHITE)
    canvas.paste(image.resize(inner, Image.Resampling.LANCZOS), (left, top))
    region = np.zeros((height, width), bool)
    region[top : top + inner[1], left : left + inner[0]] = True
    return np.asarray(canvas), region
