"""ROC and AUC against counting by hand, against scikit-learn, and their limits."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from ffbench.metrics.verification import auc, roc, true_accept_at


def test_auc_counts_pairs_in_the_right_order_and_ties_half() -> None:
    # 0.9 beats both, 0.4 beats one and ties one: (2 + 1 + 0.5) / 4
    assert auc([0.9, 0.4], [0.4, 0.1]) == pytest.approx(3.5 / 4)
    assert auc([1, 1], [0, 0]) == 1
    assert auc([0, 0], [1, 1]) == 0
    assert auc([0.5, 0.5], [0.5]) == 0.5


def test_auc_needs_both_kinds() -> None:
    assert math.isnan(auc([], [0.1]))
    assert math.isnan(auc([0.1], []))
    with pytest.raises(ValueError, match="finite"):
        auc([math.nan], [0.1])
    with pytest.raises(ValueError, match="0 of one person"):
        roc([], [0.1])


@pytest.mark.parametrize("seed", range(5))
def test_curve_and_area_equal_scikit_learns(seed: int) -> None:
    rng = np.random.default_rng(seed)
    same, different = rng.normal(0.4, 0.3, 60).round(1), rng.normal(0, 0.3, 90).round(1)
    truth, values = np.repeat([1, 0], [60, 90]), np.concatenate([same, different])
    assert auc(same, different) == pytest.approx(sklearn_metrics.roc_auc_score(truth, values), abs=1e-12)
    false, true, _ = sklearn_metrics.roc_curve(truth, values, drop_intermediate=False)
    ours = roc(same, different)
    assert np.allclose(ours.false_accept, false, atol=1e-12)
    assert np.allclose(ours.true_accept, true, atol=1e-12)
    assert np.trapezoid(ours.true_accept, ours.false_accept) == pytest.approx(auc(same, different), abs=1e-12)


def test_true_accepts_at_a_rate_of_false_ones() -> None:
    different = np.arange(100) / 100
    # at most 1 of 100 strangers may pass: the threshold lies above 0.98
    assert true_accept_at([0.985, 0.5, 0.99, 0.98], different, 0.01) == 0.5
    assert true_accept_at([0.985, 0.5, 0.99, 0.98], different, 0.02) == 0.75
    assert math.isnan(true_accept_at([0.9], different, 0.001))
