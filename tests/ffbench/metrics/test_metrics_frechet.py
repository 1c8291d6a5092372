"""Fréchet and kernel distances against torch-fidelity, torchmetrics and scipy; ConsisID's literal algorithm."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ffbench.metrics.frechet import face_feature_distance, fid, kid

Floats = NDArray[np.float64]


def sets(seed: int, n: int, m: int, width: int) -> tuple[Floats, Floats]:
    """Two sets with different means and correlated, differently shaped covariances."""
    random = np.random.default_rng(seed)
    a = random.standard_normal((n, width)) @ random.standard_normal((width, width))
    b = random.standard_normal((m, width)) @ random.standard_normal((width, width)) + 0.5
    return a, b


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(40, 80), st.integers(40, 80), st.integers(1, 30))
def test_fid_is_scipys_on_full_rank_sets(seed: int, n: int, m: int, width: int) -> None:
    a, b = sets(seed, n, m, width)
    s, t = np.atleast_2d(np.cov(a.T)), np.atleast_2d(np.cov(b.T))
    shift = a.mean(axis=0) - b.mean(axis=0)
    expected = shift @ shift + np.trace(s + t - 2 * scipy.linalg.sqrtm(s @ t).real)
    assert fid(a, b, minimum=2).value == pytest.approx(expected, rel=1e-6)


def test_fid_is_torchmetrics_and_torch_fidelitys() -> None:
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
    from torchmetrics.image.fid import _compute_fid

    a, b = sets(0, 300, 400, 64)
    x, y = torch.tensor(a), torch.tensor(b)
    ours = fid(a, b, minimum=2)
    theirs = _compute_fid(x.mean(dim=0), torch.cov(x.T), y.mean(dim=0), torch.cov(y.T)).item()
    assert ours.value == pytest.approx(theirs, rel=1e-9)
    statistics = [fid_features_to_statistics(z) for z in (x, y)]
    fidelity = fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
    assert ours.value == pytest.approx(float(fidelity), rel=1e-6)
    assert (ours.num_a, ours.num_b, ours.reason) == (300, 400, "")


@pytest.mark.parametrize(("n", "m"), [(500, 20), (20, 500), (20, 20), (64, 64), (65, 65), (500, 500)])
def test_both_ways_to_the_root_agree_at_every_rank(n: int, m: int) -> None:
    a, b = sets(1, n, m, 64)
    s, t = np.cov(a.T), np.cov(b.T)
    values, vectors = np.linalg.eigh(s)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    overlap = np.sqrt(np.linalg.eigvalsh(root @ t @ root).clip(0)).sum()
    shift = a.mean(axis=0) - b.mean(axis=0)
    naive = shift @ shift + np.trace(s) + np.trace(t) - 2 * overlap
    # square roots of rounding noise make the naive form the worse one where the sets are small
    assert fid(a, b, minimum=2).value == pytest.approx(naive, rel=1e-5)


def test_fid_of_diagonal_gaussians_by_hand() -> None:
    # the four corners have mean 0 and variance 4/3 along each axis
    corners = np.asarray([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    stretched = corners * [2.0, 3.0] + [5.0, 0.0]
    expected = 25 + 4 / 3 * ((2 - 1) ** 2 + (3 - 1) ** 2)
    assert fid(corners, stretched, minimum=2).value == pytest.approx(expected)


@pytest.mark.parametrize("n", [10, 64, 300])
def test_identical_sets_have_distance_zero(n: int) -> None:
    a, _ = sets(2, n, 2, 64)
    assert fid(a, a[::-1].copy(), minimum=2).value == pytest.approx(0, abs=1e-9 * np.trace(np.cov(a.T)))


def test_singular_covariances() -> None:
    a, b = sets(3, 300, 400, 8)
    # 56 dimensions that never vary, and 8 that are copies: neither may break or move the distance
    flat_a, flat_b = (np.hstack([x, np.zeros((len(x), 56))]) for x in (a, b))
    assert fid(flat_a, flat_b, minimum=2).value == pytest.approx(fid(a, b, minimum=2).value, rel=1e-7)
    twice_a, twice_b = (np.hstack([x, x]) for x in (a, b))
    assert fid(twice_a, twice_b, minimum=2).value == pytest.approx(2 * fid(a, b, minimum=2).value, rel=1e-7)
    constant = np.ones((5, 8))
    assert fid(constant, constant, minimum=2).value == 0


def test_small_sets_of_one_shape_differ_by_their_shift_alone() -> None:
    # rank 4 in 256 dimensions: roots of the 252 zero eigenvalues' rounding noise would show
    a = 10 * np.random.default_rng(12).standard_normal((5, 256))
    assert fid(a, a + 0.001, minimum=2).value == pytest.approx(256e-6, rel=1e-5)


def test_fid_ignores_order_and_side() -> None:
    a, b = sets(4, 100, 90, 16)
    value = fid(a, b, minimum=2).value
    assert fid(b, a, minimum=2).value == pytest.approx(value)
    assert fid(np.random.default_rng(0).permutation(a), b, minimum=2).value == pytest.approx(value)


def test_small_sets_are_refused_with_their_sizes() -> None:
    got = fid(np.zeros((100, 4)), np.zeros((2048, 4)))
    assert math.isnan(got.value)
    assert got.reason.startswith("100 crops against 2048: FID needs 2048 on each side")
    assert "minimum" in got.reason
    assert fid(np.zeros((2048, 4)), np.zeros((2047, 4))).reason
    assert fid(np.zeros((2048, 4)), np.zeros((2048, 4))).value == 0


def test_faceless_rows_are_no_crops() -> None:
    a, b = sets(5, 30, 30, 4)
    holes = np.vstack([a, np.full((10, 4), np.nan)])
    got = fid(holes, b, minimum=30)
    assert (got.value, got.num_a) == (pytest.approx(fid(a, b, minimum=30).value), 30)
    assert fid(holes, b, minimum=31).reason.startswith("30 crops against 30")
    assert kid(holes, b, subset_size=30).num_a == 30


def test_fid_falls_with_the_size_of_the_sets_which_is_why_small_ones_are_refused() -> None:
    random = np.random.default_rng(6)
    values = [
        fid(random.standard_normal((n, 64)), random.standard_normal((n, 64)), minimum=2).value for n in (70, 500, 5000)
    ]
    # the true distance is 0
    assert values[0] > 5 * values[1] > 25 * values[2] > 0


def test_contracts_of_the_sets() -> None:
    with pytest.raises(ValueError, match="features_b: expected shape"):
        fid(np.zeros((3, 4)), np.zeros((3, 5)))
    with pytest.raises(ValueError, match="minimum: a covariance needs 2 rows"):
        fid(np.zeros((3, 4)), np.zeros((3, 4)), minimum=1)
    for subsets, size in ((0, 10), (10, 1)):
        with pytest.raises(ValueError, match="at least 1 subset"):
            kid(np.zeros((3, 4)), np.zeros((3, 4)), subsets=subsets, subset_size=size)


def test_kid_of_whole_sets_is_torchmetrics_and_torch_fidelitys() -> None:
    from torch_fidelity.metric_kid import kid_features_to_metric
    from torchmetrics.image.kid import poly_mmd

    a, b = sets(7, 60, 60, 16)
    a, b = a / 4, b / 4
    # a subset as large as the set is the set, so that the draw does not matter
    ours = kid(a, b, subsets=3, subset_size=60)
    assert ours.value == pytest.approx(poly_mmd(torch.tensor(a), torch.tensor(b), 3, None, 1.0).item(), rel=1e-9)
    assert ours.std == pytest.approx(0, abs=1e-12)
    fidelity = kid_features_to_metric(
        torch.tensor(a), torch.tensor(b), kid_subsets=3, kid_subset_size=60, verbose=False
    )
    assert ours.value == pytest.approx(fidelity["kernel_inception_distance_mean"], rel=1e-6)


def test_kid_by_plain_loops() -> None:
    a, b = sets(8, 6, 6, 3)

    def kernel(x: Floats, y: Floats) -> float:
        return float((x @ y / 3 + 1) ** 3)

    pairs = [(i, j) for i in range(6) for j in range(6) if i != j]
    within = sum(kernel(a[i], a[j]) + kernel(b[i], b[j]) for i, j in pairs) / len(pairs)
    across = sum(kernel(x, y) for x in a for y in b) / 36
    assert kid(a, b, subsets=1, subset_size=6).value == pytest.approx(within - 2 * across)


def test_kid_is_unbiased_where_fid_is_not() -> None:
    random = np.random.default_rng(9)
    values = [
        kid(random.standard_normal((20, 8)), random.standard_normal((200, 8)), subsets=20).value for _ in range(300)
    ]
    error = np.std(values) / math.sqrt(len(values))
    assert abs(np.mean(values)) < 4 * error
    assert min(values) < 0


def test_kid_is_seeded_and_shrinks_its_subsets_to_the_smaller_set() -> None:
    a, b = sets(10, 300, 30, 8)
    assert kid(a, b) == kid(a, b)
    assert kid(a, b, seed=1).value != kid(a, b).value
    assert kid(a, b).std > 0
    assert kid(a, b, subset_size=30) == kid(a, b)
    got = kid(a[:1], b)
    assert math.isnan(got.value)
    assert got.reason == "1 crops against 30: KID needs 2 on each side"


def consisid_distance(reference: Floats, frame: Floats) -> float:
    """ConsisID's calculate_fid, step by step as its script does it, in float64."""

    def activations(features: Floats) -> torch.Tensor:
        return torch.tensor(np.repeat(features[None], 2, axis=0))

    real, fake = activations(reference), activations(frame)
    mu, nu = real.mean(dim=0), fake.mean(dim=0)
    sigma, tau = torch.cov(real.T), torch.cov(fake.T)
    eigenvalues, eigenvectors = torch.linalg.eigh(sigma.mm(tau))
    root = (eigenvectors * torch.sqrt(torch.clamp(eigenvalues, min=0))).mm(eigenvectors.T)
    return float(torch.sum((mu - nu) ** 2) + torch.trace(sigma + tau - 2 * root))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 8), st.integers(0, 3))
def test_face_feature_distance_is_consisids_algorithm(seed: int, faces: int, none: int) -> None:
    random = np.random.default_rng(seed)
    reference = random.uniform(0, 2, 48)
    frames = random.uniform(0, 2, (faces + none, 48))
    frames[random.permutation(faces + none) < none] = np.nan
    expected = [consisid_distance(reference, frame) for frame in frames if not np.isnan(frame).any()]
    got = face_feature_distance(reference, frames)
    assert got.value == pytest.approx(np.mean(expected), rel=1e-12)
    assert got.num_scored == faces
    assert [v for v in got.per_frame if not math.isnan(v)] == pytest.approx(expected, rel=1e-12)


def test_face_feature_distance_without_a_face() -> None:
    frames = np.full((2, 4), np.nan)
    assert face_feature_distance(np.zeros(4), frames).reason == "no face in any of 2 frames"
    assert math.isnan(face_feature_distance(np.zeros(4), frames).value)
    assert face_feature_distance(np.zeros(4), frames, faceless_as_zero=True)[:3] == (0.0, "", 0)
    with pytest.raises(ValueError, match="reference: it holds no face"):
        face_feature_distance(np.full(4, np.nan), np.zeros((2, 4)))
    with pytest.raises(ValueError, match="features: expected shape"):
        face_feature_distance(np.zeros(4), np.zeros((2, 5)))
