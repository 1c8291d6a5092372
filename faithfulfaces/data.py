"""Batches for the two losses: pairs of crops of one identity, and videos with their reference crop.

A batch is a pure function of (seed, batch index): threads may make it early, a resumed run makes it again, and every
number of processes cuts the same global batch. Shapes: n pairs, B videos, H = W side of a crop, F x h x w latent grid.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from faithfulfaces.config import Data
from ffbench.errors import UserError

LOADER_VERSION = 1
Draw = TypeVar("Draw")
Batch = TypeVar("Batch")
Made = TypeVar("Made", covariant=True)


def accumulation(data: Data, world_size: int) -> int:
    """Micro-batches of L_FM in a step.

    Raises:
        UserError: when it does not come out whole; names both numbers. The pairs of L_PIA are never accumulated.
    """
    at_once = world_size * data.video_micro_batch
    if data.video_batch % at_once:
        raise UserError(
            f"Data.video_batch {data.video_batch} is no multiple of {at_once} "
            f"({world_size} processes x Data.video_micro_batch {data.video_micro_batch})",
            "choose Data.video_batch as a multiple: a step holds the same videos on any number of GPUs",
        )
    return data.video_batch // at_once


class Crop(NamedTuple):
    """One face crop."""

    rgb: NDArray[np.uint8]
    """[H,W,3]."""
    euler: NDArray[np.float32]
    """[3] pitch, yaw, roll in degrees."""


class Cached(NamedTuple):
    """What the frozen encoders say of a clip."""

    latents: Tensor
    """[16,F,h,w] normalised VAE latents of the video."""
    reference: Tensor
    """[16,1,h,w] of its reference crop, on VACE's white canvas."""
    text: Tensor
    """[T,text_dim] embeddings of its prompt, padding left out."""


class Crops(Protocol):
    """The faces of clips: all that the aligner's analysis reads."""

    @property
    def identities(self) -> Sequence[str]:
        """Of each clip; two clips of one person carry the same."""

    @property
    def num_crops(self) -> Sequence[int]:
        """Of each clip."""

    def crop(self, clip: int, index: int) -> Crop:
        """One crop, decoded, at the aligner's size."""


class Clips(Crops, Protocol):
    """A store of clips: in memory (`InMemoryClips`) or in shards (`faithfulfaces.shards.ShardClips`)."""

    @property
    def references(self) -> Sequence[int]:
        """Of each clip, the crop that is also VACE's reference."""

    @property
    def blank(self) -> Tensor | None:
        """[16,F,h,w] latents of the grey video that VACE gets where it has no source; None without cached videos."""

    def cached(self, clip: int) -> Cached:
        """The clip's cached latents and text embeddings."""


class InMemoryClips:
    """Clips as arrays.

    Args:
        identities: N names, one a clip.
        crops: [N,V,H,W,3] uint8, V crops a clip.
        euler: [N,V,3] float32, degrees.
        cached: N `Cached`, for L_FM.
        blank: latents of the grey video, for L_FM.
    """

    def __init__(
        self,
        identities: Sequence[str],
        crops: NDArray[np.uint8],
        euler: NDArray[np.float32],
        cached: Sequence[Cached] = (),
        blank: Tensor | None = None,
    ) -> None:
        if crops.ndim != 5 or euler.shape != (*crops.shape[:2], 3) or len(identities) != len(crops):
            raise ValueError(
                f"expected N names, crops [N,V,H,W,3] and angles [N,V,3], got {len(identities)}, {crops.shape}, "
                f"{euler.shape}"
            )
        self.identities, self.blank = list(identities), blank
        self.num_crops, self.references = [crops.shape[1]] * len(crops), [0] * len(crops)
        self._crops, self._euler, self._cached = crops, euler, cached

    def crop(self, clip: int, index: int) -> Crop:
        """One crop."""
        return Crop(self._crops[clip, index], self._euler[clip, index])

    def cached(self, clip: int) -> Cached:
        """Cached tensors of a clip."""
        return self._cached[clip]


class Pairs(NamedTuple):
    """n pairs of crops: row i of both halves is one identity."""

    first: Tensor
    """[n,3,H,W] uint8."""
    first_euler: Tensor
    """[n,3] float32, degrees."""
    second: Tensor
    second_euler: Tensor
    identities: Tensor
    """[n] int64."""


class Videos(NamedTuple):
    """B videos for L_FM with the crop whose S is injected."""

    crops: Tensor
    """[B,3,H,W] uint8."""
    euler: Tensor
    """[B,3] float32, degrees."""
    latents: Tensor
    """[B,16,F,h,w]."""
    reference: Tensor
    """[B,16,1,h,w]."""
    text: Tensor
    """[B,T,text_dim], zeros after the prompt's last token."""


class PairDraw(NamedTuple):
    """Which two crops of which clip; `label` numbers the identity."""

    label: int
    clip: int
    first: int
    second: int


def _shuffled(seed: int, batch: int, size: int, index: int) -> NDArray[np.int64]:
    """Rows of batch `index` in an endless series of epochs; what a batch cannot fill is left out of its epoch."""
    epoch, within = divmod(index, size // batch)
    return np.random.default_rng((seed, epoch)).permutation(size)[within * batch : (within + 1) * batch]


class PairSampler:
    """Draws identities without repetition, then a clip of each, then two different crops of the clip (Section 3.2).

    Args:
        clips: store of clips.
        batch: n, identities of a batch.
        seed: of the draws.
        with_reference: the first crop is always the clip's reference (`Data.pairs`).

    Raises:
        UserError: when fewer than `batch` identities have a clip with two crops.
    """

    def __init__(self, clips: Clips, batch: int, seed: int, *, with_reference: bool = False) -> None:
        groups: dict[str, list[int]] = {}
        for clip, (identity, count) in enumerate(zip(clips.identities, clips.num_crops, strict=True)):
            if count >= 2:
                groups.setdefault(identity, []).append(clip)
        if len(groups) < batch:
            raise UserError(
                f"Data.pair_batch is {batch}, but only {len(groups)} identities have a clip with two crops",
                "lower Data.pair_batch or add identities: a batch holds each person once",
            )
        self.clips, self.batch, self.seed, self.with_reference = clips, batch, seed, with_reference
        self.groups = [groups[name] for name in sorted(groups)]

    @property
    def batches_per_epoch(self) -> int:
        """Whole batches in one pass over the identities."""
        return len(self.groups) // self.batch

    def at(self, index: int) -> list[PairDraw]:
        """The global batch number `index`."""
        draws = []
        rng = np.random.default_rng((self.seed, index, 1))
        for label in _shuffled(self.seed, self.batch, len(self.groups), index).tolist():
            clip = self.groups[label][int(rng.integers(len(self.groups[label])))]
            first, second = rng.choice(self.clips.num_crops[clip], 2, replace=False).tolist()
            if self.with_reference:
                reference = self.clips.references[clip]
                first, second = reference, second if second != reference else first
            draws.append(PairDraw(label, clip, first, second))
        return draws

    def collate(self, draws: Sequence[PairDraw], crops: Sequence[tuple[Crop, Crop]]) -> Pairs:
        """One process's rows as tensors."""
        (first, first_euler), (second, second_euler) = (stack([pair[i] for pair in crops]) for i in range(2))
        return Pairs(first, first_euler, second, second_euler, torch.tensor([draw.label for draw in draws]))

    def read(self, draw: PairDraw) -> tuple[Crop, Crop]:
        """Both crops of a draw."""
        return self.clips.crop(draw.clip, draw.first), self.clips.crop(draw.clip, draw.second)


class VideoSampler:
    """Draws clips without repetition."""

    def __init__(self, clips: Clips, batch: int, seed: int, text_tokens: int) -> None:
        if len(clips.identities) < batch:
            raise UserError(
                f"Data.video_batch is {batch}, but there are only {len(clips.identities)} clips",
                "lower Data.video_batch or add clips",
            )
        if clips.blank is None:
            raise UserError(
                "L_FM needs cached latents, and these shards have no blank.safetensors",
                "encode the videos first, or train without a base (recipe aligner_only)",
            )
        self.clips, self.batch, self.seed, self.text_tokens = clips, batch, seed, text_tokens

    @property
    def batches_per_epoch(self) -> int:
        """Whole batches in one pass over the clips."""
        return len(self.clips.identities) // self.batch

    def at(self, index: int) -> list[int]:
        """The global batch number `index`."""
        drawn: list[int] = _shuffled(self.seed + 1, self.batch, len(self.clips.identities), index).tolist()
        return drawn

    def read(self, clip: int) -> tuple[Crop, Cached]:
        """Reference crop and cached tensors of a clip."""
        return self.clips.crop(clip, self.clips.references[clip]), self.clips.cached(clip)

    def collate(self, clips: Sequence[int], samples: Sequence[tuple[Crop, Cached]]) -> Videos:
        """One process's rows as tensors."""
        crops, euler = stack([crop for crop, _ in samples])
        cached = [c for _, c in samples]
        text = cached[0].text.new_zeros(len(cached), self.text_tokens, cached[0].text.shape[-1])
        for row, c in zip(text, cached, strict=True):
            row[: len(c.text)] = c.text[: self.text_tokens]
        latents, reference = torch.stack([c.latents for c in cached]), torch.stack([c.reference for c in cached])
        return Videos(crops, euler, latents, reference, text)


def stack(crops: Sequence[Crop]) -> tuple[Tensor, Tensor]:
    """uint8 [B,3,H,W] and float32 [B,3] of crops."""
    rgb = torch.from_numpy(np.stack([crop.rgb for crop in crops])).permute(0, 3, 1, 2).contiguous()
    return rgb, torch.from_numpy(np.stack([crop.euler for crop in crops]).astype(np.float32))


class Sampler(Protocol[Draw, Made]):
    """What a loader needs of a sampler."""

    batch: int
    seed: int

    def at(self, index: int) -> list[Draw]:
        """Draws of a global batch."""

    def read(self, draw: Draw) -> Any:
        """One sample, read and decoded."""

    def collate(self, draws: Sequence[Draw], samples: Sequence[Any]) -> Made:
        """Samples as tensors."""


class Loader(Generic[Batch]):
    """Endless batches of one process, made ahead in threads; its state is a position.

    Args:
        sampler: draws global batches; process `rank` of `world` gets an equal run of each.
        rank: of this process.
        world: number of processes; must divide the batch.
        workers: threads.
        ahead: batches made before they are asked for.

    Raises:
        UserError: when the batch does not divide.
    """

    def __init__(self, sampler: Sampler[Any, Batch], rank: int, world: int, workers: int, ahead: int) -> None:
        if sampler.batch % world:
            raise UserError(
                f"a batch of {sampler.batch} does not divide over {world} processes",
                "choose Data.pair_batch and Data.video_batch as multiples of the number of GPUs",
            )
        self.sampler, self.rank, self.world, self.ahead = sampler, rank, world, ahead
        self.position = 0
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="faithfulfaces-data")
        self._queue: deque[tuple[list[Any], list[Future[Any]]]] = deque()

    def __next__(self) -> Batch:
        while len(self._queue) <= self.ahead:
            draws = self._mine(self.position + len(self._queue))
            self._queue.append((draws, [self._pool.submit(self.sampler.read, draw) for draw in draws]))
        draws, samples = self._queue.popleft()
        batch = self.sampler.collate(draws, [sample.result() for sample in samples])
        self.position += 1
        return batch

    def _mine(self, index: int) -> list[Any]:
        share = self.sampler.batch // self.world
        return self.sampler.at(index)[self.rank * share : (self.rank + 1) * share]

    def state_dict(self) -> dict[str, int]:
        """Position and what it was counted with."""
        return {
            "version": LOADER_VERSION,
            "position": self.position,
            "seed": self.sampler.seed,
            "batch": self.sampler.batch,
            "world": self.world,
        }

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue after the batch that the state's loader gave last.

        Raises:
            UserError: when seed, batch, data-parallel degree or version differ; names both numbers.
        """
        for name, mine in (self.state_dict() | {"position": state["position"]}).items():
            if state[name] != mine:
                word = "data-parallel degree" if name == "world" else name
                raise UserError(
                    f"the checkpoint's data loader has {word} {state[name]}, this run has {mine}",
                    f"resume with {word} {state[name]}, or start a new run in another folder",
                )
        self._drop()
        self.position = state["position"]

    def close(self) -> None:
        """End the threads."""
        self._drop()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _drop(self) -> None:
        for _, samples in self._queue:
            for sample in samples:
                sample.cancel()
        self._queue.clear()
