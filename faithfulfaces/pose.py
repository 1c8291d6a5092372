"""Head pose of a face as the paper takes it: 6DRepNet on the box enlarged by 1.5 (Section 3.4).

The network, its checkpoint's keys and the sign convention are those of `ffbench.extract.pose`: yaw > 0 turns the nose
to the image's left edge, pitch > 0 looks up, roll > 0 turns clockwise.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ffbench.extract.align import enlarge
from ffbench.extract.pose import PoseEstimator

Image = NDArray[np.uint8]
Floats = NDArray[np.float32]


def window(image: Image, box: NDArray[np.floating], factor: float) -> tuple[int, int, int, int] | None:
    """Pixels (left, top, right, bottom) of the box enlarged about its centre and cut at the image's edge, or None."""
    if not np.isfinite(box).all():
        return None
    x1, y1, x2, y2 = (round(float(v)) for v in enlarge(box, factor))
    left, top, right, bottom = max(x1, 0), max(y1, 0), min(x2, image.shape[1]), min(y2, image.shape[0])
    return (left, top, right, bottom) if right > left and bottom > top else None


class EnlargedBoxPose:
    """A crop-based estimator that sees exactly the enlarged box: the image ends there, so no margin of its own is left.

    Args:
        inner: `SixDRepNetPose`, whose published demo would add a fifth of the box on each side.
        factor: of the box's sides.
    """

    def __init__(self, inner: PoseEstimator, factor: float = 1.5) -> None:
        self._inner, self._factor = inner, factor
        self.id = f"{inner.id},box={factor:g}"

    def angles(self, images: Sequence[Image], boxes: Floats, points: Floats) -> Floats:
        """See `PoseEstimator`; the inner one is given the crops, and boxes and points in their pixels."""
        out_N3 = np.full((len(images), 3), np.nan, np.float32)
        windows = {row: window(image, boxes[row], self._factor) for row, image in enumerate(images)}
        found = {row: edges for row, edges in windows.items() if edges is not None}
        if found:
            crops = [images[row][top:bottom, left:right] for row, (left, top, right, bottom) in found.items()]
            whole = np.array([[0, 0, crop.shape[1], crop.shape[0]] for crop in crops], np.float32)
            corners_n12 = np.array([edges[:2] for edges in found.values()], np.float32)[:, None]
            rows = list(found)
            out_N3[rows] = self._inner.angles(crops, whole, np.asarray(points)[rows] - corners_n12)
        return out_N3
