"""Head-pose ranges against Eq. 8 in plain form, numpy's percentiles and turns through 180 degrees."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ffbench.metrics.pose import pose_range, pose_range_robust, yaw_coverage

Floats = NDArray[np.float64]
NO_FACE = np.full((1, 3), np.nan)


@st.composite
def tracks(draw: st.DrawFn) -> Floats:
    """Angles [T,3] within a half turn, as estimators give them for visible faces, some rows without a face."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    angles = random.uniform(-89, 89, (draw(st.integers(2, 20)), 3))
    return random.permutation(np.vstack([angles, np.full((draw(st.integers(0, 4)), 3), np.nan)]))


def eq_8(angles: Floats) -> float:
    pitch, yaw, roll = ([row[i] for row in angles.tolist() if not math.isnan(row[i])] for i in range(3))
    return (max(pitch) - min(pitch)) + (max(yaw) - min(yaw)) + (max(roll) - min(roll))


@settings(deadline=None)
@given(tracks())
def test_pose_range_is_eq_8(angles: Floats) -> None:
    assert pose_range(angles).value == pytest.approx(eq_8(angles), abs=1e-9)
    assert pose_range(angles).num_scored == (~np.isnan(angles[:, 0])).sum()


@settings(deadline=None)
@given(tracks())
def test_robust_range_is_numpys_percentiles_and_never_more(angles: Floats) -> None:
    found = angles[~np.isnan(angles[:, 0])]
    expected = (np.percentile(found, 95, axis=0) - np.percentile(found, 5, axis=0)).sum()
    got = pose_range_robust(angles).value
    assert got == pytest.approx(expected, abs=1e-9)
    assert got <= pose_range(angles).value


@settings(deadline=None)
@given(tracks(), st.floats(-720, 720))
def test_a_common_turn_of_all_frames_changes_nothing(angles: Floats, turn: float) -> None:
    turned = (angles + turn + 180) % 360 - 180
    for measure in (pose_range, pose_range_robust):
        assert measure(turned).value == pytest.approx(measure(angles).value, abs=1e-6)


@settings(deadline=None)
@given(tracks(), st.integers(0, 2**32 - 1))
def test_frame_order_and_faceless_frames_do_not_matter(angles: Floats, seed: int) -> None:
    shuffled = np.vstack([np.random.default_rng(seed).permutation(angles), NO_FACE])
    for measure in (pose_range, pose_range_robust):
        assert measure(shuffled).value == measure(angles).value


@settings(deadline=None)
@given(tracks(), tracks())
def test_more_frames_never_narrow_the_range(angles: Floats, more: Floats) -> None:
    assert pose_range(np.vstack([angles, more])).value >= pose_range(angles).value - 1e-9


def test_crossing_180_degrees_is_no_full_turn() -> None:
    assert pose_range([[0, 0, 179], [0, 0, -179]]).value == pytest.approx(2)
    assert pose_range_robust([[0, 0, 170], [0, 0, 180], [0, 0, -170]]).value == pytest.approx(18)


def test_more_than_a_half_turn_with_frames_between() -> None:
    assert pose_range([[0, yaw, 0] for yaw in (-95, 0, 95)]).value == pytest.approx(190)


def test_one_wild_estimate_makes_the_range_but_not_the_robust_one() -> None:
    angles = np.zeros((41, 3))
    angles[20, 1] = 80
    assert pose_range(angles).value == 80
    assert pose_range_robust(angles).value == 0


def test_a_head_that_never_turns_has_range_zero_and_no_head_has_none() -> None:
    assert pose_range(np.full((16, 3), 12.5)).value == 0
    for angles, count in ((np.full((3, 3), np.nan), "0 of 3"), (np.vstack([np.zeros((1, 3)), NO_FACE]), "1 of 2")):
        for measure in (pose_range, pose_range_robust):
            got = measure(angles)
            assert math.isnan(got.value)
            assert got.reason == f"{count} frames have a head pose, a range needs two"


@pytest.mark.parametrize("angles", [np.zeros(3), np.zeros((4, 2)), [[0, math.nan, 0]]])
def test_contracts_of_the_angles(angles: Floats) -> None:
    with pytest.raises(ValueError, match="angles: "):
        pose_range(angles)


def test_yaw_coverage_counts_visited_bins() -> None:
    edges = np.arange(-90, 91, 15)
    got = yaw_coverage([0.0, 3.0, 14.9, 15.0, -90.0, 90.0, 120.0, math.nan], edges)
    assert got.value == pytest.approx(4 / 12)
    assert got.num_scored == 7
    assert yaw_coverage(np.arange(-90, 90, 5.0), edges).value == 1
    assert yaw_coverage([math.nan], edges).reason == "no head pose in any of 1 frames"


@pytest.mark.parametrize(("yaw", "edges"), [([[0.0]], [0, 1]), ([0.0], [0]), ([0.0], [1, 0])])
def test_yaw_coverage_contracts(yaw: list[float], edges: list[float]) -> None:
    with pytest.raises(ValueError, match="expected yaw"):
        yaw_coverage(yaw, edges)
