"""WebDataset shards of training samples: plain tar files, read at any place through an index of their headers.

One sample is the members that share a key: `KEY.json` with identity, prompt, crops and angles, `KEY.<crop>.jpg`, and
where made `KEY.mp4` and `KEY.cache.safetensors` (latents, reference, text). `blank.safetensors` beside the shards holds
what is the same for all clips: `blank`, the latents of VACE's grey video, and `negative`, the negative prompt.
"""

from __future__ import annotations

import io
import json
import math
import os
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from faithfulfaces.data import Cached, Crop
from faithfulfaces.faces import as_rgb, resized
from ffbench.errors import UserError

SHARD_VERSION = 1
BLANK = "blank.safetensors"


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One clip as it is written: the four elements of Section 3.4, step 4."""

    key: str
    """Without a dot: WebDataset cuts names there."""
    identity: str
    prompt: str
    crops: Sequence[bytes]
    """Encoded JPEG images."""
    euler: Sequence[tuple[float, float, float]]
    """Pitch, yaw, roll of each crop, degrees."""
    reference: int = 0
    """The crop that is also VACE's reference."""
    files: Mapping[str, bytes] = field(default_factory=dict)
    """Others by suffix: `mp4`, `cache.safetensors`."""


class _Place(NamedTuple):
    offset: int
    size: int


class _Clip(NamedTuple):
    shard: Path
    key: str
    crops: list[_Place]
    euler: np.ndarray[Any, np.dtype[np.float32]]
    cache: _Place | None


def write_shard(path: Path, samples: Iterable[Sample]) -> None:
    """Write one shard, the same bytes for the same samples; it appears whole or not at all, once all are drawn.

    Raises:
        ValueError: for a key with a dot, or angles that do not match the crops.
    """
    partial = path.with_name(path.name + ".partial")
    with tarfile.open(partial, "w", format=tarfile.USTAR_FORMAT) as tar:
        for sample in samples:
            if "." in sample.key or len(sample.euler) != len(sample.crops):
                raise ValueError(f"sample {sample.key!r}: a key has no dot, and each crop has three angles")
            names = [f"crop{i:03d}.jpg" for i in range(len(sample.crops))]
            described = [{"name": n, "euler": list(e)} for n, e in zip(names, sample.euler, strict=True)]
            about = {
                "version": SHARD_VERSION,
                "identity": sample.identity,
                "prompt": sample.prompt,
                "reference": sample.reference,
                "crops": described,
            }
            members = {"json": json.dumps(about, ensure_ascii=False).encode()}
            for suffix, data in (members | dict(zip(names, sample.crops, strict=True)) | dict(sample.files)).items():
                info = tarfile.TarInfo(f"{sample.key}.{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    partial.replace(path)


def read_shard(path: Path) -> Iterator[Sample]:
    """Samples of one shard as `write_shard` was given them, one in memory at a time.

    Raises:
        UserError: when the file is no whole tar, or a sample is incomplete; names shard and sample.
    """
    with path.open("rb") as file:
        places = _members(file, path)

        def read(name: str) -> bytes:
            return os.pread(file.fileno(), places[name].size, places[name].offset)

        for key in _keys(places):
            about = _read_json(file.fileno(), places[f"{key}.json"], path, key)
            names = _crop_names(about, places, path, key)
            taken = {f"{key}.json", *names}
            others = [name for name in places if name.startswith(f"{key}.") and name not in taken]
            yield Sample(
                key=key,
                identity=about["identity"],
                prompt=about["prompt"],
                crops=[read(name) for name in names],
                euler=[tuple(crop["euler"]) for crop in about["crops"]],
                reference=about["reference"],
                files={name.removeprefix(f"{key}."): read(name) for name in others},
            )


def count_samples(path: Path) -> int:
    """Samples of one shard, from its headers alone.

    Raises:
        UserError: when the file is no whole tar.
    """
    with path.open("rb") as file:
        return len(_keys(_members(file, path)))


class ShardClips:
    """Clips of a folder of shards, in the order of shard names and of samples within.

    Args:
        folder: holds `*.tar`.
        image_size: side that crops are resized to, px.

    Raises:
        UserError: when there are no shards, or a sample is incomplete; names shard and sample.
    """

    def __init__(self, folder: Path, image_size: int) -> None:
        paths = sorted(folder.glob("*.tar"))
        if not paths:
            raise UserError(
                f"no shards (*.tar) in {folder}", "give their folder: --shards, or the recipe's Data.shards"
            )
        self.image_size = image_size
        self.identities: list[str] = []
        self.references: list[int] = []
        self._clips: list[_Clip] = []
        self._files: dict[Path, int] = {}
        for path in paths:
            self._index(path)
        self.num_crops = [len(clip.crops) for clip in self._clips]
        self.blank = _load_blank(folder / BLANK)

    def _index(self, path: Path) -> None:
        with path.open("rb") as file:
            places = _members(file, path)
            for key in _keys(places):
                about = _read_json(file.fileno(), places[f"{key}.json"], path, key)
                crops = [places[name] for name in _crop_names(about, places, path, key)]
                euler = np.array([crop["euler"] for crop in about["crops"]], dtype=np.float32)
                self._clips.append(_Clip(path, key, crops, euler, places.get(f"{key}.cache.safetensors")))
                self.identities.append(about["identity"])
                self.references.append(about["reference"])

    def crop(self, clip: int, index: int) -> Crop:
        """One crop, decoded and resized.

        Raises:
            UserError: when the image is damaged.
        """
        c = self._clips[clip]
        try:
            with Image.open(io.BytesIO(self._read(c.shard, c.crops[index]))) as image:
                rgb = resized(as_rgb(image), self.image_size)
        except (UnidentifiedImageError, OSError) as error:
            raise _incomplete(c.shard, c.key, f"crop {index} is no readable image ({error})") from error
        return Crop(rgb, c.euler[index])

    def cached(self, clip: int) -> Cached:
        """Cached tensors of a clip.

        Raises:
            UserError: when they were never made, or are damaged.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load

        c = self._clips[clip]
        if c.cache is None:
            raise _incomplete(c.shard, c.key, "it has no cache.safetensors, which L_FM needs")
        try:
            tensors = load(self._read(c.shard, c.cache))
            return Cached(tensors["latents"], tensors["reference"], tensors["text"])
        except (SafetensorError, KeyError) as error:
            raise _incomplete(c.shard, c.key, f"cache.safetensors: {error}") from error

    def _read(self, shard: Path, place: _Place) -> bytes:
        # pread has no file position, so threads share one descriptor
        if shard not in self._files:
            self._files[shard] = os.open(shard, os.O_RDONLY)
        return os.pread(self._files[shard], place.size, place.offset)


def _members(file: BinaryIO, path: Path) -> dict[str, _Place]:
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            return {m.name: _Place(m.offset_data, m.size) for m in tar if m.isfile()}
    except tarfile.TarError as error:
        raise UserError(f"shard {path.name} is no whole tar file: {error}", "copy or write it again") from error


def _keys(places: Mapping[str, _Place]) -> list[str]:
    return [name.removesuffix(".json") for name in places if name.endswith(".json")]


def _crop_names(about: Mapping[str, Any], places: Mapping[str, _Place], shard: Path, key: str) -> list[str]:
    names = [f"{key}.{crop['name']}" for crop in about["crops"]]
    for name in names:
        if name not in places:
            raise _incomplete(shard, key, f"member {name} is missing")
    return names


def _read_json(descriptor: int, place: _Place, shard: Path, key: str) -> dict[str, Any]:
    try:
        about = json.loads(os.pread(descriptor, place.size, place.offset))
        if about["version"] != SHARD_VERSION:
            raise _incomplete(shard, key, f"version {about['version']}, this program reads {SHARD_VERSION}")
        angles = [crop["euler"] for crop in about["crops"]]
        sound = (
            isinstance(about["identity"], str)
            and isinstance(about["prompt"], str)
            and 0 <= about["reference"] < len(angles)
        )
        sound &= all(len(a) == 3 and all(math.isfinite(x) for x in a) for a in angles)
    except (ValueError, KeyError, TypeError) as error:
        raise _incomplete(shard, key, f"its json is damaged ({error!r})") from error
    if not sound:
        raise _incomplete(
            shard, key, "its json needs an identity, a prompt, a reference among the crops, three finite angles each"
        )
    return dict(about)


def _load_blank(path: Path) -> Tensor | None:
    from safetensors.torch import load_file

    return load_file(path)["blank"] if path.is_file() else None


def _incomplete(shard: Path, key: str, what: str) -> UserError:
    return UserError(f"shard {shard.name}, sample {key}: {what}", "write this shard again, or remove the sample")
