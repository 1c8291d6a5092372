"""Fused correlation-max-pool: max over tokens of E D^T (Eq. 3) without ever holding the product.

Shapes: B face crops, L tokens, C dictionary elements, D width. At the paper's size the product [B,L,C] of 2048 crops is
6.6 GB in float32; kept are the maximum and the winning token of each (crop, element). The gradient flows through
winners alone, L times fewer products than the dense backward. Among equal tokens the first wins; NaN wins over all.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

CHUNK_BYTES = 8 * 2**20
"""Bound on each temporary; the backward pass holds about seven at a time."""


def correlation_max_pool(tokens_BLD: Tensor, dictionary_CD: Tensor) -> Tensor:
    """W[b,c] = max over l of <E[b,l], D[c]>.

    Args:
        tokens_BLD: [B,L,D] float32, bfloat16 or float16, whose products accumulate in float32; on a CPU also float64.
        dictionary_CD: [C,D], same dtype and device.

    Returns:
        [B,C] of the same dtype; differentiable in both arguments.

    Raises:
        ValueError: for shapes, dtypes or devices that do not fit.
    """
    if tokens_BLD.ndim != 3 or dictionary_CD.ndim != 2 or tokens_BLD.shape[2] != dictionary_CD.shape[1]:
        raise ValueError(
            f"tokens must be [B,L,D] and the dictionary [C,D], got {tuple(tokens_BLD.shape)} and "
            f"{tuple(dictionary_CD.shape)}"
        )
    if tokens_BLD.shape[1] == 0:
        raise ValueError("a maximum over no tokens does not exist: L is 0")
    if tokens_BLD.dtype != dictionary_CD.dtype or tokens_BLD.device != dictionary_CD.device:
        raise ValueError(
            f"tokens ({tokens_BLD.dtype}, {tokens_BLD.device}) and dictionary ({dictionary_CD.dtype}, "
            f"{dictionary_CD.device}) must agree"
        )
    result: Tensor = _CorrelationMaxPool.apply(tokens_BLD, dictionary_CD)
    return result


def _forward(tokens_BLD: Tensor, dictionary_CD: Tensor) -> tuple[Tensor, Tensor]:
    if tokens_BLD.is_cuda or os.environ.get("TRITON_INTERPRET") == "1":
        from faithfulfaces.maxpool_triton import forward

        return forward(tokens_BLD, dictionary_CD)
    return chunked_forward(tokens_BLD, dictionary_CD)


def chunked_forward(tokens_BLD: Tensor, dictionary_CD: Tensor) -> tuple[Tensor, Tensor]:
    """Maximum [B,C] and winning token int64 [B,C], with temporaries bounded by CHUNK_BYTES."""
    B, L, _ = tokens_BLD.shape
    C = dictionary_CD.shape[0]
    values_BC = tokens_BLD.new_empty(B, C)
    winners_BC = torch.empty(B, C, dtype=torch.int64, device=tokens_BLD.device)
    elements = max(1, min(C, CHUNK_BYTES // (L * tokens_BLD.element_size())))
    crops = max(1, CHUNK_BYTES // (L * elements * tokens_BLD.element_size()))
    for b in range(0, B, crops):
        for c in range(0, C, elements):
            scores = tokens_BLD[b : b + crops] @ dictionary_CD[c : c + elements].T
            values, winners = scores.max(dim=1)
            values_BC[b : b + crops, c : c + elements] = values
            winners_BC[b : b + crops, c : c + elements] = winners
    return values_BC, winners_BC


class _CorrelationMaxPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tokens_BLD: Tensor, dictionary_CD: Tensor) -> Tensor:
        values_BC, winners_BC = _forward(tokens_BLD, dictionary_CD)
        ctx.save_for_backward(tokens_BLD, dictionary_CD, winners_BC)
        return values_BC

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None]:
        tokens_BLD, dictionary_CD, winners_BC = ctx.saved_tensors
        grad_BC = grads[0]
        grad_tokens = (
            _tokens_gradient(tokens_BLD, dictionary_CD, winners_BC, grad_BC) if ctx.needs_input_grad[0] else None
        )
        grad_dictionary = _dictionary_gradient(tokens_BLD, winners_BC, grad_BC) if ctx.needs_input_grad[1] else None
        return grad_tokens, grad_dictionary


def _dictionary_gradient(tokens_BLD: Tensor, winners_BC: Tensor, grad_BC: Tensor) -> Tensor:
    """dD[c] = sum over b of g[b,c] E[b, winner[b,c]]: a weighted bag of token rows for each element."""
    B, L, D = tokens_BLD.shape
    rows_LD = tokens_BLD.reshape(B * L, D)
    first_B = torch.arange(B, device=winners_BC.device) * L
    grad_CD = tokens_BLD.new_zeros(winners_BC.shape[1], D)
    step = max(1, CHUNK_BYTES // (8 * max(B, 1)))
    for c in range(0, len(grad_CD) if B else 0, step):
        bags = (winners_BC[:, c : c + step] + first_B[:, None]).T.contiguous()
        weights = grad_BC[:, c : c + step].T.contiguous().to(rows_LD.dtype)
        grad_CD[c : c + step] = F.embedding_bag(bags, rows_LD, per_sample_weights=weights, mode="sum")
    return grad_CD


def _tokens_gradient(tokens_BLD: Tensor, dictionary_CD: Tensor, winners_BC: Tensor, grad_BC: Tensor) -> Tensor:
    """dE[b,l] = sum over the elements c that token l won of g[b,c] D[c]: a bag of dictionary rows for each token."""
    B, L, D = tokens_BLD.shape
    C = len(dictionary_CD)
    grad_BLD = torch.zeros_like(tokens_BLD, memory_format=torch.contiguous_format)
    step = max(1, CHUNK_BYTES // (8 * max(C, 1)))
    for b in range(0, B if C else 0, step):
        # elements in the order of the token that they chose, so that each token's bag is one run
        token_bC, order_bC = winners_BC[b : b + step].sort(dim=1, stable=True)
        weights_bC = grad_BC[b : b + step].gather(1, order_bC).to(dictionary_CD.dtype)
        starts_bL = torch.searchsorted(
            token_bC, torch.arange(L, device=token_bC.device).expand(len(token_bC), L).contiguous()
        )
        offsets = starts_bL + torch.arange(len(token_bC), device=token_bC.device)[:, None] * C
        bags = F.embedding_bag(
            order_bC.flatten(), dictionary_CD, offsets.flatten(), per_sample_weights=weights_bC.flatten(), mode="sum"
        )
        grad_BLD[b : b + step] = bags.view(len(token_bC), L, D)
    return grad_BLD
