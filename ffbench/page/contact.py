"""Contact sheets: what one method made of many people in many scenes, on one picture that is taken in at a glance."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ffbench.image import ImageError, read_image
from ffbench.tables.rows import Row, Video
from ffbench.video import VideoError, frame_times, stream_frames

PEOPLE, VIDEOS, FRAMES = 10, 6, 3
"""At most so many lines, videos of a line, and frames of one: the first, the middle and the last of a video."""
SIDE = 64
"""Height of a frame, px."""
_GAP = 6
_GREY = (104, 104, 104)
T = TypeVar("T")


def contact_sheet(row: Row) -> Image.Image | None:
    """A line a person, the photograph at its left, then a cell a video; None where no video can be read.

    People, and the videos of each, are spread evenly over what was tried, so that nobody picks them; grey is a video
    that is not there.
    """
    tried: dict[str, list[Video]] = {}
    for video in sorted(row.generations):
        tried.setdefault(row.cases[video[0]].identity_id, []).append(video)
    people = spread(sorted(tried), PEOPLE)
    cells = {person: [_frames(row, video) for video in spread(tried[person], VIDEOS)] for person in people}
    shapes = [frames[0].size for line in cells.values() for frames in line if frames]
    if not shapes:
        return None
    width = max(1, round(SIDE * shapes[0][0] / shapes[0][1]))
    cell = FRAMES * width + _GAP
    count = max(len(line) for line in cells.values())
    sheet = Image.new("RGB", (SIDE + count * cell, len(people) * (SIDE + 2) - 2), (255, 255, 255))
    for y, (person, line) in enumerate(cells.items()):
        top = y * (SIDE + 2)
        sheet.paste(_photograph(row, person), (0, top))
        for x, frames in enumerate(line):
            left = SIDE + _GAP + x * cell
            sheet.paste(_GREY, (left, top, left + FRAMES * width, top + SIDE))
            for i, frame in enumerate(frames):
                sheet.paste(frame.resize((width, SIDE), Image.Resampling.LANCZOS), (left + i * width, top))
    return sheet


def spread(items: Sequence[T], most: int) -> list[T]:
    """At most `most` of the items, evenly from the first on."""
    return [items[i * len(items) // min(most, len(items))] for i in range(min(most, len(items)))]


def _frames(row: Row, video: Video) -> list[Image.Image]:
    """First, middle and last frame; none of a video that is not there."""
    if row.generations[video].status != "ok":
        return []
    path = row.run.video(row.generations[video])
    try:
        count = len(frame_times(path))
        wanted = [round(i * (count - 1) / (FRAMES - 1)) for i in range(FRAMES)]
        found = list(stream_frames(path, wanted, count, _small))
    except (VideoError, OSError):
        return []
    by_number: dict[int, NDArray[np.uint8]] = dict(zip(sorted(set(wanted)), found, strict=True))
    return [Image.fromarray(by_number[number]) for number in wanted]


def _small(width: int, height: int) -> tuple[int, int]:
    return max(1, round(width * SIDE / height)), SIDE


def _photograph(row: Row, person: str) -> Image.Image:
    tile = Image.new("RGB", (SIDE, SIDE), _GREY)
    case = next(case for case in row.cases.values() if case.identity_id == person)
    try:
        picture = Image.fromarray(read_image(Path(case.references[0].path)))
    except (ImageError, OSError):
        return tile
    picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    tile.paste(picture, ((SIDE - picture.width) // 2, (SIDE - picture.height) // 2))
    return tile
