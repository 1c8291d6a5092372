"""Step 2: how much the pose of a clip's face varies (Section 3.4, "Pose Estimation", Eq. 8). Degrees."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from faithfulfaces.dataset.settings import Subject

Floats = NDArray[np.floating]
STEADY = 20.0
"""Degrees that an angle may lie off the median of its five neighbours: a head turns slower than that in a frame."""


def variation(angles_T3: Floats) -> float:
    """Eq. 8: the sum over pitch, yaw and roll of greatest minus least; NaN without a finite row."""
    rows = _finite(angles_T3)
    return float(np.ptp(rows, axis=0).sum()) if len(rows) else float("nan")


def robust_variation(angles_T3: Floats, percentile: float = 5.0) -> float:
    """Eq. 8 with percentiles p and 100 - p in place of least and greatest; equals it at p = 0."""
    rows = _finite(angles_T3)
    if not len(rows):
        return float("nan")
    low, high = np.percentile(rows, (percentile, 100 - percentile), axis=0)
    return float((high - low).sum())


def steady_variation(angles_T3: Floats) -> float:
    """Eq. 8 over the rows that `steady` keeps; NaN without one."""
    return variation(angles_T3[steady(angles_T3)])


def measured(angles_T3: Floats, subject: Subject) -> float:
    """The variation that the threshold is for."""
    if subject.variation == "steady":
        return steady_variation(angles_T3)
    if subject.variation == "range":
        return variation(angles_T3)
    return robust_variation(angles_T3, subject.percentile)


def ranges(angles_T3: Floats) -> list[tuple[float, float]]:
    """(least, greatest) of pitch, yaw and roll; NaN without a finite row."""
    rows = _finite(angles_T3)
    if not len(rows):
        return [(float("nan"), float("nan"))] * 3
    return [(float(low), float(high)) for low, high in zip(rows.min(0), rows.max(0), strict=True)]


def best_run(number_T: NDArray[np.int64], angles_T3: Floats, length: int, run: int, subject: Subject) -> int:
    """First frame of the `run` consecutive frames with the greatest variation, the earliest of equals.

    Args:
        number_T: frames that were looked at.
        angles_T3: their angles, NaN without a face.
        length: frames of the clip, at least `run`.
        run: frames of a sample.
        subject: which variation.
    """
    best, at = -1.0, 0
    for start in range(0, length - run + 1, subject.stride):
        rows = (number_T >= start) & (number_T < start + run)
        value = measured(angles_T3[rows], subject)
        if value > best:
            best, at = value, start
    return at


def steady(angles_T3: Floats) -> NDArray[np.bool_]:
    """[T] rows whose angles lie near the median of two rows before and two after: what a bad frame does not.

    A row without a finite neighbour is not steady.
    """
    out = np.zeros(len(angles_T3), bool)
    for row in range(len(angles_T3)):
        near = angles_T3[max(0, row - 2) : row + 3]
        near = near[np.isfinite(near).all(1)]
        if np.isfinite(angles_T3[row]).all() and len(near) >= 2:
            out[row] = bool((np.abs(angles_T3[row] - np.median(near, axis=0)) <= STEADY).all())
    return out


def spanning(angles_T3: Floats, count: int) -> list[int]:
    """Rows that span the poses: the most frontal first, then always the row farthest from all taken.

    Args:
        angles_T3: finite.
        count: rows wanted; fewer come where there are fewer.

    Returns:
        Different rows; the first is the most frontal.
    """
    if not len(angles_T3):
        return []
    taken = [int(np.argmin(np.square(angles_T3).sum(1)))]
    apart = np.linalg.norm(angles_T3 - angles_T3[taken[0]], axis=1)
    while len(taken) < min(count, len(angles_T3)):
        apart[taken] = -1.0
        taken.append(int(np.argmax(apart)))
        apart = np.minimum(apart, np.linalg.norm(angles_T3 - angles_T3[taken[-1]], axis=1))
    return taken


def _finite(angles_T3: Floats) -> Floats:
    rows = np.asarray(angles_T3, np.float64)
    return rows[np.isfinite(rows).all(1)]
