"""From values of videos to a number of a table: means, intervals and tests that respect identities.

Videos of one identity resemble each other, so 600 videos of 30 people are nearer to 30 observations than to 600.
Everything here therefore counts identities. V values, I identities.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ffbench.metrics import Array

LEVEL = 0.95
"""Of every interval."""
Missing = Literal["raise", "skip"]


class Summary(NamedTuple):
    """Mean over identities with its 95% interval."""

    mean: float
    low: float
    high: float
    num_identities: int
    num_values: int
    """Values that are numbers."""
    num_skipped: int = 0
    """Values that are NaN, left out because the caller said so."""


class Paired(NamedTuple):
    """Mean difference a - b over identities, its 95% interval and a two-sided p."""

    difference: float
    low: float
    high: float
    p: float
    num_pairs: int
    num_identities: int
    num_skipped: int = 0
    """Pairs with a NaN on either side."""


class Interval(NamedTuple):
    """A 95% interval of a rate."""

    low: float
    high: float


def summary(
    values: ArrayLike,
    identities: Sequence[Hashable],
    *,
    resamples: int = 10_000,
    seed: int = 0,
    missing: Missing = "raise",
) -> Summary:
    """Mean over identities of each identity's mean, with a bootstrap interval clustered on identity.

    Equal to the plain mean where every identity has equally many values. The order of the values changes no bit.

    Args:
        values: [V].
        identities: V names.
        resamples: bootstrap draws of I identities with replacement.
        seed: of the draws.
        missing: what a NaN does: `raise`, or `skip` it and count it.

    Returns:
        The interval is NaN with a single identity, everything is NaN without any value.

    Raises:
        ValueError: for other shapes, an infinite value, or a NaN under `raise`.
    """
    array, kept = _present(values, identities, missing)
    means = _identity_means(array[kept], [one for one, keep in zip(identities, kept, strict=True) if keep])
    low, high = _bootstrap(means, resamples, seed)
    mean = float(means.mean()) if len(means) else math.nan
    return Summary(mean, low, high, len(means), int(kept.sum()), int((~kept).sum()))


def paired(
    values_a: ArrayLike,
    values_b: ArrayLike,
    identities: Sequence[Hashable],
    *,
    resamples: int = 10_000,
    seed: int = 0,
    missing: Missing = "raise",
) -> Paired:
    """Difference of two methods on the same cases: bootstrap interval and sign-flip test, both clustered on identity.

    The null hypothesis is that swapping the methods for an identity changes nothing. All 2^I swaps are tried where they
    are at most `resamples`; otherwise `resamples` random ones, and p = (1 + as extreme) / (1 + resamples), never 0.

    Args:
        values_a: [V].
        values_b: [V], pair by pair the same case.
        identities: V names.
        resamples: draws of the bootstrap and of the test.
        seed: of the draws.
        missing: what a NaN on either side does: `raise`, or `skip` the pair and count it.

    Returns:
        a - b. The interval is NaN with a single identity (and p is 1), everything is NaN without any pair.

    Raises:
        ValueError: for other shapes, an infinite value, or a NaN under `raise`.
    """
    a, b = np.asarray(values_a, np.float64), np.asarray(values_b, np.float64)
    if a.shape != b.shape:
        raise ValueError(f"expected as many values a as b, got {list(a.shape)} and {list(b.shape)}")
    difference, kept = _present(a - b, identities, missing)
    means = _identity_means(difference[kept], [one for one, keep in zip(identities, kept, strict=True) if keep])
    low, high = _bootstrap(means, resamples, seed)
    mean = float(means.mean()) if len(means) else math.nan
    p = _sign_flip(means, resamples, seed)
    return Paired(mean, low, high, p, int(kept.sum()), len(means), int((~kept).sum()))


def wilson(k: int, n: int) -> Interval:
    """Wilson's 95% score interval of a rate of k in n independent trials (Wilson 1927); NaN for n = 0.

    Raises:
        ValueError: unless 0 <= k <= n.
    """
    from scipy.special import ndtri

    if not 0 <= k <= n:
        raise ValueError(f"expected 0 <= k <= n, got k = {k}, n = {n}")
    if n == 0:
        return Interval(math.nan, math.nan)
    z = float(ndtri((1 + LEVEL) / 2))
    centre = (k + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * math.sqrt(k * (n - k) / n + z * z / 4)
    # the bounds are exactly 0 and 1 there, rounding apart
    return Interval(0.0 if k == 0 else centre - half, 1.0 if k == n else centre + half)


def _present(values: ArrayLike, identities: Sequence[Hashable], missing: Missing) -> tuple[Array, NDArray[np.bool_]]:
    array = np.asarray(values, np.float64)
    if array.shape != (len(identities),):
        raise ValueError(f"expected one identity a value, got values {list(array.shape)}, {len(identities)} identities")
    if np.isinf(array).any():
        raise ValueError("values: expected finite numbers or NaN, got an infinite one")
    kept = ~np.isnan(array)
    if missing == "raise" and not kept.all():
        raise ValueError(f"{(~kept).sum()} of {len(array)} values are NaN; say missing='skip' to leave them out")
    return array, kept


def _identity_means(values: Array, identities: Sequence[Hashable]) -> Array:
    """[I] mean of each identity, in an order and with roundings that the order of the values does not change."""
    groups: dict[Hashable, list[float]] = {}
    for one, value in zip(identities, values.tolist(), strict=True):
        groups.setdefault(one, []).append(value)
    return np.asarray([math.fsum(groups[one]) / len(groups[one]) for one in sorted(groups, key=repr)], np.float64)


def _bootstrap(means: Array, resamples: int, seed: int) -> tuple[float, float]:
    """Expanded percentile interval of the mean of I identity means (Hesterberg 2015, section 5.3).

    A plain percentile interval of a mean is too narrow by sqrt((I-1)/I) and by normal in place of t quantiles, which
    matters at 30 identities. Taking the percentiles Phi(+-sqrt(I/(I-1)) t) instead mends both.
    """
    from scipy.special import ndtr, stdtrit

    count = len(means)
    if count < 2:
        return math.nan, math.nan
    draws = np.random.default_rng(seed).integers(0, count, (resamples, count))
    tail = float(ndtr(math.sqrt(count / (count - 1)) * stdtrit(count - 1, (1 - LEVEL) / 2)))
    low, high = np.quantile(means[draws].mean(axis=1), (tail, 1 - tail))
    return float(low), float(high)


def _sign_flip(means: Array, resamples: int, seed: int) -> float:
    """Two-sided p of the mean of I differences under random signs."""
    count = len(means)
    if not count:
        return math.nan
    exact = 2**count <= resamples
    if exact:
        signs = 1.0 - 2.0 * (np.arange(2**count)[:, None] >> np.arange(count) & 1)
    else:
        signs = np.random.default_rng(seed).choice((-1.0, 1.0), (resamples, count))
    # equal up to rounding is equal: else the observed signs themselves might not count
    slack = 1e-12 * float(np.abs(means).sum())
    extreme = int((np.abs(signs @ means) >= abs(means.sum()) - slack).sum())
    return extreme / len(signs) if exact else (1 + extreme) / (1 + resamples)
