"""Leaving one person out: for a mean it is the mean's own interval, and it covers what it should."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ffbench.metrics.aggregate import summary
from ffbench.metrics.jackknife import jackknife


def test_of_a_mean_it_is_the_interval_of_the_mean() -> None:
    values = np.random.default_rng(0).normal(size=12)
    people = [f"p{i:02d}" for i in range(12)]
    found, known = jackknife(lambda kept: float(values[kept].mean()), people), summary(values, people)
    assert found.mean == pytest.approx(known.mean, abs=1e-12)
    assert (found.low, found.high) == (pytest.approx(known.low, abs=1e-9), pytest.approx(known.high, abs=1e-9))
    assert found.num_identities == 12


def test_whole_people_are_left_out() -> None:
    asked = []

    def statistic(kept: np.ndarray) -> float:
        asked.append(kept.tolist())
        return float(kept.sum())

    jackknife(statistic, ["a", "b", "a"])
    assert asked == [[True, True, True], [False, True, False], [True, False, True]]


def test_no_interval_without_two_people_or_where_a_person_is_all_there_is() -> None:
    one = jackknife(lambda kept: 3.0, ["a", "a"])
    assert one.mean == 3
    assert math.isnan(one.low)
    needed = jackknife(lambda kept: 3.0 if kept[0] else math.nan, ["a", "b"])
    assert needed.mean == 3
    assert math.isnan(needed.high)
    assert math.isnan(jackknife(lambda kept: math.nan, ["a", "b"]).mean)


def test_coverage_for_a_ratio() -> None:
    # the true ratio of means is 2; nominal coverage 95%, 120 draws have a standard error of 2%
    rng, inside = np.random.default_rng(1), 0
    for _ in range(120):
        x = rng.gamma(4, 1, 20)
        y = 2 * x + rng.normal(0, 1, 20)
        found = jackknife(lambda kept, x=x, y=y: float(y[kept].mean() / x[kept].mean()), range(20))
        inside += found.low <= 2 <= found.high
    assert 0.88 <= inside / 120 <= 1
