"""The two losses of the paper: L_PIA (Eq. 5) with its bound (Eq. 7), and flow matching.

Shapes: n pairs of face crops, D width, B videos.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CLIP_TEMPERATURE = 0.07
"""Where CLIP starts tau (Radford et al. 2021)."""
MAX_SCALE = 100.0
"""CLIP's bound on 1/tau."""


class Temperature(nn.Module):
    """Learnable 1/tau = exp(log_scale), started as CLIP's and bounded by 100. Shape [1]: FSDP2 cannot shard 0-d."""

    def __init__(self) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor([math.log(1 / CLIP_TEMPERATURE)]))

    def forward(self) -> Tensor:
        """[1] float32, the factor on cosines."""
        return self.log_scale.float().exp()

    @torch.no_grad()
    def clamp(self) -> None:
        """Keep 1/tau within 1..100; call after each optimizer step."""
        self.log_scale.clamp_(0.0, math.log(MAX_SCALE))


class AlignmentLoss(NamedTuple):
    """L_PIA and what is logged with it."""

    loss: Tensor
    """Scalar, float32."""
    information_bound: Tensor
    """log n - L_PIA in nats (Eq. 7 with the paper's summed directions)."""
    accuracy: Tensor
    """Share of rows and columns whose partner is the nearest."""


def alignment_loss(s1_nD: Tensor, s2_nD: Tensor, identities_n: Tensor, scale: Tensor) -> AlignmentLoss:
    """Symmetric InfoNCE over cosine similarities, the two directions summed (Eq. 5).

    Pairs whose label is equal but whose row differs are two clips of one person: they are no negatives and are left
    out of the denominators.

    Args:
        s1_nD: [n,D] representations in one pose.
        s2_nD: [n,D] of the same identities, row by row, in another pose.
        identities_n: [n] int64 labels.
        scale: [1] or scalar, 1/tau.

    Raises:
        ValueError: for shapes that do not fit.
    """
    if s1_nD.shape != s2_nD.shape or s1_nD.ndim != 2 or identities_n.shape != s1_nD.shape[:1]:
        raise ValueError(
            f"expected two [n,D] and [n] labels, got {tuple(s1_nD.shape)}, {tuple(s2_nD.shape)}, "
            f"{tuple(identities_n.shape)}"
        )
    logits_nn = scale * (F.normalize(s1_nD.float(), dim=-1) @ F.normalize(s2_nD.float(), dim=-1).T)
    target_n = torch.arange(len(logits_nn), device=logits_nn.device)
    same_nn = identities_n[:, None] == identities_n[None, :]
    same_nn = same_nn & ~torch.eye(len(logits_nn), dtype=torch.bool, device=logits_nn.device)
    logits_nn = logits_nn.masked_fill(same_nn, -torch.inf)
    loss = F.cross_entropy(logits_nn, target_n) + F.cross_entropy(logits_nn.T, target_n)
    hits = (logits_nn.argmax(1) == target_n).float().mean() + (logits_nn.argmax(0) == target_n).float().mean()
    bound = math.log(max(len(logits_nn), 1)) - loss.detach()
    return AlignmentLoss(loss, bound, hits / 2)


def shifted_sigmas(uniform_B: Tensor, shift: float) -> Tensor:
    """Noise levels 0..1 [B] from uniform draws [B]: sigma = shift u / (1 + (shift - 1) u), as the base was trained."""
    return shift * uniform_B / (1 + (shift - 1) * uniform_B)


def flow_matching_weight(sigma_B: Tensor) -> Tensor:
    """The bell over timesteps t = 1000 sigma that Wan's trainers use: exp(-2 ((t - 500) / 1000)^2), less its minimum.

    Normalised to a mean of 1 over uniform t, as DiffSynth-Studio's flow-matching trainer has it over its 1,000 steps.
    Sigma 0..1 [B] -> weight [B]: 0 at both ends, 1.58 at one half.
    """
    lowest = math.exp(-0.5)
    mean = math.sqrt(math.pi / 2) * math.erf(math.sqrt(0.5)) - lowest
    return (torch.exp(-2 * (sigma_B - 0.5) ** 2) - lowest) / mean


def noised(latents: Tensor, noise: Tensor, sigma_B: Tensor) -> tuple[Tensor, Tensor]:
    """Input x_t = (1 - sigma) x0 + sigma noise and target noise - x0 (diffusers' sign), both [B,...]."""
    sigma = sigma_B.view(-1, *[1] * (latents.ndim - 1)).to(latents.dtype)
    return (1 - sigma) * latents + sigma * noise, noise - latents


def flow_matching_loss(prediction: Tensor, target: Tensor, weight_B: Tensor) -> Tensor:
    """Weighted mean squared error in float32: mean over elements of each video, then over videos.

    Raises:
        ValueError: when prediction and target differ in shape.
    """
    if prediction.shape != target.shape:
        raise ValueError(f"prediction {tuple(prediction.shape)} and target {tuple(target.shape)} differ")
    per_video = (prediction.float() - target.float()).square().flatten(1).mean(1)
    return (weight_B.float() * per_video).mean()
