"""Phantom: clean reference frames after the noisy video, and guidance of three passes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from baselines.wan.latents import load_vae, pixels
from baselines.wan.loading import expect, load_original, load_part, load_transformer, read_json
from baselines.wan.networks import Networks
from baselines.wan.pictures import fit_on_white, read
from baselines.wan.sampling import Velocity, WanUniPC, noise, predict, unipc
from baselines.wan.settings import Sampling, place
from baselines.wan.text import load_prompts
from ffbench.contract import Output, Request, Runtime
from ffbench.errors import UserError
from ffbench.records import Reference, Scalar


class Phantom:
    """Makes one video a request, of its whole references on white."""

    def __init__(self, settings: Mapping[str, Scalar]) -> None:
        self._settings = settings
        self._sampling = Sampling.of(settings)
        self._image, self._text = float(settings["guidance_image"] or 0), float(settings["guidance_text"] or 0)
        self._known: dict[tuple[Reference, ...], Tensor] = {}

    def load(self, runtime: Runtime) -> None:
        """Open Phantom's transformer, and the rest of the Wan folder that it was trained from.

        Raises:
            UserError: a folder that is missing or does not fit, or a size that it cannot make, naming the setting.
        """
        if not self._settings["base"] and not self._settings["checkpoint"]:
            raise UserError(
                "phantom has no base and no checkpoint of the mini world's size yet",
                "faithfulfaces mini phantom --out FOLDER builds them; then --set base=FOLDER/seed-0/model "
                "--set checkpoint=FOLDER/seed-0/model, or ffbench ablate table5 --checkpoints FOLDER",
            )
        base, dtype = place(self._settings, "base", runtime), getattr(torch, self._sampling.dtype)
        checkpoint = place(self._settings, "checkpoint", runtime)
        vae = open_vae(base)
        channels, steps = int(vae.config.z_dim), vae.temperal_downsample
        self._strides = 2 ** len(steps), 2 ** sum(steps)
        said = expect(base, "transformer", {"in_channels": channels, "out_channels": channels, "image_dim": None})
        self._sampling.fit(self._strides[0] * int(said["patch_size"][1]), self._strides[1])
        if (checkpoint / "transformer").is_dir():
            transformer = load_transformer(checkpoint, dtype)
        else:
            transformer = load_original(checkpoint, base, dtype)
        said = read_json(base / "scheduler" / "scheduler_config.json")
        self._prediction = str(said.get("prediction_type", "flow_prediction"))
        prompts = load_prompts(base, dtype, runtime.device, int(self._settings["text_tokens"] or 0))
        self._networks = Networks(transformer, vae, prompts, runtime.device)

    def generate(self, requests: Sequence[Request]) -> Iterator[Output]:
        """One video a request, of all its references."""
        networks, sampling = self._networks, self._sampling
        for request in requests:
            references = self._references(request.case.references)
            texts = networks.prompts(request.case.prompt), networks.prompts(sampling.negative_prompt)
            channels, frames, height, width = sampling.latent_shape(references.shape[1], *self._strides)
            start = noise(request.seed, (1, channels, frames + references.shape[2], height, width), networks.device)
            scheduler = unipc(sampling.shift, WanUniPC, self._prediction)
            scheduler.set_timesteps(sampling.steps)
            velocity = three_passes(networks.transformer, references, texts, (self._image, self._text))
            latents = networks.sample(scheduler, start, velocity)
            yield Output(networks.decode(latents[:, :, :frames]), sampling.fps)

    def _references(self, references: tuple[Reference, ...]) -> Tensor:
        """Latents [1,C,K,h,w], each picture a video of one frame."""
        if references not in self._known:
            size = self._sampling.width, self._sampling.height
            pictures = [pixels(fit_on_white(read(reference.path), *size)[0], "cpu") for reference in references]
            latents = [self._networks.encode(picture[None, :, None]) for picture in pictures]
            self._known[references] = torch.cat(latents, 2).cpu()
        return self._known[references].to(self._networks.device)


def open_vae(base: Path) -> Any:
    """The autoencoder of a folder: Wan's, or the one of another class that its model_index.json names.

    Raises:
        UserError: a missing or damaged part.
    """
    if read_json(base / "vae" / "config.json").get("_class_name") == "AutoencoderKLWan":
        return load_vae(base)
    return load_part(base, "vae", torch.float32)


def three_passes(
    network: nn.Module, references: Tensor, texts: tuple[Tensor, Tensor], scales: tuple[float, float]
) -> Velocity:
    """Guidance of Phantom (arXiv:2502.11079): n + s_i (i - n) + s_t (it - i).

    it sees references and prompt, i sees references and the negative prompt, n sees zero latents and the negative
    prompt. The last K frames of the state are replaced before each pass: what the solver makes of them is never seen.

    Args:
        network: the transformer.
        references: clean latents [1,C,K,h,w].
        texts: embeddings [1,L,D] of prompt and negative prompt.
        scales: of image and text.
    """
    prompt, negative = texts
    count = references.shape[2]

    def velocity(latents: Tensor, t: Tensor) -> Tensor:
        video = latents[:, :, :-count]
        shown, hidden = torch.cat([video, references], 2), torch.cat([video, torch.zeros_like(references)], 2)
        image_text = predict(network, shown, t, prompt)
        image = predict(network, shown, t, negative)
        neither = predict(network, hidden, t, negative)
        return neither + scales[0] * (image - neither) + scales[1] * (image_text - image)

    return velocity
