"""Stand-In: one face crop as a reference that every video token sees, on Wan 2.1 text-to-video."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from baselines.faces.antelopev2 import Face
from baselines.faces.method import FaceMethod
from baselines.faces.pinned import BISENET
from baselines.standin.faces import SIDE, crop, on_white, open_parser
from baselines.standin.network import StandInNetwork
from baselines.wan.loading import load_transformer, read_tensors
from baselines.wan.pictures import fit_on_white

PARSER = "facexlib/parsing_bisenet.pth"


class StandIn(FaceMethod):
    """The crop is 512x512 whatever the video's size, on white; low-rank weights act on its path alone."""

    published: Mapping[str, str] = {**FaceMethod.published, PARSER: BISENET}

    def open_parser(self, path: Path, device: str, wanted: Mapping[str, str]) -> Any:
        """BiSeNet."""
        return open_parser(path, device, wanted[PARSER])

    def open_network(self, base: Path, checkpoint: Path) -> nn.Module:
        """Wan's transformer of the base with Stand-In's weights beside it."""
        import torch

        transformer = load_transformer(base, getattr(torch, self._sampling.dtype))
        self._network = StandInNetwork(transformer, read_tensors(checkpoint), str(checkpoint))
        return self._network

    def cut(self, photograph: NDArray[np.uint8], face: Face | None) -> NDArray[np.uint8]:
        """The face's box enlarged by half and squared, what is behind it white."""
        return on_white(crop(photograph, face), self._parser)

    def canvas(self, crop: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """512x512; a crop of that size as it is."""
        return fit_on_white(Image.fromarray(crop), SIDE, SIDE)[0]

    def show(self, latents: Tensor) -> None:
        """Keys and values are made in the next forward, and kept until another reference comes."""
        self._network.look_at(latents)
