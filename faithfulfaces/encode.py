"""The caching stage: what the frozen VAE and text encoder say of every clip, written once beside its crops.

The trainer then never loads either. Shapes: T frames of H x W pixels, F = (T + 3) / 4, h = H / 8, w = W / 8.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from safetensors.torch import save
from torch import Tensor

from faithfulfaces.backbone import DTYPES, load_encoders
from faithfulfaces.config import Data, Train
from faithfulfaces.shards import BLANK, Sample, count_samples, read_shard, write_shard
from ffbench.durable import write_atomic
from ffbench.errors import UserError
from ffbench.progress import Bar, bar
from ffbench.video import VideoError, read_clip

if TYPE_CHECKING:
    from diffusers import WanVACEPipeline

VERSION = 1
SETTINGS = "encode.json"
"""What the folder was encoded with; another size or base is refused there."""
SMALLEST = 8
"""Side of a reference in px: one latent pixel, below which the pipeline has nothing to scale."""
CACHE, VIDEO = "cache.safetensors", "mp4"


class ClipError(Exception):
    """A clip that cannot be encoded; the message says why."""


class Encoder:
    """The frozen encoders, called as `WanVACEPipeline` calls them when it samples.

    Args:
        pipeline: with VAE and text encoder; a transformer is not used.
        data: size of the videos, length of the prompts.
        device: where the encoders go.
    """

    def __init__(self, pipeline: WanVACEPipeline, data: Data, device: str) -> None:
        self._pipeline, self._data, self._device = pipeline.to(device), data, device
        vae = pipeline.vae.config
        self._mean, self._std = (
            torch.tensor(values, device=device).view(1, -1, 1, 1, 1) for values in (vae.latents_mean, vae.latents_std)
        )

    def video(self, frames_THW3: NDArray[np.uint8]) -> Tensor:
        """Normalised latents float32 [16,F,h,w] of uint8 RGB frames."""
        pixels = 2 * (torch.from_numpy(frames_THW3).to(self._device).float() / 255) - 1
        return self._latents(pixels.permute(3, 0, 1, 2))

    def blank(self) -> Tensor:
        """[16,F,h,w] latents of the grey video, which VACE gets where there is no source."""
        return self._latents(torch.zeros(3, self._data.num_frames, self._data.height, self._data.width))

    def reference(self, crop: Image.Image) -> Tensor:
        """[16,1,h,w] latents of a reference photograph, scaled into a white canvas of the video's size."""
        _, _, [[canvas_3HW]] = self._pipeline.preprocess_conditions(
            reference_images=crop,
            height=self._data.height,
            width=self._data.width,
            num_frames=1,
            dtype=torch.float32,
            device=self._device,
        )
        return self._latents(canvas_3HW[:, None])

    @torch.no_grad()
    def text(self, prompt: str) -> Tensor:
        """[T,text_dim] embeddings of a prompt in the text encoder's dtype, at most `Data.text_tokens` rows."""
        padded, _ = self._pipeline.encode_prompt(
            prompt, do_classifier_free_guidance=False, max_sequence_length=self._data.text_tokens, device=self._device
        )
        # the pipeline pads with rows of exact zeros, and the loader puts them back
        length = int(padded[0].any(dim=1).nonzero().max()) + 1
        embedded: Tensor = padded[0, :length]
        return embedded.cpu().contiguous()

    @torch.no_grad()
    def _latents(self, pixels_3THW: Tensor) -> Tensor:
        latents = self._pipeline.vae.encode(pixels_3THW[None].to(self._device)).latent_dist.mode()
        # multiplied by the reciprocal as the pipeline does, for equality to the bit
        normalised: Tensor = (latents.float() - self._mean) * (1.0 / self._std)
        return normalised[0].cpu().contiguous()

    def sample(self, raw: Sample) -> Sample:
        """A sample with its cache, without its video.

        Raises:
            ClipError: when video or reference crop cannot be read, or are too small for the recipe.
        """
        if VIDEO not in raw.files:
            raise ClipError(f"it has no {VIDEO}")
        frames = _frames(raw.files[VIDEO], self._data)
        try:
            with Image.open(io.BytesIO(raw.crops[raw.reference])) as image:
                crop = image.convert("RGB")
        except (UnidentifiedImageError, OSError) as error:
            raise ClipError(f"its reference, crop {raw.reference}, is no readable image ({error})") from error
        if min(crop.size) < SMALLEST:
            raise ClipError(f"its reference, crop {raw.reference}, is {crop.width}x{crop.height} px")
        tensors = {"latents": self.video(frames), "reference": self.reference(crop), "text": self.text(raw.prompt)}
        kept = {suffix: data for suffix, data in raw.files.items() if suffix != VIDEO}
        return replace(raw, files=kept | {CACHE: save(tensors)})


def _frames(encoded: bytes, data: Data) -> NDArray[np.uint8]:
    """The first `Data.num_frames` frames: "81 consecutive frames" (Section 4.1)."""
    with tempfile.TemporaryDirectory(prefix="ffbench-") as folder:
        path = Path(folder) / f"clip.{VIDEO}"
        path.write_bytes(encoded)
        try:
            clip = read_clip(path, ("all",))
        except VideoError as error:
            raise ClipError(f"its video: {error}") from error
    if clip.size != (data.width, data.height) or clip.num_frames < data.num_frames:
        raise ClipError(
            f"its video is {clip.size[0]}x{clip.size[1]}x{clip.num_frames}, the recipe's is "
            f"{data.width}x{data.height}x{data.num_frames}"
        )
    return clip.frames["all"].pixels[: data.num_frames]


@dataclass(frozen=True)
class Share:
    """Which shards this process encodes: number `rank`, `rank + size`, ..."""

    rank: int = 0
    size: int = 1

    @classmethod
    def of_torchrun(cls) -> Share:
        """As torchrun started this process, or everything."""
        return cls(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))


class Encoded(NamedTuple):
    """What a run of `encode` did."""

    shards: int
    clips: int
    failed: int
    """Left out; `SHARD.failed.jsonl` says why, a line a clip."""
    skipped: int
    """Shards that an earlier run finished."""


def encode(config: Train, shards: Path, base: Path, out: Path, *, device: str = "cpu") -> Encoded:
    """Encode a folder of shards with videos into one that the trainer reads.

    A shard appears whole or not at all, so a killed run loses the one it was at, and the same call goes on after the
    last whole one. Under torchrun each process takes its share of the shards.

    Args:
        config: the recipe; its sizes, prompt length and dtype count.
        shards: folder of shards that hold `KEY.mp4`.
        base: VACE folder in diffusers' layout, for VAE and text encoder.
        out: folder of the new shards: crops and `KEY.cache.safetensors`, and `blank.safetensors` once.
        device: a PyTorch device.

    Raises:
        UserError: when there are no shards, one is damaged, the base is not whole, or `out` holds another encoding.
    """
    paths = sorted(shards.glob("*.tar"))
    if not paths:
        raise UserError(f"no shards (*.tar) in {shards}", "set --shards to the folder that holds them")
    if out.resolve() == shards.resolve():
        raise UserError(f"--out {out} is the folder of the shards themselves", "choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    settings = _settings(config, base)
    _check(out / SETTINGS, settings)
    share = Share.of_torchrun()
    mine = paths[share.rank :: share.size]
    todo = [path for path in mine if not (out / path.name).exists()]
    if not todo and (out / BLANK).exists():
        return Encoded(0, 0, 0, len(mine))
    encoder = Encoder(load_encoders(base, DTYPES[config.parallel.dtype]), config.data, device)
    write_atomic(out / SETTINGS, (json.dumps(settings, indent=1) + "\n").encode())
    if not (out / BLANK).exists():
        write_atomic(out / BLANK, _common(encoder))
    failed = 0
    total = sum(count_samples(path) for path in todo)
    with bar("encode", total, "clip") as progress:
        for path in todo:
            failed += _encode_shard(encoder, path, out / path.name, progress)
    return Encoded(len(todo), total - failed, failed, len(mine) - len(todo))


def _encode_shard(encoder: Encoder, source: Path, target: Path, progress: Bar) -> int:
    """Write one shard and its failures, and return their number."""
    failures: list[dict[str, str]] = []

    def encoded() -> Iterator[Sample]:
        for raw in read_shard(source):
            try:
                sample = encoder.sample(raw)
            except ClipError as error:
                failures.append({"sample": raw.key, "reason": str(error)})
                progress.advance(failed=1)
                continue
            yield sample
            progress.advance()
        # before the shard appears: a finished shard has its failures beside it
        if failures:
            lines = "".join(json.dumps(failure, ensure_ascii=False) + "\n" for failure in failures)
            write_atomic(target.with_suffix(".failed.jsonl"), lines.encode())

    write_shard(target, encoded())
    return len(failures)


def _common(encoder: Encoder) -> bytes:
    from faithfulfaces.pipeline import NEGATIVE_PROMPT

    return save({"blank": encoder.blank(), "negative": encoder.text(NEGATIVE_PROMPT)})


def _settings(config: Train, base: Path) -> dict[str, str | int]:
    data = config.data
    return {
        "version": VERSION,
        "width": data.width,
        "height": data.height,
        "num_frames": data.num_frames,
        "text_tokens": data.text_tokens,
        "dtype": config.parallel.dtype,
        "vae": _digest((base / "vae").glob("*")),
        "text_encoder": _digest([*(base / "text_encoder").glob("*"), *(base / "tokenizer").glob("*")]),
    }


def _digest(files: Iterable[Path]) -> str:
    whole = hashlib.sha256()
    for path in sorted(files):
        with path.open("rb") as file:
            whole.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()


def _check(path: Path, settings: dict[str, str | int]) -> None:
    if not path.exists():
        return
    try:
        found = dict(json.loads(path.read_text("utf-8")))
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}", "remove its folder and encode again") from error
    for name, wanted in settings.items():
        if found.get(name) != wanted:
            raise UserError(
                f"{path.parent} was encoded with {name} {found.get(name)}, this call has {wanted}",
                "choose another --out: one folder holds one encoding",
            )
