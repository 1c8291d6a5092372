"""Triton kernel of the correlation-max-pool: the product and the maximum in one pass.

One program holds the running maximum of BLOCK_C elements of one crop and walks over its tokens; scores live in
registers only. On a CPU it runs under `TRITON_INTERPRET=1`, for tests.
"""

from __future__ import annotations

import os

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK_L, BLOCK_C, BLOCK_D = 64, 128, 64
UPCAST = os.environ.get("TRITON_INTERPRET") == "1"
"""The interpreter's dot product misreads bfloat16 operands (triton of torch 2.15): there they are widened first."""


@triton.jit  # type: ignore[untyped-decorator]  # triton is not typed
def _kernel(  # type: ignore[no-untyped-def]  # pointers and numbers of the device
    tokens, dictionary, values, winners, L, C, D,
    BLOCK_L: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_D: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    crop = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    best = tl.full((BLOCK_C,), float("-inf"), tl.float32)
    where = tl.zeros((BLOCK_C,), tl.int32)
    for start in range(0, L, BLOCK_L):
        row = start + tl.arange(0, BLOCK_L)
        scores = tl.zeros((BLOCK_L, BLOCK_C), tl.float32)
        for k in range(0, D, BLOCK_D):
            d = k + tl.arange(0, BLOCK_D)
            e = tl.load(
                tokens + crop * L * D + row[:, None] * D + d[None, :],
                mask=(row[:, None] < L) & (d[None, :] < D),
                other=0.0,
            )
            w = tl.load(
                dictionary + c[None, :].to(tl.int64) * D + d[:, None],
                mask=(c[None, :] < C) & (d[:, None] < D),
                other=0.0,
            )
            if UPCAST:
                e, w = e.to(tl.float32), w.to(tl.float32)
            scores = tl.dot(e, w, scores, input_precision="ieee")
        # NaN must win: it becomes +inf for the comparison and is put back in the host
        rank = tl.where(scores != scores, float("inf"), scores)
        rank = tl.where(row[:, None] < L, rank, float("-inf"))
        top = tl.max(rank, axis=0)
        # the first token among equals, as torch.max promises
        first = tl.min(tl.where(rank == top[None, :], row[:, None], L), axis=0)
        better = (top > best) | (start == 0)
        where = tl.where(better, first, where)
        best = tl.where(better, top, best)
    place = crop * C + c
    tl.store(values + place, best, mask=c < C)
    tl.store(winners + place, where, mask=c < C)


def forward(tokens_BLD: Tensor, dictionary_CD: Tensor) -> tuple[Tensor, Tensor]:
    """Maximum [B,C] in the dtype of the tokens and winning token int64 [B,C]; see `faithfulfaces.maxpool`."""
    tokens, dictionary = tokens_BLD.contiguous(), dictionary_CD.contiguous()
    B, L, D = tokens.shape
    C = dictionary.shape[0]
    values = torch.empty(B, C, dtype=torch.float32, device=tokens.device)
    winners = torch.empty(B, C, dtype=torch.int32, device=tokens.device)
    if B and C:
        grid = (B, triton.cdiv(C, BLOCK_C))
        _kernel[grid](tokens, dictionary, values, winners, L, C, D, BLOCK_L, BLOCK_C, BLOCK_D, UPCAST)
    infinite = values == float("inf")
    if bool(infinite.any()):
        # an infinite maximum is a true infinity or a NaN: look at those few scores themselves
        b, c = infinite.nonzero(as_tuple=True)
        scores = (tokens[b].float() @ dictionary[c].float().unsqueeze(-1)).squeeze(-1)
        values[b, c], first = scores.max(dim=1)
        winners[b, c] = first.to(torch.int32)
    return values.to(tokens.dtype), winners.long()
