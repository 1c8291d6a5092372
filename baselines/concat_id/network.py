"""What Concat-ID changes in Wan: a reference frame after the video, right of it, without text, with its own AdaLN."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from baselines.wan.loading import refuse_gaps
from baselines.wan.rotary import grid, rotary
from ffbench.errors import UserError

Table = Sequence[Tensor]
"""Shift, scale and gate of attention, then of the feed-forward network; each [1,1,D]."""
TIME = "time_projection_ref.1."


def split(stored: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weights of Wan's transformer, and those that the AdaLN stage adds; the second is empty for the first stage."""
    added = {key for key in stored if key.startswith("time_projection_ref.") or key.endswith(".modulation_ref")}
    return {k: v for k, v in stored.items() if k not in added}, {k: v for k, v in stored.items() if k in added}


class ConcatIDNetwork(nn.Module):
    """`WanTransformer3DModel` that is given a reference frame; without one it is the transformer itself.

    Args:
        transformer: text-to-video, frozen.
        added: of `split`; empty for the first stage.
        source: where they come from, for messages.

    Raises:
        UserError: keys or shapes that are not those of the transformer.
    """

    def __init__(self, transformer: Any, added: Mapping[str, Tensor], source: str) -> None:
        super().__init__()
        self.transformer = transformer
        self.reference: Tensor | None = None
        """Normalised latents [1,16,1,h,w], as large as the video's."""
        self.adaln = bool(added)
        if not self.adaln:
            return
        width = transformer.config.num_attention_heads * transformer.config.attention_head_dim
        keys = [f"blocks.{index}.modulation_ref" for index in range(len(transformer.blocks))]
        shapes = {
            f"{TIME}weight": (6 * width, width),
            f"{TIME}bias": (6 * width,),
            **dict.fromkeys(keys, (1, 6, width)),
        }
        refuse_gaps(source, set(shapes) - set(added), set(added) - set(shapes))
        for key, shape in shapes.items():
            if tuple(added[key].shape) != shape:
                raise UserError(f"{source}: {key} is {list(added[key].shape)}, not {list(shape)}", "give its own base")
        # in the dtypes of what they stand beside: time_proj and scale_shift_table
        self.time_weight, self.time_bias = (frozen(added[TIME + name].to(self.dtype)) for name in ("weight", "bias"))
        self.tables = nn.ParameterList(frozen(added[key].float()) for key in keys)

    @property
    def dtype(self) -> torch.dtype:
        """Of the transformer's large weights."""
        return self.transformer.dtype  # type: ignore[no-any-return]

    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        encoder_hidden_states_image: None = None,
        return_dict: bool = False,
    ) -> tuple[Tensor]:
        """Velocity [B,16,F,h,w] of the video [B,16,F,h,w], (arXiv:2503.14151); arguments as the transformer's.

        Timesteps are rounded to the transformer's dtype, as the authors' sampler rounds them.
        """
        model, t = self.transformer, timestep.to(self.dtype).float()
        tokens = model.patch_embedding(hidden_states)
        shape, x = tuple(tokens.shape[2:]), tokens.flatten(2).transpose(1, 2).contiguous()
        count, positions = x.shape[1], grid(shape)
        if self.reference is not None:
            shown = model.patch_embedding(self.reference.to(hidden_states).expand(len(x), -1, -1, -1, -1))
            x = torch.cat([x, shown.flatten(2).transpose(1, 2)], 1)
            frames, rows, columns = shape
            positions = torch.cat([positions, grid((1, rows, columns), (frames, 0, columns))])
        turn = rotary(model.rope, positions.to(x.device))
        temb, modulation, text, _ = model.condition_embedder(t, encoder_hidden_states)
        own = nn.functional.linear(nn.functional.silu(temb), self.time_weight, self.time_bias) if self.adaln else None
        for index, block in enumerate(model.blocks):
            video = tables(block.scale_shift_table, modulation)
            other = video if own is None else swapped(tables(self.tables[index], own))
            x = step(block, x, text, turn, (count, video, other))
        shift, scale = (model.scale_shift_table + temb.unsqueeze(1)).chunk(2, 1)
        y = model.proj_out((model.norm_out(x[:, :count].float()) * (1 + scale) + shift).type_as(x))
        patches = y.unflatten(1, shape).unflatten(-1, (*model.config.patch_size, -1))
        return (patches.permute(0, 7, 1, 4, 2, 5, 3, 6).flatten(6, 7).flatten(4, 5).flatten(2, 3),)


def tables(table: Tensor, modulation: Tensor) -> Table:
    """Learned [1,6,D] plus what the timestep adds, [1,6 D], in float32."""
    return (table + modulation.unflatten(1, (6, -1)).float()).chunk(6, 1)


def swapped(table: Table) -> Table:
    """With attention's shift and scale on the feed-forward input too: so the authors trained the reference's."""
    shift, scale, gate, _, _, gate_ffn = table
    return shift, scale, gate, shift, scale, gate_ffn


def step(block: Any, x: Tensor, text: Tensor, turn: tuple[Tensor, Tensor], groups: tuple[int, Table, Table]) -> Tensor:
    """One block: all tokens attend to all; the first n see the text; each of the two groups has its own table.

    Args:
        block: `WanTransformerBlock`.
        x: [B,N,D], the video's n tokens and then the reference's.
        text: [B,512,D].
        turn: of `rotary`.
        groups: n, the video's table, the reference's.
    """
    n, video, own = groups

    def modulated(y: Tensor, at: int) -> Tensor:
        parts = (y[:, :n] * (1 + video[at + 1]) + video[at], y[:, n:] * (1 + own[at + 1]) + own[at])
        return torch.cat(parts, 1).type_as(x)

    def gated(before: Tensor, y: Tensor, at: int) -> Tensor:
        parts = (before[:, :n].float() + y[:, :n] * video[at], before[:, n:].float() + y[:, n:] * own[at])
        return torch.cat(parts, 1).type_as(x)

    x = gated(x, block.attn1(modulated(block.norm1(x.float()), 0), None, None, turn), 2)
    seen = block.attn2(block.norm2(x[:, :n].float()).type_as(x), text, None, None)
    x = torch.cat([x[:, :n] + seen, x[:, n:]], 1)
    return gated(x, block.ffn(modulated(block.norm3(x.float()), 3)).float(), 5)


def frozen(tensor: Tensor) -> nn.Parameter:
    """A parameter that is not trained."""
    return nn.Parameter(tensor, requires_grad=False)
