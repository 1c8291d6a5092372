"""The suite `photos`: people cut from photographs that ship inside declared packages."""

from __future__ import annotations

import importlib.util
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ffbench.download import sha256_of
from ffbench.durable import write_atomic
from ffbench.errors import UserError
from ffbench.image import ImageError, read_image
from ffbench.suites.cases import Identity, cache_folder, embedded_data, reference

_STORED = 65535


def photo_identities() -> list[Identity]:
    """The seven people, cut once into the cache folder and checked by sha256 each time.

    Raises:
        UserError: a package lacks its photograph, or the cut has other pixels than recorded.
    """
    data = embedded_data("photos.toml")
    folder = cache_folder() / "photos" / f"v{data['version']}"
    people = []
    for person in data["person"]:
        target = folder / f"{person['identity_id']}.png"
        if not target.is_file() or sha256_of(target) != person["sha256"]:
            _cut(data["source"][person["source"]], person, target)
        people.append(Identity(person["identity_id"], (reference(target, person["view"]),)))
    return people


def png(image: NDArray[np.uint8]) -> bytes:
    """An uncompressed PNG file of a uint8 [H,W,3] RGB image.

    A compressor's output depends on its version; these bytes follow from the pixels alone, so their hash can be pinned.
    """
    height, width, _ = image.shape
    rows = b"".join(b"\0" + row.tobytes() for row in image)
    blocks = [rows[at : at + _STORED] for at in range(0, len(rows), _STORED)]
    stream = b"\x78\x01" + b"".join(
        struct.pack("<BHH", index == len(blocks) - 1, len(block), len(block) ^ 0xFFFF) + block
        for index, block in enumerate(blocks)
    )
    stream += struct.pack(">I", zlib.adler32(rows))
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", stream), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


def _cut(source: dict[str, str], person: dict[str, object], target: Path) -> None:
    package = source["package"]
    # found without importing it: that would cost seconds
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise UserError(f"the package {package} is not installed", f"pip install {_DISTRIBUTIONS[package]}")
    path = Path(spec.origin).parent / source["file"]
    mend = f"pip install --force-reinstall {_DISTRIBUTIONS[package]} pillow, or give --suite FOLDER"
    try:
        image = read_image(path)
    except (OSError, ImageError) as error:
        raise UserError(f"the photograph {source['file']} of {package} cannot be read: {error}", mend) from error
    x1, y1, x2, y2 = (int(value) for value in person["box"])  # type: ignore[attr-defined]
    write_atomic(target, png(np.ascontiguousarray(image[y1:y2, x1:x2])))
    if (got := sha256_of(target)) != person["sha256"]:
        target.unlink()
        raise UserError(
            f"{person['identity_id']} cut from {package}'s {source['file']} has sha256 {got[:12]}, "
            f"expected {str(person['sha256'])[:12]}: another photograph, or a decoder that rounds otherwise",
            mend,
        )


_DISTRIBUTIONS = {"insightface": "insightface", "skimage": "scikit-image"}
