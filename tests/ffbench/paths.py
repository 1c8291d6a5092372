"""Where the project's data lies, and small real files to test with."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ffbench.image import write_png
from ffbench.video import write_mp4

PROMPTS = Path(__file__).parents[2] / "prompts"


def photo(path: Path, colour: int = 0) -> Path:
    """A small plain picture; its colour makes its content its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_png(path, np.full((16, 12, 3), (colour % 256, colour // 256, 7), np.uint8))
    return path


def video(path: Path, colour: int = 0, frames: int = 3) -> Path:
    """A short real video."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((frames, 32, 32, 3), colour, np.uint8)
    pixels[:, 8:16] += np.arange(frames, dtype=np.uint8)[:, None, None, None] * 20
    write_mp4(path, pixels, 8.0)
    return path
