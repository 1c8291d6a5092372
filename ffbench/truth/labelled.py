"""The labelled set that ships with the project: rendered people whose pose, landmarks and identity are known exactly.

Shapes: n people of loose frames, m clips, T frames of a person, S px side of a frame, R px side of a photograph.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ffbench.embedded import FOLDER
from ffbench.errors import UserError

FILE = FOLDER / "truth.npz"
_PICTURES = ("pixels", "portraits")


@dataclass(frozen=True)
class Labelled:
    """Frames of n people with what is true of them."""

    seeds: NDArray[np.int64]
    """[n] of the renderer: the identity."""
    pixels: NDArray[np.uint8]
    """[n,T,S,S,3] RGB."""
    captions: NDArray[np.str_]
    """[n,T], or [n] where the T frames are one clip."""
    angles: NDArray[np.float32]
    """[n,T,3] pitch, yaw, roll in degrees; signs in extract/pose.py."""
    box: NDArray[np.float32]
    """[n,T,4] px from forehead to chin, hidden parts included."""
    points: NDArray[np.float32]
    """[n,T,5,2] px in the order of `FaceTrack.points`, hidden points included."""
    seen: NDArray[np.float32]
    """[n,T] share of the face's surface that shows: about 0.5 to 0.9 frontal, 0 from behind."""


@dataclass(frozen=True)
class TruthSet:
    """Loose frames for the instruments, and clips with a photograph each for the metrics."""

    loose: Labelled
    clips: Labelled
    portraits: NDArray[np.uint8]
    """[m,R,R,3] a photograph of each clip's person in another setting."""
    fps: float
    """Frames a second of the clips."""

    def to_bytes(self) -> bytes:
        """An .npz file without pickles, pictures as PNG: the same pixels in four fifths of the space."""
        arrays: dict[str, NDArray[np.generic]] = {"fps": np.array(self.fps), **_packed("portraits", self.portraits)}
        for part in ("loose", "clips"):
            rows = getattr(self, part)
            for one in fields(Labelled):
                arrays |= _packed(f"{part}.{one.name}", getattr(rows, one.name))
        stream = io.BytesIO()
        # mypy takes the keywords of savez_compressed for its own flag
        np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]
        return stream.getvalue()

    @staticmethod
    def load(path: Path | None = None) -> TruthSet:
        """Read what `to_bytes` gave; the embedded set if no path is given.

        Raises:
            UserError: there is no such file, or it is damaged.
        """
        path = path or FILE
        try:
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            loose, clips = (
                Labelled(**{one.name: _unpacked(f"{part}.{one.name}", arrays) for one in fields(Labelled)})
                for part in ("loose", "clips")
            )
            return TruthSet(loose, clips, _unpacked("portraits", arrays), float(arrays["fps"]))
        except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
            raise UserError(
                f"the labelled set {path} cannot be read: {type(error).__name__}: {error}",
                "reinstall ffbench, or make it anew with faithfulfaces mini build",
            ) from error


def _packed(name: str, values: NDArray[np.generic]) -> dict[str, NDArray[np.generic]]:
    """The arrays that stand for one in the file: itself, or a PNG with its shape."""
    if name.rpartition(".")[2] not in _PICTURES:
        return {name: values}
    tall = np.ascontiguousarray(values.reshape(-1, *values.shape[-2:])[..., ::-1])
    done, png = cv2.imencode(".png", tall, [cv2.IMWRITE_PNG_COMPRESSION, 9])
    if not done:
        raise ValueError(f"{name}: {list(values.shape)} does not fit into a PNG")
    return {name: np.asarray(png, np.uint8), f"{name}.shape": np.array(values.shape, np.int64)}


def _unpacked(name: str, arrays: Mapping[str, Any]) -> Any:
    if name.rpartition(".")[2] not in _PICTURES:
        return arrays[name]
    tall = cv2.imdecode(np.asarray(arrays[name], np.uint8), cv2.IMREAD_COLOR)
    if tall is None:
        raise ValueError(f"{name} is no PNG")
    shape = [int(side) for side in np.asarray(arrays[f"{name}.shape"], np.int64)]
    return np.ascontiguousarray(np.asarray(tall, np.uint8)[..., ::-1]).reshape(shape)
