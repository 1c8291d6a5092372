"""What ConsisID reads of a face: four networks of its authors, run by diffusers' own code for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from baselines.consisid.files import TOWER, Verified
from ffbench.contract import RefusedError
from ffbench.errors import UserError


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


def open_faces(verified: Verified, device: str, dtype: torch.dtype) -> FaceModels:
    """Load the networks of face_encoder/.

    Args:
        verified: a folder whose files are known, for some of them are unpickled.
        device: for all four.
        dtype: of EVA-CLIP and of what is read.

    Raises:
        UserError: weights of the user's own that leave a gap in EVA-CLIP.
    """
    from diffusers.pipelines.consisid.consisid_utils import prepare_face_models

    networks = prepare_face_models(str(verified.folder), device, dtype)
    if verified.own_tower:
        _whole(verified.folder / "face_encoder" / TOWER, networks[2])
    return FaceModels(networks, device, dtype)


def _whole(path: Path, tower: torch.nn.Module) -> None:
    """Refuse a file without a weight of EVA-CLIP's image tower: upstream would leave that one random, in silence."""
    from baselines.wan.loading import read_tensors

    stored = {name.removeprefix("module.") for name in read_tensors(path)}
    # positions are computed, and what a file says of them is dropped
    needed = [f"visual.{name}" for name in tower.state_dict() if "rope.freqs" not in name]
    if absent := [name for name in needed if name not in stored]:
        fix = "save every weight of EVA-CLIP's image tower, or take the published file"
        raise UserError(f"{path} lacks {absent[0]} and {len(absent) - 1} more", fix)
