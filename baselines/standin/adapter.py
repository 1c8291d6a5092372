"""Stand-In: one face crop as a reference that every video token sees, on Wan 2.1 text-to-video."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from baselines.faces.antelopev2 import Detector, open_detector
from baselines.standin.faces import SIDE, crop, on_white, open_parser
from baselines.standin.network import StandInNetwork
from baselines.wan.latents import pixels
from baselines.wan.loading import expect, load_transformer, read_tensors
from baselines.wan.networks import load_networks
from baselines.wan.pictures import fit_on_white, read
from baselines.wan.sampling import euler, noise, text_guided
from baselines.wan.settings import Sampling, choice, place
from ffbench.contract import Output, Request, Runtime
from ffbench.records import Reference, Scalar

REFERENCES = ("face", "as-is")
"""Cut the face out as the authors do, or take a reference that is such a crop already."""


class StandIn:
    """Makes one video a request, of the face of the first reference."""

    def __init__(self, settings: Mapping[str, Scalar]) -> None:
        self._settings = settings
        self._sampling = Sampling.of(settings).fit()
        self._guidance = float(settings["guidance"] or 0)
        self._cut = choice(settings, "reference", REFERENCES) == "face"
        self._detector: Detector | None = None
        self._parser: Any = None
        self._known: dict[str, tuple[Tensor, dict[str, Scalar]]] = {}

    def load(self, runtime: Runtime) -> None:
        """Open the face networks, Stand-In's weights, and the Wan folder that they belong to.

        Raises:
            UserError: a package, file or folder that is missing or does not fit, naming the setting.
        """
        import torch

        if self._cut:
            self._detector = open_detector(runtime)
            self._parser = open_parser(place(self._settings, "parser", runtime), runtime.device)
        base, dtype = place(self._settings, "base", runtime), getattr(torch, self._sampling.dtype)
        checkpoint = place(self._settings, "checkpoint", runtime)
        expect(base, "transformer", {"in_channels": 16, "out_channels": 16, "image_dim": None})
        with checkpoint.open("rb") as stream:
            self._sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        self._network = StandInNetwork(load_transformer(base, dtype), read_tensors(checkpoint), str(checkpoint))
        self._networks = load_networks(base, self._network, dtype, runtime.device)

    def generate(self, requests: Sequence[Request]) -> Iterator[Output]:
        """One video a request; the record's notes say whether a face was found."""
        networks, sampling = self._networks, self._sampling
        for request in requests:
            latents, notes = self._reference(request.case.references[0])
            texts = networks.prompts(request.case.prompt), networks.prompts(sampling.negative_prompt)
            self._network.look_at(latents)
            start = noise(request.seed, (1, *sampling.latent_shape()), networks.device)
            velocity = text_guided(self._network, texts, self._guidance)
            made = networks.sample(euler(sampling.steps, sampling.shift), start, velocity)
            yield Output(networks.decode(made), sampling.fps, notes={**notes, "sha256 checkpoint": self._sha256})

    def _reference(self, reference: Reference) -> tuple[Tensor, dict[str, Scalar]]:
        """Latents [1,16,1,64,64] of the 512x512 picture, and what was found in the photograph."""
        if reference.sha256 not in self._known:
            image, notes = read(reference.path), {}
            if self._detector is None:
                picture, _ = fit_on_white(image, SIDE, SIDE)
            else:
                face = self._detector.largest(np.asarray(image))
                picture = on_white(crop(np.asarray(image), face), self._parser)
                notes["reference_face"] = "largest" if face is not None else "none: whole photograph"
            latents = self._networks.encode(pixels(picture, "cpu")[None, :, None])
            self._known[reference.sha256] = latents, notes
        return self._known[reference.sha256]
