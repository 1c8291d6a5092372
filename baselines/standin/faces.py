"""The reference as Stand-In was trained on it: a square around the face, 512x512, on white."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from baselines.faces.antelopev2 import Face
from baselines.faces.pinned import check
from baselines.wan.loading import DAMAGE, line, read_tensors
from ffbench.errors import UserError

SIDE, BORDER, ENLARGED = 512, 10, 1.5
BACKGROUND = 0
"""Class of BiSeNet's 19."""


def crop(picture: NDArray[np.uint8], face: Face | None) -> NDArray[np.uint8]:
    """uint8 [512,512,3]: the face's box enlarged by half, cut at the picture's edge, squared with white.

    The whole picture where there is no face, or one that reaches all four edges of the picture.
    """
    height, width, _ = picture.shape
    if face is not None:
        x1, y1, x2, y2 = (int(value) for value in face.box)
        if not (max(x1, y1) <= BORDER and x2 >= width - BORDER and y2 >= height - BORDER):
            x, y, half = (x1 + x2) // 2, (y1 + y2) // 2, int(max(x2 - x1, y2 - y1) * ENLARGED) // 2
            picture = picture[max(y - half, 0) : min(y + half, height), max(x - half, 0) : min(x + half, width)]
    height, width, _ = picture.shape
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    square = np.full((side, side, 3), 255, np.uint8)
    square[top : top + height, left : left + width] = picture
    return cv2.resize(square, (SIDE, SIDE), interpolation=cv2.INTER_AREA)


@torch.no_grad()
def on_white(picture: NDArray[np.uint8], parser: Any) -> NDArray[np.uint8]:
    """White wherever the parser sees background; the parser's first output is [1,19,H,W] for [1,3,H,W] in -1..1."""
    device = next(parser.parameters()).device
    image = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].to(device).float() / 127.5 - 1
    labels = parser(image)[0].argmax(1)[0].cpu().numpy()
    return np.where((labels == BACKGROUND)[..., None], np.uint8(255), picture)


def open_parser(file: Path, device: str, sha256: str) -> Any:
    """BiSeNet of facexlib with the weights of a file of that hash.

    Raises:
        UserError: facexlib is not installed, or the file is not the expected one.
    """
    try:
        from facexlib.parsing.bisenet import BiSeNet
    except ImportError as error:
        raise UserError(
            f"standin parses faces with facexlib, which cannot be imported: {line(error)}",
            "pip install facexlib, or give references that are crops on white and --set reference=as-is",
        ) from error
    fix = "give facexlib's parsing_bisenet.pth (its release v0.2.0); one of your own: pins in docs/methods.md"
    check({file: sha256}, fix)
    parser = BiSeNet(num_class=19)
    try:
        parser.load_state_dict(read_tensors(file))
    except DAMAGE as error:
        raise UserError(f"{file} does not fit BiSeNet: {line(error)}", "give facexlib's parsing_bisenet.pth") from error
    return parser.eval().requires_grad_(False).to(device)
