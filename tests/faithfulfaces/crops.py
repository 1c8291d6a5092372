"""Shards of made-up faces for the analysis: each person a pattern, each pose a gradient of light over it."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from faithfulfaces.shards import Sample, write_shard

POSES = [(0, 0, 0), (5, 10, 3), (0, 45, 0), (3, 60, -5), (0, -45, 0), (2, -60, 4), (40, 0, 0), (50, 5, 0), (-40, 0, 0)]
"""Two frontal, two left, two right, two up, one down."""


def write(folder: Path, people: int = 6, size: int = 24, seed: int = 0) -> Path:
    """One shard of `people` clips with nine crops each; returns the folder."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    ramp = np.linspace(-1, 1, size)
    samples = []
    for person in range(people):
        pattern = np.kron(rng.integers(60, 190, (4, 4, 3)), np.ones((size // 4, size // 4, 1)))
        crops = []
        for pitch, yaw, _ in POSES:
            light = (
                pattern
                + 60 * (np.sin(np.radians(yaw)) * ramp[None] + np.sin(np.radians(pitch)) * ramp[:, None])[..., None]
            )
            stream = io.BytesIO()
            Image.fromarray(light.clip(0, 255).astype(np.uint8)).save(stream, "JPEG", quality=95)
            crops.append(stream.getvalue())
        euler = [(float(p), float(y), float(r)) for p, y, r in POSES]
        samples.append(
            Sample(key=f"clip{person:03d}", identity=f"person{person:03d}", prompt="", crops=crops, euler=euler)
        )
    write_shard(folder / "00000.tar", samples)
    return folder
