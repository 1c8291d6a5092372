"""How the metrics of a protocol move when a known defect is put into videos that are right.

Every video is measured as it is and with each defect; what is told is the paired difference over videos.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ffbench.extract.extractor import Extractor
from ffbench.extract.track import FaceTrack, Floats
from ffbench.measure import Scene, is_video_metric, measure
from ffbench.metrics import aggregate, frechet, identity
from ffbench.metrics.catalog import METRICS
from ffbench.metrics.jackknife import jackknife
from ffbench.truth.defects import DEFECTS, Defect, Pixels, Shot
from ffbench.video import Clip, VideoError

SLOT = "fid_inception"
AT_ONCE = 4
"""Copies of a video measured together: sixteen frames of 1080p are 100 MB."""
Verdict = Literal["seen", "not moved", "side effect", "blind", "rewards", "not formed"]


@dataclass(frozen=True)
class Subject:
    """One video, its person, its photograph and its prompt."""

    name: str
    identity: str
    photo: Pixels
    """[R,R',3] RGB."""
    prompt: str
    """Empty for none."""
    clip: Callable[[], Clip]
    """Decodes with the protocol's samplers; may raise VideoError."""


@dataclass(frozen=True)
class Move:
    """One metric under one defect."""

    defect: str
    metric: str
    true: float
    """Mean over the videos as they are."""
    difference: float
    """Mean of with minus without the defect."""
    low: float
    high: float
    """95% interval of the difference, clustered by identity."""
    videos: int
    identities: int
    concerns: bool
    """Whether the metric is there to see this defect."""
    verdict: Verdict
    reason: str = ""
    """Why there is no number."""


@dataclass
class _Told:
    """Values and set-level features under one defect, or of the videos as they are (`true`)."""

    values: dict[str, list[float]] = field(default_factory=dict)
    """metric -> one a video, NaN where there is none."""
    reasons: dict[str, str] = field(default_factory=dict)
    crops: list[Floats] = field(default_factory=list)
    """A video's [N,D] features."""
    changed: list[float] = field(default_factory=list)
    """Share of a video's sampled frames whose pixels changed."""


@dataclass(frozen=True)
class Trial:
    """All moves, what share of the frames each defect touched, and what was left out."""

    moves: tuple[Move, ...]
    changed: Mapping[str, float]
    videos: int
    identities: int
    notes: tuple[str, ...]


def try_defects(
    extractor: Extractor, subjects: Sequence[Subject], far: float, advance: Callable[[], None], seed: int = 0
) -> Trial:
    """Measure every subject as it is and under each defect.

    Args:
        extractor: of the protocol whose metrics are tried.
        subjects: a video each; those whose photograph or video shows no face are left out and named in the notes.
        far: false-accept rate of the same-identity threshold.
        advance: called after each subject.
        seed: of the choice of frames.
    """
    references = [extractor.reference(subject.photo) for subject in subjects]
    notes = [
        f"{s.name}: no face in its photograph" for s, r in zip(subjects, references, strict=True) if not r.found[0]
    ]
    kept = [i for i, reference in enumerate(references) if reference.found[0]]
    bench = _Bench(extractor, [subjects[i] for i in kept], [references[i] for i in kept], far)
    told = {name: _Told() for name in ("true", *(defect.name for defect in DEFECTS))}
    used = []
    for i in range(len(kept)):
        try:
            shot, clip, _ = bench.shot(i)
        except VideoError as error:
            notes.append(f"{bench.subjects[i].name}: {error}")
            continue
        finally:
            advance()
        if not len(shot.shown):
            notes.append(f"{bench.subjects[i].name}: no face in the video")
            continue
        used.append(i)
        _measure_all(bench, i, shot, clip, told, seed)
    people = [bench.subjects[i].identity for i in used]
    photos = np.concatenate(
        [bench.references[i].features.get(SLOT, np.zeros((1, 0))) for i in used] or [np.zeros((0, 0))]
    )
    moves = [_move(defect, metric, told, people, photos) for defect in DEFECTS for metric in extractor.protocol.metrics]
    changed = {defect.name: float(np.mean(told[defect.name].changed or [math.nan])) for defect in DEFECTS}
    return Trial(tuple(moves), changed, len(used), len(set(people)), tuple(notes))


class _Bench:
    """What every subject shares, and the shots of the last few."""

    def __init__(
        self, extractor: Extractor, subjects: Sequence[Subject], references: Sequence[FaceTrack], far: float
    ) -> None:
        self.extractor, self.subjects, self.references = extractor, subjects, references
        self.threshold = _threshold({s.identity: r for s, r in zip(subjects, references, strict=True)}, far)
        # a video is its own turn's and the other of those before it
        self.shot = lru_cache(maxsize=3)(self._shot)

    def other(self, i: int) -> Shot | None:
        """The next readable video of another person with a face."""
        for step in range(1, len(self.subjects)):
            j = (i + step) % len(self.subjects)
            if self.subjects[j].identity != self.subjects[i].identity:
                try:
                    shot = self.shot(j)[0]
                except VideoError:
                    continue
                if len(shot.shown):
                    return shot
        return None

    def scene(self, i: int, track: FaceTrack) -> Scene:
        """A track of subject i beside its reference and prompt."""
        subject, clip = self.subjects[i], "clip" not in self.extractor.missing
        prompted = bool(subject.prompt) and clip and "clip" in self.extractor.protocol.networks
        return Scene(
            protocol=self.extractor.protocol,
            track=track,
            reference=self.references[i],
            prompt=self.extractor.texts([subject.prompt]).embeddings[0] if prompted else None,
            sentences=self.extractor.long_texts(subject.prompt) if prompted else None,
            no_prompt="the video has no prompt",
            threshold=self.threshold,
        )

    def _shot(self, i: int) -> tuple[Shot, Clip, FaceTrack]:
        clip = self.subjects[i].clip()
        track = self.extractor.track([clip])[0]
        numbers, pixels = frames_of(clip)
        box = np.full((len(numbers), 4), np.nan, np.float32)
        yaw = np.full(len(numbers), np.nan, np.float32)
        rows = np.searchsorted(numbers, track.number)
        box[rows], yaw[rows] = track.box, track.angles[:, 1]
        return Shot(pixels, box, yaw, self.subjects[i].photo), clip, track


def frames_of(clip: Clip) -> tuple[NDArray[np.int64], Pixels]:
    """Numbers [T], ascending, and pixels [T,H,W,3] of all frames that any sampler took."""
    numbers = np.concatenate([frames.number for frames in clip.frames.values()])
    pixels = np.concatenate([frames.pixels for frames in clip.frames.values()])
    distinct, first = np.unique(numbers, return_index=True)
    return distinct, pixels[first]


def with_frames(clip: Clip, pixels: Pixels) -> Clip:
    """The clip with other pixels in the frames of `frames_of`."""
    numbers = np.unique(np.concatenate([frames.number for frames in clip.frames.values()]))
    return clip._replace(
        frames={
            sampler: frames._replace(pixels=pixels[np.searchsorted(numbers, frames.number)])
            for sampler, frames in clip.frames.items()
        }
    )


def _measure_all(bench: _Bench, i: int, shot: Shot, clip: Clip, told: Mapping[str, _Told], seed: int) -> None:
    """Add subject i's values, as it is and under each defect, to what is told."""
    other = bench.other(i)
    true = bench.shot(i)[2]
    base = bench.scene(i, true)
    _add(told["true"], base, 0.0)
    for start in range(0, len(DEFECTS), AT_ONCE):
        made: list[tuple[Defect, Clip, float]] = []
        for d, defect in enumerate(DEFECTS[start : start + AT_ONCE], start):
            try:
                pixels = defect.apply(shot, other, np.random.default_rng([seed, i, d]))
            except ValueError as error:
                _skip(told[defect.name], bench, str(error))
                continue
            changed = with_frames(clip, pixels)
            face = bench.extractor.protocol.face_sampler
            differs = (changed.frames[face].pixels != clip.frames[face].pixels).any((1, 2, 3))
            made.append((defect, changed, float(differs.mean())))
        tracks = bench.extractor.track([changed for _, changed, _ in made])
        for (defect, _, share), track in zip(made, tracks, strict=True):
            scene = Scene(**{**vars(base), "track": track})
            _add(told[defect.name], scene, share)


def _add(told: _Told, scene: Scene, changed: float) -> None:
    for metric in scene.protocol.metrics:
        if is_video_metric(metric):
            found = measure(metric, scene)
            told.values.setdefault(metric, []).append(found.value)
            if found.reason:
                told.reasons[metric] = found.reason
    features = scene.track.features.get(SLOT)
    told.crops.append(np.zeros((0, 0), np.float32) if features is None else features[scene.track.found])
    told.changed.append(changed)


def _skip(told: _Told, bench: _Bench, reason: str) -> None:
    for metric in bench.extractor.protocol.metrics:
        if is_video_metric(metric):
            told.values.setdefault(metric, []).append(math.nan)
            told.reasons[metric] = reason
    told.crops.append(np.zeros((0, 0), np.float32))


def _move(
    defect: Defect, metric: str, told: Mapping[str, _Told], people: Sequence[str], photos: NDArray[np.floating]
) -> Move:
    concerns = metric in defect.concerns
    if not is_video_metric(metric):
        return _set_move(defect, metric, told, people, photos)
    true, false = (np.array(told[name].values.get(metric, []), np.float64) for name in ("true", defect.name))
    found = aggregate.paired(false, true, people, missing="skip")
    if not found.num_pairs:
        reason = told[defect.name].reasons.get(metric) or told["true"].reasons.get(metric) or "no video was measured"
        return _unformed(defect, metric, reason)
    both = np.isfinite(true) & np.isfinite(false)
    whose = [who for who, pair in zip(people, both, strict=True) if pair]
    mean = aggregate.summary(true[both], whose, resamples=1).mean
    reason = "" if not math.isnan(found.low) else "one identity has no interval"
    verdict = judge(metric, found.difference, (found.low, found.high), concerns)
    return Move(
        defect.name, metric, mean, found.difference, found.low, found.high, found.num_pairs, found.num_identities,
        concerns, verdict, reason,
    )  # fmt: skip


def _set_move(
    defect: Defect, metric: str, told: Mapping[str, _Told], people: Sequence[str], photos: NDArray[np.floating]
) -> Move:
    """As `_move`, for a distance of all crops to all photographs; its interval leaves one person out in turn."""
    concerns = metric in defect.concerns
    distance = frechet.fid if metric == "fid" else frechet.kid
    names = np.array(people)

    def of(name: str, kept: NDArray[np.bool_]) -> frechet.Distance:
        inside = np.flatnonzero(kept)
        crops = [told[name].crops[i] for i in inside if len(told[name].crops[i])]
        if not crops or not photos.shape[1]:
            return frechet.Distance(math.nan, "no features of faces", 0, 0)
        return distance(np.concatenate(crops), photos[inside])

    every = np.ones(len(names), bool)
    true, false = of("true", every), of(defect.name, every)
    if reason := true.reason or false.reason:
        return _unformed(defect, metric, reason)
    found = jackknife(lambda kept: of(defect.name, kept).value - of("true", kept).value, people)
    verdict = judge(metric, found.mean, (found.low, found.high), concerns)
    return Move(
        defect.name, metric, true.value, found.mean, found.low, found.high, len(people), found.num_identities, concerns,
        verdict,
    )  # fmt: skip


def _unformed(defect: Defect, metric: str, reason: str) -> Move:
    nothing = (math.nan, math.nan, math.nan, math.nan)
    return Move(defect.name, metric, *nothing, 0, 0, metric in defect.concerns, "not formed", reason)


def judge(metric: str, difference: float, interval: tuple[float, float], concerns: bool) -> Verdict:
    """What a difference and its interval say.

    `blind`: the metric is there to see the defect, and the interval holds 0. `rewards`: it moves to its better side.
    `seen`: it moves, and is there to. `side effect`: it moves, and is not. `not moved`: it does not, and need not.
    """
    low, high = interval
    if math.isnan(low):
        return "not formed"
    if low <= 0 <= high:
        return "blind" if concerns else "not moved"
    better = METRICS[metric].higher_is_better
    if better is not None and (difference > 0) == better:
        return "rewards"
    return "seen" if concerns else "side effect"


def _threshold(references: Mapping[str, FaceTrack], far: float) -> tuple[float, str]:
    rows = [track.embeddings["arc"][0] for track in references.values() if "arc" in track.embeddings]
    return identity.stranger_threshold(rows, far)
