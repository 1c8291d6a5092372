"""The largest face of a photograph by facenet-pytorch's MTCNN, whose weights come inside its wheel."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ffbench.contract import RefusedError

BOX = 1.5
"""Factor of the box's sides, as FaithfulFaces cuts its reference."""


class FaceCropper:
    """Cuts the largest face with its surroundings."""

    def __init__(self, device: str = "cpu", min_face: int = 32) -> None:
        from facenet_pytorch import MTCNN

        self._net: Any = MTCNN(min_face_size=min_face, keep_all=True, post_process=False, device=device)

    def __call__(self, photograph: Image.Image) -> Image.Image:
        """The detected box with sides 1.5 times as long, cut at the photograph's edge.

        Raises:
            RefusedError: no face.
        """
        boxes, _ = self._net.detect(np.asarray(photograph))
        if boxes is None:
            raise RefusedError("the reference holds no face (MTCNN)")
        return photograph.crop(enlarged(np.asarray(boxes, np.float64), photograph.size))


def enlarged(boxes: NDArray[np.float64], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of the largest [N,4] xyxy box, enlarged and cut, in whole px of (width, height)."""
    x1, y1, x2, y2 = boxes[np.argmax((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))]
    x, y, half_w, half_h = (x1 + x2) / 2, (y1 + y2) / 2, (x2 - x1) * BOX / 2, (y2 - y1) * BOX / 2
    left, top, right, bottom = round(x - half_w), round(y - half_h), round(x + half_w), round(y + half_h)
    return max(left, 0), max(top, 0), min(right, size[0]), min(bottom, size[1])
