"""What a protocol's networks say of labelled frames against the truth. Tracks in, facts out; runs no network.

Shapes: n people, T frames of each, N = n T frames in all.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ffbench.extract.track import FaceTrack
from ffbench.metrics import Array, aggregate, verification
from ffbench.metrics.jackknife import jackknife
from ffbench.truth.labelled import Labelled

YAW_EDGES = (0, 15, 30, 45, 60, 75, 90)
"""Degrees of |yaw| between the bins."""
APART_EDGES = (0, 15, 30, 60, 180)
"""Degrees between the bins of two frames' difference in yaw."""
OVERLAP = 0.5
"""Intersection over union from which a found box is the face's."""
SHOWN = 0.25
"""Least share of the face's surface that shows where a detector is asked to find it."""
BEHIND = 120.0
"""Degrees of |yaw| beyond which no face shows: what is found there is false."""
CHOICES = 100
"""Captions of which one is the frame's own."""
FALSE_ACCEPTS = (0.1, 0.01)


@dataclass(frozen=True)
class Fact:
    """One number about an instrument."""

    of: str
    """What is told: `recall`, `landmarks px`, `yaw`, `auc arc`..."""
    group: str
    """Over what: `all`, `15-30`, `behind`..."""
    value: float
    low: float
    high: float
    """95% interval, clustered by person; NaN where there is none."""
    count: int
    """Frames or pairs."""
    people: int


def detection(tracks: Sequence[FaceTrack], truth: Labelled) -> list[Fact]:
    """Share of frames whose face is found (recall), found beside its place (misplaced), or found where none is (false).

    Recall and misplaced are of frames of which at least `SHOWN` of the face shows, in bins of |yaw|; `hidden` are the
    frames within 90 degrees of which less shows. False detections are of frames turned by more than `BEHIND`.
    """
    found = np.concatenate([track.found for track in tracks])
    overlaps = overlap(np.concatenate([track.box for track in tracks]), truth.box.reshape(-1, 4))
    people = _people(truth)
    yaw = np.abs(truth.angles.reshape(-1, 3)[:, 1])
    asked = truth.seen.reshape(-1) >= SHOWN
    right = found & (overlaps >= OVERLAP)
    facts = []
    for name, hit in (("recall", right), ("misplaced", found & ~right)):
        facts += [_share(name, group, hit, people, asked & chosen) for group, chosen in yaw_bins(yaw)]
    facts.append(_share("recall", "hidden", right, people, ~asked & (yaw <= YAW_EDGES[-1])))
    facts.append(_share("false", "behind", found, people, yaw > BEHIND))
    return facts


def landmarks(tracks: Sequence[FaceTrack], truth: Labelled) -> list[Fact]:
    """Mean distance of the five points of rightly found faces, in px and in % of the face's size, by |yaw|.

    The size is sqrt(width x height) of the true box: the distance of the eyes, which frontal benchmarks divide by,
    goes to nothing in profile. Points that the head or a hand hides count too.
    """
    boxes = truth.box.reshape(-1, 4)
    right = overlap(np.concatenate([track.box for track in tracks]), boxes) >= OVERLAP
    apart = np.concatenate([track.points for track in tracks]) - truth.points.reshape(-1, 5, 2)
    px = np.linalg.norm(apart, axis=2).mean(1)
    percent = 100 * px / np.sqrt(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1))
    yaw = np.abs(truth.angles.reshape(-1, 3)[:, 1])
    return [
        _mean(name, group, values, _people(truth), right & chosen)
        for name, values in (("landmarks px", px), ("landmarks %", percent))
        for group, chosen in yaw_bins(yaw)
    ]


def pose(tracks: Sequence[FaceTrack], truth: Labelled) -> list[Fact]:
    """Mean absolute error in degrees of pitch, yaw and roll on rightly found faces, by |yaw|."""
    right = overlap(np.concatenate([track.box for track in tracks]), truth.box.reshape(-1, 4)) >= OVERLAP
    told, known = np.concatenate([track.angles for track in tracks]), truth.angles.reshape(-1, 3)
    error = np.abs((told - known + 180) % 360 - 180)
    right &= np.isfinite(error).all(1)
    return [
        _mean(name, group, error[:, column], _people(truth), right & chosen)
        for column, name in enumerate(("pitch", "yaw", "roll"))
        for group, chosen in yaw_bins(np.abs(known[:, 1]))
    ]


@dataclass(frozen=True)
class Pairs:
    """All pairs of frames with a face: cosines, whether of one person, and by how much their yaw differs."""

    cosine: Array
    same: NDArray[np.bool_]
    apart: Array
    first: NDArray[np.int64]
    second: NDArray[np.int64]
    """Whose the two frames are."""

    def within(self, low: float, high: float) -> NDArray[np.bool_]:
        """Pairs whose yaw differs by `low` to `high` degrees."""
        return (self.apart >= low) & (self.apart < high)

    def curve(self) -> verification.Roc:
        """ROC over all pairs."""
        return verification.roc(self.cosine[self.same], self.cosine[~self.same])


def pairs(tracks: Sequence[FaceTrack], truth: Labelled, slot: str) -> Pairs:
    """The pairs of an embedder's slot; frames without a face are in none, true yaw."""
    rows = np.concatenate([track.embeddings[slot] for track in tracks]).astype(np.float64)
    kept = np.isfinite(rows).all(1)
    rows, people = rows[kept], _people(truth)[kept]
    yaw = truth.angles.reshape(-1, 3)[kept, 1].astype(np.float64)
    i, j = np.triu_indices(len(rows), 1)
    apart = np.abs((yaw[i] - yaw[j] + 180) % 360 - 180)
    return Pairs((rows @ rows.T)[i, j], people[i] == people[j], apart, people[i], people[j])


def verified(slot: str, found: Pairs) -> list[Fact]:
    """AUC of same against different people, over all pairs and by difference in yaw, and true accepts at two rates."""
    every = np.ones(len(found.cosine), bool)
    bins = [("all", every), *((f"{a}-{b}", found.within(a, b)) for a, b in pairwise(APART_EDGES))]
    people = sorted({*found.first.tolist(), *found.second.tolist()})
    facts = []
    for group, chosen in bins:

        def area(kept: NDArray[np.bool_], chosen: NDArray[np.bool_] = chosen) -> float:
            inside = chosen & kept[np.searchsorted(people, found.first)] & kept[np.searchsorted(people, found.second)]
            return verification.auc(found.cosine[inside & found.same], found.cosine[inside & ~found.same])

        told = jackknife(area, people)
        # a pseudo-value has no bounds, an area has
        low, high = (min(max(end, 0.0), 1.0) if math.isfinite(end) else math.nan for end in (told.low, told.high))
        facts.append(Fact(f"auc {slot}", group, told.mean, low, high, int(chosen.sum()), len(people)))
    for rate in FALSE_ACCEPTS if found.same.any() and not found.same.all() else ():
        value = verification.true_accept_at(found.cosine[found.same], found.cosine[~found.same], rate)
        facts.append(
            Fact(f"true accepts {slot}", f"{rate:.0%} false", value, math.nan, math.nan, len(every), len(people))
        )
    return facts


def retrieval(frames: NDArray[np.floating], captions: NDArray[np.floating], truth: Labelled) -> list[Fact]:
    """How often a frame's own caption is the nearest of `CHOICES`, the others drawn from the frames of other people.

    Args:
        frames: [N,D] unit embeddings.
        captions: [N,D] unit embeddings of each frame's own caption.
        truth: whose frames they are.

    Returns:
        The rank-1 rate, and `chance` without an interval. A tie with another caption is a miss.
    """
    people = _people(truth)
    cosine = frames.astype(np.float64) @ captions.astype(np.float64).T
    rng = np.random.default_rng(0)
    hits, choices = np.zeros(len(frames), bool), CHOICES
    for i in range(len(frames)):
        strangers = np.flatnonzero(people != people[i])
        others = rng.permutation(strangers)[: CHOICES - 1]
        choices = min(choices, len(others) + 1)
        hits[i] = len(others) > 0 and cosine[i, i] > cosine[i, others].max()
    chance = Fact("caption", f"chance, 1 of {choices}", 1 / choices, math.nan, math.nan, len(frames), len(set(people)))
    return [_share("caption", f"nearest of {choices}", hits, people, np.ones(len(frames), bool)), chance]


def overlap(a: NDArray[np.floating], b: NDArray[np.floating]) -> Array:
    """[N] intersection over union of boxes [N,4] x1 y1 x2 y2; 0 where either is NaN."""
    low, high = np.maximum(a[:, :2], b[:, :2]), np.minimum(a[:, 2:], b[:, 2:])
    inside = np.clip(high - low, 0, None).prod(1)
    whole = (a[:, 2:] - a[:, :2]).prod(1) + (b[:, 2:] - b[:, :2]).prod(1) - inside
    return np.asarray(np.nan_to_num(inside / whole, nan=0.0), np.float64)


def yaw_bins(yaw: NDArray[np.floating]) -> list[tuple[str, NDArray[np.bool_]]]:
    """Names and members of the bins of |yaw|, first `all` of them together."""
    bins = [(f"{low}-{high}", (yaw >= low) & (yaw < high)) for low, high in pairwise(YAW_EDGES)]
    return [("all", np.asarray(yaw < YAW_EDGES[-1])), *bins]


def _people(truth: Labelled) -> NDArray[np.int64]:
    return np.repeat(truth.seeds, truth.angles.shape[1])


def _share(of: str, group: str, hit: NDArray[np.bool_], people: NDArray[np.int64], chosen: NDArray[np.bool_]) -> Fact:
    """As `_mean`, for a share; where every frame is a hit or none is, Wilson's interval of as many trials as people."""
    told = _mean(of, group, hit.astype(np.float64), people, chosen)
    if told.value in (0.0, 1.0):
        low, high = aggregate.wilson(int(told.value) * told.people, told.people)
    else:
        low, high = max(told.low, 0.0), min(told.high, 1.0)
    return dataclasses.replace(told, low=low, high=high)


def _mean(
    of: str, group: str, values: NDArray[np.floating], people: NDArray[np.int64], chosen: NDArray[np.bool_]
) -> Fact:
    """The plain mean over the chosen frames, with an interval clustered by person."""
    if not chosen.any():
        return Fact(of, group, math.nan, math.nan, math.nan, 0, 0)
    inside, whose = values[chosen].astype(np.float64), people[chosen]
    names = sorted(set(whose.tolist()))
    told = jackknife(lambda kept: _plain(inside[kept[np.searchsorted(names, whose)]]), names)
    return Fact(of, group, told.mean, told.low, told.high, len(inside), len(names))


def _plain(values: NDArray[np.float64]) -> float:
    return float(values.mean()) if len(values) else math.nan
