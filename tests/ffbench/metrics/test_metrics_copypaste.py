"""The copied part of FaceSim: against rotation matrices, a plain sum, and the videos it is meant to tell apart."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from ffbench.metrics.copypaste import copy_paste, split_by_pose, view_distance

Floats = NDArray[np.float64]
FRONTAL = np.zeros(3)
TURNING = np.stack([np.zeros(16), np.linspace(-60, 60, 16), np.zeros(16)], axis=1)


@st.composite
def tracks(draw: st.DrawFn) -> tuple[Floats, Floats, Floats]:
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    faces, none = draw(st.integers(1, 20)), draw(st.integers(0, 4))
    missing = random.permutation(faces + none) < none
    cosines = np.where(missing, np.nan, random.uniform(-1, 1, faces + none))
    angles = np.where(missing[:, None], np.nan, random.uniform(-60, 60, (faces + none, 3)))
    return cosines, angles, random.uniform(-40, 40, 3)


@settings(deadline=None)
@given(tracks())
def test_view_distance_is_that_of_rotated_gazes(track: tuple[Floats, Floats, Floats]) -> None:
    _, angles, reference = track
    found = ~np.isnan(angles[:, 0])

    def gaze(rows: Floats) -> Floats:
        # turn by yaw about the vertical y, after nodding by pitch about x; z looks at the camera
        return Rotation.from_euler("YX", rows[:, [1, 0]] * [1, -1], degrees=True).apply([0, 0, 1])

    cosine = np.clip(gaze(angles[found]) @ gaze(reference[None])[0], -1, 1)
    got = view_distance(angles, reference)
    assert got[found] == pytest.approx(np.degrees(np.arccos(cosine)), abs=1e-5)
    assert np.isnan(got[~found]).all()


def test_view_distance_by_hand() -> None:
    angles = [[0, 30, 0], [20, 0, 0], [0, 0, 77], [0, 180, 0], [0, 359, 0], [1e-7, 0, 0]]
    assert view_distance(angles, FRONTAL) == pytest.approx([30, 20, 0, 180, 1, 1e-7], rel=1e-9, abs=1e-12)


@settings(deadline=None)
@given(tracks())
def test_copied_and_earned_parts_add_up_to_clamped_facesim(track: tuple[Floats, Floats, Floats]) -> None:
    cosines, angles, reference = track
    got = copy_paste(cosines, angles, reference)
    clamped = np.maximum(cosines, 0)
    near = view_distance(angles, reference) <= 15
    earned = np.nansum(np.where(near, 0, clamped)) / np.sum(~np.isnan(cosines))
    assert got.value + earned == pytest.approx(np.nanmean(clamped))
    assert 0 <= got.value <= 1
    assert np.isnan(got.per_frame).tolist() == np.isnan(cosines).tolist()
    assert got.num_scored == np.sum(~np.isnan(cosines))


@settings(deadline=None)
@given(tracks())
def test_split_holds_the_same_frames(track: tuple[Floats, Floats, Floats]) -> None:
    cosines, angles, reference = track
    split = split_by_pose(cosines, angles, reference)
    near = view_distance(angles, reference) <= 15
    found = ~np.isnan(cosines)
    assert (split.num_near, split.num_far) == (np.sum(near & found), np.sum(~near & found))
    assert split.share_near == pytest.approx(near[found].mean())
    for mean, chosen in ((split.near, near & found), (split.far, ~near & found)):
        assert math.isnan(mean) if not chosen.any() else mean == pytest.approx(cosines[chosen].mean())


def test_it_tells_a_frozen_photograph_from_a_turning_head_and_a_stranger() -> None:
    still = copy_paste(np.full(16, 0.95), np.zeros((16, 3)), FRONTAL).value
    turning = copy_paste(np.full(16, 0.7), TURNING, FRONTAL).value
    stranger = copy_paste(np.full(16, 0.02), np.zeros((16, 3)), FRONTAL).value
    assert still == pytest.approx(0.95)
    # 4 of 16 steps of 8 degrees lie within 15 degrees of frontal
    assert turning == pytest.approx(0.7 * 4 / 16)
    assert stranger == pytest.approx(0.02)


def test_the_reference_may_be_turned_itself() -> None:
    profile = np.asarray([0.0, 60.0, 0.0])
    assert copy_paste(np.full(16, 0.7), np.tile(profile, (16, 1)), profile).value == pytest.approx(0.7)
    assert copy_paste(np.full(16, 0.7), np.zeros((16, 3)), profile).value == 0


def test_pasted_likeness_falls_with_the_pose() -> None:
    cosines = np.where(np.abs(TURNING[:, 1]) <= 15, 0.9, 0.3)
    split = split_by_pose(cosines, TURNING, FRONTAL)
    assert split.near - split.far == pytest.approx(0.6)


def test_no_face_no_value() -> None:
    got = copy_paste([math.nan] * 2, np.full((2, 3), np.nan), FRONTAL)
    assert math.isnan(got.value)
    assert got.reason == "no face with a head pose in any of 2 frames"
    # a cosine without a pose says nothing about where it was earned
    assert math.isnan(copy_paste([0.9], np.full((1, 3), np.nan), FRONTAL).value)
    split = split_by_pose([math.nan], np.full((1, 3), np.nan), FRONTAL)
    assert math.isnan(split.share_near)


def test_contracts() -> None:
    with pytest.raises(ValueError, match="reference: it has no head pose"):
        copy_paste([0.5], [[0, 0, 0]], np.full(3, np.nan))
    with pytest.raises(ValueError, match=r"expected cosines \[2\]"):
        copy_paste([0.5], np.zeros((2, 3)), FRONTAL)
