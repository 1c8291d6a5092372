"""A reference photograph as an HTTP interface takes it: large enough, not too long, not too heavy."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

_GREY = (128, 128, 128)


def encode(path: Path, least_side: int, longest: float, most_bytes: int) -> tuple[bytes, str, str]:
    """Bytes, MIME type and a note of what was done, for an 8-bit RGB PNG.

    A picture with a side below `least_side` px is enlarged (Lanczos), one whose sides differ by more than the factor
    `longest` is padded with grey, and one above `most_bytes` as PNG is sent as JPEG.

    Raises:
        RuntimeError: where it is too heavy even so.
    """
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    done = []
    width, height = image.size
    wide, high = max(width, -int(-height // longest)), max(height, -int(-width // longest))
    if (wide, high) != image.size:
        canvas = Image.new("RGB", (wide, high), _GREY)
        canvas.paste(image, ((wide - width) // 2, (high - height) // 2))
        image = canvas
        done.append(f"padded to {wide}x{high}")
    if min(image.size) < least_side:
        factor = least_side / min(image.size)
        size = (max(least_side, round(image.width * factor)), max(least_side, round(image.height * factor)))
        image = image.resize(size, Image.Resampling.LANCZOS)
        done.append(f"enlarged to {size[0]}x{size[1]}")
    for form, quality in (("PNG", {}), ("JPEG", {"quality": 95}), ("JPEG", {"quality": 80})):
        buffer = io.BytesIO()
        image.save(buffer, form, **quality)
        if buffer.tell() <= most_bytes:
            how = "PNG" if form == "PNG" else f"JPEG quality {quality['quality']}"
            return buffer.getvalue(), f"image/{form.lower()}", ", ".join([f"{width}x{height}", *done, how])
    raise RuntimeError(f"the reference of {image.width}x{image.height} px is above {most_bytes} bytes as JPEG")
