"""VACE: settings of the card to diffusers' WanVACEPipeline, and requests to frames."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import UniPCMultistepScheduler, WanVACEPipeline, WanVACETransformer3DModel
from PIL import Image

from baselines.faces.mtcnn import FaceCropper
from baselines.wan.loading import expect, load_part, load_transformer, read_json
from baselines.wan.memory import remember
from baselines.wan.networks import fits
from baselines.wan.sampling import WanUniPC, unipc
from baselines.wan.settings import Sampling, choice, place
from baselines.wan.text import PromptEncoder, load_prompts
from ffbench.contract import Output, Request, Runtime
from ffbench.records import Reference, Scalar

LEVELS = {"wan": WanUniPC, "diffusers": UniPCMultistepScheduler}
"""Noise levels: those of VACE's own script, or those that diffusers gives UniPC."""


class Vace:
    """Makes one video a request; the reference, whole or its face alone, on white, is its condition."""

    def __init__(self, settings: Mapping[str, Scalar]) -> None:
        self._settings = settings
        self._sampling = Sampling.of(settings)
        self._levels = LEVELS[choice(settings, "levels", LEVELS)]
        self._crops = choice(settings, "reference", ("whole", "face")) == "face"
        self._crop: FaceCropper | None = None
        self._known: dict[str, Image.Image] = {}

    def load(self, runtime: Runtime) -> None:
        """Open the base: any VACE folder in diffusers' layout.

        Raises:
            UserError: a folder that is missing or does not fit, or a size that it cannot make, naming the setting.
        """
        base, dtype = place(self._settings, "base", runtime), getattr(torch, self._sampling.dtype)
        said = read_json(base / "scheduler" / "scheduler_config.json").get("prediction_type", "flow_prediction")
        self._pipe = load_pipeline(base, dtype, unipc(self._sampling.shift, self._levels, str(said)))
        patch = self._pipe.transformer.config.patch_size[1]
        self._sampling.fit(self._pipe.vae_scale_factor_spatial * patch, self._pipe.vae_scale_factor_temporal)
        self._prompts: PromptEncoder = load_prompts(
            base, dtype, runtime.device, int(self._settings["text_tokens"] or 0)
        )
        remember(self._pipe, self._prompts)
        if fits(runtime.device, (self._pipe.transformer, self._pipe.vae, self._prompts.encoder)):
            self._pipe.to(runtime.device)
        else:
            self._pipe.enable_model_cpu_offload(device=runtime.device)
        self._crop = FaceCropper(runtime.device) if self._crops else None

    def generate(self, requests: Sequence[Request]) -> Iterator[Output]:
        """One video a request, of its references in their order.

        Raises:
            RefusedError: with `reference = "face"`, a reference without one.
        """
        sampling = self._sampling
        for request in requests:
            video = self._pipe(
                prompt=request.case.prompt,
                negative_prompt=sampling.negative_prompt,
                # the pipeline puts each reference before the last one
                reference_images=[self._photograph(ref) for ref in reversed(request.case.references)],
                conditioning_scale=float(self._settings["conditioning_scale"] or 0),
                width=sampling.width,
                height=sampling.height,
                num_frames=sampling.num_frames,
                num_inference_steps=sampling.steps,
                guidance_scale=float(self._settings["guidance"] or 0),
                generator=torch.Generator().manual_seed(request.seed),
            ).frames[0]
            if not np.isfinite(video).all():
                raise FloatingPointError("the network made values that are not finite; try dtype bfloat16 or float32")
            yield Output(np.asarray((video * 255).round(), np.uint8), sampling.fps)

    def _photograph(self, reference: Reference) -> Image.Image:
        if reference.sha256 not in self._known:
            photograph = Image.open(reference.path).convert("RGB")
            self._known[reference.sha256] = self._crop(photograph) if self._crop else photograph
        return self._known[reference.sha256]


def load_pipeline(base: Path, dtype: torch.dtype, scheduler: UniPCMultistepScheduler) -> Any:
    """The pipeline of diffusers, less the text encoder, on the CPU.

    Args:
        base: with model_index.json, transformer and vae; the autoencoder may be of any class that `load_part` loads.
        dtype: of the transformer; the autoencoder and the modules of diffusers' float32 list stay in float32.
        scheduler: in place of the folder's, whose shift (3) is not what VACE was published with (16).

    Raises:
        UserError: a part that is missing, damaged or of another class.
    """
    expect(base, "transformer", {"_class_name": "WanVACETransformer3DModel"})
    pipe = WanVACEPipeline(
        tokenizer=None,
        text_encoder=None,
        transformer=load_transformer(base, dtype, WanVACETransformer3DModel),
        vae=load_part(base, "vae", torch.float32),
        scheduler=scheduler,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe
