"""FaceSim and what hangs on it, against torch's cosine, the peers' scripts in plain form, numpy and scipy."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ffbench.metrics import Measured
from ffbench.metrics.identity import (
    by_bins,
    cosines,
    face_rate,
    facesim,
    facesim_where,
    identity_drift,
    missing_as_zero,
    same_identity_rate,
    threshold_at_far,
)

Floats = NDArray[np.float64]
WIDTH = 4


def unit(values: Floats) -> Floats:
    return values / np.linalg.norm(values, axis=-1, keepdims=True)


@st.composite
def videos(draw: st.DrawFn, min_faces: int = 0) -> tuple[Floats, Floats]:
    """A reference and frames, some without a face; few dimensions, so that cosines reach far below zero."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    faces = draw(st.integers(min_faces, 6))
    frames = unit(random.standard_normal((faces + draw(st.integers(0, 4)), WIDTH)))
    frames[faces:] = np.nan
    return unit(random.standard_normal(WIDTH)), random.permutation(frames)


def reference_script(reference: Floats, frames: Floats, *, drop_zeros: bool) -> float:
    """What the loops of ConsisID (False) and OpenS2V-Eval (True) compute, on the embeddings they would have seen."""
    scores = []
    for frame in frames:
        if np.isnan(frame).any():
            continue
        similarity = torch.nn.functional.cosine_similarity(torch.tensor(reference), torch.tensor(frame), dim=-1)
        score = max(0.0, similarity.item())
        if not drop_zeros or score != 0.0:
            scores.append(score)
    return float(np.mean(scores)) if scores else 0.0


@settings(deadline=None)
@given(videos(), st.booleans())
def test_compatible_aggregates_equal_the_scripts(video: tuple[Floats, Floats], drop_zeros: bool) -> None:
    got = facesim(*video, clamp=True, drop_zeros=drop_zeros, faceless_as_zero=True)
    assert got.value == pytest.approx(reference_script(*video, drop_zeros=drop_zeros), abs=1e-12)


@settings(deadline=None)
@given(videos(min_faces=1))
def test_raw_facesim_is_the_mean_of_torchs_cosines(video: tuple[Floats, Floats]) -> None:
    reference, frames = video
    faces = torch.tensor(frames[~np.isnan(frames).any(axis=1)])
    expected = torch.nn.functional.cosine_similarity(torch.tensor(reference)[None], faces).mean().item()
    got = facesim(reference, frames)
    assert got.value == pytest.approx(expected, abs=1e-12)
    assert got.num_scored == len(faces)
    assert len(got.per_frame) == len(frames)


def test_facesim_by_hand() -> None:
    reference = np.asarray([1.0, 0.0])
    frames = np.asarray([[0.6, 0.8], [-0.8, 0.6], [0.0, 1.0], [np.nan, np.nan]])
    assert facesim(reference, frames).value == pytest.approx((0.6 - 0.8 + 0) / 3)
    assert facesim(reference, frames, clamp=True).value == pytest.approx(0.6 / 3)
    assert facesim(reference, frames, clamp=True, drop_zeros=True) == Measured(
        pytest.approx(0.6), "", 1, pytest.approx((0.6, -0.8, 0.0, math.nan), nan_ok=True)
    )
    assert missing_as_zero(reference, frames).value == pytest.approx(0.6 / 4)
    assert missing_as_zero(reference, frames).num_scored == 3


def test_float32_and_the_same_face() -> None:
    vector = unit(np.random.default_rng(0).standard_normal(512)).astype(np.float32)
    assert facesim(vector, np.stack([vector, -vector])).per_frame == (1.0, -1.0)


def test_without_a_face_the_value_is_missing() -> None:
    frames = np.full((3, WIDTH), np.nan)
    reference = np.eye(WIDTH)[0]
    got = facesim(reference, frames, clamp=True)
    assert math.isnan(got.value)
    assert got.reason == "no face in any of 3 frames"
    assert facesim(reference, frames, faceless_as_zero=True)[:3] == (0.0, "", 0)
    assert missing_as_zero(reference, frames)[:3] == (0.0, "", 0)


def test_dropping_every_frame_is_named() -> None:
    got = facesim(np.asarray([1.0, 0.0]), np.asarray([[-1.0, 0.0], [np.nan, np.nan]]), clamp=True, drop_zeros=True)
    assert got.reason == "every cosine of 1 faces was dropped"


def test_a_video_without_frames_is_missing_everywhere() -> None:
    none, reference = np.empty((0, WIDTH)), np.eye(WIDTH)[0]
    for got in (
        facesim(reference, none),
        missing_as_zero(reference, none),
        facesim_where(reference, none, np.empty(0, bool), "anywhere"),
        face_rate(np.empty(0, bool)),
        identity_drift([], []),
        same_identity_rate([], 0.3),
    ):
        assert math.isnan(got.value)
        assert got.reason


@settings(deadline=None)
@given(videos())
def test_a_faceless_frame_never_pays(video: tuple[Floats, Floats]) -> None:
    reference, frames = video
    more = np.vstack([frames, np.full((1, WIDTH), np.nan)])
    if len(frames):
        assert missing_as_zero(reference, more).value <= missing_as_zero(reference, frames).value + 1e-12
    # BLAS may sum a matrix of another height in another order
    assert facesim(reference, more).value == pytest.approx(facesim(reference, frames).value, abs=1e-14, nan_ok=True)


@settings(deadline=None)
@given(videos(min_faces=1), st.booleans())
def test_a_worse_frame_cannot_raise_a_score(video: tuple[Floats, Floats], clamp: bool) -> None:
    reference, frames = video
    worst, opposite = frames[[np.nanargmin(cosines(reference, frames))]], -reference[None]
    for bad in (worst, opposite):
        more = np.vstack([frames, bad])
        assert facesim(reference, more, clamp=clamp).value <= facesim(reference, frames, clamp=clamp).value + 1e-12
    more = np.vstack([frames, opposite])
    assert missing_as_zero(reference, more).value <= missing_as_zero(reference, frames).value + 1e-12


def test_dropping_zeros_lets_a_bad_frame_pay_which_is_why_only_opens2v_does() -> None:
    reference, frames = np.asarray([1.0, 0.0]), np.asarray([[0.6, 0.8], [0.01, 0.99995]])
    worse = np.asarray([[0.6, 0.8], [-1.0, 0.0]])
    scores = [facesim(reference, x, clamp=True, drop_zeros=True).value for x in (frames, worse)]
    assert scores[1] > scores[0]


@settings(deadline=None)
@given(videos(), st.randoms(use_true_random=False))
def test_frame_order_does_not_matter(video: tuple[Floats, Floats], random: object) -> None:
    reference, frames = video
    order = np.random.default_rng(random.randrange(2**32)).permutation(len(frames))  # type: ignore[attr-defined]
    for measure in (facesim, missing_as_zero):
        assert measure(reference, frames[order]).value == pytest.approx(
            measure(reference, frames).value, abs=1e-12, nan_ok=True
        )


@settings(deadline=None)
@given(videos(), st.booleans(), st.booleans())
def test_missing_never_turns_into_zero(video: tuple[Floats, Floats], clamp: bool, drop_zeros: bool) -> None:
    reference, frames = video
    faceless = np.isnan(frames).all(axis=1)
    got = facesim(reference, frames, clamp=clamp, drop_zeros=drop_zeros)
    assert math.isnan(got.value) == bool(got.reason)
    assert np.isnan(got.per_frame).tolist() == faceless.tolist()
    if faceless.all():
        assert math.isnan(got.value)


def test_facesim_where_reads_only_the_chosen_faces() -> None:
    reference = np.asarray([1.0, 0.0])
    frames = np.asarray([[1.0, 0.0], [0.6, 0.8], [np.nan, np.nan]])
    got = facesim_where(reference, frames, np.asarray([False, True, True]), "x")
    assert got == Measured(pytest.approx(0.6), "", 1, pytest.approx((math.nan, 0.6, math.nan), nan_ok=True))
    none = facesim_where(reference, frames, np.asarray([False, False, True]), "with |yaw| above 45 degrees")
    assert none.reason == "no face with |yaw| above 45 degrees in any of 3 frames"
    for mask in ([1, 0, 0], [True]):
        with pytest.raises(ValueError, match="mask: expected bool"):
            facesim_where(reference, frames, mask, "x")


def test_contracts_of_the_embeddings() -> None:
    reference = np.asarray([1.0, 0.0])
    with pytest.raises(ValueError, match="reference: it holds no face"):
        facesim(np.full(2, np.nan), reference[None])
    with pytest.raises(ValueError, match=r"embeddings: expected shape \[T,2\]"):
        facesim(reference, np.eye(3))
    with pytest.raises(ValueError, match="embeddings: expected unit vectors"):
        facesim(reference, [[5.0, 0.0]])


def test_face_rate_counts_every_frame() -> None:
    assert face_rate(np.asarray([True, False, False, True])) == Measured(0.5, "", 4, (1.0, 0.0, 0.0, 1.0))
    assert face_rate(np.asarray([False])).value == 0.0
    for wrong in ([0.9, 0.8], [[True]]):
        with pytest.raises(ValueError, match="found: expected bool"):
            face_rate(wrong)


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(5, 30))
def test_drift_is_the_slope_of_scipys_regression(seed: int, count: int) -> None:
    random = np.random.default_rng(seed)
    time = np.sort(random.uniform(0, 6, count))
    values = random.uniform(-1, 1, count)
    values[1:-1][random.uniform(size=count - 2) < 0.2] = np.nan
    found = ~np.isnan(values)
    got = identity_drift(values, time)
    if found.sum() >= 4:
        assert got.value == pytest.approx(scipy.stats.linregress(time[found], values[found]).slope, rel=1e-9, abs=1e-9)
        assert got.num_scored == found.sum()


def test_drift_of_a_line_and_of_a_constant() -> None:
    time = np.linspace(0, 5, 16)
    assert identity_drift(0.8 - 0.05 * time, time).value == pytest.approx(-0.05)
    assert identity_drift(np.full(16, 0.7), time).value == pytest.approx(0, abs=1e-15)
    order = np.random.default_rng(1).permutation(16)
    assert identity_drift((0.8 - 0.05 * time)[order], time[order]).value == pytest.approx(-0.05)


def test_drift_refuses_to_extrapolate() -> None:
    time = np.linspace(0, 5, 16)
    few = np.where(np.arange(16) % 6 == 0, 0.5, np.nan)
    assert identity_drift(few, time).reason == "3 of 16 frames have a face, a slope needs 4"
    early = np.where(time < 1.9, 0.5, np.nan)
    assert identity_drift(early, time).reason == "the frames with a face span 1.67 of 5.00 s, a slope needs 50%"
    assert math.isnan(identity_drift(np.full(5, 0.5), np.zeros(5)).value)
    for values, times in (([0.5], [0.0, 1.0]), ([0.5], [math.nan])):
        with pytest.raises(ValueError, match="expected cosines"):
            identity_drift(values, times)


def test_same_identity_rate_leaves_faceless_frames_out() -> None:
    got = same_identity_rate([0.5, 0.3, math.nan, 0.1], 0.3)
    assert got == Measured(pytest.approx(1 / 3), "", 3, pytest.approx((1, 0, math.nan, 0), nan_ok=True))
    assert same_identity_rate([math.nan, math.nan], 0.3).reason == "no face in any of 2 frames"
    with pytest.raises(ValueError, match="threshold: expected a number"):
        same_identity_rate([0.5], math.nan)


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(10, 500), st.sampled_from([0.01, 0.05, 0.1, 0.29]))
def test_threshold_is_the_smallest_that_keeps_the_rate(seed: int, count: int, far: float) -> None:
    strangers = np.random.default_rng(seed).normal(0, 0.1, count)
    if count * far < 1:
        with pytest.raises(ValueError, match=f"there are {count}"):
            threshold_at_far(strangers, far)
        return
    threshold = threshold_at_far(strangers, far)
    assert (strangers > threshold).mean() <= far + 1e-12
    below = strangers[strangers < threshold].max()
    assert (strangers > below).mean() > far


def test_threshold_with_ties_and_bad_input() -> None:
    assert threshold_at_far([0.1] * 100, 0.05) == 0.1
    # 29 of 100 may pass although 0.29 * 100 < 29 in binary
    assert threshold_at_far(np.arange(100) / 100, 0.29) == 0.70
    with pytest.raises(ValueError, match=r"a false-accept rate of 0\.001 needs 1000 pairs of strangers, there are 435"):
        threshold_at_far(np.zeros(435), 1e-3)
    for cosine, far in (([0.1, math.nan], 0.5), ([0.1, 0.2], 0.0), ([0.1, 0.2], 1.0)):
        with pytest.raises(ValueError, match="finite cosines"):
            threshold_at_far(cosine, far)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 60))
def test_bins_equal_scipys_binned_statistic(seed: int, count: int) -> None:
    random = np.random.default_rng(seed)
    # whole degrees hit the edges
    angles = random.integers(-60, 61, count).astype(float)
    values = random.uniform(0, 1, count)
    edges = np.arange(-60, 61, 15)
    got = by_bins(values, angles, edges)
    if count:
        mean = scipy.stats.binned_statistic(angles, values, "mean", edges).statistic
        number = scipy.stats.binned_statistic(angles, values, "count", edges).statistic
        assert [b.mean for b in got] == pytest.approx(mean.tolist(), nan_ok=True)
        assert [b.num_frames for b in got] == number.tolist()
    assert [(b.low, b.high) for b in got] == list(itertools.pairwise(edges))


def test_bins_leave_out_what_has_no_value_or_no_angle() -> None:
    got = by_bins([0.5, math.nan, 0.9, 0.1], [10, 10, math.nan, 50], [0, 15, 30])
    assert got[0] == (0, 15, 0.5, 1)
    assert math.isnan(got[1].mean)
    assert got[1].num_frames == 0


@pytest.mark.parametrize("edges", [[0], [0, 0], [15, 0], [[0, 1]]])
def test_bins_need_increasing_edges(edges: list[float]) -> None:
    with pytest.raises(ValueError, match="edges"):
        by_bins([0.5], [10], edges)


def test_bins_need_one_angle_a_value() -> None:
    with pytest.raises(ValueError, match="expected values"):
        by_bins([0.5], [10, 20], [0, 15])
