"""Face recognisers: crops in, unit vectors out. Each owns its input size, colour order and range."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from ffbench.errors import UserError
from ffbench.extract.loading import (
    CHUNK,
    PIECE,
    check_crops,
    fold_norms,
    in_chunks,
    inference,
    load_strict,
    torch_device,
)
from ffbench.extract.sessions import callers, onnx_session, side_by_side
from ffbench.weights import load_state_dict

if TYPE_CHECKING:
    from ffbench.extract.curricular import Arch

Crops = NDArray[np.uint8]
Floats = NDArray[np.float32]
Source = Literal["align112", "align224", "box160"]
"""The crop an embedder reads: aligned at 112 or 224 px, or the detector's box stretched to 160 px."""


class Embedder(Protocol):
    """A recogniser; `id` names the network with the first 12 digits of its weights' sha256."""

    id: str
    source: Source

    def __call__(self, crops: Crops) -> Floats:
        """[N,D] of unit length (NaN where the network gives no direction) from uint8 [N,S,S,3] RGB.

        Raises:
            ValueError: crops of another type or shape.
        """
        ...


def unit(rows: NDArray[np.floating]) -> Floats:
    """[N,D] rows of length 1; a row of zeros or with a value that is not finite becomes NaN."""
    wide = np.asarray(rows, np.float64)
    length = np.linalg.norm(wide, axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(np.isfinite(length) & (length > 0), wide / length, np.nan).astype(np.float32)


class ArcFaceOnnx:
    """A recogniser of InsightFace's kind (ArcFace, Deng et al., CVPR 2019) as an ONNX file, in batches.

    The input is RGB, (x - 127.5) / 127.5, or x itself for files that normalise inside: InsightFace decides by the names
    of the first nodes, and so does this class, to give its numbers.

    Args:
        path: the network, [N,3,112,112] -> [N,D].
        sha256: of that file, for the id.
        device: `cpu`, `cuda` or `cuda:N`.

    Raises:
        UserError: a file that is no such network.
    """

    source: Source = "align112"

    def __init__(self, path: Path, sha256: str, device: str = "cpu") -> None:
        self._session = onnx_session(path, device)
        taken, made = self._session.get_inputs(), self._session.get_outputs()
        shape = taken[0].shape
        if len(taken) != 1 or len(made) != 1 or len(shape) != 4 or shape[1:] != [3, 112, 112]:
            raise UserError(
                f"{path} is no face recogniser: {len(taken)} inputs, the first {shape}, {len(made)} outputs",
                "give an ArcFace network of one input [N,3,112,112] and one output [N,D]",
            )
        self._input = taken[0].name
        self._batch = shape[0] if isinstance(shape[0], int) else 0
        self._raw = _normalises_inside(path)
        self._callers = callers(device)
        self._piece = PIECE if device == "cpu" else CHUNK
        self.id = f"arcface-onnx:{path.name}@{sha256[:12]}"
        self._try(path)

    def __call__(self, crops: Crops) -> Floats:
        """See `Embedder`; 112 px."""
        check_crops(crops, 112, "ArcFace")
        if not len(crops):
            return np.zeros((0, self._dim), np.float32)
        size = self._batch or self._piece
        pieces = [crops[start : start + size] for start in range(0, len(crops), size)]
        return unit(np.concatenate(side_by_side(self._run, pieces, self._callers)))

    def _run(self, crops: Crops, options: Any = None) -> Floats:
        blob = crops.transpose(0, 3, 1, 2).astype(np.float32)
        if not self._raw:
            blob = (blob - np.float32(127.5)) / np.float32(127.5)
        # a file with a fixed batch also takes no fewer
        short = max(0, self._batch - len(crops))
        blob = np.pad(blob, ((0, short), (0, 0), (0, 0), (0, 0)))
        out: Floats = self._session.run(None, {self._input: blob}, options)[0]
        return out[: len(crops)]

    def _try(self, path: Path) -> None:
        import onnxruntime as ort
        from onnxruntime.capi import onnxruntime_pybind11_state as state

        quiet = ort.RunOptions()
        quiet.log_severity_level = 4
        count = self._batch or 2
        noise = np.random.default_rng(0).integers(0, 256, (count, 112, 112, 3), np.uint8)
        try:
            shape = self._run(noise, quiet).shape
        except (state.Fail, state.InvalidArgument, state.RuntimeException) as error:
            shape = (str(error).splitlines()[0][:120],)
        if len(shape) != 2 or shape[0] != count:
            raise UserError(
                f"{path} does not embed {count} faces at once: {shape}", "export it with a free batch, or a batch of 1"
            )
        self._dim = int(shape[1])


def _normalises_inside(path: Path) -> bool:
    import onnx

    names = [node.name for node in onnx.load_model(str(path), load_external_data=False).graph.node[:8]]
    return any(n.startswith(("Sub", "_minus")) for n in names) and any(n.startswith(("Mul", "_mul")) for n in names)


class CurricularFace:
    """CurricularFace as ConsisID's evaluation runs it: a crop of 224 px halved, (x / 255 - 0.5) / 0.5, RGB.

    Args:
        path: state dict with the published keys.
        sha256: of that file, for the id.
        arch: `ir101` or `ir18`.
        device: a PyTorch device.

    Raises:
        UserError: a file that does not hold that network.
    """

    source: Source = "align224"

    def __init__(self, path: Path, sha256: str, arch: Arch = "ir101", device: str = "cpu") -> None:
        import torch

        from ffbench.extract.curricular import CurricularBackbone

        self._device = torch_device(device)
        net: Any = load_strict(CurricularBackbone(arch), load_state_dict(path), path, f"CurricularFace {arch}")
        self._net = fold_norms(net).to(self._device, memory_format=torch.channels_last)
        self.id = f"curricular-{arch}:{path.name}@{sha256[:12]}"

    def __call__(self, crops: Crops) -> Floats:
        """See `Embedder`; 224 px."""
        check_crops(crops, 224, "CurricularFace")
        return unit(in_chunks(self._run, crops, self._device)) if len(crops) else np.zeros((0, 512), np.float32)

    def _run(self, crops: Crops) -> Floats:
        small = np.stack([cv2.resize(crop, (112, 112), interpolation=cv2.INTER_LINEAR) for crop in crops])
        return _forward(self._net, small, 255.0, 0.5, 0.5, self._device)


class FaceNet:
    """FaceNet (Schroff et al., CVPR 2015) as facenet-pytorch's InceptionResnetV1: (x - 127.5) / 128, RGB, 160 px.

    Args:
        path: state dict of the published VGGFace2 network; its classifier is left out.
        sha256: of that file, for the id.
        device: a PyTorch device.

    Raises:
        UserError: a file that does not hold that network.
    """

    source: Source = "box160"

    def __init__(self, path: Path, sha256: str, device: str = "cpu") -> None:
        import torch
        from facenet_pytorch import InceptionResnetV1

        self._device = torch_device(device)
        state = {k: v for k, v in load_state_dict(path).items() if not k.startswith("logits.")}
        net: Any = load_strict(InceptionResnetV1(pretrained=None), state, path, "FaceNet (InceptionResnetV1)")
        self._net = fold_norms(net).to(self._device, memory_format=torch.channels_last)
        self.id = f"facenet:{path.name}@{sha256[:12]}"

    def __call__(self, crops: Crops) -> Floats:
        """See `Embedder`; 160 px."""
        check_crops(crops, 160, "FaceNet")
        return unit(in_chunks(self._run, crops, self._device)) if len(crops) else np.zeros((0, 512), np.float32)

    def _run(self, crops: Crops) -> Floats:
        return _forward(self._net, crops, 1.0, 127.5, 128.0, self._device)


def _forward(net: Any, crops: Crops, scale: float, mean: float, std: float, device: str) -> Floats:
    """`net` of ((x / scale) - mean) / std, channels last."""
    import torch

    with inference():
        # a transposed view of [N,H,W,3] already is channels-last
        x = torch.from_numpy(crops).to(device).permute(0, 3, 1, 2).float()
        out = net(x.div_(scale).sub_(mean).div_(std))
        return np.asarray(out.float().cpu().numpy(), np.float32)
