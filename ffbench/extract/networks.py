"""From a protocol's recipe to the networks that run it: the one place that knows every kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ffbench.errors import UserError
from ffbench.extract.loading import torch_device
from ffbench.protocols import SLOTS, Network, Protocol
from ffbench.weights import resolve

if TYPE_CHECKING:
    from ffbench.extract.clip import ClipModel
    from ffbench.extract.detect import Detector
    from ffbench.extract.embed import Embedder
    from ffbench.extract.inception import FeatureNet
    from ffbench.extract.pose import PoseEstimator

EMBEDDERS = ("arc", "cur", "facenet")
FEATURE_NETS = ("inception", "fid_inception")
OPTIONS: Mapping[str, Mapping[str, tuple[type, ...]]] = {
    "scrfd": {"threshold": (int, float)},
    "mtcnn": {"threshold": (int, float), "min_face": (int,), "max_side": (int,)},
    "open-clip": {"model": (str,)},
}
"""kind -> the options it takes beside a second file, and their types."""


@dataclass(frozen=True)
class Networks:
    """What runs, and why the rest of the protocol's networks do not."""

    detector: Detector
    embedders: Mapping[str, Embedder]
    """`arc`, `cur`, `facenet` as far as they are there."""
    feature_nets: Mapping[str, FeatureNet]
    """`inception`, `fid_inception` as far as they are there."""
    pose: PoseEstimator | None
    clip: ClipModel | None
    ids: Mapping[str, str]
    """slot -> id of the network, of those that run."""
    missing: Mapping[str, str]
    """slot -> what is missing and the command that gets it."""


def open_networks(protocol: Protocol, device: str) -> Networks:
    """Open every network of a protocol whose weights are here.

    Raises:
        UserError: the detector's weights are missing (nothing can be measured without), or any file is not what it
            should be.
    """
    opened: dict[str, Any] = {}
    missing: dict[str, str] = {}
    for slot in SLOTS:
        if slot not in protocol.networks:
            continue
        network = protocol.networks[slot]
        try:
            file = _find(network)
        except UserError as error:
            if slot == "detector":
                raise
            missing[slot] = f"{error.what}: {error.fix}"
            continue
        opened[slot] = _open(slot, network, file, device)
    return Networks(
        detector=opened["detector"],
        embedders={slot: opened[slot] for slot in EMBEDDERS if slot in opened},
        feature_nets={slot: opened[slot] for slot in FEATURE_NETS if slot in opened},
        pose=opened.get("pose"),
        clip=opened.get("clip"),
        ids={slot: net.id for slot, net in opened.items()},
        missing=missing,
    )


def build(slot: str, network: Network, device: str) -> Any:
    """The network of one slot: a `Detector`, `Embedder`, `FeatureNet`, `PoseEstimator` or `ClipModel`.

    Raises:
        UserError: its weights are missing or not what they should be, or an option is none of its kind's.
    """
    return _open(slot, network, _find(network), device)


def _find(network: Network) -> tuple[Path, str]:
    """The file of a network and its sha256; (Path(), "") where the weights come inside a package."""
    if not network.weights:
        return Path(), ""
    found = resolve(network.weights)
    return found.path, found.sha256


def _open(slot: str, network: Network, file: tuple[Path, str], device: str) -> Any:
    options = dict(network.options)
    aux = str(options.pop("aux", ""))
    known = OPTIONS.get(network.kind, {})
    for name, value in options.items():
        if not isinstance(value, known.get(name, ())):
            raise UserError(
                f"slot {slot}: {network.kind} does not take {name} = {value!r}",
                f"its options: {', '.join(known) or 'none'}",
            )
    if bool(aux) != (network.kind == "3ddfa") and network.kind != "fsanet":
        raise UserError(
            f"slot {slot}: {network.kind} {'takes no' if aux else 'needs a'} second file", "see aux in docs/metrics.md"
        )
    return _construct(network.kind, file, Path(aux), options, device)


def _construct(kind: str, file: tuple[Path, str], aux: Path, options: dict[str, Any], device: str) -> Any:
    from ffbench.extract import clip, detect, embed, inception, pose, small

    path, sha256 = file
    match kind:
        case "scrfd":
            return detect.Scrfd(path, sha256, device=device, **options)
        case "mtcnn":
            return detect.Mtcnn(device=torch_device(device), **options)
        case "arcface-onnx":
            return embed.ArcFaceOnnx(path, sha256, device)
        case "curricular-ir101":
            return embed.CurricularFace(path, sha256, "ir101", device)
        case "curricular-ir18":
            return embed.CurricularFace(path, sha256, "ir18", device)
        case "facenet":
            return embed.FaceNet(path, sha256, device)
        case "sixdrepnet":
            return pose.SixDRepNetPose(path, sha256, torch_device(device))
        case "3ddfa":
            return pose.Ddfa(path, aux, sha256, device)
        case "fsanet":
            second = [aux] if aux.name else []
            return pose.FsaNet([path, *second], [sha256, *(resolve(str(p)).sha256 for p in second)], device)
        case "five-point":
            return pose.FivePoint()
        case "inception-torchvision":
            return inception.TorchvisionInception(path, sha256, device)
        case "inception-fid":
            return inception.FidInception(path, sha256, device)
        case "open-clip":
            return clip.ClipModel(path, sha256, device=device, **options)
        case "mini-arc" | "mini-cur":
            return small.SmallEmbedder("arc" if kind == "mini-arc" else "cur", torch_device(device))
        case "mini-pose":
            return small.SmallPose(torch_device(device))
        case "mini-features":
            return small.SmallFeatures(torch_device(device))
        case "mini-clip":
            return small.SmallClip(torch_device(device))
    raise UserError(f"there is no kind of network {kind!r}", "see the kinds in docs/metrics.md")
