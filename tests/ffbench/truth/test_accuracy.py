"""Facts about instruments against cases counted by hand."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from ffbench.extract.track import FaceTrack
from ffbench.metrics.jackknife import jackknife
from ffbench.truth import accuracy
from ffbench.truth.accuracy import Fact
from ffbench.truth.labelled import Labelled

BOX = np.array([10, 10, 50, 60], np.float32)
POINTS = np.array([[20, 25], [40, 25], [30, 35], [22, 45], [38, 45]], np.float32)


def labelled(yaw: list[list[float]], seen: float = 0.6) -> Labelled:
    n, t = np.shape(yaw)
    angles = np.zeros((n, t, 3), np.float32)
    angles[..., 1] = yaw
    return Labelled(
        np.arange(n) + 7, np.zeros((n, t, 64, 64, 3), np.uint8), np.full((n, t), "a person"), angles,
        np.tile(BOX, (n, t, 1)), np.tile(POINTS, (n, t, 1, 1)), np.full((n, t), seen, np.float32),
    )  # fmt: skip


def track(truth: Labelled, row: int, *, lost: tuple[int, ...] = (), shift: float = 0.0) -> FaceTrack:
    """The truth as an instrument might tell it: `shift` px aside, nothing in the frames `lost`."""
    count = truth.seen.shape[1]
    found = ~np.isin(np.arange(count), lost)

    def told(values: np.ndarray) -> np.ndarray:
        return np.where(found.reshape(-1, *[1] * (values.ndim - 1)), values, np.nan).astype(np.float32)

    eye = np.eye(8, dtype=np.float32)[np.full(count, row)]
    return FaceTrack(
        np.arange(count), np.arange(count, dtype=np.float64), told(truth.box[row] + shift),
        told(truth.points[row] + shift), told(np.ones(count)), found.astype(np.int64), ("full",) * count,
        told(truth.angles[row]), {"arc": told(eye)}, {}, np.arange(count), eye, (64, 64),
    )  # fmt: skip


def chosen(truth: Labelled, people: np.ndarray) -> Labelled:
    return Labelled(*(getattr(truth, field.name)[people] for field in dataclasses.fields(Labelled)))


def one(facts: list[Fact], of: str, group: str) -> Fact:
    (found,) = [fact for fact in facts if (fact.of, fact.group) == (of, group)]
    return found


def test_recall_counts_boxes_on_the_face_in_each_bin() -> None:
    truth = labelled([[0, 5, -20, -50], [10, 29.9, 30, 170]])
    facts = accuracy.detection([track(truth, 0, lost=(1,)), track(truth, 1)], truth)
    first = one(facts, "recall", "0-15")
    assert (first.value, first.count, first.people) == (pytest.approx(2 / 3), 3, 2)
    assert one(facts, "recall", "15-30").value == 1
    assert one(facts, "recall", "30-45").count == 1
    assert one(facts, "recall", "45-60").value == 1
    assert one(facts, "recall", "all").value == pytest.approx(6 / 7)
    assert math.isnan(one(facts, "recall", "75-90").value)
    assert one(facts, "false", "behind") == Fact("false", "behind", 1.0, *accuracy.aggregate.wilson(1, 1), 1, 1)


def test_a_box_beside_the_face_is_misplaced_and_gives_no_landmarks() -> None:
    truth = labelled([[0, 0], [0, 0]])
    tracks = [track(truth, 0, shift=30), track(truth, 1, shift=3)]
    facts = accuracy.detection(tracks, truth)
    assert one(facts, "recall", "all").value == 0.5
    assert one(facts, "misplaced", "all").value == 0.5
    marks = accuracy.landmarks(tracks, truth)
    assert one(marks, "landmarks px", "0-15").count == 2
    assert one(marks, "landmarks px", "0-15").value == pytest.approx(3 * math.sqrt(2))
    assert one(marks, "landmarks %", "0-15").value == pytest.approx(100 * 3 * math.sqrt(2) / math.sqrt(40 * 50))


def test_hidden_faces_are_counted_apart() -> None:
    truth = labelled([[0, 100]], seen=0.1)
    facts = accuracy.detection([track(truth, 0, lost=(0,))], truth)
    assert one(facts, "recall", "hidden").count == 1
    assert one(facts, "recall", "hidden").value == 0
    assert one(facts, "recall", "all").count == 0


def test_overlap_of_boxes() -> None:
    a = np.array([[0, 0, 2, 2], [0, 0, 2, 2], [0, 0, 1, 1], [np.nan] * 4], np.float32)
    b = np.array([[1, 1, 3, 3], [0, 0, 2, 2], [2, 2, 3, 3], [0, 0, 1, 1]], np.float32)
    assert accuracy.overlap(a, b).tolist() == pytest.approx([1 / 7, 1, 0, 0])


def test_angle_errors_are_absolute_and_go_the_short_way_round() -> None:
    truth = labelled([[0, 80, -40], [0, 80, -40]])
    tracks = [track(truth, 0), track(truth, 1)]
    for one_track, error in zip(tracks, ([2, -3, 4], [-4, 1, 359]), strict=True):
        one_track.angles[:] += np.array(error, np.float32)
    facts = accuracy.pose(tracks, truth)
    assert one(facts, "pitch", "0-15").value == pytest.approx(3)
    assert one(facts, "yaw", "30-45").value == pytest.approx(2)
    assert one(facts, "roll", "75-90").value == pytest.approx(2.5, abs=1e-4)
    assert one(facts, "roll", "all").count == 6


def test_intervals_are_clustered_by_person() -> None:
    # one person is always missed: frames within a person are no independent trials
    truth = labelled([[0.0] * 20 for _ in range(6)])
    tracks = [track(truth, row, lost=tuple(range(20)) if row == 0 else ()) for row in range(6)]
    told = one(accuracy.detection(tracks, truth), "recall", "all")
    assert told.value == pytest.approx(5 / 6)
    assert told.low < 0.6
    assert told.high <= 1
    none_lost = one(accuracy.detection([track(truth, row) for row in range(6)], truth), "recall", "all")
    assert (none_lost.low, none_lost.high) == accuracy.aggregate.wilson(6, 6)


def test_pairs_know_whose_they_are_and_how_far_apart_they_look() -> None:
    truth = labelled([[0, 50, 20], [0, -170, 170]])
    found = accuracy.pairs([track(truth, 0, lost=(2,)), track(truth, 1)], truth, "arc")
    assert len(found.cosine) == 5 * 4 // 2
    assert found.same.sum() == 1 + 3
    assert np.array_equal(found.cosine == 1, found.same)
    assert sorted(found.apart[found.same].tolist()) == pytest.approx([20, 50, 170, 170])
    told = accuracy.verified("arc", found)
    assert one(told, "auc arc", "all").value == 1
    assert one(told, "auc arc", "15-30").count == found.within(15, 30).sum()
    assert math.isnan(one(told, "true accepts arc", "1% false").value)


def test_auc_leaves_a_person_out_of_both_sides_of_a_pair() -> None:
    rng = np.random.default_rng(0)
    truth = labelled(rng.uniform(-40, 40, (8, 5)).tolist())
    tracks = [track(truth, row) for row in range(8)]
    for row, one_track in enumerate(tracks):
        noisy = np.eye(8)[row] + rng.normal(0, 0.5, (5, 8))
        one_track.embeddings["arc"][:] = noisy / np.linalg.norm(noisy, axis=1, keepdims=True)
    found = accuracy.pairs(tracks, truth, "arc")
    told = one(accuracy.verified("arc", found), "auc arc", "all")
    assert told.value == pytest.approx(accuracy.verification.auc(found.cosine[found.same], found.cosine[~found.same]))
    assert told.low < told.value < told.high
    assert told.people == 8

    def without(kept: np.ndarray) -> float:
        some = accuracy.pairs([t for t, k in zip(tracks, kept, strict=True) if k], chosen(truth, kept), "arc")
        return accuracy.verification.auc(some.cosine[some.same], some.cosine[~some.same])

    known = jackknife(without, truth.seeds.tolist())
    assert (told.low, told.high) == (pytest.approx(known.low), pytest.approx(min(known.high, 1)))


def test_retrieval_ranks_the_own_caption_among_those_of_others() -> None:
    truth = labelled([[0.0]] * 8)
    eye = np.eye(8)
    told, chance = accuracy.retrieval(eye, eye, truth)
    assert (told.value, told.count, told.group) == (1, 8, "nearest of 8")
    assert chance.value == 1 / 8
    assert accuracy.retrieval(eye, np.roll(eye, 1, 0), truth)[0].value == 0
    # captions that do not tell frames apart are misses, not hits
    assert accuracy.retrieval(eye, np.ones((8, 8)) / math.sqrt(8), truth)[0].value == 0


def test_retrieval_by_guessing_is_chance() -> None:
    rng = np.random.default_rng(3)
    truth = labelled(np.zeros((150, 4)).tolist())
    frames, captions = rng.normal(size=(2, 600, 16))
    told, chance = accuracy.retrieval(frames, captions, truth)
    assert chance.value == 0.01
    assert told.value < 0.03
