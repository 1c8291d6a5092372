"""The threshold against scikit-learn, a known answer, and labels with noise."""

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import precision_score, recall_score, roc_auc_score, roc_curve

from faithfulfaces.dataset import calibrate as c
from ffbench.errors import UserError

RNG = np.random.default_rng(0)
VALUES = np.round(RNG.uniform(0, 240, 200))
NOISY = (VALUES + RNG.normal(0, 30, 200)) > 120
CLUSTERS = [f"video{i // 4}" for i in range(200)]


def test_the_curve_is_that_of_scikit_learn() -> None:
    made = c.curve(VALUES, NOISY)
    false_rate, recall, _ = roc_curve(NOISY, VALUES, drop_intermediate=False)
    np.testing.assert_allclose(made.false_rate[::-1], false_rate, atol=1e-12)
    np.testing.assert_allclose(made.recall[::-1], recall, atol=1e-12)
    for at in (0, 50, 120):
        taken = made.threshold[at] < VALUES
        assert made.precision[at] == pytest.approx(precision_score(NOISY, taken))
        assert made.recall[at] == pytest.approx(recall_score(NOISY, taken))
    assert np.isnan(made.precision[-1])
    assert c.auc(VALUES, NOISY) == pytest.approx(roc_auc_score(NOISY, VALUES), abs=1e-12)


def test_clean_labels_give_the_middle_of_the_gap() -> None:
    values = np.array([10.0, 80, 110, 130, 200])
    made = c.calibrate(values, values > 120, list("abcde"), resamples=50)
    assert (made.threshold, made.precision, made.recall, made.auc) == (120.0, 1.0, 1.0, 1.0)


def test_the_threshold_is_recovered_from_noisy_labels() -> None:
    """200 clips, labels with a noise of 30 degrees around 120."""
    made = c.calibrate(VALUES, NOISY, CLUSTERS)
    assert made.interval[0] <= 120 <= made.interval[1]
    assert abs(made.threshold - 120) < 30
    assert made.clusters == 50
    assert made == c.calibrate(VALUES, NOISY, CLUSTERS)


def test_clips_of_one_source_count_as_one() -> None:
    """Each clip four times: resampling clips would halve the interval, resampling sources leaves it."""
    once = c.calibrate(VALUES[:50], NOISY[:50], [str(i) for i in range(50)], resamples=400)
    rows = np.repeat(np.arange(50), 4)
    four = c.calibrate(VALUES[rows], NOISY[rows], [str(i) for i in rows], resamples=400)
    apart = c.calibrate(VALUES[rows], NOISY[rows], [str(i) for i in range(200)], resamples=400)
    assert four.auc_interval == pytest.approx(once.auc_interval, abs=0.03)
    assert np.diff(apart.auc_interval) < 0.7 * np.diff(four.auc_interval)


def test_labels_are_read_with_a_majority(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("clip,qualified,reviewer\na,1,x\na,1,y\na,0,z\nb,qualified,x\nb,no,y\nc,0,x\n")
    labels = c.read_labels(path)
    assert (labels.keys, labels.truth.tolist(), labels.disputed) == (("a", "c"), [True, False], 1)
    for text in ("clip,qualified\na,maybe\n", "name,qualified\na,1\n"):
        path.write_text(text)
        with pytest.raises(UserError, match=r"labels\.csv:2"):
            c.read_labels(path)
    with pytest.raises(UserError, match="--labels"):
        c.read_labels(tmp_path / "none.csv")


def test_a_report_says_what_it_left_out(tmp_path: Path) -> None:
    rows = [{"key": f"k{i}", "variation": v, "source": CLUSTERS[i]} for i, v in enumerate(VALUES)]
    rows.append({"key": "unposed", "variation": float("nan"), "source": "s"})
    keys = (*(f"k{i}" for i in range(200)), "unposed", "unknown")
    labels = c.Labelled(keys, np.array([*NOISY, True, False]), 3)
    made = c.report(labels, rows, "variation")
    table = made.to_json()
    assert (table["clips"], table["missing"], table["disputed"]) == (200, 2, 3)
    assert table["at_120"]["precision"] == pytest.approx(precision_score(NOISY, VALUES > 120))
    still = c.report(labels, [row | {"variation": row["variation"] / 1000} for row in rows], "variation").to_json()
    assert json.loads(json.dumps(still, allow_nan=False))["at_120"] == {"precision": None, "recall": 0.0, "taken": 0}
    for name in ("roc.svg", "roc.png"):
        c.picture(tmp_path / name, made.values, made.truth, made.result)
        assert (tmp_path / name).stat().st_size > 5000
    with pytest.raises(UserError, match="0 of 1 labelled clips are qualified"):
        c.report(c.Labelled(("k0",), np.array([False]), 0), rows, "variation")


def test_clips_are_drawn_without_their_angles() -> None:
    rows = [
        {"key": f"k{i}", "variation": v, "source": "s", "start": 0.0, "seconds": 5.0}
        for i, v in enumerate([1.0, float("nan"), 3.0, 4.0])
    ]
    lines = c.draw_clips(rows, 2, 0).splitlines()
    assert lines[0] == "clip,qualified,source,start,seconds"
    assert len(lines) == 3
    assert c.draw_clips(rows, 9, 0).count("\n") == 4
    assert "k1," not in c.draw_clips(rows, 9, 0)
