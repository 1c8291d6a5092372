"""SkyReels-A2: references fill the first latent frames of an image-to-video network, and CLIP sees each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from diffusers import UniPCMultistepScheduler
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from baselines.wan.image import load_image_encoder
from baselines.wan.latents import normalised, pixels
from baselines.wan.loading import expect, load_transformer
from baselines.wan.networks import load_networks
from baselines.wan.pictures import fit_on_white, read
from baselines.wan.sampling import text_guided, unipc
from baselines.wan.settings import Sampling, dropped, place
from ffbench.contract import Output, Request, Runtime
from ffbench.records import Reference, Scalar

CLIP_CANVAS = 512
"""Side of the white square that CLIP's input is taken from."""


class SkyreelsA2:
    """Makes one video a request, of its whole references on white."""

    def __init__(self, settings: Mapping[str, Scalar]) -> None:
        self._settings = settings
        self._sampling = Sampling.of(settings).fit()
        self._guidance, self._drop = float(settings["guidance"] or 0), dropped(settings)
        self._known: dict[tuple[Reference, ...], tuple[DiagonalGaussianDistribution, Tensor]] = {}

    def load(self, runtime: Runtime) -> None:
        """Open the folder of SkyReels-A2, which is complete and in diffusers' layout.

        Raises:
            UserError: a folder that is missing or does not fit, naming the setting.
        """
        base, dtype = place(self._settings, "base", runtime), getattr(torch, self._sampling.dtype)
        expect(base, "transformer", {"in_channels": 36, "out_channels": 16})
        self._clip = load_image_encoder(base, runtime.device)
        self._networks = load_networks(base, load_transformer(base, dtype), dtype, runtime.device)

    def generate(self, requests: Sequence[Request]) -> Iterator[Output]:
        """One video a request, of all its references."""
        networks, sampling = self._networks, self._sampling
        for request in requests:
            posterior, tokens = self._seen(request.case.references)
            draws = torch.Generator().manual_seed(request.seed)
            start = torch.randn((1, *sampling.latent_shape()), generator=draws)
            # a draw from the posterior, with the generator of the noise, after it
            latents = normalised(networks.vae, posterior.sample(draws))
            condition = torch.cat([mask(len(request.case.references), latents), latents], 1).to(networks.device)
            image = tokens.to(networks.device)
            texts = networks.prompts(request.case.prompt), networks.prompts(sampling.negative_prompt)
            scheduler = unipc(sampling.shift, UniPCMultistepScheduler)
            scheduler.set_timesteps(sampling.steps)
            velocity = text_guided(networks.transformer, texts, self._guidance, condition, image)
            frames = networks.decode(networks.sample(scheduler, start, velocity))
            yield Output(frames[self._drop :], sampling.fps, notes={"dropped_frames": self._drop})

    def _seen(self, references: tuple[Reference, ...]) -> tuple[DiagonalGaussianDistribution, Tensor]:
        """Posterior of the condition video, and CLIP's tokens of every reference; both on the CPU."""
        if references not in self._known:
            pictures = [read(reference.path) for reference in references]
            small = torch.stack([clip_pixels(picture, self._clip.size) for picture in pictures])
            self._known[references] = self._networks.posterior(self._video(pictures)), self._clip(small).cpu()
        return self._known[references]

    def _video(self, pictures: Sequence[Image.Image]) -> Tensor:
        """[1,3,F,H,W] in -1..1: the first picture once, each further one four times, then grey."""
        size = self._sampling.width, self._sampling.height
        video = torch.zeros(1, 3, self._sampling.num_frames, size[1], size[0])
        for index, picture in enumerate(pictures):
            frames = slice(0, 1) if index == 0 else slice(4 * index - 3, 4 * index + 1)
            video[0, :, frames] = pixels(fit_on_white(picture, *size)[0], "cpu")[:, None]
        return video


def mask(count: int, latents_BCFhw: Tensor) -> Tensor:
    """[1,4,F',h,w]: 1 on the latent frames that `count` references fill, else 0.

    For one reference the authors' code repeats the first frame of its mask eight times in place of four, makes 22
    latent frames of 81 and stops; this is the mask with four.
    """
    _, _, frames, height, width = latents_BCFhw.shape
    made = latents_BCFhw.new_zeros(1, 4, frames, height, width)
    made[:, :, :count] = 1
    return made


def clip_pixels(picture: Image.Image, side: int) -> Tensor:
    """[3,side,side] in 0..1: the picture on a white square, made small by bicubic interpolation with a prefilter."""
    square: NDArray[np.uint8] = fit_on_white(picture, CLIP_CANVAS, CLIP_CANVAS)[0]
    small = Image.fromarray(square).resize((side, side), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.asarray(small).copy()).permute(2, 0, 1) / 255
