"""Footage as the aligner reads it: every frame that shows its face, cut and made small."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from faithfulfaces.data import Crop, Crops
from faithfulfaces.faces import resized
from faithfulfaces.mini.dataset import crop_of
from faithfulfaces.mini.footage import Footage
from ffbench.errors import UserError

STRANGERS = "test_*.npz"
"""Footage of `faithfulfaces mini build` that shows people whom nothing was trained on."""


def face_crops(footage: Footage, size: int) -> tuple[list[Crop], NDArray[np.int64]]:
    """Crops of every frame that shows its face, as the aligner reads them, and [n] the row of each one's person."""
    places = [(int(i), int(t)) for i, t in zip(*np.nonzero(footage.shown), strict=True)]
    crops = [
        Crop(resized(crop_of(footage.pixels[i, t], footage.box[i, t]), size), footage.angles[i, t]) for i, t in places
    ]
    return crops, np.array([i for i, _ in places], np.int64)


def strangers(folder: Path, size: int) -> Crops:
    """The people of a folder's test footage, each person one clip of crops [size,size,3].

    Raises:
        UserError: naming the file that is damaged.
    """
    people: dict[str, list[Crop]] = {}
    for path in sorted(folder.glob(STRANGERS)):
        try:
            footage = Footage.load(path)
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"{path} cannot be read: {error}", "faithfulfaces mini build renders it anew") from error
        for crop, row in zip(*face_crops(footage, size), strict=True):
            people.setdefault(f"{footage.seeds[row]}", []).append(crop)
    return _People(people)


class _People:
    """Crops by person, each person one clip."""

    def __init__(self, crops: Mapping[str, Sequence[Crop]]) -> None:
        self.identities = list(crops)
        self._crops = list(crops.values())
        self.num_crops = [len(one) for one in self._crops]

    def crop(self, clip: int, index: int) -> Crop:
        """One crop."""
        return self._crops[clip][index]
