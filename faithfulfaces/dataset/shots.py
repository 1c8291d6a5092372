"""Where one shot ends and the next begins, frame by frame, by PySceneDetect's detectors."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ffbench.errors import UserError

WIDTH = 256
"""px to which a frame is shrunk first; PySceneDetect works at about this size itself."""


class ShotCutter:
    """Collects cuts while frames pass by.

    Args:
        kind: `adaptive`, `content` or `none`.
        threshold: of the detector; 0 is its own default.

    Raises:
        UserError: PySceneDetect is not installed.
    """

    def __init__(self, kind: str, threshold: float = 0.0) -> None:
        self.cuts: list[int] = []
        self._count = 0
        self._detector: Any = None
        if kind == "none":
            return
        try:
            from scenedetect.detectors import AdaptiveDetector, ContentDetector
        except ImportError as error:
            raise UserError(
                "shots are split by PySceneDetect, which is not installed",
                "pip install 'ffbench[data]', or set video.shots to none",
            ) from error
        if kind == "adaptive":
            self._detector = AdaptiveDetector(**({"adaptive_threshold": threshold} if threshold else {}))
        else:
            self._detector = ContentDetector(**({"threshold": threshold} if threshold else {}))

    def see(self, frame: NDArray[np.uint8]) -> None:
        """Look at the next uint8 [H,W,3] RGB frame."""
        if self._detector is not None:
            from scenedetect import FrameTimecode

            height = max(1, round(frame.shape[0] * WIDTH / frame.shape[1]))
            small = cv2.resize(frame, (WIDTH, height), interpolation=cv2.INTER_AREA)[..., ::-1]
            # the rate is no matter: lengths are counted in frames
            found = self._detector.process_frame(FrameTimecode(self._count, Fraction(25)), np.ascontiguousarray(small))
            self.cuts += [cut.frame_num for cut in found]
        self._count += 1

    def close(self) -> list[int]:
        """All cuts: numbers of first frames of shots."""
        if self._detector is not None and self._count:
            from scenedetect import FrameTimecode

            last = self._detector.post_process(FrameTimecode(self._count - 1, Fraction(25)))
            self.cuts += [cut.frame_num for cut in last]
        return sorted(set(self.cuts))
