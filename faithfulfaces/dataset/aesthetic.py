"""How a clip's pictures are liked, by a linear head on CLIP's embeddings (`quality.aesthetic`)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from faithfulfaces.dataset.quality import looked
from ffbench.errors import UserError
from ffbench.extract.clip import ClipModel
from ffbench.weights import load_state_dict


class Aesthetic:
    """LAION's aesthetic predictor (2022): w . e + b of a unit image embedding e; ratings of 1 to 10.

    Args:
        clip: the CLIP that the head was trained on.
        head: state dict of a linear layer, `weight` [1,D] and `bias` [1].

    Raises:
        UserError: the file is no such head, or one of another CLIP.
    """

    def __init__(self, clip: ClipModel, head: Path) -> None:
        found = {name: np.asarray(tensor, np.float64) for name, tensor in load_state_dict(head).items()}
        width = clip.images(np.zeros((1, 8, 8, 3), np.uint8)).shape[1]
        shapes = {name: values.shape for name, values in found.items()}
        if shapes != {"weight": (1, width), "bias": (1,)}:
            raise UserError(
                f"networks.aesthetic_head {head} holds {shapes}, this CLIP needs weight (1, {width}) and bias (1,)",
                "give the linear head that was trained on networks.aesthetic_clip",
            )
        self._clip, self._weight, self._bias = clip, found["weight"][0], float(found["bias"][0])

    def score(self, frames_THW3: NDArray[np.uint8]) -> float:
        """Mean over eight uint8 RGB frames."""
        chosen = frames_THW3[looked(len(frames_THW3))]
        return float((self._clip.images(chosen) @ self._weight + self._bias).mean())
