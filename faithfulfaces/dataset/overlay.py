"""How much of the picture text covers: captions, watermarks, titles (`quality.text`)."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from faithfulfaces.dataset.quality import looked
from ffbench.errors import UserError

Pixels = NDArray[np.uint8]


class TextFinder:
    """The text detector of PP-OCR (Apache-2.0), whose weights come inside rapidocr's wheel; it reads no letters.

    Args:
        threads: of ONNX Runtime.

    Raises:
        UserError: rapidocr is not installed.
    """

    def __init__(self, threads: int = 1) -> None:
        try:
            from rapidocr import RapidOCR
        except ImportError as error:
            raise UserError(
                "quality.text needs rapidocr, which is not installed", "pip install rapidocr, or set quality.text to 0"
            ) from error
        options = {"Global.log_level": "error", "EngineConfig.onnxruntime.intra_op_num_threads": threads}
        self._find = RapidOCR(params=options)

    def share(self, frames_THW3: Pixels) -> float:
        """Mean over eight frames of the share of their pixels, 0..1, that lies in boxes of text.

        Args:
            frames_THW3: uint8 RGB.
        """
        return float(np.mean([self._covered(frames_THW3[i]) for i in looked(len(frames_THW3))]))

    def _covered(self, frame_HW3: Pixels) -> float:
        found = self._find(np.ascontiguousarray(frame_HW3[..., ::-1]), use_det=True, use_cls=False, use_rec=False)
        mask = np.zeros(frame_HW3.shape[:2], np.uint8)
        if found.boxes is not None:
            cv2.fillPoly(mask, list(np.rint(found.boxes).astype(np.int32)), 1)
        return float(mask.mean())
