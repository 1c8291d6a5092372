"""Pure metrics: arrays in, a number with its count out. No files, no models, no records."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
UNIT_TOLERANCE = 1e-3
"""How far the length of a unit vector may be from 1: float16 embeddings pass, raw ones do not."""


class Measured(NamedTuple):
    """A metric's value for one video, with what it was computed from.

    `value` is NaN exactly when `reason` is not empty; `per_frame` has one entry a sampled frame (NaN where the frame
    gave none) or is empty for metrics without a per-frame form; `num_scored` counts the frames that entered the value.
    """

    value: float
    reason: str
    num_scored: int
    per_frame: tuple[float, ...] = ()


def unscored(reason: str, per_frame: Sequence[float] = ()) -> Measured:
    """A missing value with its reason (never 0)."""
    return Measured(math.nan, reason, 0, tuple(per_frame))


def rows(values: ArrayLike, what: str, width: int | None = None) -> tuple[Array, NDArray[np.bool_]]:
    """Rows [T,D] as float64, and which of them are present [T]; a missing row is NaN throughout.

    Raises:
        ValueError: for another shape, an infinite value or a row that is NaN in part.
    """
    array = np.asarray(values, np.float64)
    if array.ndim != 2 or (width is not None and array.shape[1] != width):
        raise ValueError(f"{what}: expected shape [T,{'D' if width is None else width}], got {list(array.shape)}")
    present = np.logical_not(np.isnan(array).all(axis=1))
    if not np.isfinite(array[present]).all():
        raise ValueError(f"{what}: a row is finite, or NaN throughout")
    return array, present


def unit_rows(values: ArrayLike, what: str, width: int | None = None) -> tuple[Array, NDArray[np.bool_]]:
    """As `rows`, for unit vectors; their length is brought to 1 in float64.

    Raises:
        ValueError: as `rows`, or for a row whose length differs from 1 by more than UNIT_TOLERANCE.
    """
    array, found = rows(values, what, width)
    length = np.linalg.norm(array, axis=1, keepdims=True)
    if (np.abs(length[found] - 1) > UNIT_TOLERANCE).any():
        raise ValueError(
            f"{what}: expected unit vectors, got lengths {length[found].min():.4g}..{length[found].max():.4g}"
        )
    return array / length, found
