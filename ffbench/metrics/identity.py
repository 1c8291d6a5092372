"""How well the face of a video keeps the identity of the reference photograph.

T sampled frames, D width of the embedding. A frame without a face is a row of NaN and never counts as 0, except where
a function's name or option says so.
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ffbench.metrics import Array, Measured, unit_rows, unscored

FACESIM_VERSION = 1
MISSING_AS_ZERO_VERSION = 1
FACESIM_WHERE_VERSION = 1
FACE_RATE_VERSION = 1
IDENTITY_DRIFT_VERSION = 1
SAME_IDENTITY_RATE_VERSION = 1

DRIFT_FRAMES = 4
"""A slope needs this many frames with a face."""
DRIFT_SPAN = 0.5
"""The frames with a face must span this share of the sampled time, or the slope would be an extrapolation."""


class Bin(NamedTuple):
    """Mean of the values whose angle lies in [low, high); NaN where the bin is empty."""

    low: float
    high: float
    mean: float
    num_frames: int


def cosines(reference: ArrayLike, embeddings: ArrayLike) -> Array:
    """Cosine of each frame's face to the reference.

    Args:
        reference: [D] unit vector.
        embeddings: [T,D] unit vectors, NaN rows for frames without a face.

    Returns:
        [T] in -1..1, NaN where there is no face.

    Raises:
        ValueError: for other shapes, a reference without a face, or vectors that are not of unit length.
    """
    one, present = unit_rows(np.asarray(reference)[None], "reference")
    if not present[0]:
        raise ValueError("reference: it holds no face")
    frames, _ = unit_rows(embeddings, "embeddings", one.shape[1])
    cosine: Array = np.clip(frames @ one[0], -1.0, 1.0)
    return cosine


def facesim(
    reference: ArrayLike,
    embeddings: ArrayLike,
    *,
    clamp: bool = False,
    drop_zeros: bool = False,
    faceless_as_zero: bool = False,
) -> Measured:
    """FaceSim: mean cosine to the reference over the frames with a face.

    Args:
        reference: [D] unit vector.
        embeddings: [T,D] unit vectors, NaN rows for frames without a face.
        clamp: count negative cosines as 0 (ConsisID, OpenS2V-Eval).
        drop_zeros: leave out frames that then stand at exactly 0 (OpenS2V-Eval).
        faceless_as_zero: 0.0 instead of NaN when no frame is left (both scripts).

    Returns:
        A value in -1..1; `per_frame` holds the raw cosines whatever the options are.

    Raises:
        ValueError: as `cosines`.
    """
    per_frame = cosines(reference, embeddings)
    used = per_frame[~np.isnan(per_frame)]
    num_faces = len(used)
    used = np.maximum(used, 0.0) if clamp else used
    used = used[used != 0] if drop_zeros else used
    if len(used):
        return Measured(float(used.mean()), "", len(used), tuple(per_frame.tolist()))
    if faceless_as_zero:
        return Measured(0.0, "", 0, tuple(per_frame.tolist()))
    reason = f"every cosine of {num_faces} faces was dropped" if num_faces else _no_face(per_frame)
    return unscored(reason, per_frame.tolist())


def missing_as_zero(reference: ArrayLike, embeddings: ArrayLike) -> Measured:
    """FaceSim over all sampled frames: a frame without a face, or with a negative cosine, counts as 0.

    The cosines are clamped because only then can losing the face never pay: without it a frame without a face would
    raise the mean of a video whose cosines are negative.

    Args:
        reference: [D] unit vector.
        embeddings: [T,D] unit vectors, NaN rows for frames without a face.

    Returns:
        A value in 0..1, 0.0 for a video without any face; `num_scored` counts the frames with a face.

    Raises:
        ValueError: as `cosines`.
    """
    per_frame = cosines(reference, embeddings)
    if not len(per_frame):
        return unscored("no frame was sampled")
    kept = np.maximum(np.nan_to_num(per_frame, nan=0.0), 0.0)
    return Measured(float(kept.mean()), "", int((~np.isnan(per_frame)).sum()), tuple(per_frame.tolist()))


def facesim_where(reference: ArrayLike, embeddings: ArrayLike, mask: ArrayLike, what: str) -> Measured:
    """FaceSim over the frames that have a face and are chosen by `mask`, such as those with |yaw| above 45 degrees.

    Args:
        reference: [D] unit vector.
        embeddings: [T,D] unit vectors, NaN rows for frames without a face.
        mask: [T] bool.
        what: the choice in words, for the reason: "with |yaw| above 45 degrees".

    Returns:
        A value in -1..1; `per_frame` is NaN outside the mask.

    Raises:
        ValueError: as `cosines`, or for a mask of another shape or type.
    """
    per_frame = cosines(reference, embeddings)
    chosen = np.asarray(mask)
    if chosen.shape != per_frame.shape or chosen.dtype != np.bool_:
        raise ValueError(f"mask: expected bool {list(per_frame.shape)}, got {chosen.dtype} {list(chosen.shape)}")
    return _mean_of(np.where(chosen, per_frame, np.nan), f"no face {what} in any of {len(per_frame)} frames")


def face_rate(found: ArrayLike) -> Measured:
    """Share of the sampled frames in which a face was found.

    Args:
        found: [T] bool.

    Returns:
        A value in 0..1; every sampled frame is scored.

    Raises:
        ValueError: for another shape or type.
    """
    flags = np.asarray(found)
    if flags.ndim != 1 or flags.dtype != np.bool_:
        raise ValueError(f"found: expected bool [T], got {flags.dtype} {list(flags.shape)}")
    return _mean_of(flags.astype(np.float64), "no frame was sampled")


def identity_drift(similarity: ArrayLike, time: ArrayLike) -> Measured:
    """Change of FaceSim over time: the least-squares slope of the cosines, per second.

    -0.05 says that the face loses 0.05 of cosine each second. A slope, and not last minus first, because methods make
    videos of different lengths and any frame may lack a face.

    Args:
        similarity: [T] cosines, NaN where there is no face.
        time: [T] seconds.

    Returns:
        Cosine per second; NaN with fewer than DRIFT_FRAMES faces, or where these span less than DRIFT_SPAN of the
        sampled time.

    Raises:
        ValueError: for other shapes or times that are not finite.
    """
    y, t = np.asarray(similarity, np.float64), np.asarray(time, np.float64)
    if y.ndim != 1 or y.shape != t.shape or not np.isfinite(t).all():
        raise ValueError(f"expected cosines [T] and finite times [T], got {list(y.shape)} and {list(t.shape)}")
    found = ~np.isnan(y)
    if found.sum() < DRIFT_FRAMES:
        return unscored(f"{found.sum()} of {len(y)} frames have a face, a slope needs {DRIFT_FRAMES}", y.tolist())
    seconds = np.ptp(t[found])
    if seconds <= 0 or seconds < DRIFT_SPAN * np.ptp(t):
        share = f"{seconds:.2f} of {np.ptp(t):.2f} s"
        return unscored(f"the frames with a face span {share}, a slope needs {DRIFT_SPAN:.0%}", y.tolist())
    centred = t[found] - t[found].mean()
    slope = (centred @ (y[found] - y[found].mean())) / (centred @ centred)
    return Measured(float(slope), "", int(found.sum()), tuple(y.tolist()))


def same_identity_rate(similarity: ArrayLike, threshold: float) -> Measured:
    """Share of the frames with a face whose cosine exceeds a calibrated threshold.

    Args:
        similarity: [T] cosines, NaN where there is no face.
        threshold: from `threshold_at_far`, for the same network.

    Returns:
        A value in 0..1; `per_frame` is 1 where the frame passes and 0 where it does not.

    Raises:
        ValueError: for a threshold that is not a number.
    """
    if math.isnan(threshold):
        raise ValueError("threshold: expected a number, got NaN")
    values = np.asarray(similarity, np.float64)
    passed = np.where(np.isnan(values), np.nan, values > threshold)
    return _mean_of(passed, _no_face(values))


def threshold_at_far(impostor_cosines: ArrayLike, far: float) -> float:
    """The smallest observed cosine that at most a share `far` of the pairs of strangers exceed.

    Args:
        impostor_cosines: [n] cosines of pairs of different people.
        far: false-accept rate, in 0..1.

    Returns:
        A threshold for a strict comparison (`cosine > threshold`).

    Raises:
        ValueError: where n pairs cannot resolve the rate (n * far < 1), or the values are not finite.
    """
    values = np.sort(np.asarray(impostor_cosines, np.float64).ravel())[::-1]
    if not 0 < far < 1 or not np.isfinite(values).all():
        raise ValueError(f"expected finite cosines and a rate between 0 and 1, got a rate of {far}")
    # 0.29 * 100 is 28.999999999999996
    allowed = math.floor(len(values) * far + 1e-9)
    if allowed < 1:
        needed = math.ceil(1 / far - 1e-9)
        raise ValueError(f"a false-accept rate of {far:g} needs {needed} pairs of strangers, there are {len(values)}")
    return float(values[allowed])


def stranger_threshold(faces: ArrayLike, far: float) -> tuple[float, str]:
    """`threshold_at_far` over all pairs of different people.

    Args:
        faces: [n,D] unit vectors, one a person.
        far: false-accept rate, in 0..1.

    Returns:
        The threshold, or NaN, and why it is NaN.
    """
    unit = np.asarray(faces, np.float64)
    if len(unit) < 2:
        return math.nan, "one identity has no strangers to calibrate on"
    try:
        return threshold_at_far((unit @ unit.T)[np.triu_indices(len(unit), 1)], far), ""
    except ValueError as error:
        return math.nan, str(error)


def by_bins(values: ArrayLike, angles: ArrayLike, edges: ArrayLike) -> list[Bin]:
    """Mean of per-frame values in bins of a head angle.

    Args:
        values: [T], NaN where the frame has none.
        angles: [T] degrees, NaN where the frame has none.
        edges: [B+1] degrees, increasing; bins are [low, high), the last one includes its upper edge.

    Returns:
        B bins in order; frames outside the edges are in none of them.

    Raises:
        ValueError: for other shapes or edges that do not increase.
    """
    v, a, e = (np.asarray(x, np.float64) for x in (values, angles, edges))
    if v.ndim != 1 or v.shape != a.shape:
        raise ValueError(f"expected values [T] and angles [T], got {list(v.shape)} and {list(a.shape)}")
    if e.ndim != 1 or len(e) < 2 or not (np.diff(e) > 0).all():
        raise ValueError(f"edges: expected at least two increasing numbers, got {e.tolist()}")
    present = ~np.isnan(v)
    bins = []
    for low, high in itertools.pairwise(e):
        inside = v[present & (a >= low) & ((a < high) | ((high == e[-1]) & (a == high)))]
        mean = float(inside.mean()) if len(inside) else math.nan
        bins.append(Bin(float(low), float(high), mean, len(inside)))
    return bins


def _mean_of(per_frame: Array, reason: str) -> Measured:
    """Mean of the entries that are numbers, or the reason where there is none."""
    present = per_frame[~np.isnan(per_frame)]
    if not len(present):
        return unscored(reason, per_frame.tolist())
    return Measured(float(present.mean()), "", len(present), tuple(per_frame.tolist()))


def _no_face(per_frame: Array) -> str:
    return f"no face in any of {len(per_frame)} frames"
