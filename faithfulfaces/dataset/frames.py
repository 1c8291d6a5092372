"""The standard form of a clip: rate, size and crop, without distortion. Pure; T frames of H x W px."""

from __future__ import annotations

import itertools
import math

import numpy as np
from numpy.typing import NDArray

from faithfulfaces.dataset.settings import Video

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]


def cover(width: int, height: int, video: Video) -> tuple[int, int]:
    """(width, height) of the picture scaled so that it just covers the standard frame."""
    scale = max(video.width / width, video.height / height)
    # rounding up: a pixel short would leave a black line
    return max(video.width, math.ceil(width * scale - 1e-6)), max(video.height, math.ceil(height * scale - 1e-6))


def unfit(width: int, height: int, video: Video) -> tuple[str, str]:
    """(reason, detail) why a picture of this size cannot take the standard form, or empty strings."""
    scale = max(video.width / width, video.height / height)
    kept = video.width * video.height / (width * height * scale * scale)
    if kept < video.min_kept:
        return "aspect", f"{width}x{height}: {video.width}x{video.height} would keep {kept:.0%} of the picture"
    if scale > video.max_upscale:
        return "resolution", f"{width}x{height} would be enlarged {scale:.2f} times"
    return "", ""


def resample(times: NDArray[np.float64], fps: float) -> NDArray[np.int64]:
    """Numbers of the frames nearest to a steady rate, ascending; every frame for a rate of 0.

    Args:
        times: [N] seconds, ascending.
        fps: frames a second.
    """
    if not fps or len(times) < 2:
        return np.arange(len(times))
    step = (times[-1] - times[0]) / (len(times) - 1)
    # the last frame is shown for its own while
    wanted = times[0] + np.arange(max(1, math.floor((times[-1] - times[0] + step) * fps + 1e-6))) / fps
    after = np.clip(np.searchsorted(times, wanted), 1, len(times) - 1)
    nearest: NDArray[np.int64] = np.where(wanted - times[after - 1] <= times[after] - wanted, after - 1, after)
    return nearest


def pieces(length: int, cuts: list[int], longest: int) -> list[tuple[int, int]]:
    """(start, end) of the clips: shots between cuts, those longer than `longest` frames cut into equal parts."""
    edges = [0, *sorted({cut for cut in cuts if 0 < cut < length}), length]
    out = []
    for start, end in itertools.pairwise(edges):
        parts = max(1, math.ceil((end - start) / longest))
        inner = [start + (end - start) * i // parts for i in range(parts + 1)]
        out += list(itertools.pairwise(inner))
    return out


def placed(size: tuple[int, int], boxes_N4: Floats, video: Video) -> tuple[int, int]:
    """(left, top) of the standard frame within the covering picture: its middle goes to the middle of all faces.

    Args:
        size: (width, height) of the picture, px.
        boxes_N4: finite boxes, xyxy px; without any the middle is taken.
        video: the standard.
    """
    corner = []
    for axis, (whole, side) in enumerate(zip(size, (video.width, video.height), strict=True)):
        middle = whole / 2
        if len(boxes_N4):
            middle = (float(boxes_N4[:, axis].min()) + float(boxes_N4[:, axis + 2].max())) / 2
        corner.append(int(np.clip(round(middle - side / 2), 0, whole - side)))
    return corner[0], corner[1]


def inside(boxes_N4: Floats, corner: tuple[int, int], video: Video) -> float:
    """Share of the boxes that lie wholly in the standard frame at a corner; NaN without boxes."""
    if not len(boxes_N4):
        return float("nan")
    low = np.array(corner)
    high = low + np.array([video.width, video.height])
    return float(((boxes_N4[:, :2] >= low) & (boxes_N4[:, 2:] <= high)).all(1).mean())
