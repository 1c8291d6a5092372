"""The measuring networks that ship with the project: small residual networks trained on rendered heads alone.

Their weights lie in `ffbench/embedded/`; `faithfulfaces mini build` makes them. Numbers measured with them compare only
with each other. Shapes: N images, S px side.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ffbench.extract.align import crop_box, enlarge
from ffbench.extract.clip import TextFeatures
from ffbench.extract.embed import Source, unit
from ffbench.extract.loading import check_crops, fold_norms, in_chunks, inference, load_strict
from ffbench.extract.pose import zyx_angles
from ffbench.extract.sixdrepnet import rotation_from_six
from ffbench.weights import load_state_dict

Crops = NDArray[np.uint8]
Floats = NDArray[np.float32]
FOLDER = Path(__file__).resolve().parents[1] / "embedded"
SIDE = 56
"""What face networks read, px; crops of 112 and 224 px are averaged down."""
FRAME = 64
"""What the image half of the text network reads, px."""
POSE_BOX = 1.5
EMBEDDING, FEATURES, JOINT = 128, 64, 128
WORDS = "words"


class Block(nn.Module):
    """Two 3 x 3 convolutions around a shortcut."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outside)
        same = stride == 1 and inside == outside
        self.short = nn.Identity() if same else nn.Conv2d(inside, outside, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[N,C,h,w] -> [N,C',h/stride,w/stride]."""
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self.short(x))


class Trunk(nn.Module):
    """RGB in -1..1 to a vector: the map's last 7 x 7 or 8 x 8 cells weighted channel by channel, then a linear map."""

    def __init__(self, side: int, outputs: int, widths: Sequence[int] = (16, 32, 64)) -> None:
        super().__init__()
        first, second, third = widths
        self.stem = nn.Sequential(nn.Conv2d(3, first, 3, 2, 1, bias=False), nn.BatchNorm2d(first), nn.ReLU())
        self.blocks = nn.Sequential(
            Block(first, first, 1), Block(first, second, 2), Block(second, second, 1), Block(second, third, 2),
            Block(third, 2 * third, 1), Block(2 * third, 2 * third, 1),
        )  # fmt: skip
        self.pool = nn.Conv2d(2 * third, 2 * third, side // 8, groups=2 * third)
        self.head = nn.Linear(2 * third, outputs)

    def pooled(self, x: Tensor) -> Tensor:
        """[N,128] before the linear map."""
        pooled: Tensor = self.pool(self.blocks(self.stem(x))).flatten(1)
        return pooled

    def forward(self, x: Tensor) -> Tensor:
        """[N,outputs]."""
        out: Tensor = self.head(self.pooled(x))
        return out


class TextTower(nn.Module):
    """A prompt's known words to a vector: the mean of their embeddings through two layers."""

    def __init__(self, words: int, width: int = 128) -> None:
        super().__init__()
        self.words = nn.EmbeddingBag(words, width, mode="mean")
        self.head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, JOINT))

    def forward(self, ids: Tensor, offsets: Tensor) -> Tensor:
        """[N,D] of N bags of word numbers, joined."""
        out: Tensor = self.head(self.words(ids, offsets))
        return out


class Pair(nn.Module):
    """Image and text half of the text network, and its scale."""

    def __init__(self, words: int) -> None:
        super().__init__()
        self.image, self.text = Trunk(FRAME, JOINT), TextTower(words)
        self.log_scale = nn.Parameter(torch.tensor([np.log(1 / 0.07)], dtype=torch.float32))


def spoken(prompt: str, known: dict[str, int]) -> list[int]:
    """Numbers of the known words of a prompt, in order; the number after the last word where none is known."""
    return [known[word] for word in re.findall(r"[a-z]+", prompt.lower()) if word in known] or [len(known)]


def halved(crops: Crops, side: int = SIDE) -> Crops:
    """[N,side,side,3] by averaging."""
    if crops.shape[1] == side:
        return crops
    return np.stack([cv2.resize(crop, (side, side), interpolation=cv2.INTER_AREA) for crop in crops])


def pixels(crops: Crops, device: str) -> Tensor:
    """float32 [N,3,S,S] in -1..1."""
    return torch.from_numpy(np.ascontiguousarray(crops)).to(device).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


class SmallEmbedder:
    """A recogniser trained on rendered people; `arc` with ArcFace's loss, `cur` with CurricularFace's."""

    source: Source = "align112"

    def __init__(self, name: Literal["arc", "cur"], device: str = "cpu") -> None:
        self._device, (state, self.id) = device, _weights(name)
        net = load_strict(Trunk(SIDE, EMBEDDING), state, FOLDER / f"{name}.safetensors", f"the embedded {name}")
        self._net = fold_norms(net).to(device)

    def __call__(self, crops: Crops) -> Floats:
        """See `ffbench.extract.embed.Embedder`; 112 px."""
        check_crops(crops, 112, "the embedded recogniser")
        return unit(in_chunks(self._run, crops, self._device)) if len(crops) else np.zeros((0, EMBEDDING), np.float32)

    def _run(self, crops: Crops) -> Floats:
        with inference():
            return np.asarray(self._net(pixels(halved(crops), self._device)).cpu().numpy(), np.float32)


class SmallFeatures:
    """Features of face crops for Fréchet and kernel distances: what the attributes of rendered people are read from."""

    def __init__(self, device: str = "cpu") -> None:
        self._device, (state, self.id) = device, _weights("features")
        net = load_strict(_FeatureNet(_rows(state)), state, FOLDER / "features.safetensors", "the embedded features")
        self._net = fold_norms(net).to(device)

    def __call__(self, crops: Crops) -> Floats:
        """[N,64]; see `ffbench.extract.inception.FeatureNet`."""
        check_crops(crops, 224, "the embedded feature network")
        return in_chunks(self._run, crops, self._device) if len(crops) else np.zeros((0, FEATURES), np.float32)

    def _run(self, crops: Crops) -> Floats:
        with inference():
            return np.asarray(self._net.features(pixels(halved(crops), self._device)).cpu().numpy(), np.float32)


class _FeatureNet(nn.Module):
    """Features and the attributes that they were trained to tell."""

    def __init__(self, attributes: int) -> None:
        super().__init__()
        self.trunk = Trunk(SIDE, FEATURES)
        self.attributes = nn.Linear(FEATURES, attributes)

    def features(self, x: Tensor) -> Tensor:
        """[N,64]."""
        out: Tensor = self.trunk(x)
        return out

    def forward(self, x: Tensor) -> Tensor:
        """[N,attributes]."""
        out: Tensor = self.attributes(F.relu(self.trunk(x)))
        return out


FeatureTrainer = _FeatureNet


class SmallPose:
    """Pitch, yaw and roll of the box enlarged by 1.5, as a rotation's first two columns (Zhou et al. 2019)."""

    def __init__(self, device: str = "cpu") -> None:
        self._device, (state, self.id) = device, _weights("pose")
        net = load_strict(Trunk(SIDE, 6), state, FOLDER / "pose.safetensors", "the embedded pose network")
        self._net = fold_norms(net).to(device)

    def angles(self, images: Sequence[Crops], boxes: Floats, points: Floats) -> Floats:
        """See `ffbench.extract.pose.PoseEstimator`; only the boxes are read."""
        rows = [
            crop_box(image, enlarge(box, POSE_BOX), SIDE, border="edge", interpolation=cv2.INTER_AREA)
            for image, box in zip(images, boxes, strict=True)
        ]
        return in_chunks(self._run, np.stack(rows), self._device) if rows else np.zeros((0, 3), np.float32)

    def _run(self, crops: Crops) -> Floats:
        with inference():
            rotation = rotation_from_six(self._net(pixels(crops, self._device)))
        # the network's rotation is `head_rotation`'s, whose factors turn by minus the angles
        return -zyx_angles(rotation.double().cpu().numpy()).astype(np.float32)


class SmallClip:
    """Frames and prompts in one space, for CLIPScore inside the mini world; see `ffbench.extract.clip.ClipModel`."""

    def __init__(self, device: str = "cpu") -> None:
        self._device, (state, self.id) = device, _weights("clip")
        self._known = {word: i for i, word in enumerate(_vocabulary())}
        net = load_strict(Pair(len(self._known) + 1), state, FOLDER / "clip.safetensors", "the embedded text network")
        self._net = fold_norms(net).to(device)

    def images(self, pixels_THW3: Crops, colour: Literal["rgb", "bgr"] = "rgb") -> Floats:
        """[T,D] of unit length from uint8 [T,H,W,3] RGB of any size."""
        if pixels_THW3.dtype != np.uint8 or pixels_THW3.ndim != 4 or pixels_THW3.shape[3] != 3:
            raise ValueError(f"frames must be uint8 [T,H,W,3] RGB, not {pixels_THW3.dtype} {list(pixels_THW3.shape)}")
        if not len(pixels_THW3):
            return np.zeros((0, JOINT), np.float32)
        return unit(in_chunks(self._run, pixels_THW3[..., :: 1 if colour == "rgb" else -1], self._device))

    def texts(self, prompts: Sequence[str]) -> TextFeatures:
        """Embed prompts; nothing is cut."""
        bags = [spoken(prompt, self._known) for prompt in prompts]
        with inference():
            ids = torch.tensor([i for bag in bags for i in bag], dtype=torch.int64)
            starts = torch.tensor(np.cumsum([0] + [len(bag) for bag in bags])[:-1], dtype=torch.int64)
            rows = self._net.text(ids.to(self._device), starts.to(self._device)).cpu().numpy()
        counts = np.array([len(bag) for bag in bags], np.int64)
        return TextFeatures(unit(rows), counts, np.zeros(len(bags), bool))

    def long_texts(self, prompt: str) -> Floats:
        """[S,D]: one row a sentence that says something known."""
        sentences = [part for part in re.split(r"(?<=[.!?;])\s+|\n+", prompt) if part.strip()]
        known = [part for part in sentences if spoken(part, self._known) != [len(self._known)]]
        return self.texts(known or [prompt]).embeddings

    def _run(self, frames: Crops) -> Floats:
        with inference():
            return np.asarray(self._net.image(pixels(halved(frames, FRAME), self._device)).cpu().numpy(), np.float32)


def _rows(state: dict[str, Any]) -> int:
    return int(state["attributes.bias"].shape[0])


def _vocabulary() -> list[str]:
    return (FOLDER / "words.txt").read_text("utf-8").split()


@cache
def _weights(name: str) -> tuple[dict[str, Tensor], str]:
    """Tensors of an embedded file, and its id: the name and the first 12 digits of its sha256."""
    from ffbench.download import sha256_of

    path = FOLDER / f"{name}.safetensors"
    return dict(load_state_dict(path)), f"mini-{name}@{sha256_of(path)[:12]}"
