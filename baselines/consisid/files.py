"""The files of ConsisID's face networks: known by their hash before upstream's code opens them."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import NamedTuple

from baselines.faces.pinned import BISENET, SCRFD, check, own
from ffbench.errors import UserError

PACKAGES = ("insightface", "facexlib", "consisid_eva_clip")
TOWER = "EVA02_CLIP_L_336_psz14_s6B.pt"
FILES = {
    TOWER: "84c3a17a228c567a155259b2245b0b59072bf7da510260a0a02ec54de6d50b05",
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


class Verified(NamedTuple):
    """A model's folder whose face_encoder/ holds what it should."""

    folder: Path
    own_tower: bool
    """Whether EVA-CLIP's weights are the user's own."""


def verify(folder: Path, pins: str) -> Verified:
    """Look at face_encoder/ in the model's folder, and at the packages that read it; nothing is opened.

    Args:
        folder: of the model.
        pins: sha256 of face_encoder/SHA256SUMS, which names files other than the published ones; empty: those.

    Raises:
        UserError: a package or a file that is missing, a file that is not the expected one, or one too many.
    """
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"consisid reads faces with {', '.join(PACKAGES)}; not installed: {', '.join(missing)}",
            f"pip install {' '.join(missing)}",
        )
    encoder, published = folder / "face_encoder", FILES | COMPANIONS
    fix = "download face_encoder/ of BestWishYsh/ConsisID-preview whole; networks of your own: pins in docs/methods.md"
    wanted = own(encoder, published, pins) if pins else published
    check({encoder / name: wanted[name] for name in wanted if name in FILES or (encoder / name).exists()}, fix)
    known = {Path(name).name for name in published}
    # the first recogniser by name would be taken, whatever it is
    if strays := sorted(p for p in (encoder / "models/antelopev2").glob("*.onnx") if p.name not in known):
        raise UserError(
            f"{strays[0]} is no part of antelopev2 and would be opened with it", "take it out of the folder"
        )
    return Verified(folder, wanted[TOWER] != published[TOWER])
