"""Wan 2.1 restated in float64 on weights in its own key layout: complex rotations, one token after the other's rule."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class PlainWan:
    """Parts of the network for sequences [N,D] without a batch."""

    def __init__(self, weights: Mapping[str, Tensor], heads: int = 2) -> None:
        self.weights = {key: value.double() for key, value in weights.items()}
        self.heads = heads
        self.layers = 1 + max(int(key.split(".")[1]) for key in weights if key.startswith("blocks."))
        self.width = self.weights["patch_embedding.bias"].numel()

    def linear(self, name: str, x: Tensor) -> Tensor:
        return x @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def patches(self, latents: Tensor, name: str = "patch_embedding") -> Tensor:
        """[C,F,h,w] to [F*h/2*w/2,D], patch by patch."""
        weight, bias = self.weights[f"{name}.weight"][:, :, 0], self.weights[f"{name}.bias"]
        _, frames, height, width = latents.shape
        cells = [(f, y, x) for f in range(frames) for y in range(0, height, 2) for x in range(0, width, 2)]
        taken = [latents.double()[:, f, y : y + 2, x : x + 2] for f, y, x in cells]
        return torch.stack([(weight * cell).sum((1, 2, 3)) + bias for cell in taken])

    def time(self, t: float) -> Tensor:
        """Embedding [D] of a timestep."""
        rates = 10000.0 ** (-torch.arange(128, dtype=torch.float64) / 128)
        wave = torch.cat([(t * rates).cos(), (t * rates).sin()])
        return self.linear("time_embedding.2", torch.nn.functional.silu(self.linear("time_embedding.0", wave)))

    def table(self, index: int, embedding: Tensor, own: str = "", stack: str = "blocks") -> Tensor:
        """[6,D]: shift, scale, gate of attention, then of the feed-forward network."""
        projected = self.linear(f"time_projection{own}.1", torch.nn.functional.silu(embedding))
        return self.weights[f"{stack}.{index}.modulation{own}"][0] + projected.view(6, -1)

    def context(self, text: Tensor) -> Tensor:
        hidden = torch.nn.functional.gelu(self.linear("text_embedding.0", text.double()), approximate="tanh")
        return self.linear("text_embedding.2", hidden)

    @staticmethod
    def normed(x: Tensor) -> Tensor:
        return (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + 1e-6).sqrt()

    def rms(self, name: str, x: Tensor) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * self.weights[f"{name}.weight"]

    def projected(self, name: str, x: Tensor, extra: Mapping[str, Tensor] | None = None) -> list[Tensor]:
        """Normalised queries and keys, and values, [N,D]; `extra` is added to each before that."""
        q, k, v = (self.linear(f"{name}.{part}", x) + (0 if extra is None else extra[part]) for part in "qkv")
        return [self.rms(f"{name}.norm_q", q), self.rms(f"{name}.norm_k", k), v]

    def turned(self, x: Tensor, positions: Tensor) -> Tensor:
        """[N,D] with each pair of each head's channels multiplied by exp(i p / 10000^(2j/n)) of its axis."""
        size = x.shape[1] // self.heads
        third = 2 * (size // 6)
        rates = [10000.0 ** (-torch.arange(0, n, 2, dtype=torch.float64) / n) for n in (size - 2 * third, third, third)]
        angles = torch.cat([positions[:, axis, None].double() * rate for axis, rate in enumerate(rates)], 1)
        pairs = torch.view_as_complex(x.view(len(x), self.heads, -1, 2).contiguous())
        return torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)[:, None]).reshape(x.shape)

    def mixed(self, q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None = None) -> Tensor:
        """softmax(q k' / sqrt(d)) v of each head; `seen` [N,M] is True where row i sees column j."""
        heads = []
        for part in range(self.heads):
            a, b, c = (x.chunk(self.heads, 1)[part] for x in (q, k, v))
            scores = a @ b.T / a.shape[1] ** 0.5
            heads.append((scores if seen is None else scores.masked_fill(~seen, -torch.inf)).softmax(1) @ c)
        return torch.cat(heads, 1)

    def attend(self, name: str, q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None = None) -> Tensor:
        """Attention with an explicit mask, and its output projection."""
        return self.linear(f"{name}.o", self.mixed(q, k, v, seen))

    def looked_up(
        self, index: int, x: Tensor, context: Tensor, image: Tensor | None = None, stack: str = "blocks"
    ) -> Tensor:
        """Cross-attention of tokens [N,D] to the text, and beside it to the image's tokens where there are some."""
        name = f"{stack}.{index}.cross_attn"
        y = self.normed(x) * self.weights[f"{stack}.{index}.norm3.weight"] + self.weights[f"{stack}.{index}.norm3.bias"]
        q = self.rms(f"{name}.norm_q", self.linear(f"{name}.q", y))
        k = self.rms(f"{name}.norm_k", self.linear(f"{name}.k", context))
        seen = self.mixed(q, k, self.linear(f"{name}.v", context))
        if image is not None:
            k = self.rms(f"{name}.norm_k_img", self.linear(f"{name}.k_img", image))
            seen = seen + self.mixed(q, k, self.linear(f"{name}.v_img", image))
        return self.linear(f"{name}.o", seen)

    def fed(self, index: int, x: Tensor, stack: str = "blocks") -> Tensor:
        hidden = torch.nn.functional.gelu(self.linear(f"{stack}.{index}.ffn.0", x), approximate="tanh")
        return self.linear(f"{stack}.{index}.ffn.2", hidden)

    def shown(self, tokens: Tensor) -> Tensor:
        """CLIP's tokens [N,D'] as the blocks see them."""
        x = self.affine("img_emb.proj.0", tokens.double())
        x = torch.nn.functional.gelu(self.linear("img_emb.proj.1", x))
        return self.affine("img_emb.proj.4", self.linear("img_emb.proj.3", x))

    def affine(self, name: str, x: Tensor) -> Tensor:
        """Layer norm with weights, and the 1e-5 of PyTorch's default."""
        x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
        return x * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]

    def block(self, stack: str, index: int, x: Tensor, given: tuple[Tensor, Tensor, Tensor, Tensor | None]) -> Tensor:
        """One block on tokens that are all alike; given are embedding of the time, positions, text and image."""
        embedding, positions, context, image = given
        shift, scale, gate, shift_ffn, scale_ffn, gate_ffn = self.table(index, embedding, stack=stack)
        name = f"{stack}.{index}.self_attn"
        q, k, v = self.projected(name, self.normed(x) * (1 + scale) + shift)
        x = x + gate * self.attend(name, self.turned(q, positions), self.turned(k, positions), v)
        x = x + self.looked_up(index, x, context, image, stack)
        return x + gate_ffn * self.fed(index, self.normed(x) * (1 + scale_ffn) + shift_ffn, stack)

    def __call__(
        self, latents: Tensor, t: float, text: Tensor, image: Tensor | None = None, control: Tensor | None = None
    ) -> Tensor:
        """Velocity [16,F,h,w]: Wan's text-to-video, image-to-video (with CLIP's tokens) or VACE (with its context)."""
        _, frames, height, width = latents.shape
        shape, embedding = (frames, height // 2, width // 2), self.time(t)
        shown = None if image is None else self.shown(image)
        given = (embedding, cells(shape), self.context(text), shown)
        x = self.patches(latents)
        hints = {} if control is None else self.hints(x, control, given)
        for index in range(self.layers):
            x = self.block("blocks", index, x, given) + hints.get(index, 0)
        return self.head(x, embedding, shape)

    def hints(self, x: Tensor, control: Tensor, given: tuple[Tensor, Tensor, Tensor, Tensor | None]) -> dict:
        """What VACE's branch adds after blocks 0, 2, 4, ... of the main one, whose input it sees (arXiv:2503.07598)."""
        c, found = self.patches(control, "vace_patch_embedding"), {}
        count = 1 + max(int(key.split(".")[1]) for key in self.weights if key.startswith("vace_blocks."))
        for index in range(count):
            if index == 0:
                c = self.linear("vace_blocks.0.before_proj", c) + x
            c = self.block("vace_blocks", index, c, given)
            found[2 * index] = self.linear(f"vace_blocks.{index}.after_proj", c)
        return found

    def head(self, x: Tensor, embedding: Tensor, shape: tuple[int, int, int]) -> Tensor:
        """[F*h*w,D] to velocity [16,F,2h,2w]."""
        shift, scale = self.weights["head.modulation"][0] + embedding
        cells = self.linear("head.head", self.normed(x) * (1 + scale) + shift).view(*shape, 2, 2, 16)
        frames, rows, columns = shape
        return cells.permute(5, 0, 1, 3, 2, 4).reshape(16, frames, 2 * rows, 2 * columns)


def cells(shape: tuple[int, int, int], frame: int = 0, row: int = 0, column: int = 0) -> Tensor:
    """Positions [N,3] of a block of tokens whose first is at (frame, row, column)."""
    frames, rows, columns = shape
    found = [(frame + f, row + y, column + x) for f in range(frames) for y in range(rows) for x in range(columns)]
    return torch.tensor(found)
