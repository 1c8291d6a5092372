"""Means, intervals and tests clustered by identity: scipy's oracles, closed forms and simulated coverage."""

from __future__ import annotations

import itertools
import math
import time

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ffbench.metrics.aggregate import paired, summary, wilson

Floats = NDArray[np.float64]


def suite(random: np.random.Generator, people: int, each: int, between: float = 0.1) -> tuple[Floats, list[str]]:
    """Values around a true mean of 0.4 whose identities differ by `between`."""
    level = 0.4 + between * random.standard_normal((people, 1))
    values = level + 0.1 * random.standard_normal((people, each))
    return values.ravel(), [f"id{i:02d}" for i in range(people) for _ in range(each)]


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 6))
def test_the_mean_of_a_complete_cross_is_the_plain_mean(seed: int, people: int, each: int) -> None:
    values, names = suite(np.random.default_rng(seed), people, each)
    got = summary(values, names, resamples=50)
    assert got.mean == pytest.approx(values.mean())
    assert (got.num_identities, got.num_values, got.num_skipped) == (people, people * each, 0)


def test_identities_count_alike_however_many_videos_they_have() -> None:
    got = summary([1.0, 1.0, 1.0, 0.0], ["a", "a", "a", "b"], resamples=100)
    assert got.mean == 0.5
    assert (got.low, got.high) == (0.0, 1.0)


@pytest.mark.parametrize(("people", "each"), [(10, 1), (30, 20)])
def test_interval_is_scipys_percentile_bootstrap_of_identity_means_at_the_expanded_level(
    people: int, each: int
) -> None:
    values, names = suite(np.random.default_rng(0), people, each)
    got = summary(values, names, resamples=40_000)
    tail = scipy.stats.norm.cdf(math.sqrt(people / (people - 1)) * scipy.stats.t.ppf(0.025, people - 1))
    oracle = scipy.stats.bootstrap(
        (values.reshape(people, each).mean(axis=1),),
        np.mean,
        n_resamples=40_000,
        confidence_level=1 - 2 * tail,
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    # two independent bootstraps of 40,000 differ by a few hundredths of a standard error at these quantiles
    slack = 0.05 * values.reshape(people, each).mean(axis=1).std() / math.sqrt(people)
    assert (got.low, got.high) == (pytest.approx(oracle.low, abs=slack), pytest.approx(oracle.high, abs=slack))


def test_interval_is_near_the_t_interval_of_normal_identity_means() -> None:
    values, names = suite(np.random.default_rng(2), 30, 20)
    means = values.reshape(30, 20).mean(axis=1)
    expected = scipy.stats.t.interval(0.95, 29, means.mean(), means.std(ddof=1) / math.sqrt(30))
    got = summary(values, names)
    assert (got.low, got.high) == (pytest.approx(expected[0], abs=0.002), pytest.approx(expected[1], abs=0.002))


def test_nominal_95_percent_covers_about_95_and_an_unclustered_interval_does_not() -> None:
    random = np.random.default_rng(3)
    covered = naive = 0
    sets = 300
    for _ in range(sets):
        values, names = suite(random, 30, 20)
        got = summary(values, names, resamples=1000, seed=int(random.integers(2**31)))
        covered += got.low <= 0.4 <= got.high
        plain = summary(values, range(len(values)), resamples=200, seed=int(random.integers(2**31)))
        naive += plain.low <= 0.4 <= plain.high
    # 95% of 300 with 99.9% of its binomial spread
    assert 0.90 <= covered / sets <= 0.985, covered / sets
    assert naive / sets < 0.6, naive / sets


def test_order_of_the_values_changes_no_bit() -> None:
    values, names = suite(np.random.default_rng(4), 7, 9)
    order = np.random.default_rng(5).permutation(len(values))
    shuffled = [names[i] for i in order]
    assert summary(values, names) == summary(values[order], shuffled)
    other = values + 0.01
    assert paired(values, other, names) == paired(values[order], other[order], shuffled)


@pytest.mark.parametrize("order", list(itertools.permutations([1e16, 1.0, -1e16])))
def test_the_mean_of_an_identity_is_summed_exactly(order: tuple[float, ...]) -> None:
    assert summary(order, ["a"] * 3).mean == 1 / 3


def test_one_identity_has_no_interval() -> None:
    got = summary([0.1, 0.2, 0.3], ["a"] * 3)
    assert got.mean == pytest.approx(0.2)
    assert math.isnan(got.low)
    assert math.isnan(got.high)
    alone = paired([0.3, 0.2], [0.1, 0.1], ["a", "a"])
    assert alone.difference == pytest.approx(0.15)
    assert math.isnan(alone.low)
    assert alone.p == 1.0


def test_missing_values_raise_unless_a_policy_is_named() -> None:
    values, names = [0.2, math.nan, 0.4], ["a", "a", "b"]
    with pytest.raises(ValueError, match="1 of 3 values are NaN"):
        summary(values, names)
    with pytest.raises(ValueError, match="1 of 3 values are NaN"):
        paired([0.1] * 3, values, names)
    got = summary(values, names, missing="skip")
    assert (got.mean, got.num_values, got.num_skipped, got.num_identities) == (pytest.approx(0.3), 2, 1, 2)
    pairs = paired([0.1, 0.1, math.nan], values, ["a", "b", "c"], missing="skip")
    assert (pairs.num_pairs, pairs.num_skipped, pairs.num_identities) == (1, 2, 1)
    assert pairs.difference == pytest.approx(-0.1)


def test_nothing_is_missing_and_never_zero() -> None:
    got = summary([math.nan], ["a"], missing="skip")
    assert [math.isnan(x) for x in got[:3]] == [True] * 3
    assert got[3:] == (0, 0, 1)
    assert math.isnan(summary([], []).mean)
    none = paired([], [], [])
    assert [math.isnan(x) for x in none[:4]] == [True] * 4
    assert none.num_pairs == 0


def test_contracts() -> None:
    with pytest.raises(ValueError, match="one identity a value"):
        summary([0.1, 0.2], ["a"])
    with pytest.raises(ValueError, match="an infinite one"):
        summary([math.inf], ["a"])
    with pytest.raises(ValueError, match="as many values a as b"):
        paired([0.1, 0.2], [0.1], ["a", "a"])


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 10))
def test_p_of_one_pair_an_identity_is_scipys_exact_permutation_test(seed: int, count: int) -> None:
    random = np.random.default_rng(seed)
    a, b = random.uniform(0, 1, (2, count))
    oracle = scipy.stats.permutation_test(
        (a, b),
        lambda x, y, axis: np.abs((x - y).mean(axis=axis)),
        permutation_type="samples",
        alternative="greater",
        n_resamples=np.inf,
        vectorized=True,
    )
    got = paired(a, b, range(count))
    assert got.p == pytest.approx(oracle.pvalue, abs=1e-12)
    assert got.difference == pytest.approx((a - b).mean())


def test_p_is_clustered_by_hand_and_never_zero() -> None:
    # three identities that agree: of the 8 sign choices only all plus and all minus are as extreme
    a, b = np.asarray([0.5, 0.6, 0.7, 0.8, 0.9, 1.0]), np.asarray([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    assert paired(a, b, ["x", "x", "y", "y", "z", "z"]).p == 2 / 8
    many = paired(np.ones(40), np.zeros(40), range(40), resamples=999)
    assert many.p == 1 / 1000
    assert paired(np.ones(40), np.ones(40), range(40)).p == 1.0


def test_random_signs_agree_with_all_signs() -> None:
    values, names = suite(np.random.default_rng(6), 12, 5)
    other = values - 0.03 + 0.1 * np.random.default_rng(7).standard_normal(len(values))
    exact = paired(values, other, names, resamples=2**12)
    drawn = paired(values, other, names, resamples=2**12 - 1)
    assert exact.p != drawn.p
    assert drawn.p == pytest.approx(exact.p, abs=4 * math.sqrt(exact.p / 4095))


def test_swapping_the_methods_turns_the_sign() -> None:
    values, names = suite(np.random.default_rng(8), 12, 5)
    other, _ = suite(np.random.default_rng(9), 12, 5)
    one, two = paired(values, other, names), paired(other, values, names)
    assert one.difference == -two.difference
    assert one.p == two.p
    assert one.low == pytest.approx(-two.high, abs=0.01)


def test_false_alarms_of_the_paired_test_stay_at_their_rate() -> None:
    random = np.random.default_rng(10)
    sets, alarms = 300, 0
    for _ in range(sets):
        # the methods differ by identity, but not on average
        difference, names = suite(random, 15, 4)
        difference -= 0.4
        got = paired(difference, np.zeros_like(difference), names, resamples=500, seed=int(random.integers(2**31)))
        alarms += got.p <= 0.05
    assert 0.005 <= alarms / sets <= 0.10, alarms / sets


@pytest.mark.parametrize(("k", "n"), [(0, 1), (1, 1), (0, 30), (3, 30), (15, 30), (30, 30), (500, 9600)])
def test_wilson_is_scipys(k: int, n: int) -> None:
    expected = scipy.stats.binomtest(k, n).proportion_ci(0.95, "wilson")
    assert wilson(k, n) == (pytest.approx(expected.low, abs=1e-12), pytest.approx(expected.high, abs=1e-12))


def test_wilson_at_the_ends() -> None:
    assert wilson(0, 10).low == 0.0
    assert wilson(10, 10).high == 1.0
    assert all(math.isnan(x) for x in wilson(0, 0))
    for k, n in ((-1, 3), (4, 3)):
        with pytest.raises(ValueError, match="0 <= k <= n"):
            wilson(k, n)


def test_a_table_cell_is_fast() -> None:
    values, names = suite(np.random.default_rng(11), 30, 20)
    summary(values, names)
    seconds = []
    for _ in range(3):
        start = time.process_time()
        summary(values, names)
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.5


def test_any_hashable_names_an_identity() -> None:
    values = [0.1, 0.2, 0.3]
    results = [summary(values, names) for names in (["a", "b", "c"], [1, 2, 3], [("a", 1), ("b", 1), ("c", 1)])]
    assert all(one == two for one, two in itertools.pairwise(results))
