"""Frozen configurations. Checks live in `__post_init__`; their messages name the field."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Pooling = Literal["max", "mean", "sum"]
Stack = Literal["blocks", "vace_blocks"]
Attention = Literal["attn1", "attn2"]


@dataclass(frozen=True, kw_only=True)
class Aligner:
    """Shape of the pose-shared identity aligner (paper, Section 3.3). **open** marks what the paper leaves open."""

    elements: int = 4096
    """C, dictionary elements (Appendix A.2)."""
    dim: int = 1024
    """D, width of tokens and elements. **open**."""
    image_size: int = 224
    """Side of the square face crop in px. **open**."""
    patch: int = 16
    """Side of a token's patch in px; L = (image_size / patch)^2. **open**."""
    depth: int = 0
    """Pre-norm transformer blocks between tokenizer and dictionary; 0 is the paper's letter. **open**."""
    heads: int = 16
    """Attention heads of those blocks."""
    pooling: Pooling = "max"
    """Over tokens, Eq. 3 and Appendix A.4."""
    euler: bool = True
    """Whether Euler-angle embeddings are added to the tokens (Table 2)."""
    shortest_period: float = 30.0
    """Degrees of the fastest sinusoid of the Euler embedding. **open**."""
    longest_period: float = 720.0
    """Degrees of the slowest one. **open**."""

    def __post_init__(self) -> None:
        for field in ("elements", "dim", "image_size", "patch", "heads"):
            if getattr(self, field) < 1:
                raise ValueError(f"Aligner.{field} must be at least 1, got {getattr(self, field)}")
        if self.depth < 0:
            raise ValueError(f"Aligner.depth cannot be negative, got {self.depth}")
        if self.image_size % self.patch:
            raise ValueError(f"Aligner.image_size {self.image_size} is no multiple of Aligner.patch {self.patch}")
        if self.depth and self.dim % self.heads:
            raise ValueError(f"Aligner.dim {self.dim} is no multiple of Aligner.heads {self.heads}")
        if self.pooling not in ("max", "mean", "sum"):
            raise ValueError(f"Aligner.pooling must be max, mean or sum, got {self.pooling!r}")
        if not 0 < self.shortest_period < self.longest_period:
            raise ValueError(
                f"Aligner.shortest_period {self.shortest_period} must lie between 0 and "
                f"Aligner.longest_period {self.longest_period}"
            )

    @property
    def num_tokens(self) -> int:
        """L, tokens of one face crop."""
        return (self.image_size // self.patch) ** 2


@dataclass(frozen=True, kw_only=True)
class Lora:
    """Low-rank adapters on the query, key and value projections of VACE (paper, Section 4.1).

    **open**: whether cross-attention and the VACE stack are included; default all.
    """

    rank: int = 128
    """r, Section 4.1."""
    alpha: float = 128.0
    """The adapter's output is scaled by alpha / rank. **open**."""
    stacks: tuple[Stack, ...] = ("blocks", "vace_blocks")
    """`blocks` are the main transformer's, `vace_blocks` the identity encoder's."""
    attentions: tuple[Attention, ...] = ("attn1", "attn2")
    """`attn1` is self-attention, `attn2` cross-attention to the text."""

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"Lora.rank must be at least 1, got {self.rank}")
        if not 0 < self.alpha < float("inf"):
            raise ValueError(f"Lora.alpha must be above 0, got {self.alpha}")
        for field, allowed in (("stacks", get_args(Stack)), ("attentions", get_args(Attention))):
            chosen = getattr(self, field)
            if not chosen or len(set(chosen)) != len(chosen) or not set(chosen) <= set(allowed):
                raise ValueError(f"Lora.{field} must hold one or more of {', '.join(allowed)}, got {chosen!r}")
