"""How far the head of a video turns. A video that never turns keeps any identity easily; these numbers unmask it.

T sampled frames; angles are pitch, yaw, roll in degrees with the signs of `ffbench.extract.pose`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from ffbench.metrics import Array, Measured, rows, unscored

POSE_RANGE_VERSION = 1
POSE_RANGE_ROBUST_VERSION = 1


def pose_range(angles: ArrayLike) -> Measured:
    """Range of pitch plus range of yaw plus range of roll over the frames with a face (the paper's Var, Eq. 8).

    An angle's range is the shortest arc that holds all its values: max - min, except where a head crosses 180 degrees
    and the estimator jumps to -180.

    Args:
        angles: [T,3] pitch, yaw, roll in degrees, NaN rows for frames without a face.

    Returns:
        Degrees, 0..1080; NaN with fewer than two faces.

    Raises:
        ValueError: for another shape or a row that is NaN in part.
    """
    return _spread(angles, 0, 100)


def pose_range_robust(angles: ArrayLike) -> Measured:
    """As `pose_range`, from the 5th to the 95th percentile of each angle, so that one bad estimate cannot make it.

    Args:
        angles: [T,3] pitch, yaw, roll in degrees, NaN rows for frames without a face.

    Returns:
        Degrees, 0..1080; NaN with fewer than two faces. Percentiles interpolate linearly between the frames.

    Raises:
        ValueError: for another shape or a row that is NaN in part.
    """
    return _spread(angles, 5, 95)


def yaw_coverage(yaw: ArrayLike, edges: ArrayLike) -> Measured:
    """Share of the yaw bins that at least one frame visits.

    Args:
        yaw: [T] degrees, NaN for frames without a face.
        edges: [B+1] degrees, increasing; bins are [low, high), the last one includes its upper edge.

    Returns:
        A value in 0..1; NaN without a face.

    Raises:
        ValueError: for other shapes or edges that do not increase.
    """
    values, e = np.asarray(yaw, np.float64), np.asarray(edges, np.float64)
    if values.ndim != 1 or e.ndim != 1 or len(e) < 2 or not (np.diff(e) > 0).all():
        raise ValueError("expected yaw [T] and at least two increasing edges")
    present = values[~np.isnan(values)]
    if not len(present):
        return unscored(f"no head pose in any of {len(values)} frames", values.tolist())
    visited = np.histogram(present, e)[0] > 0
    return Measured(float(visited.mean()), "", len(present), tuple(values.tolist()))


def _spread(angles: ArrayLike, low: float, high: float) -> Measured:
    values, found = rows(angles, "angles", 3)
    if found.sum() < 2:
        return unscored(f"{found.sum()} of {len(values)} frames have a head pose, a range needs two")
    ranges = [np.diff(np.percentile(_unrolled(column), (low, high)))[0] for column in values[found].T]
    return Measured(float(np.sum(ranges)), "", int(found.sum()))


def _unrolled(degrees: Array) -> Array:
    """The angles [n] sorted along the shortest arc that holds them, modulo 360."""
    turned = np.sort(np.mod(degrees, 360.0))
    gaps = np.diff(turned, append=turned[0] + 360.0)
    start = (int(np.argmax(gaps)) + 1) % len(turned)
    return np.concatenate([turned[start:], turned[:start] + 360.0])
