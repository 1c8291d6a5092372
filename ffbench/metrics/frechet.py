"""Distances between sets of face crops in a feature space, and ConsisID's per-frame distance that goes by FID's name.

N and M rows of two sets, D width of the features.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ffbench.metrics import Array, Measured, rows, unscored

FID_VERSION = 1
KID_VERSION = 1
FACE_FEATURE_DISTANCE_VERSION = 1

FID_MINIMUM = 2048
"""Rows a set needs for a covariance of full rank in the 2048 dimensions of InceptionV3."""


class Distance(NamedTuple):
    """A distance between two sets, with their sizes. `value` is NaN exactly when `reason` is not empty."""

    value: float
    reason: str
    num_a: int
    num_b: int
    std: float = math.nan
    """Standard deviation over the subsets (KID); NaN for a distance without subsets."""


def fid(features_a: ArrayLike, features_b: ArrayLike, *, minimum: int = FID_MINIMUM) -> Distance:
    """Fréchet distance of the normal distributions fitted to two sets (Heusel et al. 2017).

    |mu_a - mu_b|^2 + tr(S_a) + tr(S_b) - 2 tr((S_a^1/2 S_b S_a^1/2)^1/2), with covariances over N - 1.

    Args:
        features_a: [N,D], NaN rows (no face) are left out.
        features_b: [M,D], likewise.
        minimum: rows that each set needs. FID falls as sets grow, so small sets compare with nothing.

    Returns:
        A value of 0 or more; unscored where a set is smaller than `minimum`.

    Raises:
        ValueError: for other shapes, differing widths or a `minimum` under 2.
    """
    if minimum < 2:
        raise ValueError(f"minimum: a covariance needs 2 rows, got {minimum}")
    a, b = _sets(features_a, features_b)
    if min(len(a), len(b)) < minimum:
        reason = (
            f"{len(a)} crops against {len(b)}: FID needs {minimum} on each side; KID needs fewer, or lower `minimum`"
        )
        return Distance(math.nan, reason, len(a), len(b))
    scaled_a, scaled_b = _scaled(a), _scaled(b)
    shift = a.mean(axis=0) - b.mean(axis=0)
    value = shift @ shift + np.square(scaled_a).sum() + np.square(scaled_b).sum() - 2 * _root_trace(scaled_a, scaled_b)
    return Distance(max(float(value), 0.0), "", len(a), len(b))


def kid(
    features_a: ArrayLike, features_b: ArrayLike, *, subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> Distance:
    """Kernel distance: mean over random subsets of the unbiased squared MMD (Binkowski et al. 2018).

    The kernel is (x.y / D + 1)^3. Unbiased at any size, so sets of different sizes compare; it may fall below 0.

    Args:
        features_a: [N,D], NaN rows (no face) are left out.
        features_b: [M,D], likewise.
        subsets: number of subsets.
        subset_size: rows of each subset, drawn without replacement; the smaller set's size where that is less.
        seed: of the draw.

    Returns:
        The mean and the standard deviation over the subsets; unscored with fewer than two rows on a side.

    Raises:
        ValueError: for other shapes, differing widths, no subset or subsets of fewer than two rows.
    """
    if subsets < 1 or subset_size < 2:
        raise ValueError(f"expected at least 1 subset of 2 rows, got {subsets} of {subset_size}")
    a, b = _sets(features_a, features_b)
    size = min(subset_size, len(a), len(b))
    if size < 2:
        return Distance(math.nan, f"{len(a)} crops against {len(b)}: KID needs 2 on each side", len(a), len(b))
    random = np.random.default_rng(seed)
    values = [
        _mmd(a[random.choice(len(a), size, replace=False)], b[random.choice(len(b), size, replace=False)])
        for _ in range(subsets)
    ]
    return Distance(float(np.mean(values)), "", len(a), len(b), float(np.std(values)))


def face_feature_distance(reference: ArrayLike, features: ArrayLike, *, faceless_as_zero: bool = False) -> Measured:
    """Mean over frames of the squared distance to the reference's features: ConsisID's "FID".

    ConsisID fits a normal distribution to one activation repeated twice. Both covariances are then zero, and what is
    left of the Fréchet formula is |f - r|^2.

    Args:
        reference: [D] features of the reference's face crop.
        features: [T,D], NaN rows for frames without a face.
        faceless_as_zero: 0.0, a perfect distance, for a video without any face, as ConsisID's script does.

    Returns:
        A value of 0 or more.

    Raises:
        ValueError: for other shapes or a reference without a face.
    """
    one, present = rows(np.asarray(reference)[None], "reference")
    if not present[0]:
        raise ValueError("reference: it holds no face")
    frames, found = rows(features, "features", one.shape[1])
    per_frame = np.square(frames - one).sum(axis=1)
    if found.any():
        return Measured(float(per_frame[found].mean()), "", int(found.sum()), tuple(per_frame.tolist()))
    if faceless_as_zero:
        return Measured(0.0, "", 0, tuple(per_frame.tolist()))
    return unscored(f"no face in any of {len(frames)} frames", per_frame.tolist())


def _sets(features_a: ArrayLike, features_b: ArrayLike) -> tuple[Array, Array]:
    a, found_a = rows(features_a, "features_a")
    b, found_b = rows(features_b, "features_b", a.shape[1])
    return a[found_a], b[found_b]


def _scaled(features: Array) -> Array:
    """[N,D] centred rows F with F^T F their covariance."""
    scaled: Array = (features - features.mean(axis=0)) / math.sqrt(len(features) - 1)
    return scaled


def _root_trace(a: Array, b: Array) -> float:
    """tr((S_a^1/2 S_b S_a^1/2)^1/2) for S_a = A^T A and S_b = B^T B.

    It equals the sum of the singular values of A B^T. A set of no more rows than dimensions goes that way: its
    covariance is singular, and under a root the rounding noise of zero eigenvalues would add up.
    """
    if min(len(a), len(b)) <= a.shape[1]:
        return float(np.linalg.svd(a @ b.T, compute_uv=False).sum())
    eigenvalues, vectors = np.linalg.eigh(a.T @ a)
    root = (vectors * np.sqrt(eigenvalues.clip(0))) @ vectors.T
    return float(np.sqrt(np.linalg.eigvalsh(root @ (b.T @ b) @ root).clip(0)).sum())


def _mmd(x: Array, y: Array) -> float:
    """Unbiased squared MMD of two sets of m rows each, polynomial kernel."""
    m, width = x.shape
    xx, yy, xy = ((p @ q.T / width + 1.0) ** 3 for p, q in ((x, x), (y, y), (x, y)))
    within = xx.sum() - np.trace(xx) + yy.sum() - np.trace(yy)
    return float(within / (m * (m - 1)) - 2 * xy.mean())
