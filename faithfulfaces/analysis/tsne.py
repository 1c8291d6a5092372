"""t-SNE of a few hundred points (van der Maaten and Hinton, 2008), exact and without a random start.

Shapes: N points, D dimensions. All float64.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]

EXAGGERATION, EXAGGERATED_STEPS, STEPS = 12.0, 250, 1000


class Embedding(NamedTuple):
    """Points in the plane."""

    points_N2: Doubles
    divergence: float
    """Kullback-Leibler divergence that is left, nats."""


def squared_distances(x_ND: Doubles) -> Doubles:
    """[N,N] squared Euclidean distances, zero on the diagonal."""
    squares_N = (x_ND**2).sum(1)
    d_NN: Doubles = np.maximum(squares_N[:, None] + squares_N[None] - 2 * x_ND @ x_ND.T, 0)
    np.fill_diagonal(d_NN, 0)
    return d_NN


def affinities(d2_NN: Doubles, perplexity: float) -> Doubles:
    """P [N,N] (Eq. 1, Section 3.1): symmetric, summing to 1; each row's Gaussian has that perplexity.

    Args:
        d2_NN: squared distances.
        perplexity: effective number of neighbours, from 1 to N - 1.
    """
    count = len(d2_NN)
    low_N, high_N = np.zeros(count), np.full(count, np.inf)
    # nearest neighbours at distance 0 in the exponent: no row underflows to nothing but zeros
    nearest_N1 = (d2_NN + np.diag(np.full(count, np.inf))).min(1, keepdims=True)
    off_NN = np.maximum(d2_NN - nearest_N1, 0)
    precision_N = 1 / np.maximum(d2_NN.mean(1), 1e-300)
    for _ in range(64):
        row_NN = np.exp(-off_NN * precision_N[:, None])
        np.fill_diagonal(row_NN, 0)
        row_NN /= row_NN.sum(1, keepdims=True)
        entropy_N = -(row_NN * np.log(np.maximum(row_NN, 1e-300))).sum(1)
        wide_N = entropy_N > np.log(perplexity)
        low_N, high_N = np.where(wide_N, precision_N, low_N), np.where(wide_N, high_N, precision_N)
        precision_N = np.where(np.isfinite(high_N), (low_N + high_N) / 2, precision_N * 2)
    return np.asarray((row_NN + row_NN.T) / (2 * count), np.float64)


def gradient(p_NN: Doubles, y_N2: Doubles) -> tuple[Doubles, float]:
    """The gradient [N,2] of KL(P||Q) (Eq. 5) with Student's t in the plane, and the divergence."""
    student_NN = 1 / (1 + squared_distances(y_N2))
    np.fill_diagonal(student_NN, 0)
    q_NN = np.maximum(student_NN / student_NN.sum(), 1e-300)
    pull_NN = (p_NN - q_NN) * student_NN
    gradient_N2 = 4 * (pull_NN.sum(1)[:, None] * y_N2 - pull_NN @ y_N2)
    divergence = float((p_NN * np.log(np.maximum(p_NN, 1e-300) / q_NN)).sum())
    return gradient_N2, divergence


def tsne(x_ND: NDArray[np.floating], perplexity: float = 30.0) -> Embedding:
    """Points in the plane whose neighbours are those of x; started from the principal components, so it repeats.

    Args:
        x_ND: [N,D], N at least 4 and small enough for [N,N] matrices.
        perplexity: lowered to (N - 1) / 3 for few points.

    Raises:
        ValueError: for fewer than four points, or values that are not finite.
    """
    x = np.asarray(x_ND, np.float64)
    if len(x) < 4 or not np.isfinite(x).all():
        raise ValueError(f"t-SNE needs four or more finite points, got {x.shape}")
    p_NN = affinities(squared_distances(x), min(perplexity, (len(x) - 1) / 3))
    y, divergence = _principal_plane(x), np.inf
    rate = max(len(x) / EXAGGERATION / 4, 50.0)
    for steps, momentum, factor in ((EXAGGERATED_STEPS, 0.5, EXAGGERATION), (STEPS - EXAGGERATED_STEPS, 0.8, 1.0)):
        # speed from the exaggerated phase would throw the groups past each other
        velocity, gains = np.zeros_like(y), np.ones_like(y)
        for _ in range(steps):
            slope_N2, divergence = gradient(factor * p_NN, y)
            gains = np.maximum(np.where(slope_N2 * velocity < 0, gains + 0.2, gains * 0.8), 0.01)
            velocity = momentum * velocity - rate * gains * slope_N2
            y = y + velocity
    return Embedding(y - y.mean(0), divergence)


def silhouette(distances_NN: NDArray[np.floating], labels_N: NDArray[np.int64]) -> float:
    """Mean silhouette (Rousseeuw, 1987) in -1..1: near 1, groups are tight and apart; about 0, they overlap.

    Args:
        distances_NN: of all pairs.
        labels_N: group of each point; a point alone in its group counts 0.

    Raises:
        ValueError: for fewer than two groups.
    """
    groups = np.unique(labels_N)
    if len(groups) < 2:
        raise ValueError(f"a silhouette needs two groups, got {len(groups)}")
    member_NG = labels_N[:, None] == groups
    counts_G, sums_NG = member_NG.sum(0), distances_NN @ member_NG
    own_N = member_NG.argmax(1)
    row_N = np.arange(len(labels_N))
    within_N = sums_NG[row_N, own_N] / np.maximum(counts_G[own_N] - 1, 1)
    nearest_N = np.where(member_NG, np.inf, sums_NG / counts_G).min(1)
    scale_N = np.maximum(np.maximum(within_N, nearest_N), 1e-300)
    return float(np.where(counts_G[own_N] > 1, (nearest_N - within_N) / scale_N, 0.0).mean())


def _principal_plane(x_ND: Doubles) -> Doubles:
    centred = x_ND - x_ND.mean(0)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    # the sign of a singular vector is the library's whim
    y = u[:, :2] * s[:2] * np.sign(u[np.abs(u[:, :2]).argmax(0), range(u[:, :2].shape[1])])
    if y.shape[1] < 2:
        y = np.pad(y, ((0, 0), (0, 1)))
    return np.asarray(y / max(float(y[:, 0].std()), 1e-300) * 1e-4, np.float64)
