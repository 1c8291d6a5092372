"""Crops: five-point similarity alignment, and plain boxes."""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Floats = NDArray[np.float32]

ARCFACE_TEMPLATE: Floats = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]], np.float32
)
"""[5,2] px in a crop of 112: where ArcFace's training crops have eyes, nose and mouth corners (InsightFace)."""


def similarity(points: NDArray[np.floating], template: NDArray[np.floating]) -> NDArray[np.float64]:
    """The rotation, uniform scale and shift that bring `points` nearest to `template` in the plane.

    Umeyama, PAMI 1991, Eq. 38-42; a mirror image is never returned. The arithmetic stays in the arguments' precision:
    with float32 it gives InsightFace's matrix to the last bit, hence its pixels.

    Args:
        points: [N,2] px, N >= 2.
        template: [N,2] px.

    Returns:
        [2,3] matrix for `cv2.warpAffine`.

    Raises:
        ValueError: points that are not finite, or all equal.
    """
    if points.shape != template.shape or points.ndim != 2 or points.shape[1] != 2:
        raise ValueError(f"points {points.shape} and template {template.shape} must both be [N,2]")
    if not np.isfinite(points).all():
        raise ValueError("points hold a value that is not finite")
    p_mean, q_mean = points.mean(0), template.mean(0)
    p, q = points - p_mean, template - q_mean
    spread = p.var(0).sum()
    if spread <= 1e-10 * max(1.0, float(np.square(p_mean).sum())):
        raise ValueError("the points are all equal")
    u, d, vt = np.linalg.svd(q.T @ p / len(p))
    sign = np.array([1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    turn = u @ np.diag(sign) @ vt
    scale = 1.0 / spread * (d @ sign)
    return np.column_stack([turn * scale, q_mean - scale * (turn @ p_mean)]).astype(np.float64)


def align(image: Image, points: NDArray[np.floating], size: int) -> Image:
    """The face turned upright and scaled to ArcFace's template.

    Args:
        image: uint8 [H,W,3].
        points: [5,2] px in the order of `FaceTrack.points`.
        size: a multiple of 112, in px.

    Returns:
        uint8 [size,size,3], bilinear, black outside the image; channel order is kept.

    Raises:
        ValueError: degenerate points, or a size that is no multiple of 112.
    """
    if size <= 0 or size % 112:
        raise ValueError(f"size {size} is no multiple of 112")
    matrix = similarity(np.asarray(points, np.float32), ARCFACE_TEMPLATE * (size / 112))
    return np.asarray(cv2.warpAffine(image, matrix, (size, size), borderValue=(0, 0, 0)), np.uint8)


def enlarge(box: NDArray[np.floating], factor: float) -> Floats:
    """[4] xyxy box with both sides `factor` times as long about the same centre."""
    x1, y1, x2, y2 = (float(v) for v in box)
    half_w, half_h = (x2 - x1) * factor / 2, (y2 - y1) * factor / 2
    x, y = (x1 + x2) / 2, (y1 + y2) / 2
    return np.array([x - half_w, y - half_h, x + half_w, y + half_h], np.float32)


def crop_box(
    image: Image,
    box: NDArray[np.floating],
    size: int,
    *,
    border: Literal["zero", "edge"] = "zero",
    interpolation: int = cv2.INTER_LINEAR,
) -> Image:
    """The pixels of a box, stretched to a square.

    Args:
        image: uint8 [H,W,3].
        box: [4] xyxy px, rounded to whole pixels; may reach outside the image.
        size: side of the result in px.
        border: what lies outside the image: `zero` black, `edge` the nearest pixel.
        interpolation: an OpenCV flag.

    Returns:
        uint8 [size,size,3].

    Raises:
        ValueError: a box that is not finite, empty, or wholly outside the image.
    """
    if not np.isfinite(box).all():
        raise ValueError(f"box {box} is not finite")
    height, width = image.shape[:2]
    x1, y1, x2, y2 = (round(float(v)) for v in box)
    left, top, right, bottom = max(x1, 0), max(y1, 0), min(x2, width), min(y2, height)
    if right <= left or bottom <= top:
        raise ValueError(f"box {(x1, y1, x2, y2)} has no pixel of a {width}x{height} image")
    kind = cv2.BORDER_CONSTANT if border == "zero" else cv2.BORDER_REPLICATE
    crop = cv2.copyMakeBorder(
        image[top:bottom, left:right], top - y1, y2 - bottom, left - x1, x2 - right, kind, value=(0, 0, 0)
    )
    return np.asarray(cv2.resize(crop, (size, size), interpolation=interpolation), np.uint8)
