"""Cheap measures of a clip's pictures: clarity and a perceptual hash. Pure; frames are uint8 [T,H,W,3] RGB."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.fft import dctn

Pixels = NDArray[np.uint8]
LOOKED = 8
"""Frames of a clip that measures of its pictures look at, evenly spread."""
HASHED = (0.25, 0.5, 0.75)
"""Places in a clip whose frames are hashed."""


def looked(count: int) -> NDArray[np.int64]:
    """Numbers of the frames that are looked at, of `count`."""
    return np.unique(np.linspace(0, count - 1, LOOKED).round().astype(np.int64))


def clarity(frames_THW3: Pixels) -> float:
    """Median over frames of the variance of the Laplacian of the 8-bit grey picture; a blurred picture has little.

    Pech-Pacheco et al., ICPR 2000; the 3x3 kernel of four neighbours.
    """
    grey = [cv2.cvtColor(frames_THW3[i], cv2.COLOR_RGB2GRAY) for i in looked(len(frames_THW3))]
    values = [cv2.Laplacian(picture, cv2.CV_64F).var() for picture in grey]
    return float(np.median(values))


def perceptual_hash(frame_HW3: Pixels) -> int:
    """64 bits of a picture: which low frequencies of its 32x32 DCT lie above their median (pHash).

    The constant term is left out of the median, not of the bits.
    """
    small = cv2.resize(cv2.cvtColor(frame_HW3, cv2.COLOR_RGB2GRAY), (32, 32), interpolation=cv2.INTER_AREA)
    low = dctn(small.astype(np.float64), norm="ortho")[:8, :8].ravel()
    bits = low > np.median(low[1:])
    return int("".join("1" if bit else "0" for bit in bits), 2)


def clip_hash(frames_THW3: Pixels) -> str:
    """16 hex digits of each of three frames, joined."""
    last = len(frames_THW3) - 1
    return "".join(f"{perceptual_hash(frames_THW3[round(place * last)]):016x}" for place in HASHED)


def duplicates(hashes: Sequence[str], sources: Sequence[str], distance: int) -> list[int]:
    """Of each clip, the first clip that it equals, or -1.

    Two clips are one when each of their hashed frames differs in at most `distance` of 64 bits and their sources
    differ: pieces of one shot before a still camera look alike and are not the same.

    Args:
        hashes: of `clip_hash`, N.
        sources: N names.
        distance: bits; negative for none.
    """
    first = [-1] * len(hashes)
    if distance < 0 or not hashes:
        return first
    table_N3 = np.array([[int(h[i : i + 16], 16) for i in (0, 16, 32)] for h in hashes], np.uint64)
    names = np.unique(np.asarray(sources), return_inverse=True)[1]
    unique = np.ones(len(hashes), bool)
    for row in range(1, len(hashes)):
        before = np.flatnonzero(unique[:row] & (names[:row] != names[row]))
        apart = np.bitwise_count(table_N3[before] ^ table_N3[row]).max(1, initial=0)
        equal = before[apart <= distance]
        if len(equal):
            first[row], unique[row] = int(equal[0]), False
    return first
