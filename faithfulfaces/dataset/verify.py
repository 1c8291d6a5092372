"""`data verify`: do manifest, shards and clips of a build say the same, and can everything be read?"""

from __future__ import annotations

import hashlib
import io
import json
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import PIL.Image

from faithfulfaces.dataset import manifest
from faithfulfaces.dataset.combine import SPLITS
from faithfulfaces.dataset.folder import Folder
from faithfulfaces.dataset.sources import base
from faithfulfaces.shards import Sample, read_shard
from ffbench.errors import UserError
from ffbench.video import VideoError, read_clip


def problems(folder: Folder, settings: dict[str, Any], *, videos: bool = True) -> Iterator[str]:
    """One sentence a fault; none for a sound build.

    Args:
        folder: of the build.
        settings: its sections, as they were written.
        videos: decode every video too.

    Raises:
        UserError: there is no manifest.
    """
    rows = {row["key"]: row for row in manifest.read(folder.manifest)}
    wanted = {key: row for key, row in rows.items() if row["shard"]}
    seen: set[str] = set()
    sides: dict[str, set[str]] = defaultdict(set)
    for split in SPLITS:
        for path in sorted(folder.shards(split).glob("*.tar")):
            try:
                for sample in read_shard(path):
                    place = f"{split}/{path.name}"
                    if sample.key in seen:
                        yield f"{place}: sample {sample.key} stands in the shards twice"
                    seen.add(sample.key)
                    sides[sample.identity].add(split)
                    row = wanted.get(sample.key)
                    if row is None or row["shard"] != place:
                        yield f"{place}: the manifest does not put sample {sample.key} here"
                        continue
                    for fault in _faults(sample, row, settings, videos):
                        yield f"{place}: sample {sample.key}: {fault}"
            except UserError as error:
                yield error.what
    yield from (f"sample {key} of the manifest is in no shard" for key in sorted(wanted.keys() - seen))
    yield from (f"{who} is in both train and val" for who, both in sorted(sides.items()) if len(both) > 1)


def changed_sources(folder: Folder, videos: Path) -> Iterator[str]:
    """Sources whose content is no longer what the manifest says, or that are gone.

    Raises:
        UserError: there is no manifest, or no such folder or list.
    """
    known: dict[str, str] = {row["source"]: row["source_sha256"] for row in manifest.read(folder.manifest)}
    root = base(videos)
    for name, digest in sorted(known.items()):
        path = root / name
        if not path.is_file():
            yield f"{name} is gone"
        elif digest:
            with path.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                    yield f"{name} has changed since it was read"


def _faults(sample: Sample, row: dict[str, Any], settings: dict[str, Any], videos: bool) -> Iterator[str]:
    if (sample.identity, sample.prompt) != (row["identity"], row["prompt"]):
        yield "identity or prompt differ from the manifest's"
    for index, data in enumerate(sample.crops):
        try:
            with PIL.Image.open(io.BytesIO(data)) as image:
                image.load()
        except (PIL.UnidentifiedImageError, OSError) as error:
            yield f"crop {index} is no readable image ({error})"
    provenance = json.loads(sample.files.get("provenance", b"{}"))
    if provenance.get("source_sha256") != row["source_sha256"]:
        yield "its provenance names another source"
    if videos:
        yield from _video_faults(sample.files.get("mp4", b""), settings["video"])


def _video_faults(data: bytes, video: dict[str, Any]) -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="ffbench-") as folder:
        path = Path(folder) / "clip.mp4"
        path.write_bytes(data)
        try:
            clip = read_clip(path, ())
        except VideoError as error:
            yield f"its video: {error}"
            return
    found, wanted = (*clip.size, clip.num_frames), (video["width"], video["height"], video["frames"])
    if found != wanted:
        yield f"its video is {found[0]}x{found[1]}x{found[2]}, the build's are {wanted[0]}x{wanted[1]}x{wanted[2]}"
