"""What ConsisID reads of a face: four networks of its authors, run by diffusers' own code for them."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from ffbench.contract import RefusedError
from ffbench.errors import UserError

PACKAGES = ("insightface", "facexlib", "consisid_eva_clip")
FILES = (
    "EVA02_CLIP_L_336_psz14_s6B.pt",
    "detection_Resnet50_Final.pth",
    "parsing_bisenet.pth",
    "parsing_parsenet.pth",
    "models/antelopev2/glintr100.onnx",
    "models/antelopev2/scrfd_10g_bnkps.onnx",
)
"""Below face_encoder/ of the model's folder. Without this check facexlib would download what is missing."""


class Identity(NamedTuple):
    """What the transformer is given of one face."""

    id_cond: Tensor
    """[1,1280]: ArcFace (512) beside EVA-CLIP (768, unit length)."""
    id_vit_hidden: list[Tensor]
    """Five hidden layers of EVA-CLIP, each [1,577,1024]."""
    image: Image.Image
    """512x512 RGB: the aligned face on white, which becomes the first frame's condition."""
    points: Any
    """[5,2] px, which only a transformer with `is_kps` looks at."""


class FaceModels:
    """The four networks, loaded once."""

    def __init__(self, networks: tuple[Any, ...], device: str, dtype: torch.dtype) -> None:
        self._networks, self._device, self._dtype = networks, device, dtype

    @torch.no_grad()
    def read(self, path: str) -> Identity:
        """The largest face of a picture file.

        Raises:
            RefusedError: neither detector finds a face.
        """
        from diffusers.pipelines.consisid.consisid_utils import process_face_embeddings_infer

        first, second, eva, arcface, mean, std = self._networks
        try:
            identity = process_face_embeddings_infer(
                first, eva, second, mean, std, arcface, self._device, self._dtype, path, is_align_face=True
            )
        except (IndexError, RuntimeError) as error:
            # facexlib has no error of its own for this: an empty list, or this text
            if isinstance(error, RuntimeError) and "align face fail" not in str(error):
                raise
            raise RefusedError("ConsisID finds no face in the reference") from error
        return Identity(*identity)


def open_faces(folder: Path, device: str, dtype: torch.dtype) -> FaceModels:
    """Load the networks of face_encoder/ in the model's folder.

    Raises:
        UserError: a package or a file that is missing.
    """
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"consisid reads faces with {', '.join(PACKAGES)}; not installed: {', '.join(missing)}",
            f"pip install {' '.join(missing)}",
        )
    absent = [name for name in FILES if not (folder / "face_encoder" / name).is_file()]
    if absent:
        raise UserError(
            f"{folder / 'face_encoder'} lacks {absent[0]} and {len(absent) - 1} more",
            "download face_encoder/ of BestWishYsh/ConsisID-preview whole",
        )
    from diffusers.pipelines.consisid.consisid_utils import prepare_face_models

    return FaceModels(prepare_face_models(str(folder), device, dtype), device, dtype)
