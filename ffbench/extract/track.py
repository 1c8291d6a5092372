"""FaceTrack: everything the metrics read about one video, computed once and cached."""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ffbench.durable import write_atomic

Floats = NDArray[np.float32]

VERSION = 1
"""Of the file and of what its numbers mean; a file of another version is made anew."""
_SHAPES = {
    "number": (np.int64, ()),
    "time": (np.float64, ()),
    "box": (np.float32, (4,)),
    "points": (np.float32, (5, 2)),
    "det_score": (np.float32, ()),
    "num_faces": (np.int64, ()),
    "angles": (np.float32, (3,)),
}
"""Arrays of one row a frame: type, and shape of a row."""


@dataclass(frozen=True)
class FaceTrack:
    """One row a sampled frame; a frame without a face is a row of NaN (the row count never shrinks)."""

    number: NDArray[np.int64]
    """[T] frame numbers in the video."""
    time: NDArray[np.float64]
    """[T] seconds."""
    box: Floats
    """[T,4] x1 y1 x2 y2 in px of the frame, largest face."""
    points: Floats
    """[T,5,2] px: image-left eye, image-right eye, nose, image-left mouth corner, image-right mouth corner."""
    det_score: Floats
    """[T] in 0..1."""
    num_faces: NDArray[np.int64]
    """[T] faces above the threshold in the frame."""
    step: tuple[str, ...]
    """[T] rung of the detection ladder that found the face; empty without one."""
    angles: Floats
    """[T,3] pitch, yaw, roll in degrees; signs in extract/pose.py."""
    embeddings: Mapping[str, Floats]
    """slot (`arc`, `cur`, `facenet`) -> [T,D], unit length."""
    features: Mapping[str, Floats]
    """slot (`inception`, `fid_inception`) -> [T,2048]."""
    clip_number: NDArray[np.int64]
    """[Tc] frame numbers the text metrics used."""
    clip: Floats
    """[Tc,D] unit CLIP image embeddings; [0,0] where the network is missing."""
    size: tuple[int, int]
    """Width and height of the video in px."""
    networks: Mapping[str, str] = field(default_factory=dict)
    """slot -> id of the network that ran, with the first 12 digits of its weights' sha256."""
    missing: Mapping[str, str] = field(default_factory=dict)
    """slot -> why it did not run, with the command that mends it."""

    @property
    def found(self) -> NDArray[np.bool_]:
        """[T] frames with a face."""
        return np.isfinite(self.det_score)

    def save(self, path: Path) -> None:
        """Write one compressed npz; the file is absent, old or complete."""
        arrays: dict[str, Any] = {name: getattr(self, name) for name in (*_SHAPES, "clip_number", "clip")}
        arrays |= {f"embedding.{slot}": rows for slot, rows in self.embeddings.items()}
        arrays |= {f"feature.{slot}": rows for slot, rows in self.features.items()}
        meta = {
            "version": VERSION,
            "step": list(self.step),
            "size": list(self.size),
            "networks": dict(self.networks),
            "missing": dict(self.missing),
        }
        stream = io.BytesIO()
        np.savez_compressed(stream, meta=np.array(json.dumps(meta)), **arrays)
        write_atomic(path, stream.getvalue())

    @staticmethod
    def load(path: Path) -> FaceTrack:
        """Read what `save` wrote.

        Raises:
            ValueError: the file is damaged, of another version or no track; it is to be made anew.
        """
        try:
            # numpy leaves a damaged file open, so it gets the bytes
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            meta = json.loads(str(arrays.pop("meta")))
            if meta["version"] != VERSION:
                raise ValueError(f"version {meta['version']}, this is {VERSION}")
            track = _assemble(arrays, meta)
        except (OSError, EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(f"{path} is no readable FaceTrack: {type(error).__name__}: {error}") from error
        return track


def _assemble(arrays: dict[str, Any], meta: dict[str, Any]) -> FaceTrack:
    """A FaceTrack of the parts of a file, or ValueError/KeyError where one is missing or unlike the others."""
    count = len(arrays["number"])
    rows = {name: arrays.pop(name) for name in _SHAPES}
    for name, (dtype, shape) in _SHAPES.items():
        if rows[name].dtype != dtype or rows[name].shape != (count, *shape):
            raise ValueError(f"{name} is {rows[name].dtype} {rows[name].shape}")
    clip_number, clip = arrays.pop("clip_number"), arrays.pop("clip")
    per_slot: dict[str, dict[str, Floats]] = {"embedding": {}, "feature": {}}
    for name, value in arrays.items():
        kind, _, slot = name.partition(".")
        if value.dtype != np.float32 or value.ndim != 2 or len(value) != count:
            raise ValueError(f"{name} is {value.dtype} {value.shape}")
        per_slot[kind][slot] = value
    if clip.ndim != 2 or clip.dtype != np.float32 or len(clip) not in (0, len(clip_number)):
        raise ValueError(f"clip is {clip.dtype} {clip.shape} for {len(clip_number)} frames")
    step = tuple(str(rung) for rung in meta["step"])
    if len(step) != count:
        raise ValueError(f"{len(step)} steps for {count} frames")
    width, height = (int(side) for side in meta["size"])
    return FaceTrack(
        **rows,
        step=step,
        embeddings=per_slot["embedding"],
        features=per_slot["feature"],
        clip_number=clip_number,
        clip=clip,
        size=(width, height),
        networks=dict(meta["networks"]),
        missing=dict(meta["missing"]),
    )
