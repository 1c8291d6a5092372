"""Pose groups, what they activate, and the control of the mutual information, on made-up winners."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import entropy

from faithfulfaces.analysis.dictionary import (
    GROUPS,
    activations,
    dependence,
    mutual_information,
    pose_groups,
    set_dependence,
    shares,
)


@pytest.mark.parametrize(
    ("euler", "group"),
    [
        ((0, 0, 0), "frontal"),
        ((24.9, -24.9, 24.9), "frontal"),
        ((25, 0, 0), None),
        ((0, 0, 25), None),
        ((0, 45, 0), "left"),
        ((0, -45, 0), "right"),
        ((0, 30, 0), None),
        ((0, 30.1, 0), "left"),
        ((0, -89.9, 0), "right"),
        ((0, 90, 0), None),
        ((45, 0, 0), "up"),
        ((-45, 0, 0), "down"),
        ((45, 45, 0), None),
        ((0, 45, 26), None),
        ((26, 45, 0), None),
        ((45, 26, 0), None),
        ((45, 0, -26), None),
        ((math.nan, 0, 0), None),
        ((0, math.nan, 0), None),
        ((0, 0, math.nan), None),
    ],
)
def test_groups_are_those_of_the_papers_figure(euler: tuple[float, float, float], group: str | None) -> None:
    found = int(pose_groups(np.array([euler], np.float32))[0])
    assert found == (-1 if group is None else GROUPS.index(group))


def test_left_is_where_the_pose_module_says_the_nose_points() -> None:
    """A nose turned towards the image's left edge has a positive yaw (`ffbench.extract.pose`)."""
    from ffbench.extract.pose import head_rotation

    nose = head_rotation(np.array([[0.0, 45.0, 0.0]]))[0] @ np.array([0.0, 0.0, 1.0])
    assert nose[0] < -0.5
    assert GROUPS[int(pose_groups(np.array([[0, 45, 0]], np.float32))[0])] == "left"
    nose = head_rotation(np.array([[45.0, 0.0, 0.0]]))[0] @ np.array([0.0, 0.0, 1.0])
    assert nose[1] > 0.5
    assert GROUPS[int(pose_groups(np.array([[45, 0, 0]], np.float32))[0])] == "up"


def made_up(faces: int = 400, elements: int = 40, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    groups = rng.integers(-1, 4, faces)
    top = np.stack([rng.permutation(elements)[:10] for _ in range(faces)])
    return top, groups, rng.integers(0, 30, faces)


def test_activations_are_counts_over_faces() -> None:
    top, groups, people = made_up()
    table = shares(top, groups, 40)
    found = activations(table, groups, people)
    assert [one.group for one in found] == list(GROUPS)
    for number, one in enumerate(found[:4]):
        mine = [set(row) for row, group in zip(top.tolist(), groups, strict=True) if group == number]
        others = [set(row) for row, group in zip(top.tolist(), groups, strict=True) if group not in (-1, number)]
        assert one.faces == len(mine)
        assert one.people == len({p for p, group in zip(people.tolist(), groups, strict=True) if group == number})
        for item in (*one.elements, *one.particular):
            assert item.share == pytest.approx(sum(item.element in row for row in mine) / len(mine))
            assert item.elsewhere == pytest.approx(sum(item.element in row for row in others) / len(others))
        every = [sum(c in row for row in mine) / len(mine) for c in range(40)]
        apart = [every[c] - sum(c in row for row in others) / len(others) for c in range(40)]
        assert [item.share for item in one.elements] == pytest.approx(sorted(every, reverse=True)[:10])
        gaps = [item.share - item.elsewhere for item in one.particular]
        assert gaps == pytest.approx(sorted(apart, reverse=True)[:10])
    empty = found[4]
    assert (empty.faces, empty.people, empty.elements, empty.particular) == (0, 0, (), ())
    assert np.isnan(table[4]).all() and np.isfinite(table[:4]).all()


def test_an_element_that_everybody_has_is_often_there_but_particular_of_nobody() -> None:
    top = np.array([[7, group * 10 + i] for group in range(5) for i in (0, 0, 1)])
    groups = np.repeat(np.arange(5), 3)
    for group, one in enumerate(activations(shares(top, groups, 50), groups, np.arange(15))):
        assert [(a.element, round(a.share, 3)) for a in one.elements] == [
            (7, 1.0),
            (group * 10, 0.667),
            (group * 10 + 1, 0.333),
        ]
        assert one.particular[0].element == group * 10


def test_one_group_alone_has_no_elsewhere() -> None:
    found = activations(shares(np.array([[1, 2]]), np.zeros(1, int), 5), np.zeros(1, int), np.zeros(1, int))[0]
    assert [item.element for item in found.elements] == [1, 2]
    assert all(math.isnan(item.elsewhere) for item in found.elements) and found.particular == ()


def test_mutual_information_is_the_entropies_of_scipy() -> None:
    rng = np.random.default_rng(1)
    a, noise = rng.integers(0, 6, 500), rng.integers(0, 3, 500)
    b = np.where(noise == 0, rng.integers(0, 4, 500), a % 4)
    table = np.zeros((6, 4))
    np.add.at(table, (a, b), 1)
    expected = entropy(table.sum(1), base=2) + entropy(table.sum(0), base=2) - entropy(table.ravel(), base=2)
    assert mutual_information(a, b) == pytest.approx(expected, abs=1e-12)
    assert mutual_information(a, a) == pytest.approx(entropy(np.bincount(a), base=2), abs=1e-12)
    assert mutual_information(np.repeat([0, 1], 4), np.tile([0, 1], 4)) == pytest.approx(0, abs=1e-12)


def test_mutual_information_is_that_of_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(2)
    a, b = rng.integers(0, 9, 300), rng.integers(0, 5, 300)
    assert mutual_information(a, b) == pytest.approx(metrics.mutual_info_score(a, b) / np.log(2), abs=1e-12)


def test_winners_that_follow_the_pose_are_above_every_shuffle() -> None:
    groups, people = np.tile(np.arange(5), 40), np.repeat(np.arange(40), 5)
    found = dependence(groups * 100 + 3, groups, people, permutations=199)
    assert found.bits == pytest.approx(math.log2(5))
    assert found.p == pytest.approx(1 / 200)
    assert 0 < found.shuffled_mean < found.shuffled_q95 < 0.3
    assert (found.faces, found.people, found.reason) == (200, 40, "")
    assert found == dependence(groups * 100 + 3, groups, people, permutations=199)
    assert found.shuffled_mean != dependence(groups * 100 + 3, groups, people, permutations=199, seed=1).shuffled_mean


def test_winners_that_follow_the_person_alone_are_no_evidence_of_pose() -> None:
    """Each person has an element and a favourite pose: together over all faces, not within people."""
    people = np.repeat(np.arange(20), 10)
    groups = np.where(np.tile(np.arange(10), 20) < 8, people % 5, (people + 1) % 5)
    found = dependence(people, groups, people, permutations=99)
    assert found.bits > 1
    assert found.shuffled_mean == pytest.approx(found.bits)
    assert found.p == 1.0


def test_a_common_winner_hides_what_the_ten_strongest_know() -> None:
    groups, people = np.tile(np.arange(5), 40), np.repeat(np.arange(40), 5)
    rng = np.random.default_rng(0)
    # the strongest is everybody's; the second follows the pose; the others are anybody's
    top = np.stack([np.concatenate([[0], [1 + g], 6 + rng.permutation(30)[:8]]) for g in groups])
    assert dependence(top[:, 0], groups, people, permutations=19).bits == pytest.approx(0, abs=1e-12)
    found = set_dependence(top, groups, people, permutations=199)
    assert found.p == pytest.approx(1 / 200)
    metrics = pytest.importorskip("sklearn.metrics")
    active = [(top == element).any(1) for element in range(36)]
    assert found.bits == pytest.approx(sum(metrics.mutual_info_score(a, groups) for a in active) / np.log(2), abs=1e-9)
    assert set_dependence(top[:, 2:], groups, people, permutations=199).p > 0.02
    # a face of no group does not count, wherever its row stands
    with_others = np.concatenate([np.zeros((3, 10), int), top])
    again = set_dependence(with_others, np.r_[-1, -1, -1, groups], np.r_[7, 7, 7, people], permutations=19)
    assert (again.bits, again.faces) == (pytest.approx(found.bits), 200)


def test_p_values_of_unrelated_winners_are_spread_evenly() -> None:
    values = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        groups, people = rng.integers(0, 5, 100), np.repeat(np.arange(10), 10)
        values.append(dependence(rng.integers(0, 8, 100), groups, people, permutations=39, seed=seed).p)
    # the mean of 60 uniform numbers lies within 0.5 +- 0.15 but once in 20,000 times
    assert abs(np.mean(values) - 0.5) < 0.15
    assert np.mean(np.array(values) <= 0.1) < 0.27


def test_faces_of_no_group_are_left_out() -> None:
    groups, people = np.tile(np.arange(-1, 4), 10), np.repeat(np.arange(10), 5)
    found = dependence(np.arange(50), groups, people, permutations=9)
    assert (found.faces, found.people) == (40, 10)


def test_where_nobody_changes_pose_nothing_is_measured() -> None:
    people = np.repeat(np.arange(5), 3)
    for groups in (people, np.full(15, -1)):
        found = dependence(people, groups, people)
        assert math.isnan(found.bits) and math.isnan(found.p) and found.permutations == 0
        assert found.reason == "nobody has faces of two pose groups"
