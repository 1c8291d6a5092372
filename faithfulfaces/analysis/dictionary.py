"""Which dictionary elements answer to which pose (paper, Appendix A.1, Fig. 7), and whether that is more than chance.

Shapes: N faces, K strongest elements kept of each, G = 5 pose groups, P permutations.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Integers = NDArray[np.int64]

STRAIGHT, TURNED, AWAY = 25.0, 30.0, 90.0
"""Degrees, Fig. 7: an angle within +-25 counts as straight, one between 30 and 90 as turned."""
GROUPS = ("frontal", "left", "right", "up", "down")
TOP = 10
"""Strongest elements of a face that count as activated (Appendix A.1)."""


def pose_groups(euler_N3: Floats) -> Integers:
    """[N] index into `GROUPS`, -1 for faces of none: Fig. 7's thresholds, in the signs of `faithfulfaces.pose`.

    | group | pitch | yaw | roll |
    |---|---|---|---|
    | frontal | within 25 | within 25 | within 25 |
    | left, right | within 25 | 30 to 90, -90 to -30 | within 25 |
    | up, down | 30 to 90, -90 to -30 | within 25 | within 25 |

    All bounds are open. Left is the image's left, where the nose points.

    Args:
        euler_N3: [N,3] pitch, yaw, roll in degrees; NaN belongs to no group.
    """
    pitch_N, yaw_N, _ = euler_N3.T
    straight_N3 = np.abs(euler_N3) < STRAIGHT
    turned_N3 = (np.abs(euler_N3) > TURNED) & (np.abs(euler_N3) < AWAY)
    sideways_N = turned_N3[:, 1] & straight_N3[:, 0] & straight_N3[:, 2]
    upright_N = turned_N3[:, 0] & straight_N3[:, 1] & straight_N3[:, 2]
    choices = [
        straight_N3.all(1), sideways_N & (yaw_N > 0), sideways_N & (yaw_N < 0), upright_N & (pitch_N > 0),
        upright_N & (pitch_N < 0),
    ]  # fmt: skip
    return np.select(choices, range(len(GROUPS)), default=-1).astype(np.int64)


@dataclass(frozen=True)
class Activation:
    """One element in one pose group."""

    element: int
    share: float
    """Of the group's faces, those that have it among their strongest `TOP`, 0..1."""
    elsewhere: float
    """The same of the other groups' faces together; NaN where they have none."""


@dataclass(frozen=True)
class GroupActivations:
    """What a pose group activates."""

    group: str
    faces: int
    people: int
    elements: tuple[Activation, ...]
    """The ten elements that are activated by most of the group's faces."""
    particular: tuple[Activation, ...]
    """The ten with the largest share above `elsewhere`; empty without other groups."""


def shares(top_NK: Integers, groups_N: Integers, elements: int) -> Doubles:
    """[G,C] share of each group's faces that have an element among their strongest; NaN for a group without faces.

    Args:
        top_NK: [N,K] strongest elements of each face, each once.
        groups_N: [N] of `pose_groups`.
        elements: C, size of the dictionary.
    """
    rows = [top_NK[groups_N == group] for group in range(len(GROUPS))]
    counted = [np.bincount(row.ravel(), minlength=elements) / len(row) if len(row) else np.nan for row in rows]
    return np.stack([np.broadcast_to(row, elements) for row in counted])


def activations(shares_GC: Doubles, groups_N: Integers, people_N: Integers) -> list[GroupActivations]:
    """The ten most activated and the ten most particular elements of each pose group, Fig. 7 as data.

    Args:
        shares_GC: of `shares`.
        groups_N: [N] of `pose_groups`.
        people_N: [N] number of each face's person.
    """
    faces_G = np.array([(groups_N == group).sum() for group in range(len(GROUPS))])
    made = []
    for group, name in enumerate(GROUPS):
        other = (np.arange(len(GROUPS)) != group) & (faces_G > 0)
        weight_G = faces_G[other] / max(int(faces_G[other].sum()), 1)
        here_C, elsewhere_C = (
            shares_GC[group],
            weight_G @ shares_GC[other] if other.any() else np.nan * shares_GC[group],
        )
        activated = min(TOP, int((here_C > 0).sum()))
        # a stable sort of the negative: ties go to the lower index
        often = np.argsort(-here_C, kind="stable")[:activated]
        apart = np.argsort(elsewhere_C - here_C, kind="stable")[: activated if other.any() else 0]
        lists = (
            tuple(Activation(int(c), float(here_C[c]), float(elsewhere_C[c])) for c in chosen)
            for chosen in (often, apart)
        )
        made.append(GroupActivations(name, int(faces_G[group]), len(np.unique(people_N[groups_N == group])), *lists))
    return made


@dataclass(frozen=True)
class Dependence:
    """How much the strongest elements of a face say about its pose group."""

    faces: int
    people: int
    bits: float
    """Mutual information, counted (the plug-in estimate, which is biased upwards); NaN with a reason."""
    shuffled_mean: float
    """The same after poses were shuffled: the bias, and what persons alone explain."""
    shuffled_q95: float
    p: float
    """Share of shuffles, the observed one among them, that reach `bits`."""
    permutations: int
    reason: str = ""


def mutual_information(a_N: Integers, b_N: Integers) -> float:
    """I(A;B) in bits of two labellings with values from 0, from their counts."""
    joint = np.bincount(a_N * (int(b_N.max()) + 1) + b_N, minlength=(int(a_N.max()) + 1) * (int(b_N.max()) + 1))
    joint_AB = joint.reshape(int(a_N.max()) + 1, -1)
    return float(_entropy(joint_AB.sum(1)) + _entropy(joint_AB.sum(0)) - _entropy(joint))


def dependence(
    winners_N: Integers, groups_N: Integers, people_N: Integers, permutations: int = 999, seed: int = 0
) -> Dependence:
    """Mutual information of winning element and pose group, against poses shuffled within each person.

    Args:
        winners_N: [N] strongest element of each face.
        groups_N: [N] of `pose_groups`; faces of no group are left out.
        people_N: [N] number of each face's person.
        permutations: P.
        seed: of the shuffles.
    """
    winners_N = np.unique(winners_N, return_inverse=True)[1]
    return _against_shuffles(
        lambda rows, groups: mutual_information(winners_N[rows], groups), groups_N, people_N, permutations, seed
    )


def set_dependence(
    top_NK: Integers, groups_N: Integers, people_N: Integers, permutations: int = 999, seed: int = 0
) -> Dependence:
    """As `dependence`, of all K strongest elements: what each element's being among them says of the pose, summed.

    The strongest element alone may be one that everybody has; Fig. 7 counts the ten strongest.

    Args:
        top_NK: [N,K] strongest elements of each face, each once.
        groups_N: [N] of `pose_groups`; faces of no group are left out.
        people_N: [N] number of each face's person.
        permutations: P.
        seed: of the shuffles.
    """
    active_NC = np.zeros((len(top_NK), int(top_NK.max(initial=0)) + 1))
    np.put_along_axis(active_NC, top_NK, 1.0, axis=1)

    def bits(rows: Integers, groups: Integers) -> float:
        of_G = np.bincount(groups, minlength=len(GROUPS))
        active_GC = (groups == np.arange(len(GROUPS))[:, None]) @ active_NC[rows]
        joint_2GC = np.stack([active_GC, of_G[:, None] - active_GC])
        entropies = (
            _entropies(joint_2GC.sum(1)) + _entropy(of_G) - _entropies(joint_2GC.reshape(-1, active_GC.shape[1]))
        )
        return float(entropies.sum())

    return _against_shuffles(bits, groups_N, people_N, permutations, seed)


def _against_shuffles(
    measure: Callable[[Integers, Integers], float],
    groups_N: Integers,
    people_N: Integers,
    permutations: int,
    seed: int,
) -> Dependence:
    """What `measure` says of some rows and their pose groups, against groups shuffled within each person.

    Faces of one person share elements whatever the pose; a shuffle over all faces would break that too and make any
    dictionary look pose-aware.
    """
    rows = np.flatnonzero(groups_N >= 0)
    # sorted by person once: a shuffle within persons is then a sort by (person, random number)
    rows = rows[np.argsort(people_N[rows], kind="stable")]
    groups_N, people_N = groups_N[rows], people_N[rows]
    faces, people = len(rows), len(np.unique(people_N))
    same_person = people_N[1:] == people_N[:-1]
    if not (same_person & (groups_N[1:] != groups_N[:-1])).any():
        why = "nobody has faces of two pose groups"
        return Dependence(faces, people, math.nan, math.nan, math.nan, math.nan, 0, why)
    bits = measure(rows, groups_N)
    rng = np.random.default_rng(seed)
    shuffled = np.array(
        [measure(rows, groups_N[np.lexsort((rng.random(faces), people_N))]) for _ in range(permutations)]
    )
    # the tolerance: equal tables summed in another order differ in the last bits
    p = (1 + int((shuffled >= bits - 1e-9).sum())) / (1 + permutations)
    return Dependence(faces, people, bits, float(shuffled.mean()), float(np.quantile(shuffled, 0.95)), p, permutations)


def _entropy(counts: Integers) -> float:
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log2(share)).sum())


def _entropies(counts: Doubles) -> Doubles:
    """[C] bits of each column."""
    share = counts / counts.sum(0)
    bits: Doubles = -(share * np.log2(share, out=np.zeros_like(share), where=share > 0)).sum(0)
    return bits
