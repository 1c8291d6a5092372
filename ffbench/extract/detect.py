"""Face detectors behind one protocol, and the ladder of attempts."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from ffbench.errors import UserError
from ffbench.extract.sessions import callers, onnx_session, side_by_side

Image = NDArray[np.uint8]
Floats = NDArray[np.float32]

SQUARES = ("128", "320", "640")
FITTED = tuple(f"fit{side}" for side in SQUARES)
"""The same scale without most of the black: each side is the next multiple of 32."""
STRIDE = 32
"""SCRFD's coarsest: sides of its input are multiples of it, px."""
PAD = "pad25"


class Detections(NamedTuple):
    """The faces of one image, in no order that means anything."""

    boxes: Floats
    """[N,4] x1 y1 x2 y2 px; may reach outside the image."""
    points: Floats
    """[N,5,2] px in the order of `FaceTrack.points`."""
    scores: Floats
    """[N] in 0..1."""


class Detector(Protocol):
    """Finds faces. `id` names the network, the first 12 digits of its weights' sha256 and its threshold."""

    id: str
    callers: int
    """Images that it should be asked about at a time, each in a thread."""

    def detect(self, image: Image, rung: str) -> Detections:
        """Faces of a uint8 [H,W,3] RGB image at one rung: `128`, `320`, `640` (longest side in px), `fit640`, `full`.

        Raises:
            ValueError: not such an image, or a rung that this detector lacks.
        """
        ...


def no_faces() -> Detections:
    """An empty result."""
    return Detections(np.zeros((0, 4), np.float32), np.zeros((0, 5, 2), np.float32), np.zeros(0, np.float32))


def largest(detections: Detections) -> int:
    """Index of the largest box by area, the last of equals as in ConsisID's script.

    Raises:
        ValueError: no faces.
    """
    x1, y1, x2, y2 = detections.boxes.T
    area = (x2 - x1) * (y2 - y1)
    if not len(area):
        raise ValueError("there is no face to choose from")
    return len(area) - 1 - int(np.argmax(area[::-1]))


def detect_ladder(detector: Detector, image: Image, ladder: Sequence[str]) -> tuple[Detections, str]:
    """The faces of the first rung that finds one, and that rung; no faces and `""` when none does.

    `pad25` widens each side by a quarter with grey and repeats the ladder's first rung: a face that fills or leaves the
    frame is found at a smaller scale. Its boxes and points come back in px of the image as given.
    """
    for rung in ladder:
        if rung == PAD:
            padded, corner = pad25(image)
            found = detector.detect(padded, next(r for r in ladder if r != PAD))
            found = _shifted(found, corner)
        else:
            found = detector.detect(image, rung)
        if len(found.scores):
            return found, rung
    return no_faces(), ""


def detect_all(detector: Detector, images: Sequence[Image], ladder: Sequence[str]) -> list[tuple[Detections, str]]:
    """`detect_ladder` of every image."""
    return side_by_side(lambda image: detect_ladder(detector, image, ladder), images, detector.callers)


def pad25(image: Image) -> tuple[Image, tuple[int, int]]:
    """The image with a quarter of its height and width of grey 128 on each side, and that (left, top) in px."""
    top, left = int(image.shape[0] * 0.25), int(image.shape[1] * 0.25)
    grey = (128, 128, 128)
    padded = cv2.copyMakeBorder(image, top, top, left, left, cv2.BORDER_CONSTANT, value=grey)
    return np.asarray(padded, np.uint8), (left, top)


def _shifted(found: Detections, corner: tuple[int, int]) -> Detections:
    """Detections of a padded image in px of the image whose (left, top) corner is given."""
    shift = np.array(corner, np.float32)
    return Detections(found.boxes - np.tile(shift, 2), found.points - shift, found.scores)


class Scrfd:
    """InsightFace's SCRFD with five points, as `FaceAnalysis` runs it: NMS at 0.4, every face kept.

    Args:
        path: an ONNX file such as `det_10g.onnx`.
        sha256: of that file, for the id.
        threshold: least score, 0..1.
        device: `cpu`, `cuda` or `cuda:N`.

    Raises:
        UserError: no such file, no SCRFD with five points, or no such device.
    """

    def __init__(self, path: Path, sha256: str, threshold: float = 0.5, device: str = "cpu") -> None:
        session = onnx_session(path, device)
        outputs = len(session.get_outputs())
        if outputs not in (9, 15) or session.get_inputs()[0].shape[1] != 3:
            raise UserError(
                f"{path} is no SCRFD with five points: {outputs} outputs", "give a det_*.onnx of InsightFace"
            )
        from insightface.model_zoo import SCRFD

        self.id = f"scrfd:{path.name}@{sha256[:12]},threshold={threshold:g}"
        self.callers = callers(device)
        self._scrfd: Any = SCRFD(model_file=str(path), session=session)
        self._scrfd.prepare(0, nms_thresh=0.4, det_thresh=threshold)
        # set by the file for networks that take one size only
        self._fixed: tuple[int, int] | None = self._scrfd.static_input_size

    def detect(self, image: Image, rung: str) -> Detections:
        """See `Detector`; the image is shrunk or enlarged into a square of the rung's size, black elsewhere.

        At a fitted rung the square is cut down to what the image needs: 640x384 of 640x640 for 16:9.
        """
        _check(image)
        if rung not in SQUARES + FITTED:
            raise ValueError(f"SCRFD has no rung {rung!r}, it has {', '.join(SQUARES + FITTED)} and {PAD}")
        longest = int(rung.removeprefix("fit"))
        # the longer side becomes the square's; a sliver would round to a side of nothing
        if min(image.shape[:2]) * longest < max(image.shape[:2]):
            return no_faces()
        size = _fitted(image, longest) if rung in FITTED else (longest, longest)
        if self._fixed not in (None, size):
            raise UserError(f"{self.id} takes {self._fixed} px only, not {size}", "use a network of free input size")
        boxes, points = self._scrfd.detect(image[:, :, ::-1], input_size=size, max_num=0, metric="default")
        return Detections(
            np.asarray(boxes[:, :4], np.float32), np.asarray(points, np.float32), np.asarray(boxes[:, 4], np.float32)
        )


def _fitted(image: Image, longest: int) -> tuple[int, int]:
    """(width, height) px of the least input that holds the image with its longer side at `longest` px."""
    height, width = image.shape[:2]
    # rounded up: with a pixel less InsightFace would shrink the image further
    wide, high = (-(-side * longest // (max(height, width) * STRIDE)) * STRIDE for side in (width, height))
    return wide, high


class Mtcnn:
    """MTCNN of facenet-pytorch, whose weights come inside its wheel; faces at the edge are looked at with a border.

    Args:
        threshold: least score of the last stage, 0..1; the first two keep the published 0.6 and 0.7.
        min_face: smallest face looked for, px of the image as the network sees it.
        max_side: longer images are shrunk to this many px first.
        device: a PyTorch device.
    """

    def __init__(self, threshold: float = 0.7, min_face: int = 32, max_side: int = 1280, device: str = "cpu") -> None:
        from facenet_pytorch import MTCNN

        self._net: Any = MTCNN(
            min_face_size=min_face, thresholds=[0.6, 0.7, threshold], keep_all=True, post_process=False, device=device
        )
        self._min_face, self._max_side = min_face, max_side
        # PyTorch's threads belong to one caller
        self.callers = 1
        self.id = (
            f"mtcnn:facenet-pytorch-{metadata.version('facenet-pytorch')}@{_mtcnn_sha256()[:12]},"
            f"threshold={threshold:g},min_face={min_face},max_side={max_side},edge={PAD}"
        )

    def detect(self, image: Image, rung: str) -> Detections:
        """See `Detector`; `full` only."""
        _check(image)
        if rung != "full":
            raise ValueError(f"MTCNN has no rung {rung!r}, it has full and {PAD}")
        height, width = image.shape[:2]
        scale = min(1.0, self._max_side / max(height, width))
        small = (round(width * scale), round(height * scale))
        if min(small) < self._min_face:
            return no_faces()
        if scale < 1:
            image = np.asarray(cv2.resize(image, small, interpolation=cv2.INTER_AREA), np.uint8)
        found = self._find(image)
        if _leaves(found.boxes, *small):
            padded, corner = pad25(image)
            found = _shifted(self._find(padded), corner)
        factor = np.array([width / small[0], height / small[1]], np.float32)
        return Detections(found.boxes * np.tile(factor, 2), found.points * factor, found.scores)

    def _find(self, image: Image) -> Detections:
        boxes, scores, points = self._net.detect(image, landmarks=True)
        if boxes is None:
            return no_faces()
        # several faces come as arrays of objects
        return Detections(boxes.astype(np.float32), points.astype(np.float32), scores.astype(np.float32))


def _leaves(boxes: Floats, width: int, height: int) -> bool:
    """Whether the square around any box reaches outside the image.

    facenet-pytorch then cuts the square at the edge but maps the points as if it had not: on 200 close-up photographs
    they lie 0.12 face heights from SCRFD's in the median, with a border around the image 0.04.
    """
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = (boxes[:, 2:] - boxes[:, :2]).max(1, initial=0)[:, None] / 2
    return bool((centre < half).any() or (centre + half > (width, height)).any())


@functools.cache
def _mtcnn_sha256() -> str:
    import facenet_pytorch

    digest = hashlib.sha256()
    for name in ("pnet.pt", "rnet.pt", "onet.pt"):
        digest.update((Path(facenet_pytorch.__file__).parent / "data" / name).read_bytes())
    return digest.hexdigest()


def _check(image: Image) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ValueError(f"a detector takes uint8 [H,W,3] RGB, not {image.dtype} {list(image.shape)}")
