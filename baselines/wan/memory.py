"""What diffusers' pipelines encode with every call, encoded once: prompts, and the references of a person."""

from __future__ import annotations

import hashlib
from typing import Any

from torch import Tensor

from baselines.wan.text import PromptEncoder


def remember(pipe: Any, prompts: PromptEncoder) -> None:
    """Let a `WanVACEPipeline` take embeddings from `prompts`, and encode each set of references and size once.

    It needs no text encoder of its own then. Only for calls without a source video: they differ in nothing but prompts,
    references and size until noise is drawn. Latents are kept on the CPU, 18 MB a person at 832x480 and 81 frames.
    """
    prepare, known = pipe.prepare_video_latents, {}

    def prepare_video_latents(
        video: Tensor, mask: Tensor, reference_images: Any = None, generator: Any = None, device: Any = None
    ) -> Tensor:
        pictures = [_digest(picture) for group in reference_images or () for picture in group]
        key = (tuple(video.shape), *pictures)
        if key not in known:
            known[key] = prepare(video, mask, reference_images, generator, device).cpu()
        return known[key].to(device)

    def encode_prompt(
        prompt: str, negative_prompt: str | None, do_classifier_free_guidance: bool, **_: Any
    ) -> tuple[Tensor, Tensor | None]:
        return prompts(prompt), prompts(negative_prompt or "") if do_classifier_free_guidance else None

    pipe.prepare_video_latents, pipe.encode_prompt = prepare_video_latents, encode_prompt


def remember_posteriors(vae: Any) -> None:
    """Let an autoencoder encode the same pictures once; for few and small ones, since all are kept on the device."""
    encode, known = vae.encode, {}

    def encode_once(pictures: Tensor, **options: Any) -> Any:
        key = _digest(pictures)
        if key not in known:
            known[key] = encode(pictures, **options)
        return known[key]

    vae.encode = encode_once


def _digest(pixels: Tensor) -> str:
    return hashlib.sha256(pixels.detach().float().cpu().contiguous().numpy().tobytes()).hexdigest()
