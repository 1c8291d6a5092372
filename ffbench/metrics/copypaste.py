"""How much of a video's likeness is the reference photograph shown again rather than the person seen anew."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ffbench.metrics import Array, Measured, rows, unscored

COPY_PASTE_VERSION = 1

NEAR = 15.0
"""Degrees within which a head faces as the reference does."""


class PoseSplit(NamedTuple):
    """FaceSim in the reference's own pose and outside it. The means are NaN where there is no such frame."""

    near: float
    """Mean raw cosine of the frames that face as the reference does."""
    far: float
    """Mean raw cosine of the others."""
    num_near: int
    num_far: int

    @property
    def share_near(self) -> float:
        """Share of the frames with a face that face as the reference does; NaN without a face."""
        total = self.num_near + self.num_far
        return self.num_near / total if total else math.nan


def view_distance(angles: ArrayLike, reference: ArrayLike) -> Array:
    """Angle between the directions in which the face of each frame and of the reference look.

    The direction is (cos pitch sin yaw, sin pitch, cos pitch cos yaw); roll is left out, since alignment takes it off
    and it shows no other side of the face.

    Args:
        angles: [T,3] pitch, yaw, roll in degrees, NaN rows for frames without a face.
        reference: [3] pitch, yaw, roll of the reference in degrees.

    Returns:
        [T] degrees in 0..180, NaN without a face.

    Raises:
        ValueError: for other shapes, a row that is NaN in part or a reference without a pose.
    """
    frames, _ = rows(angles, "angles", 3)
    one, present = rows(np.asarray(reference)[None], "reference", 3)
    if not present[0]:
        raise ValueError("reference: it has no head pose")
    a, b = _looking(frames), _looking(one)
    # atan2 keeps small angles exact, where arccos loses half the digits
    distance: Array = np.degrees(np.arctan2(np.linalg.norm(np.cross(a, b), axis=1), (a * b).sum(axis=1)))
    return distance


def split_by_pose(similarity: ArrayLike, angles: ArrayLike, reference: ArrayLike, *, near: float = NEAR) -> PoseSplit:
    """FaceSim of the frames within `near` degrees of the reference's view, and of the others.

    Args:
        similarity: [T] cosines, NaN where there is no face.
        angles: [T,3] pitch, yaw, roll in degrees, NaN rows for frames without a face.
        reference: [3] pitch, yaw, roll of the reference in degrees.
        near: degrees.

    Returns:
        The two means and their counts. `near - far` is what the likeness loses as the head leaves the photograph's
        pose; some loss is natural, for face encoders themselves dislike profiles.

    Raises:
        ValueError: as `view_distance`, or for cosines of another shape.
    """
    values, close, used = _close(similarity, angles, reference, near)
    inside, outside = values[used & close], values[used & ~close]
    means = [float(part.mean()) if len(part) else math.nan for part in (inside, outside)]
    return PoseSplit(means[0], means[1], len(inside), len(outside))


def copy_paste(similarity: ArrayLike, angles: ArrayLike, reference: ArrayLike, *, near: float = NEAR) -> Measured:
    """The part of FaceSim that a video earns in the reference's own pose.

    (1/n) x sum of max(cosine, 0) over the frames within `near` degrees of the reference's view, n being all frames
    with a face. Clamped FaceSim is this plus the part earned in other poses: a frozen photograph earns all of it here,
    a stranger earns nothing, a head that turns earns it elsewhere.

    Args:
        similarity: [T] cosines, NaN where there is no face.
        angles: [T,3] pitch, yaw, roll in degrees, NaN rows for frames without a face.
        reference: [3] pitch, yaw, roll of the reference in degrees.
        near: degrees.

    Returns:
        A value in 0..1; `per_frame` holds each frame's term, NaN without a face.

    Raises:
        ValueError: as `view_distance`, or for cosines of another shape.
    """
    values, close, used = _close(similarity, angles, reference, near)
    terms = np.where(used, np.where(close, np.maximum(values, 0.0), 0.0), np.nan)
    if not used.any():
        return unscored(f"no face with a head pose in any of {len(values)} frames", terms.tolist())
    return Measured(float(terms[used].mean()), "", int(used.sum()), tuple(terms.tolist()))


def _close(
    similarity: ArrayLike, angles: ArrayLike, reference: ArrayLike, near: float
) -> tuple[Array, NDArray[np.bool_], NDArray[np.bool_]]:
    """Cosines, whether the frame is near the reference's view, and whether it has both."""
    values = np.asarray(similarity, np.float64)
    distance = view_distance(angles, reference)
    if values.shape != distance.shape:
        raise ValueError(f"expected cosines {list(distance.shape)}, got {list(values.shape)}")
    return values, distance <= near, ~np.isnan(values) & ~np.isnan(distance)


def _looking(angles: Array) -> Array:
    """[T,3] degrees -> [T,3] unit vectors."""
    pitch, yaw = np.radians(angles[:, 0]), np.radians(angles[:, 1])
    return np.stack([np.cos(pitch) * np.sin(yaw), np.sin(pitch), np.cos(pitch) * np.cos(yaw)], axis=1)
