"""The files of a qualified clip, which step 4 puts into shards: video, crops, angles."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from faithfulfaces.dataset.settings import Settings
from faithfulfaces.pose import window
from ffbench.errors import UserError
from ffbench.video import write_mp4

VIDEO, ABOUT, EMBEDDINGS = "video.mp4", "sample.json", "embeddings.npy"


@dataclass(frozen=True)
class Staged:
    """A clip that qualified; K crops, the first is the most frontal."""

    key: str
    video: NDArray[np.uint8]
    """[T,H,W,3] RGB, the standard form."""
    images: Sequence[NDArray[np.uint8]]
    """K covering pictures that the crops are cut from."""
    boxes: NDArray[np.float32]
    """[K,4] faces in those pictures, xyxy px."""
    angles: NDArray[np.float32]
    """[K,3] pitch, yaw, roll, degrees."""
    numbers: NDArray[np.int64]
    """[K] frames of the clip."""
    embeddings: NDArray[np.float32] | None
    """[K,D]."""


def stage(folder: Path, clip: Staged, rate: float, settings: Settings) -> None:
    """Write a clip's folder, whole or not at all; what a killed run left there is replaced."""
    import PIL.Image

    partial = folder.with_name(f".part-{folder.name}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    write_mp4(partial / VIDEO, clip.video, rate)
    crops = []
    for index, (image, box) in enumerate(zip(clip.images, clip.boxes, strict=True)):
        found = window(image, box, settings.networks.box)
        left, top, right, bottom = found or (0, 0, image.shape[1], image.shape[0])
        buffer = io.BytesIO()
        PIL.Image.fromarray(image[top:bottom, left:right]).save(
            buffer, "JPEG", quality=settings.samples.jpeg, subsampling=0
        )
        name = f"crop{index:03d}.jpg"
        (partial / name).write_bytes(buffer.getvalue())
        euler = [round(float(angle), 3) for angle in clip.angles[index]]
        crops.append({"name": name, "euler": euler, "frame": int(clip.numbers[index])})
    if clip.embeddings is not None:
        np.save(partial / EMBEDDINGS, clip.embeddings, allow_pickle=False)
    about = {"key": clip.key, "fps": rate, "reference": 0, "crops": crops}
    (partial / ABOUT).write_text(json.dumps(about, indent=1) + "\n", "utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    partial.replace(folder)


def read_about(folder: Path) -> dict[str, Any]:
    """`sample.json` of a staged clip: key, fps, reference, crops with name, euler and frame.

    Raises:
        UserError: where it is missing or damaged; names the clip.
    """
    try:
        return dict(json.loads((folder / ABOUT).read_text("utf-8")))
    except (OSError, ValueError) as error:
        raise _damaged(folder, error) from error


def read_embeddings(folder: Path) -> NDArray[np.float32]:
    """[K,D] embeddings of a staged clip's crops.

    Raises:
        UserError: as `read_about`.
    """
    try:
        return np.asarray(np.load(folder / EMBEDDINGS, allow_pickle=False), np.float32)
    except (OSError, ValueError, EOFError) as error:
        raise _damaged(folder, error) from error


def read_bytes(folder: Path, name: str) -> bytes:
    """One file of a staged clip.

    Raises:
        UserError: as `read_about`.
    """
    try:
        return (folder / name).read_bytes()
    except OSError as error:
        raise _damaged(folder, error) from error


def _damaged(folder: Path, error: Exception) -> UserError:
    return UserError(f"clip {folder.name}: {error}", "remove its source's line from journal.jsonl and build again")
