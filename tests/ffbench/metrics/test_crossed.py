"""Means over seeds and identities: against analysis of variance done by hand, and by coverage in simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from ffbench.metrics.crossed import crossed


def simulated(draws: int, seeds: int, people: int, spread: tuple[float, float, float], mean: float) -> list[tuple]:  # type: ignore[type-arg]
    rng = np.random.default_rng(7)
    found = []
    for _ in range(draws):
        table = mean + spread[0] * rng.normal(size=(seeds, 1)) + spread[1] * rng.normal(size=(1, people))
        found.append(crossed(table + spread[2] * rng.normal(size=(seeds, people))))
    return found


def test_against_mean_squares_by_hand() -> None:
    table = np.array([[1.0, 2.0, 4.0], [3.0, 5.0, 9.0]])
    found = crossed(table)
    # grand mean 4; seeds 7/3 and 17/3; people 2, 3.5, 6.5
    ms_seed = 3 * ((7 / 3 - 4) ** 2 + (17 / 3 - 4) ** 2) / 1
    ms_person = 2 * ((2 - 4) ** 2 + (3.5 - 4) ** 2 + (6.5 - 4) ** 2) / 2
    total = ((table - 4) ** 2).sum()
    ms_rest = (total - ms_seed - 2 * ms_person) / 2
    variance = ms_seed + ms_person - ms_rest
    assert variance > max(ms_seed, ms_person) and ms_seed > ms_rest
    parts = np.array([ms_person, ms_seed - ms_rest])
    error = math.sqrt(variance / 6)
    half = (parts @ [stats.t.ppf(0.975, 2), stats.t.ppf(0.975, 1)]) / parts.sum() * error
    assert found.mean == 4
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=1e-9)
    # p is the level whose interval just touches 0
    touching = (parts @ [stats.t.isf(found.p / 2, 2), stats.t.isf(found.p / 2, 1)]) / parts.sum() * error
    assert touching == pytest.approx(4, rel=1e-6)
    assert (found.num_seeds, found.num_identities) == (2, 3)


def test_alike_seeds_leave_the_interval_of_the_identities() -> None:
    people = np.random.default_rng(0).normal(size=12)
    found = crossed(np.tile(people, (3, 1)))
    low, high = stats.t.interval(0.95, 11, people.mean(), people.std(ddof=1) / math.sqrt(12))
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-9)
    assert found.p == pytest.approx(stats.ttest_1samp(people, 0).pvalue, rel=1e-9)


def test_alike_identities_leave_the_interval_of_the_seeds() -> None:
    seeds = np.array([0.1, 0.4, 0.2])
    found = crossed(np.tile(seeds[:, None], (1, 30)))
    low, high = stats.t.interval(0.95, 2, seeds.mean(), seeds.std(ddof=1) / math.sqrt(3))
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-9)


@pytest.mark.parametrize(
    "spread", [(0.0, 1.0, 0.3), (0.5, 1.0, 0.3), (1.0, 1.0, 1.0), (0.2, 0.2, 1.0), (1.0, 0.1, 0.5)]
)
def test_intervals_hold_the_truth_as_often_as_they_say(spread: tuple[float, float, float]) -> None:
    """Three seeds, thirty identities; the bounds leave room for the noise of 1,500 draws and for conservatism."""
    found = simulated(1500, 3, 30, spread, 0.7)
    covered = np.mean([one.low <= 0.7 <= one.high for one in found])
    assert 0.925 <= covered <= 0.98


def test_ignoring_the_seeds_would_not_hold() -> None:
    """What the table is for: thirty identities alone are far too sure of a mean of three trainings."""
    rng = np.random.default_rng(3)
    held = {"crossed": 0, "identities": 0}
    for _ in range(500):
        table = 0.5 * rng.normal(size=(3, 1)) + rng.normal(size=(1, 30)) + 0.3 * rng.normal(size=(3, 30))
        means = table.mean(axis=0)
        low, high = stats.t.interval(0.95, 29, means.mean(), means.std(ddof=1) / math.sqrt(30))
        one = crossed(table)
        held["crossed"] += one.low <= 0 <= one.high
        held["identities"] += low <= 0 <= high
    assert held["identities"] < 0.85 * 500
    assert held["crossed"] > 0.93 * 500


def test_no_difference_is_called_one_in_five_of_a_hundred() -> None:
    found = simulated(1500, 3, 30, (0.3, 0.3, 0.5), 0.0)
    assert np.mean([one.p < 0.05 for one in found]) <= 0.07


def test_too_little_to_say() -> None:
    for shape in ((1, 5), (3, 1)):
        found = crossed(np.ones(shape))
        assert found.mean == 1
        assert all(math.isnan(value) for value in (found.low, found.high, found.p))
    assert math.isnan(crossed(np.empty((3, 0))).mean)
    assert crossed(np.zeros((3, 4)))[:4] == (0, 0, 0, 1)
    assert crossed(np.ones((3, 4)))[:4] == (1, 1, 1, 0)


@pytest.mark.parametrize("values", [np.ones(3), np.array([[1.0, math.nan], [1, 1]]), np.array([[1.0, math.inf]])])
def test_other_tables_are_refused(values: np.ndarray) -> None:
    with pytest.raises(ValueError, match="expected"):
        crossed(values)
