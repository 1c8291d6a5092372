"""ConsisID: one face as features and first frame, prompts and faces encoded once, diffusers' pipeline for the rest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from baselines.consisid.files import verify
from baselines.wan.settings import Sampling, place
from ffbench.contract import Output, Request, Runtime
from ffbench.records import Scalar


class ConsisID:
    """Makes one video a request; a face and a prompt are each read once, whatever the number of their videos."""

    def __init__(self, settings: Mapping[str, Scalar]) -> None:
        self._settings = settings
        # CogVideoX has no shift; its decoder makes 4 F frames, not 4 F - 3, of an even number F of latent frames
        self._sampling = Sampling.of({**settings, "shift": 1.0}).fit(temporal=8)
        self._pipe: Any = None
        self._prompts: Any = None
        self._faces: Any = None
        self._identities: dict[str, Any] = {}

    def load(self, runtime: Runtime) -> None:
        """Look at the face networks' files and open them, then the model's folder.

        Raises:
            UserError: a package, a folder or a part of it that is missing or does not fit.
        """
        folder = place(self._settings, "base", runtime)
        # before what takes long
        verified = verify(folder, str(self._settings["pins"]))

        import torch
        from diffusers import ConsisIDPipeline
        from transformers import AutoTokenizer

        from baselines.consisid import faces
        from baselines.wan.loading import expect, load_part, named_class
        from baselines.wan.memory import remember_posteriors
        from baselines.wan.networks import fits
        from baselines.wan.text import PromptMemory, load_text_encoder

        device, dtype = runtime.device, getattr(torch, self._sampling.dtype)
        expect(folder, "transformer", {"_class_name": "ConsisIDTransformer3DModel"})
        expect(folder, "vae", {"_class_name": "AutoencoderKLCogVideoX"})
        self._faces = faces.open_faces(verified, device, dtype)
        scheduler = named_class(folder, "scheduler").from_pretrained(folder / "scheduler", local_files_only=True)
        networks = {part: load_part(folder, part, dtype) for part in ("vae", "transformer")}
        remember_posteriors(networks["vae"])
        self._pipe = ConsisIDPipeline(tokenizer=None, text_encoder=None, scheduler=scheduler, **networks)
        self._pipe.set_progress_bar_config(disable=True)
        encoder = load_text_encoder(folder, dtype)
        tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
        text = ConsisIDPipeline(tokenizer=tokenizer, text_encoder=encoder, vae=None, transformer=None, scheduler=None)

        def embed(prompt: str) -> Any:
            """[1,226,4096] of T5, without an attention mask."""
            return text.encode_prompt(prompt, do_classifier_free_guidance=False, device=device)[0]

        self._prompts = PromptMemory(encoder, device, embed)
        if fits(device, (*networks.values(), encoder)):
            self._pipe.to(device)
        else:
            self._pipe.enable_model_cpu_offload(device=device)

    def generate(self, requests: Sequence[Request]) -> Iterator[Output]:
        """One video a request, of the first reference.

        Raises:
            RefusedError: a reference without a face.
        """
        for request in requests:
            reference = request.case.references[0]
            if reference.sha256 not in self._identities:
                self._identities[reference.sha256] = self._faces.read(reference.path)
            identity = self._identities[reference.sha256]
            yield Output(self._video(identity, request.case.prompt, request.seed), self._sampling.fps)

    def _video(self, identity: Any, prompt: str, seed: int) -> NDArray[np.uint8]:
        import torch

        sampling, guidance = self._sampling, float(self._settings["guidance"])
        negative = self._prompts(sampling.negative_prompt) if guidance > 1 else None
        video_FHWC = self._pipe(
            image=identity.image,
            prompt_embeds=self._prompts(prompt),
            negative_prompt_embeds=negative,
            height=sampling.height,
            width=sampling.width,
            num_frames=sampling.num_frames,
            num_inference_steps=sampling.steps,
            guidance_scale=guidance,
            use_dynamic_cfg=bool(self._settings["dynamic_guidance"]),
            generator=torch.Generator("cpu").manual_seed(seed),
            id_vit_hidden=identity.id_vit_hidden,
            id_cond=identity.id_cond,
            kps_cond=identity.points,
            output_type="np",
        ).frames[0]
        if not np.isfinite(video_FHWC).all():
            raise FloatingPointError("the network made values that are not finite; try dtype bfloat16 or float32")
        return np.asarray((video_FHWC * 255).round(), np.uint8)
