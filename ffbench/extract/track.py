"""FaceTrack: everything the metrics read about one video, computed once and cached."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class FaceTrack:
    """One row a sampled frame; a frame without a face is a row of NaN (the row count never shrinks)."""

    number: NDArray[np.int64]
    """[T] frame numbers in the video."""
    time: NDArray[np.float64]
    """[T] seconds."""
    box: Floats
    """[T,4] x1 y1 x2 y2 in px of the frame, largest face."""
    points: Floats
    """[T,5,2] px: image-left eye, image-right eye, nose, image-left mouth corner, image-right mouth corner."""
    det_score: Floats
    """[T] in 0..1."""
    num_faces: NDArray[np.int64]
    """[T] faces above the threshold in the frame."""
    step: tuple[str, ...]
    """[T] rung of the detection ladder that found the face; empty without one."""
    angles: Floats
    """[T,3] pitch, yaw, roll in degrees; signs in extract/pose.py."""
    embeddings: Mapping[str, Floats]
    """slot (`arc`, `cur`, `facenet`) -> [T,D], unit length."""
    features: Mapping[str, Floats]
    """slot (`inception`, `fid_inception`) -> [T,2048]."""
    clip_number: NDArray[np.int64]
    """[Tc] frame numbers the text metrics used."""
    clip: Floats
    """[Tc,D] unit CLIP image embeddings; [0,0] where the network is missing."""
    size: tuple[int, int]
    """Width and height of the video in px."""
    networks: Mapping[str, str] = field(default_factory=dict)
    """slot -> id of the network that ran, with the first 12 digits of its weights' sha256."""
    missing: Mapping[str, str] = field(default_factory=dict)
    """slot -> why it did not run, with the command that mends it."""

    @property
    def found(self) -> NDArray[np.bool_]:
        """[T] frames with a face."""
        return np.isfinite(self.det_score)
