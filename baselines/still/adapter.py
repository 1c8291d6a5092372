"""The reference photograph, frozen: the best likeness that a video can have without turning the head at all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ffbench.contract import Output, Request, Runtime
from ffbench.records import Scalar

Picture = NDArray[np.uint8]
GREY = 128


class Still:
    """Shows `num_frames` times the whole reference, scaled to fit and centred on grey: nothing is cropped."""

    def __init__(self, settings: Mapping[str, Scalar]) -> None:
        self._size = (int(settings["width"] or 0), int(settings["height"] or 0))
        self._num_frames = int(settings["num_frames"] or 0)
        self._fps = float(settings["fps"] or 0)

    def load(self, runtime: Runtime) -> None:
        """Nothing to load."""

    def generate(self, requests: Sequence[Request]) -> Iterator[Output]:
        """One frozen video a request."""
        for request in requests:
            picture = fit(read_rgb(request.case.references[0].path), self._size)
            frame, _ = letterbox(picture, self._size)
            yield Output(np.repeat(frame[None], self._num_frames, axis=0), self._fps)


def read_rgb(path: str) -> Picture:
    """uint8 [H,W,3] RGB of a prepared reference."""
    with Image.open(Path(path)) as image:
        return np.asarray(image.convert("RGB"))


def fit(picture: Picture, size: tuple[int, int]) -> Picture:
    """The whole picture, scaled with its aspect ratio to touch the inside of `size` (width, height)."""
    scale = min(size[0] / picture.shape[1], size[1] / picture.shape[0])
    width, height = (
        max(1, min(limit, round(side * scale))) for side, limit in zip(picture.shape[1::-1], size, strict=True)
    )
    # area averaging keeps a large photograph free of aliasing, cubic a small one free of blocks
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(picture, (width, height), interpolation=method), np.uint8)


def letterbox(picture: Picture, size: tuple[int, int]) -> tuple[Picture, tuple[int, int]]:
    """`picture` in the middle of a grey frame of `size` (width, height), and its upper left corner (x, y)."""
    x, y = (size[0] - picture.shape[1]) // 2, (size[1] - picture.shape[0]) // 2
    frame = np.full((size[1], size[0], 3), GREY, np.uint8)
    frame[y : y + picture.shape[0], x : x + picture.shape[1]] = picture
    return frame, (x, y)
