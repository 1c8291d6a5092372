"""Concat-ID: one aligned face as a clean latent frame behind the video, on Wan 2.1 text-to-video."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from baselines.concat_id.faces import aligned, on_black, open_parser
from baselines.concat_id.network import ConcatIDNetwork, split
from baselines.faces.antelopev2 import Face
from baselines.faces.method import FaceMethod
from baselines.wan.loading import from_original, merged


class ConcatID(FaceMethod):
    """The crop stands on a black canvas of the video's size; the record's notes say which stage the weights are of."""

    def open_parser(self, path: Path, device: str, wanted: Mapping[str, str]) -> Any:
        """SegFormer, of safetensors alone, so that no hash of it is known or needed."""
        return open_parser(path, device)

    def open_network(self, base: Path, checkpoint: Path) -> nn.Module:
        """Concat-ID's own transformer, and what its second stage adds; the base gives its configuration."""
        import torch

        stored, added = split(merged(checkpoint))
        transformer = from_original(stored, checkpoint, base, getattr(torch, self._sampling.dtype))
        self._network = ConcatIDNetwork(transformer, added, str(checkpoint))
        self._notes["stage"] = "adaln" if self._network.adaln else "first"
        return self._network

    def cut(self, photograph: NDArray[np.uint8], face: Face | None) -> NDArray[np.uint8]:
        """The aligned face, all else black."""
        return self._parser.cut(photograph if face is None else aligned(photograph, face))  # type: ignore[no-any-return]

    def canvas(self, crop: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Scaled to fit and centred on black, as large as the video."""
        return on_black(crop, self._sampling.width, self._sampling.height)

    def show(self, latents: Tensor) -> None:
        """The network takes it as one more frame."""
        self._network.reference = latents
