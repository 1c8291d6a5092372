"""From a photograph to what the model reads of it: one face crop and its Euler angles."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import PIL.Image
import PIL.ImageOps
from numpy.typing import NDArray

from faithfulfaces.config import Faces
from faithfulfaces.pose import EnlargedBoxPose, window
from ffbench.errors import UserError
from ffbench.extract.detect import Detector, detect_ladder, largest
from ffbench.extract.networks import build
from ffbench.extract.pose import PoseEstimator
from ffbench.protocols import Network

Picture = NDArray[np.uint8]
LADDERS = {"scrfd": ("320", "640", "pad25", "128"), "mtcnn": ("full", "pad25")}
"""Attempts of each kind of detector; the first that finds a face counts."""


class Face(NamedTuple):
    """One face of a photograph."""

    box: NDArray[np.float32]
    """[4] xyxy px, as detected."""
    crop: Picture
    """uint8 [H,W,3] RGB at the photograph's own scale: the enlarged box, cut at the photograph's edge."""
    euler: NDArray[np.float32]
    """[3] pitch, yaw, roll in degrees."""


class FaceReader:
    """Finds the largest face and its pose; the same crop serves pose, aligner and VACE's reference (paper, Fig. 2).

    Args:
        detector: of `ffbench.extract`.
        ladder: its attempts.
        pose: estimator of the angles.
        box: factor of the box's sides for the crop.
    """

    def __init__(self, detector: Detector, ladder: tuple[str, ...], pose: PoseEstimator, box: float = 1.5) -> None:
        self._detector, self._ladder, self._pose, self._box = detector, ladder, pose, box
        self.id = f"{detector.id} {pose.id} box={box:g}"

    def read(self, picture: Picture, name: str = "the reference") -> Face:
        """The largest face of a uint8 [H,W,3] RGB photograph.

        Raises:
            UserError: no face, or one whose pose cannot be told.
        """
        found, _ = detect_ladder(self._detector, picture, self._ladder)
        if not len(found.scores):
            raise UserError(
                f"{name} holds no face (tried {', '.join(self._ladder)})", "crop closer or give another photograph"
            )
        index = largest(found)
        box, points = found.boxes[index], found.points[index]
        inside = window(picture, box, self._box)
        euler = self._pose.angles([picture], box[None], points[None])[0]
        if inside is None or not np.isfinite(euler).all():
            raise UserError(f"{name} holds a face whose pose cannot be told", "give a photograph of the whole face")
        left, top, right, bottom = inside
        return Face(box, np.ascontiguousarray(picture[top:bottom, left:right]), euler)


def open_faces(config: Faces, device: str = "cpu") -> FaceReader:
    """The reader that a configuration describes.

    Raises:
        UserError: weights that are missing or not what they should be.
    """
    detector = build("detector", Network(config.detector, config.detector_weights), device)
    pose = build("pose", Network(config.pose, config.pose_weights), device)
    # the other estimators enlarge the box themselves, or read points alone
    if config.pose == "sixdrepnet":
        pose = EnlargedBoxPose(pose, config.box)
    return FaceReader(detector, LADDERS[config.detector], pose, config.box)


def resized(crop: Picture, size: int) -> Picture:
    """A crop as the aligner reads it, in training and here: uint8 [size,size,3], stretched to a square, antialiased."""
    image = PIL.Image.fromarray(crop).resize((size, size), PIL.Image.Resampling.BICUBIC, reducing_gap=3.0)
    return np.asarray(image)


def as_rgb(image: PIL.Image.Image | Picture) -> Picture:
    """A PIL image, turned upright as its EXIF block says, or a uint8 [H,W,3] RGB array, as uint8 [H,W,3] RGB.

    Raises:
        UserError: for anything else.
    """
    if isinstance(image, PIL.Image.Image):
        return np.asarray(PIL.ImageOps.exif_transpose(image).convert("RGB"))
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        kind = f"{getattr(image, 'dtype', type(image).__name__)} {list(getattr(image, 'shape', []))}"
        raise UserError(f"the reference is {kind}", "give a PIL image or a uint8 array [H,W,3] in RGB")
    return image
