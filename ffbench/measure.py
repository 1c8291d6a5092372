"""Which pure metric reads which part of a FaceTrack: one row a metric, nothing else decides."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ffbench.extract.track import FaceTrack, Floats
from ffbench.metrics import Measured, copypaste, frechet, identity, pose, text, unscored
from ffbench.protocols import Protocol

if TYPE_CHECKING:
    from numpy.typing import NDArray

LARGE_YAW = 45.0
"""Degrees beyond which a frame counts as strongly turned."""
NEEDS = "needs weights: "
"""How the reason of a score begins that fills once weights are there."""


@dataclass(frozen=True)
class Scene:
    """One video beside its reference and its prompt, as features."""

    protocol: Protocol
    track: FaceTrack
    reference: FaceTrack
    """One row: the reference photograph."""
    prompt: Floats | None
    """[D] unit embedding of the prompt; None where there is no prompt or no CLIP."""
    sentences: Floats | None
    """[S,D] unit embeddings of the prompt's parts."""
    no_prompt: str
    """Why there is no prompt embedding."""
    threshold: tuple[float, str]
    """Same-identity threshold of the suite and, where it is NaN, why."""


def measure(metric: str, scene: Scene) -> Measured:
    """The value of a video-level metric.

    Raises:
        KeyError: for a metric that is no video-level one.
    """
    slot, compute = _MEASURES[metric]
    if slot in scene.track.missing:
        return unscored(NEEDS + scene.track.missing[slot])
    return compute(scene)


def is_video_metric(metric: str) -> bool:
    """Whether the metric has a value per video (set-level ones are formed by the report)."""
    return metric in _MEASURES


def _facesim(slot: str) -> Callable[[Scene], Measured]:
    def compute(s: Scene) -> Measured:
        return identity.facesim(
            s.reference.embeddings[slot][0],
            s.track.embeddings[slot],
            clamp=s.protocol.clamp,
            drop_zeros=s.protocol.drop_zeros,
            faceless_as_zero=s.protocol.faceless_as_zero,
        )

    return compute


def _missing_as_zero(slot: str) -> Callable[[Scene], Measured]:
    return lambda s: identity.missing_as_zero(s.reference.embeddings[slot][0], s.track.embeddings[slot])


def _turned(slot: str) -> Callable[[Scene], Measured]:
    def compute(s: Scene) -> Measured:
        if "pose" in s.track.missing:
            return unscored(NEEDS + s.track.missing["pose"])
        mask = np.abs(s.track.angles[:, 1]) > LARGE_YAW
        return identity.facesim_where(
            s.reference.embeddings[slot][0], s.track.embeddings[slot], mask, f"with |yaw| above {LARGE_YAW:.0f} degrees"
        )

    return compute


def _text(s: Scene) -> Measured:
    return unscored(s.no_prompt) if s.prompt is None else text.clip_score(s.track.clip, s.prompt)


def _long_text(s: Scene) -> Measured:
    return unscored(s.no_prompt) if s.sentences is None else text.clip_score_long(s.track.clip, s.sentences)


def _drift(s: Scene) -> Measured:
    return identity.identity_drift(_cosines(s, "arc"), s.track.time)


def _same_identity(s: Scene) -> Measured:
    threshold, reason = s.threshold
    return unscored(reason) if reason else identity.same_identity_rate(_cosines(s, "arc"), threshold)


def _copy_paste(s: Scene) -> Measured:
    if "pose" in s.track.missing:
        return unscored(NEEDS + s.track.missing["pose"])
    return copypaste.copy_paste(_cosines(s, "arc"), s.track.angles, s.reference.angles[0])


def _cosines(s: Scene, slot: str) -> NDArray[np.float64]:
    return identity.cosines(s.reference.embeddings[slot][0], s.track.embeddings[slot])


_MEASURES: Mapping[str, tuple[str, Callable[[Scene], Measured]]] = {
    "facesim_arc": ("arc", _facesim("arc")),
    "facesim_cur": ("cur", _facesim("cur")),
    "facesim_facenet": ("facenet", _facesim("facenet")),
    "facesim_arc_missing_as_zero": ("arc", _missing_as_zero("arc")),
    "facesim_cur_missing_as_zero": ("cur", _missing_as_zero("cur")),
    "facesim_arc_yaw45": ("arc", _turned("arc")),
    "facesim_cur_yaw45": ("cur", _turned("cur")),
    "face_rate": ("detector", lambda s: identity.face_rate(s.track.found)),
    "face_feature_distance": (
        "inception",
        lambda s: frechet.face_feature_distance(
            s.reference.features["inception"][0],
            s.track.features["inception"],
            faceless_as_zero=s.protocol.faceless_as_zero,
        ),
    ),
    "clip_score": ("clip", _text),
    "clip_score_long": ("clip", _long_text),
    "pose_range": ("pose", lambda s: pose.pose_range(s.track.angles)),
    "pose_range_robust": ("pose", lambda s: pose.pose_range_robust(s.track.angles)),
    "identity_drift": ("arc", _drift),
    "same_identity_rate": ("arc", _same_identity),
    "copy_paste": ("arc", _copy_paste),
}
"""metric id -> the slot it needs, and how it is computed."""
