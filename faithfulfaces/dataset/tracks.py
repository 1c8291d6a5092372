"""tracks/KEY.npz: the faces and the poses of a clip's frames, from detection to review."""

from __future__ import annotations

import io
import zipfile
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from faithfulfaces.dataset.detect import Track
from faithfulfaces.dataset.folder import Folder
from ffbench.durable import write_atomic
from ffbench.errors import UserError


class Posed(NamedTuple):
    """The frames that were looked at; NaN without a face."""

    number: NDArray[np.int64]
    """[T] frames of the clip."""
    angles: NDArray[np.float32]
    """[T,3] pitch, yaw, roll, degrees."""
    box: NDArray[np.float32]
    """[T,4] xyxy px of the covering picture."""


def save(folder: Folder, key: str, track: Track, angles_T3: NDArray[np.float32]) -> None:
    """Write a clip's track, whole or not at all."""
    stream = io.BytesIO()
    np.savez_compressed(
        stream, number=track.number, box=track.box, points=track.points, faces=track.faces, angles=angles_T3
    )
    write_atomic(folder.track(key), stream.getvalue())


def load(folder: Folder, key: str) -> Posed:
    """The track of a clip.

    Raises:
        UserError: it is missing or damaged.
    """
    try:
        # numpy leaves a file open that it cannot read
        with folder.track(key).open("rb") as file, np.load(file, allow_pickle=False) as data:
            return Posed(data["number"], data["angles"], data["box"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(
            f"the track of {key} is damaged ({error})", "remove its source's line from journal.jsonl and build again"
        ) from error
