"""How well cosines tell pairs of one person from pairs of two: the receiver operating characteristic."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ffbench.metrics import Array


class Roc(NamedTuple):
    """Rates at falling thresholds, from (0, 0) to (1, 1); one point a distinct cosine."""

    false_accept: Array
    """[K] share of pairs of strangers at or above the threshold, rising."""
    true_accept: Array
    """[K] share of pairs of one person, rising."""


def roc(same: ArrayLike, different: ArrayLike) -> Roc:
    """The curve of two sets of cosines; a pair is accepted where its cosine is at or above the threshold.

    Args:
        same: [n] cosines of pairs of one person, n at least 1.
        different: [m] cosines of pairs of two people, m at least 1.

    Raises:
        ValueError: an empty set, or a cosine that is not finite.
    """
    a, b = _checked(same, different)
    thresholds = np.unique(np.concatenate([a, b]))[::-1]
    true, false = (1 - np.searchsorted(np.sort(x), thresholds, "left") / len(x) for x in (a, b))
    return Roc(np.concatenate([[0.0], false]), np.concatenate([[0.0], true]))


def auc(same: ArrayLike, different: ArrayLike) -> float:
    """Area under the curve: the chance that a pair of one person has the greater cosine, ties half (Mann-Whitney).

    Args:
        same: [n] cosines of pairs of one person.
        different: [m] cosines of pairs of two people.

    Returns:
        0..1, 0.5 for guessing; NaN where either set is empty.

    Raises:
        ValueError: for a cosine that is not finite.
    """
    if not np.size(same) or not np.size(different):
        return math.nan
    from scipy.stats import rankdata

    a, b = _checked(same, different)
    above = rankdata(np.concatenate([a, b]))[: len(a)].sum() - len(a) * (len(a) + 1) / 2
    return float(above / (len(a) * len(b)))


def true_accept_at(same: ArrayLike, different: ArrayLike, false_accept: float) -> float:
    """Greatest share of pairs of one person that is accepted while at most `false_accept` of the strangers are.

    Returns:
        0..1; NaN where the strangers are too few to resolve the rate (m * false_accept < 1).

    Raises:
        ValueError: as `roc`.
    """
    curve = roc(same, different)
    if np.size(different) * false_accept < 1 - 1e-9:
        return math.nan
    return float(curve.true_accept[curve.false_accept <= false_accept + 1e-12].max())


def _checked(same: ArrayLike, different: ArrayLike) -> tuple[Array, Array]:
    a, b = (np.asarray(x, np.float64).ravel() for x in (same, different))
    if not len(a) or not len(b) or not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError(f"expected finite cosines of both kinds, got {len(a)} of one person and {len(b)} of two")
    return a, b
