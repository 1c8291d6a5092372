"""What ConsisID reads of a face: four networks of its authors, run by diffusers' own code for them."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from baselines.faces.pinned import BISENET, SCRFD, check
from ffbench.contract import RefusedError
from ffbench.errors import UserError

PACKAGES = ("insightface", "facexlib", "consisid_eva_clip")
FILES = {
    "EVA02_CLIP_L_336_psz14_s6B.pt": "84c3a17a228c567a155259b2245b0b59072bf7da510260a0a02ec54de6d50b05",
    "detection_Resnet50_Final.pth": "6d1de9c2944f2ccddca5f5e010ea5ae64a39845a86311af6fdf30841b0a5a16d",
    "parsing_bisenet.pth": BISENET,
    "parsing_parsenet.pth": "3d558d8d0e42c20224f13cf5a29c79eba2d59913419f945545d8cf7b72920de2",
    "models/antelopev2/glintr100.onnx": "4ab1d6435d639628a6f3e5008dd4f929edf4c4124b1a7169e1048f9fef534cdf",
    "models/antelopev2/scrfd_10g_bnkps.onnx": SCRFD,
}
"""Below face_encoder/ of the model's folder -> sha256. Upstream unpickles four of them, and facexlib would download
what is missing."""
COMPANIONS = {
    "models/antelopev2/1k3d68.onnx": "df5c06b8a0c12e422b2ed8947b8869faa4105387f199c477af038aa01f9a45cc",
    "models/antelopev2/2d106det.onnx": "f001b856447c413801ef5c42091ed0cd516fcd21f2d6b79635b1e733a7109dbf",
    "models/antelopev2/genderage.onnx": "4fde69b1c810857b88c64a335084f1c3fe8f01246c9a191b48c7bb756d6652fb",
}
"""The rest of antelopev2, which need not be there: FaceAnalysis opens whatever lies in its folder."""


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
        UserError: a package or a file that is missing, a file that is not the published one, or one too many.
    """
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"consisid reads faces with {', '.join(PACKAGES)}; not installed: {', '.join(missing)}",
            f"pip install {' '.join(missing)}",
        )
    encoder, fix = folder / "face_encoder", "download face_encoder/ of BestWishYsh/ConsisID-preview whole"
    beside = {name: sha256 for name, sha256 in COMPANIONS.items() if (encoder / name).exists()}
    check({encoder / name: sha256 for name, sha256 in (FILES | beside).items()}, fix)
    known = {Path(name).name for name in FILES | COMPANIONS}
    # the first recogniser by name would be taken, whatever it is
    if strays := sorted(p for p in (encoder / "models/antelopev2").glob("*.onnx") if p.name not in known):
        raise UserError(
            f"{strays[0]} is no part of antelopev2 and would be opened with it", "take it out of the folder"
        )
    from diffusers.pipelines.consisid.consisid_utils import prepare_face_models

    return FaceModels(prepare_face_models(str(folder), device, dtype), device, dtype)
