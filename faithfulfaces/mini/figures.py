"""How good the mini world's networks are on people that none of them has seen.

Instruments are measured on loose frames of the split `test`, the codec on clips it was not fitted to. Shapes: n crops,
D width.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import nn

from faithfulfaces.aligner import PoseSharedIdentityAligner
from faithfulfaces.analysis.dictionary import dependence, pose_groups, set_dependence
from faithfulfaces.analysis.measure import encode
from faithfulfaces.mini.codec import PatchCodec
from faithfulfaces.mini.crops import face_crops
from faithfulfaces.mini.footage import Footage
from faithfulfaces.mini.instruments import aligned, attributes, boxed
from ffbench.extract.loading import load_strict
from ffbench.extract.small import EMBEDDING, SIDE, FeatureTrainer, Pair, Trunk, pixels, spoken
from ffbench.metrics.verification import auc

Floats = NDArray[np.float32]
YAW_BINS = ((0, 15), (15, 30), (30, 45), (45, 60), (60, 75))


@torch.inference_mode()
def verification(net: Trunk, footage: Footage) -> dict[str, float]:
    """AUC of same against different people over all pairs of crops, and mean cosines."""
    crops, rows = aligned(footage, np.random.default_rng(0))
    out = np.concatenate([net(pixels(crops[i : i + 256], "cpu")).numpy() for i in range(0, len(crops), 256)])
    out /= np.linalg.norm(out, axis=1, keepdims=True)
    cosine, same = out @ out.T, rows[:, None] == rows[None]
    upper = np.triu(np.ones_like(same), 1).astype(bool)
    right, wrong = cosine[upper & same], cosine[upper & ~same]
    return {
        "people": len(set(rows.tolist())), "crops": len(crops), "auc": auc(right, wrong),
        "same": float(right.mean()), "different": float(wrong.mean()),
    }  # fmt: skip


def across_poses(aligner: PoseSharedIdentityAligner, footage: Footage, permutations: int = 999) -> dict[str, float]:
    """Is a person found again in another pose, and do dictionary elements answer to pose?

    The gallery is the most frontal frame of each person, by the sum of absolute angles; every other frame of loose
    footage (another clip, light and place) asks for its nearest by the cosine of S. Bits are those of
    `faithfulfaces.analysis.dictionary`, of the strongest element and of the ten strongest, with poses shuffled within
    people as the control.
    """
    crops, rows = face_crops(footage, aligner.config.image_size)
    s_ND, top_NK = encode(aligner, crops)
    euler_N3 = np.stack([crop.euler for crop in crops])
    people = np.unique(rows)
    straight = np.abs(euler_N3).sum(1)
    gallery = np.array([min(np.flatnonzero(rows == person), key=straight.__getitem__) for person in people])
    asked = np.setdiff1d(np.arange(len(rows)), gallery)
    right = people[(s_ND[asked] @ s_ND[gallery].T).argmax(1)] == rows[asked]
    yaw = np.abs(euler_N3[asked, 1])
    found = {"people": len(people), "queries": len(asked), "rank1": float(right.mean()), "chance": 1 / len(people)}
    for low, high in YAW_BINS:
        inside = (yaw >= low) & (yaw < high)
        found |= {f"queries {low}-{high}": int(inside.sum())}
        found |= {f"rank1 {low}-{high}": float(right[inside].mean()) if inside.any() else float("nan")}
    groups_N = pose_groups(euler_N3)
    for name, measured in (
        ("winner", dependence(top_NK[:, 0], groups_N, rows, permutations)),
        ("top ten", set_dependence(top_NK, groups_N, rows, permutations)),
    ):
        found |= {f"{name} bits": measured.bits, f"{name} bits shuffled": measured.shuffled_mean}
        found |= {f"{name} p": measured.p}
    return found | {"winners": len(np.unique(top_NK[:, 0]))}


@torch.inference_mode()
def pose_errors(net: Trunk, footage: Footage) -> dict[str, float]:
    """Mean absolute error in degrees of pitch, yaw and roll within 75 degrees of yaw, and of yaw by bins of |yaw|."""
    from ffbench.extract.pose import zyx_angles
    from ffbench.extract.sixdrepnet import rotation_from_six

    crops, angles = boxed(footage, np.random.default_rng(0))
    facing = np.abs(angles[:, 1]) <= YAW_BINS[-1][1]
    crops, angles = crops[facing], angles[facing]
    rotation = torch.cat([rotation_from_six(net(pixels(crops[i : i + 256], "cpu"))) for i in range(0, len(crops), 256)])
    error = np.abs(-zyx_angles(rotation.double().numpy()) - angles)
    figures = {"crops": len(crops)} | dict(zip(("pitch", "yaw", "roll"), error.mean(0).tolist(), strict=True))
    for low, high in YAW_BINS:
        inside = (np.abs(angles[:, 1]) >= low) & (np.abs(angles[:, 1]) < high)
        figures[f"yaw {low}-{high}"] = float(error[inside, 1].mean())
    return figures


@torch.inference_mode()
def retrieval(net: Pair, words: list[str], footage: Footage, batch: int = 100) -> dict[str, float]:
    """How often a frame's own caption is the nearest of `batch` captions; chance is 1 / batch."""
    frames = footage.pixels.reshape(-1, *footage.pixels.shape[2:])
    known = {word: i for i, word in enumerate(words)}
    bags = [spoken(str(caption), known) for caption in footage.captions.reshape(-1)]
    order = np.random.default_rng(0).permutation(len(frames))[: len(frames) // batch * batch]
    hits = 0
    for start in range(0, len(order), batch):
        rows = order[start : start + batch]
        chosen = [bags[i] for i in rows]
        starts = torch.tensor(np.cumsum([0] + [len(bag) for bag in chosen])[:-1])
        text = torch.nn.functional.normalize(net.text(torch.tensor([i for bag in chosen for i in bag]), starts))
        image = torch.nn.functional.normalize(net.image(pixels(frames[rows], "cpu")))
        hits += int(((image @ text.T).argmax(1) == torch.arange(batch)).sum())
    return {"frames": len(order), "rank1": hits / len(order), "chance": 1 / batch}


@torch.inference_mode()
def explained(net: FeatureTrainer, footage: Footage) -> dict[str, float]:
    """Share of the attributes' variance that the feature network tells (the median over attributes), and of pose."""
    crops, rows = aligned(footage, np.random.default_rng(0))
    wanted = attributes(footage.seeds.tolist())[rows]
    out = np.concatenate([net(pixels(crops[i : i + 256], "cpu")).numpy() for i in range(0, len(crops), 256)])
    pose = footage.angles[footage.shown] / 30
    spread = wanted.var(0)
    told = 1 - ((out[:, : wanted.shape[1]] - wanted) ** 2).mean(0)[spread > 0] / spread[spread > 0]
    told_pose = 1 - ((out[:, wanted.shape[1] :] - pose) ** 2).mean(0) / pose.var(0)
    return {"crops": len(crops), "attributes": float(np.median(told)), "pose": float(told_pose.mean())}


@torch.inference_mode()
def codec_quality(codec: PatchCodec, footage: Footage) -> dict[str, float]:
    """PSNR in dB of clips of held-out people after encoding and decoding, the first frame and the others."""
    x = torch.from_numpy(footage.pixels).permute(0, 4, 1, 2, 3).float() / 127.5 - 1
    parts = [codec.decode(codec.encode(chunk).latent_dist.mode())[0] - chunk for chunk in x.split(32)]
    error = torch.cat([part.square().mean((1, 3, 4)) for part in parts])
    first, others = error[:, 0].mean(), error[:, 1:].mean()
    return {"clips": len(x), "psnr_first": _psnr(first), "psnr_others": _psnr(others), "psnr": _psnr(error.mean())}


def _psnr(error: torch.Tensor) -> float:
    return float(10 * torch.log10(4 / error))


def of_instruments(folder: Path, words: list[str], test: Footage) -> dict[str, dict[str, float]]:
    """Figures of the five measuring networks of a folder."""

    def loaded(net: nn.Module, name: str) -> Any:
        return load_strict(net, load_file(folder / f"{name}.safetensors"), folder / name, name)

    described = load_file(folder / "features.safetensors")["attributes.bias"].shape[0]
    return {
        "arc": verification(loaded(Trunk(SIDE, EMBEDDING), "arc"), test),
        "cur": verification(loaded(Trunk(SIDE, EMBEDDING), "cur"), test),
        "pose": pose_errors(loaded(Trunk(SIDE, 6), "pose"), test),
        "clip": retrieval(loaded(Pair(len(words) + 1), "clip"), words, test),
        "features": explained(loaded(FeatureTrainer(described), "features"), test),
    }
