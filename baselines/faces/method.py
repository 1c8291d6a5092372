"""What Stand-In and Concat-ID share: one face, cut out and encoded once, beside Wan's text-to-video network."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from baselines.faces.antelopev2 import FILE, Detector, Face, open_detector
from baselines.faces.pinned import SCRFD, own
from baselines.wan.latents import pixels
from baselines.wan.loading import expect
from baselines.wan.networks import load_networks
from baselines.wan.pictures import read
from baselines.wan.sampling import euler, noise, text_guided
from baselines.wan.settings import Sampling, choice, place
from ffbench.contract import Output, Request, Runtime
from ffbench.errors import UserError
from ffbench.records import Reference, Scalar

REFERENCES = ("face", "as-is")
"""Cut the face out as the authors do, or take a reference that is such a crop already."""


class FaceMethod(ABC):
    """Makes one video a request, of the face of the first reference, by Euler steps with guidance on the text."""

    published: Mapping[str, str] = {FILE: SCRFD}
    """Files of face networks below the weights folder -> sha256."""

    def __init__(self, settings: Mapping[str, Scalar]) -> None:
        self._settings = settings
        self._sampling = Sampling.of(settings).fit()
        self._guidance = float(settings["guidance"] or 0)
        self._cuts = choice(settings, "reference", REFERENCES) == "face"
        self._detector: Detector | None = None
        self._parser: Any = None
        self._notes: dict[str, Scalar] = {}
        self._known: dict[str, tuple[Tensor, dict[str, Scalar]]] = {}

    @abstractmethod
    def open_parser(self, path: Path, device: str, wanted: Mapping[str, str]) -> Any:
        """The network that tells a face from what is around it; `wanted` are the hashes of `published`, or a user's."""

    @abstractmethod
    def open_network(self, base: Path, checkpoint: Path) -> nn.Module:
        """The method's network, on the CPU, in the dtype of the settings."""

    @abstractmethod
    def cut(self, photograph: NDArray[np.uint8], face: Face | None) -> NDArray[np.uint8]:
        """The face alone, uint8 [h,w,3] of a photograph [H,W,3]; of the whole photograph where no face was found."""

    @abstractmethod
    def canvas(self, crop: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The crop as the autoencoder is given it."""

    @abstractmethod
    def show(self, latents: Tensor) -> None:
        """Let the network see normalised latents [1,16,1,h,w] of the canvas from now on."""

    def load(self, runtime: Runtime) -> None:
        """Open the face networks, the method's weights, and the Wan folder that they belong to.

        Raises:
            UserError: a package, file or folder that is missing or does not fit, naming the setting.
        """
        import torch

        if self._cuts:
            pins = str(self._settings["pins"])
            wanted = own(Path(runtime.weights_dir), self.published, pins) if pins else self.published
            self._detector = open_detector(runtime, FILE, wanted[FILE])
            self._parser = self.open_parser(place(self._settings, "parser", runtime), runtime.device, wanted)
        base, checkpoint = place(self._settings, "base", runtime), place(self._settings, "checkpoint", runtime)
        expect(base, "transformer", {"in_channels": 16, "out_channels": 16, "image_dim": None})
        if checkpoint.is_dir():
            raise UserError(f"the checkpoint {checkpoint} is a folder", "--set checkpoint=FILE, the one that it holds")
        with checkpoint.open("rb") as stream:
            self._notes["sha256 checkpoint"] = hashlib.file_digest(stream, "sha256").hexdigest()
        network = self.open_network(base, checkpoint)
        self._networks = load_networks(base, network, getattr(torch, self._sampling.dtype), runtime.device)

    def generate(self, requests: Sequence[Request]) -> Iterator[Output]:
        """One video a request; the record's notes say which weights they were, and whether a face was found.

        Raises:
            RefusedError: a photograph that the parser finds unfit.
        """
        networks, sampling = self._networks, self._sampling
        for request in requests:
            latents, notes = self._reference(request.case.references[0])
            self.show(latents)
            texts = networks.prompts(request.case.prompt), networks.prompts(sampling.negative_prompt)
            start = noise(request.seed, (1, *sampling.latent_shape()), networks.device)
            velocity = text_guided(networks.transformer, texts, self._guidance)
            made = networks.sample(euler(sampling.steps, sampling.shift), start, velocity)
            yield Output(networks.decode(made), sampling.fps, notes={**notes, **self._notes})

    def _reference(self, reference: Reference) -> tuple[Tensor, dict[str, Scalar]]:
        """Latents of the canvas, and what was found in the photograph."""
        if reference.sha256 not in self._known:
            picture, notes = np.asarray(read(reference.path)), {}
            if self._detector is not None:
                face = self._detector.largest(picture)
                picture = self.cut(picture, face)
                notes["reference_face"] = "largest" if face is not None else "none: whole photograph"
            video = pixels(self.canvas(picture), "cpu")[None, :, None]
            self._known[reference.sha256] = self._networks.encode(video), notes
        return self._known[reference.sha256]
