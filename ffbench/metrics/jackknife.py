"""Intervals of numbers that are no mean over videos, such as an AUC or a distance of sets: leave one person out."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from ffbench.metrics.aggregate import Summary, summary


def jackknife(statistic: Callable[[NDArray[np.bool_]], float], identities: Sequence[Hashable]) -> Summary:
    """A statistic of all rows, and its 95% interval by the pseudo-values of leaving each identity out (Tukey 1958).

    With I identities, p_i = I s - (I - 1) s_(without i). Their mean's interval, moved to stand about s, is that of
    `aggregate.summary`: an expanded percentile bootstrap over the I pseudo-values.

    Args:
        statistic: of the rows that a bool [V] keeps; NaN where it cannot be formed.
        identities: V names.

    Returns:
        `mean` is the statistic itself, of all rows. The interval is NaN with one identity, or where a statistic
        without one person cannot be formed.
    """
    names = np.array([repr(one) for one in identities])
    people = sorted(set(names.tolist()))
    whole = statistic(np.ones(len(names), bool))
    nothing = Summary(whole, math.nan, math.nan, len(people), len(names))
    if math.isnan(whole) or len(people) < 2:
        return nothing
    without = np.array([statistic(names != one) for one in people])
    if np.isnan(without).any():
        return nothing
    pseudo = len(people) * whole - (len(people) - 1) * without
    found = summary(pseudo, people)
    shift = whole - found.mean
    return Summary(whole, found.low + shift, found.high + shift, len(people), len(names))
