"""A camera that sways in front of the photograph: parallax over a smooth depth; pixels move, no head turns."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from baselines.still.adapter import Picture, fit, letterbox, read_rgb
from ffbench.contract import Output, Request, Runtime
from ffbench.errors import UserError
from ffbench.records import Scalar

MAX_AMPLITUDE = 0.1
"""Beyond it the warp could fold: its largest slope is amplitude x 0.61 / SPREAD, which must stay below 1."""
SPREAD = 0.28
"""Standard deviation of the depth bump, in sides of the picture."""
CENTRE = (0.5, 0.45)
"""Where the bump stands: portraits have the face a little above the middle."""


class Sway:
    """The reference under a camera that moves on a lying figure of eight, once through in the video's length."""

    def __init__(self, settings: Mapping[str, Scalar]) -> None:
        self._size = (int(settings["width"] or 0), int(settings["height"] or 0))
        self._num_frames = int(settings["num_frames"] or 0)
        self._fps = float(settings["fps"] or 0)
        self._amplitude = float(settings["amplitude"] or 0)
        if not 0 <= self._amplitude <= MAX_AMPLITUDE:
            raise UserError(
                f"amplitude={self._amplitude:g} is not within 0 and {MAX_AMPLITUDE}", "give --set amplitude=0.04"
            )

    def load(self, runtime: Runtime) -> None:
        """Nothing to load."""

    def generate(self, requests: Sequence[Request]) -> Iterator[Output]:
        """One swaying video a request."""
        for request in requests:
            yield Output(self.frames(request.case.references[0].path), self._fps)

    def frames(self, path: str) -> Picture:
        """uint8 [T,H,W,3] RGB; the first frame is the undisturbed view, the one after the last would be it again."""
        picture = fit(read_rgb(path), self._size)
        canvas, (x, y) = letterbox(picture, self._size)
        video = np.repeat(canvas[None], self._num_frames, axis=0)
        depth = bump(picture.shape[0], picture.shape[1])
        for frame, (right, down) in zip(video, path_of_camera(self._num_frames, self._amplitude), strict=True):
            view = warp(picture, depth, (right * picture.shape[1], down * picture.shape[0]), 1 + 2 * self._amplitude)
            frame[y : y + picture.shape[0], x : x + picture.shape[1]] = view
        return video


def path_of_camera(num_frames: int, amplitude: float) -> list[tuple[float, float]]:
    """Offsets (right, down) in sides of the picture: sin once across, sin of twice the angle at a third of it down."""
    angles = [2 * math.pi * index / num_frames for index in range(num_frames)]
    return [(amplitude * math.sin(a), amplitude / 3 * math.sin(2 * a)) for a in angles]


def bump(height: int, width: int) -> NDArray[np.float32]:
    """Nearness [H,W] float32 in (0,1]: a Gaussian that stands for a head in front of a wall."""
    across = ((np.arange(width, dtype=np.float32) + 0.5) / width - CENTRE[0]) / SPREAD
    down = ((np.arange(height, dtype=np.float32) + 0.5) / height - CENTRE[1]) / SPREAD
    return np.exp(-0.5 * (across[None, :] ** 2 + down[:, None] ** 2)).astype(np.float32)


def warp(picture: Picture, depth: NDArray[np.float32], shift: tuple[float, float], zoom: float) -> Picture:
    """The picture [H,W,3] seen from a camera moved by `shift` px (right, down); what is near moves against it most.

    The view is zoomed about the middle, so that the moved frame stays inside the photograph; where it does not, the
    border is mirrored.
    """
    height, width = depth.shape
    rows, columns = np.indices((height, width), dtype=np.float32)
    # nearness 0.5 is the plane that stands still; each output pixel looks up where it came from
    x = (columns - (width - 1) / 2) / zoom + (width - 1) / 2 + shift[0] * (depth - 0.5)
    y = (rows - (height - 1) / 2) / zoom + (height - 1) / 2 + shift[1] * (depth - 0.5)
    mapped = cv2.remap(
        picture, x.astype(np.float32), y.astype(np.float32), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
    )
    return np.asarray(mapped, np.uint8)
