"""The largest face of a photograph by the detector of antelopev2, as insightface's FaceAnalysis finds it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from baselines.faces.pinned import check
from ffbench.contract import Runtime

FILE = "antelopev2/scrfd_10g_bnkps.onnx"
SIDE = 640
"""Longest side in px at which the detector looks."""


class Face(NamedTuple):
    """One detected face, in px of the photograph."""

    box: NDArray[np.float32]
    """[4] x1 y1 x2 y2."""
    points: NDArray[np.float32]
    """[5,2]: eyes, nose, corners of the mouth; left in the picture first."""


class Detector:
    """Finds the largest face."""

    def __init__(self, network: Any) -> None:
        self._network = network

    def largest(self, picture: NDArray[np.uint8]) -> Face | None:
        """The face of the largest box of a uint8 [H,W,3] RGB picture, or None."""
        boxes, points = self._network.detect(np.ascontiguousarray(picture[..., ::-1]), input_size=(SIDE, SIDE))
        if not len(boxes):
            return None
        index = int(np.argmax((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])))
        return Face(boxes[index, :4], points[index])


def open_detector(runtime: Runtime, file: str, sha256: str) -> Detector:
    """Load the detector from the weights folder.

    Args:
        runtime: the weights folder and the device.
        file: below the weights folder.
        sha256: that the file must have.

    Raises:
        UserError: the file is missing, or another one.
    """
    path = Path(runtime.weights_dir, file)
    check({path: sha256}, "ffbench weights pull antelopev2; a detector of your own: pins in docs/methods.md")
    from insightface.model_zoo import get_model

    on_gpu = runtime.device.startswith("cuda")
    index = int(runtime.device.partition(":")[2] or 0) if on_gpu else -1
    providers = ["CUDAExecutionProvider"] * on_gpu + ["CPUExecutionProvider"]
    network = get_model(str(path), providers=providers)
    network.prepare(ctx_id=index, input_size=(SIDE, SIDE))
    return Detector(network)
