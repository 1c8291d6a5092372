"""The reference as Concat-ID was trained on it: an aligned face, all else black, on a black canvas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from baselines.faces.antelopev2 import Face
from baselines.wan.loading import DAMAGE, line
from ffbench.contract import RefusedError
from ffbench.errors import UserError

SIDE = 448
TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
"""Where ArcFace puts the five points in 112x112 px (insightface)."""
BLACK = (0, 14, 15, 16, 18)
"""Background, hat, earring, necklace and cloth of the parser's 19 classes."""
LEAST = 0.4
"""Share of the picture that has to be left."""


def aligned(picture: NDArray[np.uint8], face: Face) -> NDArray[np.uint8]:
    """uint8 [448,448,3]: the similarity that takes the five points closest to the template in least squares."""
    # as complex numbers: template = a points + b
    points, wanted = (xy.astype(float) @ (1, 1j) for xy in (face.points, TEMPLATE * SIDE / 112))
    centred = points - points.mean()
    a = (centred.conj() @ (wanted - wanted.mean())) / (centred.conj() @ centred)
    b = wanted.mean() - a * points.mean()
    matrix = np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])
    return cv2.warpAffine(picture, matrix, (SIDE, SIDE), borderValue=0.0)


class Parser:
    """SegFormer with its own preparation of pictures."""

    def __init__(self, network: Any, prepare: Any) -> None:
        self._network, self._prepare = network, prepare

    @torch.no_grad()
    def cut(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The picture, uint8 [H,W,3], with all of `BLACK` black.

        Raises:
            RefusedError: less than `LEAST` is left; the authors' script crashes there.
        """
        image = self._prepare(images=picture, return_tensors="pt")["pixel_values"].to(self._network.device)
        logits = self._network(image).logits
        # at the picture's own size, before the classes are told apart
        whole = F.interpolate(logits, size=picture.shape[:2], mode="bilinear", align_corners=False)
        kept = ~np.isin(whole.argmax(1)[0].cpu().numpy(), BLACK)
        if kept.mean() < LEAST:
            raise RefusedError(
                f"Concat-ID finds {kept.mean():.0%} of the reference's crop to be a face, {LEAST:.0%} needed"
            )
        return np.where(kept[..., None], picture, np.uint8(0))


def open_parser(folder: Path, device: str) -> Parser:
    """SegFormer of a folder in transformers' layout.

    Raises:
        UserError: the folder is not that, or lacks weights.
    """
    from transformers import SegformerForSemanticSegmentation, SegformerImageProcessor

    try:
        prepare = SegformerImageProcessor.from_pretrained(folder, local_files_only=True)
        network, info = SegformerForSemanticSegmentation.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    except DAMAGE as error:
        raise UserError(
            f"{folder} is no SegFormer: {line(error)}", "download jonathandinu/face-parsing whole"
        ) from error
    if info["missing_keys"] or network.config.num_labels <= max(BLACK):
        raise UserError(f"{folder} is not the face parser", "download jonathandinu/face-parsing whole")
    return Parser(network.eval().requires_grad_(False).to(device), prepare)


def on_black(picture: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """uint8 [height,width,3]: scaled to fit (bicubic, antialiased, sizes rounded down) and centred on black."""
    tall, wide = picture.shape[:2]
    inner = (height, int(wide * height / tall)) if tall / wide >= height / width else (int(tall * width / wide), width)
    image = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float() / 255
    scaled = F.interpolate(image, inner, mode="bicubic", antialias=True, align_corners=False)
    top, left = (height - inner[0]) // 2, (width - inner[1]) // 2
    canvas = np.zeros((height, width, 3), np.uint8)
    fitted = (scaled[0].clamp(0, 1) * 255).permute(1, 2, 0).to(torch.uint8).numpy()
    canvas[top : top + inner[0], left : left + inner[1]] = fitted
    return canvas
