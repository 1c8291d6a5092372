"""The checks that all metrics share: shapes, missing rows, unit length."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ffbench.metrics import rows, unit_rows, unscored


def test_a_missing_row_is_nan_throughout() -> None:
    values, present = rows([[1, 2], [math.nan, math.nan]], "x")
    assert values.dtype == np.float64
    assert present.tolist() == [True, False]


@pytest.mark.parametrize(
    ("values", "width"),
    [([1.0, 2.0], None), ([[1.0, 2.0]], 3), ([[1.0, math.nan]], None), ([[1.0, math.inf]], None)],
)
def test_other_rows_are_refused_by_name(values: list[float], width: int | None) -> None:
    with pytest.raises(ValueError, match="points: "):
        rows(values, "points", width)


def test_unit_rows_are_brought_to_length_one_exactly() -> None:
    half = np.asarray([[0.6, 0.8], [0.28, 0.96]], np.float16)
    assert np.abs(np.linalg.norm(half.astype(np.float64), axis=1) - 1).max() > 1e-5
    values, _ = unit_rows(half, "x")
    assert np.linalg.norm(values, axis=1) == pytest.approx([1.0, 1.0], abs=1e-15)


@pytest.mark.parametrize("raw", [[[3.0, 4.0]], [[0.0, 0.0]], [[0.6, 0.8], [0.6, 0.81]]])
def test_vectors_of_another_length_are_refused(raw: list[list[float]]) -> None:
    with pytest.raises(ValueError, match="expected unit vectors, got lengths"):
        unit_rows(raw, "embeddings")


def test_missing_has_a_reason() -> None:
    value = unscored("why", [0.5])
    assert math.isnan(value.value)
    assert (value.reason, value.num_scored, value.per_frame) == ("why", 0, (0.5,))
