"""Who is who among the clips, and on which side of the split each person stands. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
BLOCK = 4096


def mean_direction(embeddings_KD: Floats) -> Floats:
    """[D] unit mean of a clip's embeddings; NaN where none of them has a direction."""
    rows = embeddings_KD[np.isfinite(embeddings_KD).all(1)]
    total = rows.sum(0)
    length = float(np.linalg.norm(total))
    return np.asarray(total / length if length > 0 else np.full(embeddings_KD.shape[1], np.nan), np.float32)


def grouped(means_ND: Floats, same: float) -> list[int]:
    """Of each clip, the first clip of its person: people are what chains of cosines of at least `same` connect.

    Args:
        means_ND: unit rows; a row of NaN is a person by itself.
        same: cosine.
    """
    parent = list(range(len(means_ND)))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    known = np.nan_to_num(means_ND)
    for first in range(0, len(known), BLOCK):
        block = known[first : first + BLOCK]
        for second in range(first, len(known), BLOCK):
            near = np.argwhere(block @ known[second : second + BLOCK].T >= same)
            for a, b in near.tolist():
                low, high = sorted((root(first + a), root(second + b)))
                parent[high] = low
    return [root(row) for row in range(len(means_ND))]


def split_of(identity: str, val: float, seed: int) -> str:
    """`train` or `val`, by a digest of the name: a person stays where they are when others come or go."""
    number = int.from_bytes(hashlib.sha256(f"{seed}:{identity}".encode()).digest()[:8], "big")
    return "val" if number < val * 2**64 else "train"


def names(keys: Sequence[str], groups: Sequence[int]) -> list[str]:
    """Identity of each clip: the key of its person's first clip."""
    return [keys[group] for group in groups]
