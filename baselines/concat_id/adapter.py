"""Concat-ID: one aligned face as a clean latent frame behind the video, on Wan 2.1 text-to-video."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from torch import Tensor

from baselines.concat_id.faces import Parser, aligned, on_black, open_parser
from baselines.concat_id.network import ConcatIDNetwork, split
from baselines.faces.antelopev2 import Detector, open_detector
from baselines.wan.latents import pixels
from baselines.wan.loading import expect, from_original, merged
from baselines.wan.networks import load_networks
from baselines.wan.pictures import read
from baselines.wan.sampling import euler, noise, text_guided
from baselines.wan.settings import Sampling, choice, place
from ffbench.contract import Output, Request, Runtime
from ffbench.records import Reference, Scalar

REFERENCES = ("face", "as-is")
"""Cut the face out as the authors do, or take a reference that is such a crop already."""


class ConcatID:
    """Makes one video a request, of the face of the first reference."""

    def __init__(self, settings: Mapping[str, Scalar]) -> None:
        self._settings = settings
        self._sampling = Sampling.of(settings).fit()
        self._guidance = float(settings["guidance"] or 0)
        self._cut = choice(settings, "reference", REFERENCES) == "face"
        self._detector: Detector | None = None
        self._parser: Parser | None = None
        self._known: dict[str, tuple[Tensor, dict[str, Scalar]]] = {}

    def load(self, runtime: Runtime) -> None:
        """Open the face networks, Concat-ID's transformer, and the rest of the Wan folder that it was trained from.

        Raises:
            UserError: a file or folder that is missing or does not fit, naming the setting.
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
        stored, added = split(merged(checkpoint))
        transformer = from_original(stored, checkpoint, base, dtype)
        self._network = ConcatIDNetwork(transformer, added, str(checkpoint))
        self._networks = load_networks(base, self._network, dtype, runtime.device)

    def generate(self, requests: Sequence[Request]) -> Iterator[Output]:
        """One video a request; the record's notes say which stage the weights are of, and whether a face was found.

        Raises:
            RefusedError: a photograph that hardly shows a face.
        """
        networks, sampling = self._networks, self._sampling
        stage = "adaln" if self._network.adaln else "first"
        for request in requests:
            self._network.reference, notes = self._reference(request.case.references[0])
            texts = networks.prompts(request.case.prompt), networks.prompts(sampling.negative_prompt)
            start = noise(request.seed, (1, *sampling.latent_shape()), networks.device)
            velocity = text_guided(self._network, texts, self._guidance)
            made = networks.sample(euler(sampling.steps, sampling.shift), start, velocity)
            notes = {**notes, "stage": stage, "sha256 checkpoint": self._sha256}
            yield Output(networks.decode(made), sampling.fps, notes=notes)

    def _reference(self, reference: Reference) -> tuple[Tensor, dict[str, Scalar]]:
        """Latents [1,16,1,h,w] of the canvas, and what was found in the photograph."""
        if reference.sha256 not in self._known:
            picture, notes = np.asarray(read(reference.path)), {}
            if self._detector is not None and self._parser is not None:
                face = self._detector.largest(picture)
                picture = self._parser.cut(picture if face is None else aligned(picture, face))
                notes["reference_face"] = "largest" if face is not None else "none: whole photograph"
            canvas = on_black(picture, self._sampling.width, self._sampling.height)
            latents = self._networks.encode(pixels(canvas, "cpu")[None, :, None])
            self._known[reference.sha256] = latents, notes
        return self._known[reference.sha256]
