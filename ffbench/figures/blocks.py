"""What a grid is drawn from, as files: STEM.json, and in STEM.png the reference and the very frames."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ffbench.durable import write_atomic
from ffbench.figures.grid import Block, Strip
from ffbench.image import ImageError, read_image
from ffbench.records import from_json, to_json


@dataclass(frozen=True)
class _Strip:
    label: str
    why: str
    size: tuple[int, ...]
    boxes: tuple[tuple[float, ...], ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class _Block:
    head: str
    prompt: str
    times: tuple[float, ...]
    reference: tuple[int, ...]
    """Height and width; empty where there is none."""
    strips: tuple[_Strip, ...]


def write_block(block: Block, stem: Path) -> None:
    """Write both files: in the picture stand the reference, and below it a row of frames for each strip."""
    pictures = [] if block.reference is None else [block.reference]
    pictures += [np.concatenate(list(strip.frames), axis=1) for strip in block.strips if len(strip.frames)]
    height, width = sum(one.shape[0] for one in pictures), max([one.shape[1] for one in pictures], default=0)
    # a picture of no pixels cannot be saved
    canvas = np.full((max(height, 1), max(width, 1), 3), 255, np.uint8)
    top = 0
    for one in pictures:
        canvas[top : top + one.shape[0], : one.shape[1]] = one
        top += one.shape[0]
    stream = io.BytesIO()
    Image.fromarray(canvas).save(stream, "png", optimize=True)
    write_atomic(stem.with_name(f"{stem.name}.png"), stream.getvalue())
    strips = tuple(
        _Strip(
            strip.label,
            strip.why,
            tuple(strip.frames.shape[:3]),
            tuple(tuple(round(float(edge), 5) for edge in box) for box in strip.boxes),
            tuple(round(value, 4) for value in strip.values),
        )
        for strip in block.strips
    )
    reference = () if block.reference is None else tuple(block.reference.shape[:2])
    data = _Block(block.head, block.prompt, block.times, reference, strips)
    text = json.dumps(json.loads(to_json(data)), indent=1, ensure_ascii=False)
    write_atomic(stem.with_name(f"{stem.name}.json"), f"{text}\n".encode())


def read_block(stem: Path) -> Block:
    """The block of two files.

    Raises:
        ValueError: for a file that is damaged, or does not fit the other.
        OSError: for one that is missing.
    """
    data = from_json(_Block, stem.with_name(f"{stem.name}.json").read_text("utf-8"))
    try:
        canvas = read_image(stem.with_name(f"{stem.name}.png"))
    except ImageError as error:
        raise ValueError(f"{stem.name}.png: {error}") from error
    top = 0

    def cut(height: int, width: int) -> NDArray[np.uint8]:
        nonlocal top
        top += height
        if top > canvas.shape[0] or width > canvas.shape[1]:
            raise ValueError(f"{stem.name}.png is smaller than {stem.name}.json says")
        return canvas[top - height : top, :width]

    reference = cut(*data.reference) if data.reference else None
    strips = []
    for strip in data.strips:
        count, height, width = strip.size
        row = cut(height, width * count) if count else canvas[:0, :0]
        frames = np.stack(np.split(row, count, axis=1)) if count else np.zeros((0, 0, 0, 3), np.uint8)
        boxes = np.array(strip.boxes, np.float32).reshape(-1, 4)
        strips.append(Strip(strip.label, frames, boxes, strip.values, strip.why))
    return Block(reference, data.head, data.prompt, data.times, tuple(strips))
