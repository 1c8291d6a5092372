"""What a loss curve does not tell: does the aligner know a person again in another pose?"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from faithfulfaces.data import Clips, Crop, stack
from faithfulfaces.learner import Learner

BATCH = 64


@torch.no_grad()
def representations(learner: Learner, crops: Sequence[Crop]) -> torch.Tensor:
    """S [N,D] of crops, unit length, on the learner's device."""
    device = learner.temperature.log_scale.device
    parts = []
    for start in range(0, len(crops), BATCH):
        rgb, euler = stack(crops[start : start + BATCH])
        parts.append(F.normalize(learner.align(rgb.to(device), euler.to(device)).s_BD.float(), dim=-1))
    return torch.cat(parts)


def retrieval_rank1(learner: Learner, clips: Clips, query: int = 1, gallery: int = 0) -> float:
    """Share of clips whose query crop is nearest, by cosine, to the gallery crop of the same clip.

    Args:
        learner: with its aligner.
        clips: one clip an identity, of people that were not trained on. Chance is 1 / their number.
        query: index of the crop that asks.
        gallery: index of the crop that answers.
    """
    asked, answers = (
        representations(learner, [clips.crop(c, index) for c in range(len(clips.identities))])
        for index in (query, gallery)
    )
    nearest = (asked @ answers.T).argmax(1)
    return float((nearest == torch.arange(len(nearest), device=nearest.device)).float().mean())
