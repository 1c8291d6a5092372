"""Known defects put into a video on purpose: pixels in, pixels out. A good metric moves under its own.

Shapes: T frames of H x W px, T' frames of another video of any size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from ffbench.extract.align import enlarge

Pixels = NDArray[np.uint8]
GREY = 128
HEAD = 1.7
"""Sides of the painted rectangle over those of the face's box: hair and ears go too."""


@dataclass(frozen=True)
class Shot:
    """One video as it is, and where its faces are."""

    pixels: Pixels
    """[T,H,W,3] RGB."""
    box: NDArray[np.float32]
    """[T,4] of the face in px; NaN where no face shows."""
    yaw: NDArray[np.float32]
    """[T] degrees; NaN where unknown."""
    photo: Pixels
    """[R,R',3] the reference photograph."""

    @property
    def shown(self) -> NDArray[np.intp]:
        """Numbers of the frames with a face, ascending."""
        return np.flatnonzero(np.isfinite(self.box).all(1))


Apply = Callable[[Shot, Shot | None, np.random.Generator], Pixels]


@dataclass(frozen=True)
class Defect:
    """One defect, and the metrics that are there to see it."""

    name: str
    summary: str
    apply: Apply
    """(shot, shot of another person or None, random numbers) -> [T,H,W,3]; ValueError where it cannot be put in."""
    concerns: tuple[str, ...]
    """Metrics that ought to move."""


def swapped(shot: Shot, other: Shot | None, share: float, rng: np.random.Generator) -> Pixels:
    """A share of the frames with a face, at least one, replaced by frames of another person's video.

    Each gets the other's frame with a face whose yaw is nearest (nearest place in the video where a yaw is unknown),
    fitted into the picture by `fitted`.

    Raises:
        ValueError: there is no other person, or a face in neither.
    """
    faces = shot.shown
    count = max(1, round(share * len(faces)))
    return _replaced(shot, other, np.sort(rng.permutation(faces)[:count]))


def swapped_late(shot: Shot, other: Shot | None) -> Pixels:
    """As `swapped`, the second half of the frames with a face.

    Raises:
        ValueError: as `swapped`.
    """
    return _replaced(shot, other, shot.shown[len(shot.shown) // 2 :])


def blurred(shot: Shot, strength: float) -> Pixels:
    """Every frame under a Gaussian whose deviation is `strength` times the median height of the faces.

    Raises:
        ValueError: no frame has a face.
    """
    boxes = shot.box[_some(shot)]
    sigma = strength * float(np.median(boxes[:, 3] - boxes[:, 1]))
    return np.stack([np.asarray(cv2.GaussianBlur(frame, (0, 0), sigma), np.uint8) for frame in shot.pixels])


def frozen(shot: Shot) -> Pixels:
    """The first frame with a face, T times.

    Raises:
        ValueError: no frame has a face.
    """
    return np.repeat(shot.pixels[_some(shot)[:1]], len(shot.pixels), 0)


def still(shot: Shot) -> Pixels:
    """The reference photograph, fitted into the picture, T times."""
    photo = fitted(shot.photo, *shot.pixels.shape[1:3])
    return np.repeat(photo[None], len(shot.pixels), 0)


def recoloured(shot: Shot) -> Pixels:
    """Red and blue exchanged in every frame."""
    return np.ascontiguousarray(shot.pixels[..., ::-1])


def faceless(shot: Shot, share: float, rng: np.random.Generator) -> Pixels:
    """In a share of the frames with a face, at least one, the head painted grey: a box `HEAD` times the face's.

    Raises:
        ValueError: no frame has a face.
    """
    faces = _some(shot)
    out = shot.pixels.copy()
    for t in rng.permutation(faces)[: max(1, round(share * len(faces)))]:
        left, top, right, bottom = (max(0, round(float(edge))) for edge in enlarge(shot.box[t], HEAD))
        out[t, top:bottom, left:right] = GREY
    return out


def fitted(image: Pixels, height: int, width: int) -> Pixels:
    """[height,width,3]: an image at the largest scale that shows all of it, grey beside it."""
    scale = min(height / image.shape[0], width / image.shape[1])
    inner_w, inner_h = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    if (inner_h, inner_w) != image.shape[:2]:
        method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        image = np.asarray(cv2.resize(image, (inner_w, inner_h), interpolation=method), np.uint8)
    top, left = (height - inner_h) // 2, (width - inner_w) // 2
    out = np.full((height, width, 3), GREY, np.uint8)
    out[top : top + inner_h, left : left + inner_w] = image
    return out


def _replaced(shot: Shot, other: Shot | None, frames: NDArray[np.intp]) -> Pixels:
    _some(shot)
    if other is None or not len(other.shown):
        raise ValueError("there is no video of another person with a face")
    theirs = other.shown
    mine, key = shot.yaw.astype(np.float64), other.yaw.astype(np.float64)
    if not (np.isfinite(mine[frames]).all() and np.isfinite(key[theirs]).all()):
        mine, key = (np.linspace(0, 1, len(one.pixels)) for one in (shot, other))
    out = shot.pixels.copy()
    for t in frames:
        nearest = theirs[np.argmin(np.abs(key[theirs] - mine[t]))]
        out[t] = fitted(other.pixels[nearest], *out.shape[1:3])
    return out


def _some(shot: Shot) -> NDArray[np.intp]:
    if not len(shot.shown):
        raise ValueError("no face was found in the video")
    return shot.shown


_FACESIMS = ("facesim_cur", "facesim_arc", "facesim_facenet")
_ALL_FRAMES = ("facesim_cur_missing_as_zero", "facesim_arc_missing_as_zero")
_IDENTITY = (*_FACESIMS, *_ALL_FRAMES, "same_identity_rate")
_DISTANCES = ("fid", "kid", "face_feature_distance")
_RANGES = ("pose_range", "pose_range_robust")


def _swap(share: float) -> Apply:
    return lambda shot, other, rng: swapped(shot, other, share, rng)


def _blur(strength: float) -> Apply:
    return lambda shot, other, rng: blurred(shot, strength)


DEFECTS: tuple[Defect, ...] = (
    Defect("swap 10%", "another person in 10% of the frames", _swap(0.1), _IDENTITY),
    Defect("swap 30%", "another person in 30% of the frames", _swap(0.3), _IDENTITY),
    Defect("swap 50%", "another person in 50% of the frames", _swap(0.5), _IDENTITY),
    Defect("swap late", "another person in the second half", lambda s, o, r: swapped_late(s, o),
           (*_IDENTITY, "identity_drift")),
    Defect("blur 3%", "Gaussian blur, deviation 3% of the face's height", _blur(0.03), (*_FACESIMS, *_DISTANCES)),
    Defect("blur 6%", "Gaussian blur, deviation 6% of the face's height", _blur(0.06), (*_FACESIMS, *_DISTANCES)),
    Defect("frozen", "the first frame with a face repeated", lambda s, o, r: frozen(s), _RANGES),
    Defect("still", "the reference photograph repeated", lambda s, o, r: still(s),
           (*_RANGES, "copy_paste", "clip_score", "clip_score_long")),
    Defect("RGB->BGR", "red and blue exchanged", lambda s, o, r: recoloured(s),
           (*_FACESIMS, *_DISTANCES, "clip_score", "clip_score_long")),
    Defect("no face 30%", "the head painted grey in 30% of the frames", lambda s, o, r: faceless(s, 0.3, r),
           ("face_rate", *_ALL_FRAMES)),
)  # fmt: skip
