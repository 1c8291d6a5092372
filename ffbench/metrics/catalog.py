"""What every metric is: one table, from which the tables, the lists and the score keys read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ffbench.metrics import copypaste, frechet, identity, pose, text

Level = Literal["video", "set"]


@dataclass(frozen=True, kw_only=True)
class MetricInfo:
    """One metric. Its formula, its limits and what it is comparable with are in docs/metrics.md."""

    id: str
    title: str
    """Column head."""
    version: int
    """Raised when the same input gives another number; part of every score's key."""
    higher_is_better: bool | None
    """None where neither end is good in itself: the number describes."""
    needs: tuple[str, ...]
    """Slots of the protocol whose networks it reads."""
    low: float
    high: float
    """The range that the formula allows, not the one that is usual."""
    decimals: int
    summary: str
    unit: str = ""
    """Empty for a pure number."""
    level: Level = "video"
    """`video`: one value a video; `set`: one value a method."""


def _facesim(slot: str, title: str, network: str) -> MetricInfo:
    return MetricInfo(
        id=f"facesim_{slot}",
        title=title,
        version=identity.FACESIM_VERSION,
        higher_is_better=True,
        needs=("detector", slot),
        low=-1,
        high=1,
        decimals=3,
        summary=f"mean cosine of {network} embeddings to the reference, over the frames with a face",
    )


def _missing_as_zero(slot: str, title: str) -> MetricInfo:
    return MetricInfo(
        id=f"facesim_{slot}_missing_as_zero",
        title=f"{title} (missing = 0)",
        version=identity.MISSING_AS_ZERO_VERSION,
        higher_is_better=True,
        needs=("detector", slot),
        low=0,
        high=1,
        decimals=3,
        summary=f"{title} over all sampled frames; no face or a negative cosine counts as 0",
    )


def _turned(slot: str, title: str) -> MetricInfo:
    return MetricInfo(
        id=f"facesim_{slot}_yaw45",
        title=f"{title} @|yaw|>45",
        version=identity.FACESIM_WHERE_VERSION,
        higher_is_better=True,
        needs=("detector", slot, "pose"),
        low=-1,
        high=1,
        decimals=3,
        summary=f"{title} over the frames whose head is turned by more than 45 degrees",
    )


_ALL = (
    _facesim("cur", "FaceSim-Cur", "CurricularFace"),
    _facesim("arc", "FaceSim-Arc", "ArcFace"),
    _facesim("facenet", "FaceSim-FaceNet", "FaceNet (VGGFace2)"),
    _missing_as_zero("cur", "FaceSim-Cur"),
    _missing_as_zero("arc", "FaceSim-Arc"),
    _turned("cur", "FaceSim-Cur"),
    _turned("arc", "FaceSim-Arc"),
    MetricInfo(
        id="face_rate",
        title="faces",
        version=identity.FACE_RATE_VERSION,
        higher_is_better=True,
        needs=("detector",),
        low=0,
        high=1,
        decimals=2,
        summary="share of the sampled frames in which a face is found",
    ),
    MetricInfo(
        id="same_identity_rate",
        title="same identity",
        version=identity.SAME_IDENTITY_RATE_VERSION,
        higher_is_better=True,
        needs=("detector", "arc"),
        low=0,
        high=1,
        decimals=2,
        summary="share of the frames with a face whose ArcFace cosine passes a threshold calibrated on strangers",
    ),
    MetricInfo(
        id="identity_drift",
        title="drift",
        version=identity.IDENTITY_DRIFT_VERSION,
        higher_is_better=None,
        needs=("detector", "arc"),
        low=-math.inf,
        high=math.inf,
        decimals=3,
        unit="1/s",
        summary="slope of the ArcFace cosine over time; 0 is steady, below 0 the face drifts away",
    ),
    MetricInfo(
        id="copy_paste",
        title="copied",
        version=copypaste.COPY_PASTE_VERSION,
        higher_is_better=None,
        needs=("detector", "arc", "pose"),
        low=0,
        high=1,
        decimals=3,
        summary="part of FaceSim-Arc that is earned in the reference's own head pose",
    ),
    MetricInfo(
        id="pose_range",
        title="pose range",
        version=pose.POSE_RANGE_VERSION,
        higher_is_better=None,
        needs=("detector", "pose"),
        low=0,
        high=1080,
        decimals=0,
        unit="°",
        summary="range of pitch + yaw + roll over the video (the paper's Var, Eq. 8)",
    ),
    MetricInfo(
        id="pose_range_robust",
        title="pose range 5-95%",
        version=pose.POSE_RANGE_ROBUST_VERSION,
        higher_is_better=None,
        needs=("detector", "pose"),
        low=0,
        high=1080,
        decimals=0,
        unit="°",
        summary="pose range from the 5th to the 95th percentile of each angle",
    ),
    MetricInfo(
        id="fid",
        title="FID",
        version=frechet.FID_VERSION,
        higher_is_better=False,
        needs=("detector", "fid_inception"),
        low=0,
        high=math.inf,
        decimals=2,
        level="set",
        summary="Fréchet distance of a method's face crops to the reference faces; asks for 2048 of each",
    ),
    MetricInfo(
        id="kid",
        title="KID",
        version=frechet.KID_VERSION,
        higher_is_better=False,
        needs=("detector", "fid_inception"),
        low=-math.inf,
        high=math.inf,
        decimals=4,
        level="set",
        summary="kernel distance of a method's face crops to the reference faces; unbiased at any number",
    ),
    MetricInfo(
        id="face_feature_distance",
        title="FID (ConsisID)",
        version=frechet.FACE_FEATURE_DISTANCE_VERSION,
        higher_is_better=False,
        needs=("detector", "inception"),
        low=0,
        high=math.inf,
        decimals=2,
        summary="squared distance of ImageNet features of frame and reference face; ConsisID calls it FID",
    ),
    MetricInfo(
        id="clip_score",
        title="CLIPScore",
        version=text.CLIP_SCORE_VERSION,
        higher_is_better=True,
        needs=("clip",),
        low=-100,
        high=100,
        decimals=2,
        summary="mean of 100 x cosine of frame and prompt in CLIP, the prompt cut where the context ends",
    ),
    MetricInfo(
        id="clip_score_long",
        title="CLIPScore (long)",
        version=text.CLIP_SCORE_LONG_VERSION,
        higher_is_better=True,
        needs=("clip",),
        low=-100,
        high=100,
        decimals=2,
        summary="CLIPScore over all parts of a long prompt, each within the context",
    ),
)

METRICS: Mapping[str, MetricInfo] = {metric.id: metric for metric in _ALL}
