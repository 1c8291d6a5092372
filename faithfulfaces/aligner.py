"""The pose-shared identity aligner (paper, Section 3.3, Fig. 3): one face crop and its Euler angles to S.

Shapes: B face crops, H = W the crop's side, L tokens, D width, C dictionary elements.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from faithfulfaces.config import Aligner, Pooling
from faithfulfaces.euler import EulerEmbedding
from faithfulfaces.maxpool import correlation_max_pool


class Aligned(NamedTuple):
    """What the aligner says of a batch of face crops, in the dtype of its weights; no bounds on the values."""

    s_BD: Tensor
    """S, the global facial pose representation (Eq. 4): what is compared in L_PIA and injected into the video."""
    w_BC: Tensor
    """W, the dictionary weights (Eq. 3): how strongly a face activates each element (Fig. 7)."""


def pixels(crops_B3HW: Tensor) -> Tensor:
    """uint8 [B,3,H,W] as the aligner reads them: float32 in -1..1."""
    return crops_B3HW.float() / 127.5 - 1


def pool_correlations(tokens_BLD: Tensor, dictionary_CD: Tensor, pooling: Pooling) -> Tensor:
    """W [B,C]: E D^T [B,L,C], pooled over the tokens (Eq. 3 with `max`; Appendix A.4 compares the other two).

    A sum or mean over tokens commutes with the product, so neither materialises [B,L,C].
    """
    if pooling == "max":
        return correlation_max_pool(tokens_BLD, dictionary_CD)
    pooled_BD = tokens_BLD.sum(1) if pooling == "sum" else tokens_BLD.mean(1)
    return pooled_BD @ dictionary_CD.T


class Block(nn.Module):
    """A pre-norm transformer block without dropout: x + attention(norm(x)), then x + MLP(norm(x))."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x_BLD: Tensor) -> Tensor:
        """[B,L,D] -> [B,L,D]."""
        B, L, D = x_BLD.shape
        q, k, v = self.qkv(self.norm1(x_BLD)).view(B, L, 3, self.heads, D // self.heads).permute(2, 0, 3, 1, 4)
        mixed_BLD = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(B, L, D)
        x_BLD = x_BLD + self.out(mixed_BLD)
        out_BLD: Tensor = x_BLD + self.mlp(self.norm2(x_BLD))
        return out_BLD


class PoseSharedIdentityAligner(nn.Module):
    """Tokens plus Euler embedding, correlated with a dictionary that all poses share, pooled, and projected back.

        E = patches(crop) + positions + euler(angles)      [B,L,D], then `depth` blocks (none in the paper's letter)
        W = max over tokens of E D^T                       [B,C]    Eq. 3; D is the dictionary, [C,D]
        S = W D                                            [B,D]    Eq. 4

    Args:
        config: the sizes. Weights are drawn in float32 from torch's global generator.
    """

    def __init__(self, config: Aligner) -> None:
        super().__init__()
        self.config = config
        self.tokenizer = nn.Conv2d(3, config.dim, config.patch, stride=config.patch)
        self.positions_LD = nn.Parameter(torch.empty(config.num_tokens, config.dim))
        self.euler = EulerEmbedding(config.dim, config.shortest_period, config.longest_period) if config.euler else None
        self.blocks = nn.ModuleList(Block(config.dim, config.heads) for _ in range(config.depth))
        self.dictionary_CD = nn.Parameter(torch.empty(config.elements, config.dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw positions and dictionary: rows of unit length in expectation, so W starts at the scale of tokens."""
        nn.init.normal_(self.positions_LD, std=0.02)
        nn.init.normal_(self.dictionary_CD, std=self.config.dim**-0.5)

    def tokens(self, crops_B3HW: Tensor, euler_B3: Tensor | None) -> Tensor:
        """E [B,L,D]: patch tokens with positions and, if configured, Euler embeddings.

        Args:
            crops_B3HW: [B,3,H,W] float RGB in -1..1, H = W = config.image_size.
            euler_B3: [B,3] pitch, yaw, roll in degrees; ignored (may be None) when `config.euler` is false.

        Raises:
            ValueError: for another size, or missing angles.
        """
        size = self.config.image_size
        if tuple(crops_B3HW.shape[1:]) != (3, size, size):
            raise ValueError(f"face crops must be [B,3,{size},{size}], got {tuple(crops_B3HW.shape)}")
        e_BLD: Tensor = self.tokenizer(crops_B3HW).flatten(2).transpose(1, 2) + self.positions_LD
        if self.euler is not None:
            if euler_B3 is None:
                raise ValueError("this aligner embeds Euler angles (Aligner.euler): give euler_B3 in degrees")
            e_BLD = e_BLD + self.euler(euler_B3).unsqueeze(1)
        for block in self.blocks:
            e_BLD = block(e_BLD)
        return e_BLD

    def forward(self, crops_B3HW: Tensor, euler_B3: Tensor | None = None) -> Aligned:
        """S [B,D] and W [B,C]; arguments as `tokens` takes them."""
        w_BC = pool_correlations(self.tokens(crops_B3HW, euler_B3), self.dictionary_CD, self.config.pooling)
        return Aligned(w_BC @ self.dictionary_CD, w_BC)
