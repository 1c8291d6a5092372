"""Training of the embedded measuring networks on loose frames of people that nobody else sees.

Crops are cut from exact labels, the points and boxes moved a little as a detector would. Shapes: n crops, S px side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from faithfulfaces.mini.footage import Footage
from faithfulfaces.synthetic.people import BEARDS, RANGES, STYLES, person
from ffbench.extract.align import ARCFACE_TEMPLATE, crop_box, enlarge, similarity
from ffbench.extract.pose import head_rotation
from ffbench.extract.sixdrepnet import rotation_from_six
from ffbench.extract.small import (
    EMBEDDING,
    POSE_BOX,
    SIDE,
    FeatureTrainer,
    Pair,
    Trunk,
    pixels,
    spoken,
)

Crops = NDArray[np.uint8]
Floats = NDArray[np.float32]
Report = Callable[[int, float], None]
BATCH = 128


def aligned(footage: Footage, rng: np.random.Generator, jitter: float = 0.8) -> tuple[Crops, NDArray[np.int64]]:
    """uint8 [n,56,56,3] faces brought to ArcFace's template, and the row of their person; `jitter` px on each point."""
    crops, rows = [], []
    for i, t in zip(*np.nonzero(footage.shown), strict=True):
        points = footage.points[i, t] + rng.normal(0, jitter, (5, 2)).astype(np.float32)
        matrix = similarity(points.astype(np.float32), ARCFACE_TEMPLATE)
        crop = cv2.warpAffine(footage.pixels[i, t], matrix, (112, 112), borderValue=(0, 0, 0))
        crops.append(cv2.resize(crop, (SIDE, SIDE), interpolation=cv2.INTER_AREA))
        rows.append(i)
    return np.array(crops, np.uint8), np.array(rows, np.int64)


def boxed(footage: Footage, rng: np.random.Generator, jitter: float = 0.08) -> tuple[Crops, Floats]:
    """uint8 [n,56,56,3] of the enlarged boxes, and [n,3] angles; faces up to 100 degrees of yaw."""
    crops, angles = [], []
    for i, t in zip(*np.nonzero((np.abs(footage.angles[..., 1]) < 100) & (footage.seen > 0.1)), strict=True):
        box = enlarge(footage.box[i, t], 0.945 * float(rng.uniform(1 - jitter, 1 + jitter)))
        side = np.tile(box[2:] - box[:2], 2)
        box = box + np.tile(rng.normal(0, jitter / 2, 2), 2).astype(np.float32) * side
        image = footage.pixels[i, t]
        crops.append(crop_box(image, enlarge(box, POSE_BOX), SIDE, border="edge", interpolation=cv2.INTER_AREA))
        angles.append(footage.angles[i, t])
    return np.array(crops, np.uint8), np.array(angles, np.float32)


def train_embedder(
    footage: Footage, loss: Literal["arc", "cur"], steps: int, seed: int, report: Report | None = None
) -> Trunk:
    """A recogniser by ArcFace's loss (Deng et al. 2019) or CurricularFace's (Huang et al. 2020), mirrored crops too."""
    torch.manual_seed(seed)
    rng = np.random.default_rng([37, seed])
    crops, rows = aligned(footage, rng)
    net = Trunk(SIDE, EMBEDDING)
    head = Margin(EMBEDDING, len(footage.seeds), curricular=loss == "cur")
    labels = torch.from_numpy(rows)
    _fit([net, head], steps, report, lambda batch: head(net(_augmented(crops[batch], rng)), labels[batch]),
         batches(len(crops), rng))  # fmt: skip
    return net.eval()


class Margin(nn.Module):
    """Softmax over people with an angular margin m on the right one; `curricular` weighs hard wrong ones up over time.

    ArcFace Eq. 3; CurricularFace Eqs. 4-8 with t the running mean of the right cosines.
    """

    def __init__(self, dim: int, people: int, *, curricular: bool, margin: float = 0.35, scale: float = 24.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(people, dim) * 0.05)
        self.curricular, self.margin, self.scale = curricular, margin, scale
        self.t: Tensor
        self.register_buffer("t", torch.zeros(()))

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """Mean loss of [n,D] embeddings."""
        cosine = F.linear(F.normalize(x), F.normalize(self.weight)).clamp(-1 + 1e-6, 1 - 1e-6)
        right = cosine.gather(1, labels[:, None])
        moved = torch.cos(torch.acos(right) + self.margin)
        # beyond pi - m the moved cosine would rise again
        moved = torch.where(right > np.cos(np.pi - self.margin), moved, right - self.margin * np.sin(self.margin))
        logits = cosine
        if self.curricular:
            self.t = (0.01 * right.detach().mean() + 0.99 * self.t).detach()
            logits = torch.where(cosine > moved, cosine * (self.t + cosine), cosine)
        logits = logits.scatter(1, labels[:, None], moved)
        return F.cross_entropy(self.scale * logits, labels)


def train_pose(footage: Footage, steps: int, seed: int, report: Report | None = None) -> Trunk:
    """The pose regressor, by the squared distance of rotation matrices."""
    torch.manual_seed(seed)
    rng = np.random.default_rng([41, seed])
    crops, angles = boxed(footage, rng)
    turned = torch.from_numpy(head_rotation(angles)).float()
    net = Trunk(SIDE, 6)

    def loss(batch: NDArray[np.int64]) -> Tensor:
        rotation = rotation_from_six(net(_augmented(crops[batch], rng, mirror=False)))
        return (rotation - turned[batch]).square().sum((1, 2)).mean()

    _fit([net], steps, report, loss, batches(len(crops), rng))
    return net.eval()


def attributes(seeds: Sequence[int]) -> Floats:
    """[n,A] of people: every parameter scaled to unit deviation, hair style and beard as 0 or 1, colours."""
    rows = []
    for who in map(person, seeds):
        scaled = [(who.values[k] - (low + high) / 2) / ((high - low) / 12**0.5) for k, (low, high) in RANGES.items()]
        kinds = [2.0 * (who.style == s) for s in STYLES] + [2.0 * (who.beard == b) for b in BEARDS]
        colours = [4 * c for name in ("skin", "hair", "lips", "iris") for c in who.colours[name]]
        rows.append([*scaled, *kinds, *colours, 2.0 * who.glasses])
    return np.array(rows, np.float32)


def train_features(footage: Footage, steps: int, seed: int, report: Report | None = None) -> nn.Module:
    """The feature network, by regression of attributes and pose from aligned crops."""
    torch.manual_seed(seed)
    rng = np.random.default_rng([43, seed])
    crops, rows = aligned(footage, rng)
    pose = footage.angles[footage.shown] / 30
    wanted = torch.from_numpy(np.concatenate([attributes(footage.seeds.tolist())[rows], pose], 1)).float()
    net = FeatureTrainer(wanted.shape[1])

    def loss(batch: NDArray[np.int64]) -> Tensor:
        return F.mse_loss(net(_augmented(crops[batch], rng, mirror=False)), wanted[batch])

    _fit([net], steps, report, loss, batches(len(crops), rng))
    return net.eval()


def train_clip(
    footage: Footage, words: Sequence[str], steps: int, seed: int, report: Report | None = None
) -> nn.Module:
    """Frames and captions by the symmetric contrastive loss (Radford et al. 2021), words dropped and added."""
    torch.manual_seed(seed)
    rng = np.random.default_rng([47, seed])
    frames = footage.pixels.reshape(-1, *footage.pixels.shape[2:])
    known = {word: i for i, word in enumerate(words)}
    said = [spoken(str(caption), known) for caption in footage.captions.reshape(-1)]
    net = Pair(len(known) + 1)

    def loss(batch: NDArray[np.int64]) -> Tensor:
        bags = [_disturbed(said[i], len(known), rng) for i in batch]
        starts = torch.tensor(np.cumsum([0] + [len(bag) for bag in bags])[:-1])
        text = F.normalize(net.text(torch.tensor([i for bag in bags for i in bag]), starts))
        image = F.normalize(net.image(_augmented(frames[batch], rng)))
        logits = net.log_scale.exp().clamp(max=100) * image @ text.T
        labels = torch.arange(len(batch))
        return F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)

    _fit([net], steps, report, loss, batches(len(frames), rng))
    return net.eval()


def write(net: nn.Module, path: Path) -> None:
    """Tensors as float16 safetensors, counters left out."""
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    state = {k: v.half().contiguous() for k, v in net.state_dict().items() if not k.endswith("num_batches_tracked")}
    save_file(state, str(path))


def batches(count: int, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """Endless shuffled batches."""
    while True:
        order = rng.permutation(count)
        for start in range(0, max(count - BATCH, 0) + 1, BATCH):
            yield order[start : start + BATCH]


def _fit(
    modules: Sequence[nn.Module],
    steps: int,
    report: Report | None,
    loss: Callable[[NDArray[np.int64]], Tensor],
    order: Iterator[NDArray[np.int64]],
) -> None:
    parameters = [p for module in modules for p in module.parameters()]
    optimizer = torch.optim.AdamW(parameters, 3e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps, pct_start=0.15)
    mean = 0.0
    for step in range(1, steps + 1):
        value = loss(next(order))
        optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(parameters, 5.0)
        optimizer.step()
        schedule.step()
        mean += (value.item() - mean) / min(step, 50)
        if report is not None and (step % 50 == 0 or step == steps):
            report(step, mean)


def _augmented(crops: Crops, rng: np.random.Generator, *, mirror: bool = True) -> Tensor:
    """[n,3,S,S] in -1..1 with a change of light and contrast, now and then blurred, half of them mirrored."""
    x = pixels(crops, "cpu")
    n = len(x)
    gain = torch.from_numpy(rng.uniform(0.8, 1.2, (n, 1, 1, 1))).float()
    shift = torch.from_numpy(rng.normal(0, 0.08, (n, 3, 1, 1)) + rng.normal(0, 0.06, (n, 1, 1, 1))).float()
    x = x * gain + shift
    soft = torch.from_numpy(rng.uniform(size=n) < 0.3)
    x[soft] = F.avg_pool2d(F.pad(x[soft], (1, 1, 1, 1), mode="replicate"), 3, 1)
    if mirror:
        flip = torch.from_numpy(rng.uniform(size=n) < 0.5)
        x[flip] = x[flip].flip(-1)
    return x.clamp(-1.5, 1.5)


def _disturbed(bag: Sequence[int], words: int, rng: np.random.Generator) -> list[int]:
    kept = [word for word in bag if rng.uniform() > 0.1]
    return kept + rng.integers(0, words, int(rng.integers(0, 6))).tolist() or [words]
