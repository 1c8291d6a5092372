"""The mini world's video codec: patches to latents by principal components, back by a linear map of 3 x 3 latents.

Fitted in closed form; it has the interface of diffusers' `AutoencoderKLWan` as far as the VACE pipeline uses it. The
first frame is packed alone, the others in pairs. Shapes: B videos, T = 2 F - 1 frames, F latent frames, z channels,
h = H / 8, w = W / 8.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, overload

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional as F

PATCH, PAIR = 8, 2


class Posterior:
    """A distribution without width: the encoder is deterministic."""

    def __init__(self, latents: Tensor) -> None:
        self.latents = latents

    @property
    def parameters(self) -> Tensor:
        """[B,2z,F,h,w]: mean and logarithm of the variance, as diffusers' Gaussians have them."""
        return torch.cat([self.latents, torch.full_like(self.latents, -torch.inf)], 1)

    def mode(self) -> Tensor:
        """[B,z,F,h,w]."""
        return self.latents

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """The same."""
        return self.latents


class Encoded(NamedTuple):
    """What `encode` returns."""

    latent_dist: Posterior


class _Part(nn.Module):
    """The linear maps of one kind of patch, `values` numbers each."""

    def __init__(self, values: int, z_dim: int) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(values))
        self.encoder = nn.Parameter(torch.zeros(z_dim, values))
        self.decoder = nn.Parameter(torch.zeros(values, z_dim, 3, 3))


class PatchCodec(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """Encoder and decoder of 8 x 8 pixel patches; `fit` makes one.

    Latents come out with zero mean, so latents_mean is 0 and latents_std is 1. A channel's variance is the square root
    of its component's, scaled to one on average: equal variances would let noise in details cost as much as the
    picture, the components' own would drown every detail in noise.
    """

    config_name = "config.json"

    @register_to_config  # type: ignore[untyped-decorator]  # diffusers is not typed
    def __init__(
        self, z_dim: int = 48, latents_mean: list[float] | None = None, latents_std: list[float] | None = None
    ):
        super().__init__()
        self.temperal_downsample = [False, False, True]
        self.first, self.pair = _Part(3 * PATCH**2, z_dim), _Part(3 * PATCH**2 * PAIR, z_dim)

    @overload
    def encode(self, x: Tensor, return_dict: Literal[True] = True) -> Encoded: ...

    @overload
    def encode(self, x: Tensor, return_dict: Literal[False]) -> tuple[Posterior]: ...

    def encode(self, x: Tensor, return_dict: bool = True) -> Encoded | tuple[Posterior]:
        """Latents of videos [B,3,T,H,W] in -1..1, T odd, H and W multiples of 8."""
        if x.shape[2] % PAIR != 1 or x.shape[3] % PATCH or x.shape[4] % PATCH:
            raise ValueError(f"videos must be [B,3,2k+1,8i,8j], got {tuple(x.shape)}")
        parts = [
            (patches - part.mean) @ part.encoder.T
            for part, patches in ((self.first, _patches(x[:, :, :1])), (self.pair, _patches(x[:, :, 1:])))
            if patches.shape[1]
        ]
        posterior = Posterior(torch.cat(parts, 1).permute(0, 4, 1, 2, 3).contiguous())
        return Encoded(posterior) if return_dict else (posterior,)

    def decode(self, z: Tensor, return_dict: bool = False) -> tuple[Tensor]:
        """Videos [B,3,T,H,W] of latents [B,z,F,h,w]; always a tuple."""
        parts = [
            _unpatched(_context_map(part.decoder, piece) + part.mean.view(1, -1, 1, 1, 1))
            for part, piece in ((self.first, z[:, :, :1]), (self.pair, z[:, :, 1:]))
            if piece.shape[2]
        ]
        return (torch.cat(parts, 2).clamp(-1, 1),)


@torch.no_grad()
def fit(videos: Tensor, z_dim: int = 48, ridge: float = 1e-3) -> PatchCodec:
    """The codec of a set of videos.

    Args:
        videos: uint8 [N,T,H,W,3].
        z_dim: latent channels.
        ridge: of the decoder's least squares, relative to the latents' variance.
    """
    codec: PatchCodec = PatchCodec(z_dim, [0.0] * z_dim, [1.0] * z_dim)
    x = videos.permute(0, 4, 1, 2, 3)
    for part, piece in ((codec.first, x[:, :, :1]), (codec.pair, x[:, :, 1:])):
        _fit_part(part, piece, ridge)
    codec.eval().requires_grad_(False)
    return codec


def _fit_part(part: _Part, x: Tensor, ridge: float) -> None:
    z_dim, values = part.encoder.shape
    total, outer, count = torch.zeros(values).double(), torch.zeros(values, values).double(), 0
    for chunk in x.split(64):
        rows = _patches(chunk.float() / 127.5 - 1).reshape(-1, values).double()
        total, outer, count = total + rows.sum(0), outer + rows.T @ rows, count + len(rows)
    mean = total / count
    variance, basis = torch.linalg.eigh(outer / count - torch.outer(mean, mean))
    variance, basis = variance.flip(0)[:z_dim].clamp(min=1e-8), basis.flip(1)[:, :z_dim]
    wanted = variance.sqrt()
    part.mean.copy_(mean)
    part.encoder.copy_((basis * (wanted / wanted.mean() / variance).sqrt()).T)
    inner, cross, count = torch.zeros(9 * z_dim, 9 * z_dim).double(), torch.zeros(9 * z_dim, values).double(), 0
    for chunk in x.split(64):
        rows = _patches(chunk.float() / 127.5 - 1) - part.mean
        latents = (rows @ part.encoder.T).permute(0, 4, 1, 2, 3)
        near = _neighbours(latents).double()
        inner, cross, count = (
            inner + near.T @ near,
            cross + near.T @ rows.reshape(-1, values).double(),
            count + len(near),
        )
    solved = torch.linalg.solve(inner + ridge * count * torch.eye(9 * z_dim).double(), cross)
    part.decoder.copy_(solved.T.reshape(values, z_dim, 3, 3))


def _patches(x: Tensor) -> Tensor:
    """[B,3,T,H,W] -> [B,T/t,h,w,3*t*64] with t = 1 for one frame, else 2."""
    B, C, T, H, W = x.shape
    t = 1 if T == 1 else PAIR
    x = x.reshape(B, C, T // t, t, H // PATCH, PATCH, W // PATCH, PATCH)
    return x.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4)


def _unpatched(x: Tensor) -> Tensor:
    """[B,3*t*64,F,h,w] -> [B,3,F*t,H,W]."""
    B, values, frames, h, w = x.shape
    t = values // (3 * PATCH**2)
    x = x.reshape(B, 3, t, PATCH, PATCH, frames, h, w).permute(0, 1, 5, 2, 6, 3, 7, 4)
    return x.reshape(B, 3, frames * t, h * PATCH, w * PATCH)


def _context_map(decoder: Tensor, z: Tensor) -> Tensor:
    """A 3 x 3 convolution of each latent frame, edges repeated."""
    B, channels, frames, h, w = z.shape
    flat = F.pad(z.transpose(1, 2).reshape(B * frames, channels, h, w), (1, 1, 1, 1), mode="replicate")
    return F.conv2d(flat, decoder).reshape(B, frames, -1, h, w).transpose(1, 2)


def _neighbours(z: Tensor) -> Tensor:
    """[B*F*h*w, z*9] in the order of a convolution's weights."""
    B, channels, frames, h, w = z.shape
    flat = F.pad(z.transpose(1, 2).reshape(B * frames, channels, h, w), (1, 1, 1, 1), mode="replicate")
    return F.unfold(flat, 3).transpose(1, 2).reshape(-1, channels * 9)
