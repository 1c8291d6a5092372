"""The pose-faithful prior: where S of the aligner enters VACE (paper, Section 3.2: "injected into the noisy videos").

How exactly is **open** in the paper. Three ways, all leaving diffusers' model and sampling loop untouched (hooks on two
of its submodules), all exactly the base model while the projection is zero:

    add         projection(S) is added to every patch-embedded token of the noisy video (default)
    token       projection(S) is added to the last context position, which is padding of any prompt below 512 tokens
    modulation  projection(S) is added to the six AdaLN terms that the timestep gives every block

Shapes: B videos, D width of S, M width of the transformer.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

Injection = Literal["add", "token", "modulation"]


class Prior(nn.Module):
    """A zero-initialised projection of S, projection(S) = P LayerNorm(S) + b, and the place where it enters.

    Args:
        dim: D.
        width: M, `num_attention_heads * attention_head_dim` of the transformer.
        injection: `add`, `token` or `modulation`.

    Raises:
        ValueError: for another injection.
    """

    def __init__(self, dim: int, width: int, injection: Injection = "add") -> None:
        super().__init__()
        if injection not in get_args(Injection):
            raise ValueError(f"injection must be one of {', '.join(get_args(Injection))}, got {injection!r}")
        self.injection = injection
        # S grows with the number of elements: the norm makes the prior's scale independent of the dictionary's size
        self.norm = nn.LayerNorm(dim)
        self.projection = nn.Linear(dim, 6 * width if injection == "modulation" else width)
        nn.init.zeros_(self.projection.weight)
        nn.init.zeros_(self.projection.bias)

    def forward(self, s_BD: Tensor) -> Tensor:
        """S [B,D] of any float dtype -> [B,M], or [B,6M] for modulation, in the dtype of the projection."""
        projected: Tensor = self.projection(self.norm(s_BD.to(self.projection.weight.dtype)))
        return projected

    @contextmanager
    def attached(self, transformer: Any, s_BD: Tensor | None, scale: float = 1.0) -> Iterator[None]:
        """While inside, every forward of the transformer carries the prior times `scale`; `None` attaches nothing.

        A batch of kB latents (guidance in one batch) repeats S k times: the prior stays in both branches.

        Raises:
            ValueError: inside, when the transformer's batch is no multiple of B.
        """
        if s_BD is None:
            yield
            return
        prior_BM = self(s_BD) * scale
        if self.injection == "add":
            handle = transformer.patch_embedding.register_forward_hook(_add_to_video(prior_BM))
        else:
            hook = _add_to_last_token(prior_BM) if self.injection == "token" else _add_to_modulation(prior_BM)
            handle = transformer.condition_embedder.register_forward_hook(hook)
        try:
            yield
        finally:
            handle.remove()


def _add_to_video(prior_BM: Tensor) -> Any:
    def hook(_: nn.Module, __: Any, video_BMFHW: Tensor) -> Tensor:
        return video_BMFHW + _spread(prior_BM, video_BMFHW)[:, :, None, None, None]

    return hook


def _add_to_last_token(prior_BM: Tensor) -> Any:
    def hook(_: nn.Module, __: Any, output: tuple[Tensor, Tensor, Tensor, Tensor | None]) -> tuple[Any, ...]:
        temb, modulation, text_BLM, image = output
        last_B1M = text_BLM[:, -1:] + _spread(prior_BM, text_BLM)[:, None]
        return temb, modulation, torch.cat([text_BLM[:, :-1], last_B1M], dim=1), image

    return hook


def _add_to_modulation(prior_BM: Tensor) -> Any:
    def hook(_: nn.Module, __: Any, output: tuple[Tensor, Tensor, Tensor, Tensor | None]) -> tuple[Any, ...]:
        temb, modulation_BM, text, image = output
        return temb, modulation_BM + _spread(prior_BM, modulation_BM), text, image

    return hook


def _spread(prior_BM: Tensor, like: Tensor) -> Tensor:
    repeats, rest = divmod(len(like), len(prior_BM))
    if rest:
        raise ValueError(f"a batch of {len(like)} cannot carry the priors of {len(prior_BM)} faces")
    return prior_BM.repeat(repeats, *[1] * (prior_BM.ndim - 1)).to(like)
