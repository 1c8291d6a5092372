"""The only reader of photographs: upright RGB uint8, whatever the file was."""

from __future__ import annotations

import io
import struct
import tempfile
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MAX_PIXELS = 100_000_000
"""A larger picture is refused before it is decoded: a small file can unpack to any size."""
_GREY = (128, 128, 128)
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What undoes each orientation of EXIF tag 0x0112."""
_DAMAGE = (
    *(OSError, SyntaxError, ValueError, EOFError, RuntimeError, struct.error, Image.DecompressionBombError),
    *(ArithmeticError, LookupError, TypeError, AttributeError),
)
"""What Pillow's decoders raise on damaged files: found by changing bytes at random in sixteen formats."""


class ImageError(Exception):
    """A picture that cannot be read whole; the message says what is wrong with it."""


def read_image(path: Path) -> NDArray[np.uint8]:
    """Read a photograph as uint8 [H,W,3] RGB.

    EXIF orientation is applied; CMYK, palette and grey become RGB; 16-bit values are scaled, not clipped; transparent
    parts show grey 128; of an animation the first frame counts.

    Raises:
        ImageError: for an unreadable, cut-off or oversized picture.
        FileNotFoundError: where there is no file.
    """
    if not path.is_file():
        raise FileNotFoundError(path)
    try:
        with warnings.catch_warnings():
            # of a damaged EXIF block, and of a large picture, for which there is one limit here
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise ImageError(f"{image.width}x{image.height} pixels are above the limit of {MAX_PIXELS}")
                sixteen_bit = image.format == "PNG"
                image.load()
                return _rgb(_upright(image), sixteen_bit=sixteen_bit)
    except _DAMAGE as error:
        words = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ImageError(f"this is no whole picture ({words.replace(str(path), path.name)})") from error


def png_bytes(image: NDArray[np.uint8]) -> bytes:
    """Encode uint8 [H,W,3] RGB as PNG; the same picture gives the same bytes.

    Raises:
        ValueError: for another dtype or shape.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f"a picture must be uint8 [H,W,3], got {image.dtype} {list(image.shape)}")
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()


def write_png(path: Path, image: NDArray[np.uint8]) -> None:
    """Write a PNG that appears whole or not at all; its folder exists.

    Raises:
        ValueError: as `png_bytes`.
        OSError: when the disk is full.
    """
    data = png_bytes(image)
    with tempfile.NamedTemporaryFile(prefix=".part-", suffix=".png", dir=path.parent, delete=False) as file:
        part = Path(file.name)
    try:
        part.write_bytes(data)
        part.chmod(0o644)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _upright(image: Image.Image) -> Image.Image:
    try:
        turn = _TURNS.get(image.getexif().get(0x0112, 1))
    except _DAMAGE:
        return image  # the pixels are there, only their EXIF block is not
    return image if turn is None else image.transpose(turn)


def _rgb(image: Image.Image, *, sixteen_bit: bool) -> NDArray[np.uint8]:
    if image.mode.startswith(("I", "F")):
        values = np.asarray(image).astype(np.float64)
        if not np.isfinite(values).all():
            raise ValueError("its values are not all finite")
        # wide integers and floats of a TIFF have no declared white: the least usual one that holds them all
        whites = [65535.0] if sixteen_bit or image.mode.startswith("I;16") else [255.0, 65535.0, values.max()]
        whites = [1.0, *whites] if image.mode == "F" else whites
        white = next(white for white in whites if values.max() <= white)
        grey = np.clip(np.round(values / white * 255), 0, 255).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        backdrop = Image.new("RGBA", image.size, (*_GREY, 255))
        image = Image.alpha_composite(backdrop, image)
    return np.array(image.convert("RGB"))
