"""Identities: equal seeds equal people, other seeds others, splits that never meet."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from faithfulfaces.synthetic.people import BEARDS, RANGES, SPLITS, STYLES, person, split_of, suite_people


def test_splits_never_meet() -> None:
    for (_, a), (_, b) in itertools.combinations(SPLITS.items(), 2):
        assert a.stop <= b.start or b.stop <= a.start
    for name, seeds in SPLITS.items():
        assert split_of(seeds[0]) == split_of(seeds[-1]) == name


def test_seed_of_no_split_is_refused() -> None:
    for seed in (-1, SPLITS["suite"].stop):
        with pytest.raises(ValueError, match="belongs to no split"):
            person(seed)


def test_a_seed_is_one_person() -> None:
    first, again, other = person(2_000_001), person(2_000_001), person(2_000_002)
    assert first.values == again.values and first.colours == again.colours
    assert np.array_equal(first.relief, again.relief) and np.array_equal(first.tint, again.tint)
    assert first.values != other.values and not np.array_equal(first.relief, other.relief)


def test_parameters_are_many_and_fill_their_ranges() -> None:
    assert len(RANGES) >= 45
    people = [person(seed) for seed in range(400)]
    for name, (low, high) in RANGES.items():
        values = np.array([who.values[name] for who in people])
        assert low <= values.min() < low + 0.1 * (high - low), name
        assert high >= values.max() > high - 0.1 * (high - low), name
    assert {who.style for who in people} == set(STYLES)
    assert {who.beard for who in people} == set(BEARDS)


def test_suite_is_thirty_different_people() -> None:
    people = suite_people()
    assert len(people) == 30 and {who.split for who in people} == {"suite"}
    assert len({tuple(who.values.values()) for who in people}) == 30


def test_colours_are_linear_rgb() -> None:
    for seed in range(60):
        for name, colour in person(seed).colours.items():
            assert all(0 <= c <= 1 for c in colour), name
