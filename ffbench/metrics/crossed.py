"""Several trainings measured on the same identities: a mean whose interval knows of both.

Trainings with other seeds differ, and so do identities; 3 seeds of 600 videos are neither 3 nor 1800 observations. The
model is that of studies in which several readers judge the same cases: value = mean + seed + identity + rest, seeds and
identities both drawn at random. S seeds, I identities.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ffbench.metrics.aggregate import LEVEL

TINY = 1e-9
"""The smallest p that is told apart from others."""


class Crossed(NamedTuple):
    """A mean over seeds and identities with its 95% interval and the two-sided p of being 0."""

    mean: float
    low: float
    high: float
    p: float
    num_seeds: int
    num_identities: int


def crossed(values: ArrayLike) -> Crossed:
    """Mean of a table of seeds by identities, its error from a two-way analysis of variance.

    Var(mean) S I = V = MS_identity + MS_seed - MS_rest, never below the larger of the first two, each a bound. The
    quantile is Student's with I-1 and with S-1 degrees of freedom, weighted by the parts MS_identity and
    max(MS_seed - MS_rest, 0) of the variance (Cochran and Cox 1957): Satterthwaite's freedom is too
    sure of three seeds. Simulated coverage with 3 or 5 seeds and 30 identities: 93.5 to 97%.

    Args:
        values: [S,I] means of an identity's videos under a seed, or differences of two methods.

    Returns:
        The interval and p are NaN with fewer than two seeds or identities, everything is NaN for an empty table.

    Raises:
        ValueError: for another shape, or a number that is not finite.
    """
    from scipy.optimize import brentq
    from scipy.special import stdtrit

    table = np.asarray(values, np.float64)
    if table.ndim != 2:
        raise ValueError(f"expected a table of seeds by identities, got {list(table.shape)}")
    if not np.isfinite(table).all():
        raise ValueError("expected finite numbers in every place of the table")
    seeds, people = table.shape
    if not table.size:
        return Crossed(math.nan, math.nan, math.nan, math.nan, seeds, people)
    mean = float(table.mean())
    if min(seeds, people) < 2:
        return Crossed(mean, math.nan, math.nan, math.nan, seeds, people)
    by_seed, by_person = table.mean(axis=1), table.mean(axis=0)
    rest = table - by_seed[:, None] - by_person[None, :] + mean
    ms_seed = people * float(by_seed.var(ddof=1))
    ms_identity = seeds * float(by_person.var(ddof=1))
    ms_rest = float((rest**2).sum()) / ((seeds - 1) * (people - 1))
    error = math.sqrt(max(ms_identity + ms_seed - ms_rest, ms_identity, ms_seed) / table.size)
    weights: tuple[float, float] = (ms_identity, max(ms_seed - ms_rest, 0.0))
    if not sum(weights) > 0:
        return Crossed(mean, mean, mean, float(mean == 0), seeds, people)

    def quantile(tail: float) -> float:
        of_parts = (float(stdtrit(people - 1, 1 - tail / 2)), float(stdtrit(seeds - 1, 1 - tail / 2)))
        return float(np.dot(weights, of_parts)) / sum(weights)

    half = quantile(1 - LEVEL) * error
    ratio = abs(mean) / error
    p = float(brentq(lambda tail: quantile(tail) - ratio, TINY, 1.0)) if ratio < quantile(TINY) else TINY
    return Crossed(mean, mean - half, mean + half, p, seeds, people)
