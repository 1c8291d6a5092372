"""What Stand-In adds to Wan: keys and values of a reference, made once a video and seen by every video token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from baselines.standin.attention import PROJECTIONS, LowRank, SeesReference, attend, project
from baselines.wan.loading import refuse_gaps
from baselines.wan.rotary import grid, rotary
from ffbench.errors import UserError


class StandInNetwork(nn.Module):
    """`WanTransformer3DModel` beside the low-rank weights of the reference's path.

    Args:
        transformer: text-to-video, frozen; the processors of its self-attention are replaced.
        state: `blocks.N.self_attn.{q,k,v}_loras.{down,up}.weight` of every block.
        source: where they come from, for messages.

    Raises:
        UserError: keys or shapes that are not those of the transformer.
    """

    def __init__(self, transformer: Any, state: Mapping[str, Tensor], source: str) -> None:
        super().__init__()
        self.transformer = transformer
        self._pending: Tensor | None = None
        keys = {
            f"blocks.{index}.self_attn.{name}_loras.{part}.weight"
            for index in range(len(transformer.blocks))
            for name in PROJECTIONS
            for part in ("down", "up")
        }
        refuse_gaps(source, keys - set(state), set(state) - keys)
        self.low_rank = nn.ModuleList()
        width = transformer.config.num_attention_heads * transformer.config.attention_head_dim
        for index, block in enumerate(transformer.blocks):
            pairs = nn.ModuleDict()
            for name in PROJECTIONS:
                prefix = f"blocks.{index}.self_attn.{name}_loras"
                down, up = state[f"{prefix}.down.weight"], state[f"{prefix}.up.weight"]
                if down.shape[1:] != (width,) or up.shape != (width, len(down)):
                    raise UserError(f"{source}: {prefix} is not of width {width}", "give the base that it belongs to")
                pairs[name] = LowRank(down, up)
            self.low_rank.append(pairs)
            block.attn1.set_processor(SeesReference())

    @property
    def dtype(self) -> torch.dtype:
        """Of the transformer's large weights."""
        return self.transformer.dtype  # type: ignore[no-any-return]

    def look_at(self, reference_1Chw: Tensor | None) -> None:
        """Let every later forward see this reference, normalised latents [1,16,1,h,w], or none."""
        self._pending = reference_1Chw
        for block in self.transformer.blocks:
            block.attn1.processor.reference = None

    def forward(self, hidden_states: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, **options: Any) -> Any:
        """As the transformer; timesteps are rounded to its dtype, as the authors' sampler rounds them."""
        if self._pending is not None:
            _, rows, columns = self.transformer.config.patch_size
            video = hidden_states.shape[3] // rows, hidden_states.shape[4] // columns
            memory = self.remember(self._pending.to(hidden_states.device), video)
            for block, pair in zip(self.transformer.blocks, memory, strict=True):
                block.attn1.processor.reference = pair
            self._pending = None
        return self.transformer(hidden_states, timestep.to(self.dtype).float(), encoder_hidden_states, **options)

    @torch.no_grad()
    def remember(self, reference: Tensor, video: tuple[int, int]) -> list[tuple[Tensor, Tensor]]:
        """Keys (turned) and values [1,n,heads,d] of the reference in every block (arXiv:2508.07901).

        Its path is Wan's own at timestep 0, without cross-attention, with the low-rank weights on q, k and v, and with
        attention to itself alone. So it depends on nothing that changes from step to step.

        Args:
            reference: normalised latents [1,16,1,h,w].
            video: rows and columns of the video's tokens. The reference stands at frame -1, right of and below them.
        """
        model = self.transformer
        tokens = model.patch_embedding(reference.to(model.dtype))
        turn = rotary(model.rope, grid(tuple(tokens.shape[2:]), (-1, *video)).to(reference.device))
        x = tokens.flatten(2).transpose(1, 2)
        embedder = model.condition_embedder
        # text of no length: only the timestep is embedded
        text = x.new_zeros(1, 0, model.config.text_dim)
        _, modulation, _, _ = embedder(torch.zeros(1, device=x.device), text)
        memory = []
        for block, pairs in zip(model.blocks, self.low_rank, strict=True):
            table = block.scale_shift_table + modulation.unflatten(1, (6, -1)).float()
            shift, scale, gate, shift_ffn, scale_ffn, gate_ffn = table.chunk(6, 1)
            y = (block.norm1(x.float()) * (1 + scale) + shift).type_as(x)
            q, k, v = project(block.attn1, y, turn, pairs)
            memory.append((k, v))
            x = (x.float() + attend(block.attn1, q, k, v) * gate).type_as(x)
            y = (block.norm3(x.float()) * (1 + scale_ffn) + shift_ffn).type_as(x)
            x = (x.float() + block.ffn(y).float() * gate_ffn).type_as(x)
        return memory
