"""MAGREF: all references on one white canvas, given as the first frame with a mask of where they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from baselines.wan.image import load_image_encoder
from baselines.wan.latents import pixels
from baselines.wan.loading import expect, load_original
from baselines.wan.networks import load_networks
from baselines.wan.pictures import fit_on_white, read
from baselines.wan.sampling import noise, text_guided, unipc
from baselines.wan.settings import Sampling, dropped, place
from ffbench.contract import Output, RefusedError, Request, Runtime
from ffbench.records import Reference, Scalar

GRIDS = ((1, 1), (1, 2), (1, 3), (2, 2), (2, 3), (2, 4))
"""Rows and columns of the canvas; the first that holds all references."""


class Magref:
    """Makes one video a request, of its whole references on white."""

    def __init__(self, settings: Mapping[str, Scalar]) -> None:
        self._settings = settings
        self._sampling = Sampling.of(settings).fit()
        self._guidance, self._drop = float(settings["guidance"] or 0), dropped(settings)
        self._known: dict[tuple[Reference, ...], tuple[Tensor, Tensor]] = {}

    def load(self, runtime: Runtime) -> None:
        """Open MAGREF's transformer, and the rest of the Wan image-to-video folder that it was trained from.

        Raises:
            UserError: a folder that is missing or does not fit, naming the setting.
        """
        base, dtype = place(self._settings, "base", runtime), getattr(torch, self._sampling.dtype)
        checkpoint = place(self._settings, "checkpoint", runtime)
        expect(base, "transformer", {"in_channels": 36, "out_channels": 16, "pos_embed_seq_len": None})
        self._clip = load_image_encoder(base, runtime.device)
        self._networks = load_networks(base, load_original(checkpoint, base, dtype), dtype, runtime.device)

    def generate(self, requests: Sequence[Request]) -> Iterator[Output]:
        """One video a request, of all its references.

        Raises:
            RefusedError: more references than the canvas holds.
        """
        networks, sampling = self._networks, self._sampling
        for request in requests:
            condition, image = self._condition(request.case.references)
            texts = networks.prompts(request.case.prompt), networks.prompts(sampling.negative_prompt)
            scheduler = unipc(sampling.shift)
            scheduler.set_timesteps(sampling.steps)
            velocity = text_guided(networks.transformer, texts, self._guidance, condition, image)
            start = noise(request.seed, (1, *sampling.latent_shape()), networks.device)
            frames = networks.decode(networks.sample(scheduler, start, velocity))
            yield Output(frames[self._drop :], sampling.fps, notes={"dropped_frames": self._drop})

    def _condition(self, references: tuple[Reference, ...]) -> tuple[Tensor, Tensor]:
        """Mask and latents [1,4+16,F',h,w] of a video whose first frame is the canvas, and its CLIP tokens."""
        if references not in self._known:
            sampling, networks = self._sampling, self._networks
            picture, region = canvas(
                [read(reference.path) for reference in references], sampling.width, sampling.height
            )
            image_3HW = pixels(picture, "cpu")
            video = torch.zeros(1, 3, sampling.num_frames, *image_3HW.shape[1:])
            video[0, :, 0] = image_3HW
            latents = networks.encode(video)
            self._known[references] = torch.cat([mask(region, latents.shape[2]), latents], 1), self._tokens(image_3HW)
        condition, tokens = self._known[references]
        return condition.to(self._networks.device), tokens.to(self._networks.device)

    def _tokens(self, image_3HW: Tensor) -> Tensor:
        """CLIP tokens of the canvas squashed to a square, as bicubic interpolation without a prefilter leaves it."""
        square = F.interpolate(image_3HW[None], (self._clip.size, self._clip.size), mode="bicubic")
        return self._clip(square / 2 + 0.5).cpu()


def canvas(pictures: Sequence[Image.Image], width: int, height: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """All pictures on one white canvas, each scaled to fit its cell of a grid, in the order given.

    Returns:
        uint8 [height,width,3], and where pictures are: bool [height,width].

    Raises:
        RefusedError: more pictures than the largest grid has cells.
    """
    grid = next((grid for grid in GRIDS if grid[0] * grid[1] >= len(pictures)), None)
    if grid is None:
        raise RefusedError(f"{len(pictures)} references; MAGREF's canvas holds at most 8")
    (rows, columns), white = grid, np.full((height, width, 3), 255, np.uint8)
    region = np.zeros((height, width), bool)
    # the last row and column take the pixels that do not divide
    y_edges = [*(height // rows * row for row in range(rows)), height]
    x_edges = [*(width // columns * column for column in range(columns)), width]
    for index, picture in enumerate(pictures):
        row, column = divmod(index, columns)
        cell = slice(y_edges[row], y_edges[row + 1]), slice(x_edges[column], x_edges[column + 1])
        inner = x_edges[column + 1] - x_edges[column], y_edges[row + 1] - y_edges[row]
        white[cell], region[cell] = fit_on_white(picture, *inner)
    return white, region


def mask(region_HW: NDArray[np.bool_], latent_frames: int) -> Tensor:
    """[1,4,F',h,w] float32: on the first latent frame 1 where any of its 8x8 pixels shows a reference, else 0."""
    height, width = region_HW.shape
    blocks_hw = region_HW.reshape(height // 8, 8, width // 8, 8).any((1, 3))
    made = torch.zeros(1, 4, latent_frames, *blocks_hw.shape)
    made[:, :, 0] = torch.from_numpy(blocks_hw)
    return made
