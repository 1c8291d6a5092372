"""Which detection of an image is measured, and the crop of it that each kind of network reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from ffbench.extract.align import align, crop_box
from ffbench.extract.detect import PAD, Detections, largest, pad25
from ffbench.extract.embed import Source

Image = NDArray[np.uint8]
Floats = NDArray[np.float32]
SIDES: Mapping[Source, int] = {"align112": 112, "align224": 224, "box160": 160}


class Face(NamedTuple):
    """The face measured in one frame."""

    box: Floats
    points: Floats
    score: float
    num_faces: int
    step: str


def chosen(found: Detections, step: str, shape: tuple[int, int]) -> Face | None:
    """The face to measure in an image of (height, width), found at a step of the ladder: the largest that is usable."""
    found = usable(found, shape)
    if not len(found.scores):
        return None
    best = largest(found)
    return Face(found.boxes[best], found.points[best], float(found.scores[best]), len(found.scores), step)


def usable(found: Detections, shape: tuple[int, int]) -> Detections:
    """The detections that can be cropped: at least a pixel of the box inside (height, width), points a pixel apart."""
    x1, y1, x2, y2 = found.boxes.T
    wide = np.minimum(x2, shape[1]) - np.maximum(x1, 0) >= 1
    high = np.minimum(y2, shape[0]) - np.maximum(y1, 0) >= 1
    apart = np.ptp(found.points, axis=1).max(axis=1) >= 1
    keep = wide & high & apart
    return Detections(found.boxes[keep], found.points[keep], found.scores[keep])


def crop(image: Image, face: Face, source: Source) -> Image:
    """One face as uint8 [S,S,3], S as the source says.

    `align112` is taken from the image that the detector saw, so on the padded rung it has grey outside the frame, while
    `align224` is taken from the frame and has black there: both as in ConsisID's script. `box160` is the box cut at the
    frame's edge and whole pixels, stretched by area, as in facenet-pytorch without margin.
    """
    side = SIDES[source]
    if source == "box160":
        height, width = image.shape[:2]
        x1, y1, x2, y2 = face.box
        inside = np.trunc([max(x1, 0), max(y1, 0), min(x2, width), min(y2, height)])
        return crop_box(image, inside, side, interpolation=cv2.INTER_AREA)
    if source == "align112" and face.step == PAD:
        padded, shift = pad25(image)
        return align(padded, face.points + np.asarray(shift, np.float32), side)
    return align(image, face.points, side)
