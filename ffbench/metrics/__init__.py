"""Pure metrics: arrays in, a number with its count out. No files, no models, no records."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple


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
