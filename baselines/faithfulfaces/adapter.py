"""FaithfulFaces: settings of the card to one pipeline, and requests to frames."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ffbench.contract import Output, RefusedError, Request, Runtime
from ffbench.embedded import folder_of
from ffbench.errors import UserError
from ffbench.records import Reference, Scalar

SAMPLING = {
    "width": "width",
    "height": "height",
    "num_frames": "num_frames",
    "steps": "steps",
    "guidance": "guidance",
    "shift": "flow_shift",
    "text_tokens": "text_tokens",
    "negative_prompt": "negative_prompt",
    "aligner": "aligner",
    "euler": "euler",
    "euler_noise_degrees": "euler_noise_degrees",
    "scale": "scale",
}
"""Setting of the card -> field of the pipeline's `Sampling`."""


class FaithfulFaces:
    """Makes one video a request; the base, LoRA, aligner and face reader are loaded once."""

    def __init__(self, settings: Mapping[str, Scalar]) -> None:
        self._settings = settings
        self._pipe: Any = None
        self._sampling: Any = None
        self._notes: dict[str, Scalar] = {}
        self._known: dict[str, Any] = {}

    def load(self, runtime: Runtime) -> None:
        """Open the checkpoint, then the base that it was trained on.

        Raises:
            UserError: a folder that is missing or does not fit, naming the setting.
        """
        from baselines.wan.memory import remember
        from baselines.wan.networks import fits
        from baselines.wan.text import PromptEncoder
        from faithfulfaces.backbone import DTYPES, load_vace
        from faithfulfaces.config import WEIGHTLESS_FACES, Faces
        from faithfulfaces.faces import open_faces
        from faithfulfaces.model import LORA, WEIGHTS, load_model
        from faithfulfaces.pipeline import FaithfulFacesPipeline, Sampling

        settings = self._settings
        self._sampling = Sampling(**{field: settings[name] for name, field in SAMPLING.items()})
        dtype = _choice(settings, "dtype", DTYPES)
        checkpoint = _folder(settings, "checkpoint", "", "train one (faithfulfaces train) or get a published one")
        config, parts = load_model(checkpoint)
        readers = {"checkpoint": config.faces, "paper": Faces(), "weightless": WEIGHTLESS_FACES}
        base = _folder(settings, "base", config.base, f"download {config.base} whole")
        faces = open_faces(_choice(settings, "faces", readers), runtime.device)
        vace = load_vace(base, dtype)
        prompts = PromptEncoder(vace.tokenizer, vace.text_encoder, runtime.device, self._sampling.text_tokens)
        # the pipeline must not carry it onto the device: it is there only while it encodes
        vace.register_modules(tokenizer=None, text_encoder=None)
        remember(vace, prompts)
        vace.set_progress_bar_config(disable=True)
        self._pipe = FaithfulFacesPipeline(vace, config, parts, faces)
        if fits(runtime.device, (vace.transformer, vace.vae, prompts.encoder)):
            self._pipe.to(runtime.device)
        else:
            vace.enable_model_cpu_offload(device=runtime.device)
        # the path is in the key, the bytes are not: the record says which they were
        self._notes = {"faces": faces.id}
        for name in (WEIGHTS, LORA):
            if (checkpoint / name).is_file():
                with (checkpoint / name).open("rb") as stream:
                    self._notes[f"sha256 {name}"] = hashlib.file_digest(stream, "sha256").hexdigest()

    def generate(self, requests: Sequence[Request]) -> Iterator[Output]:
        """One video a request, of the first reference.

        Raises:
            RefusedError: a reference without a face.
        """
        for request in requests:
            face = self._face(request.case.references[0])
            pitch, yaw, roll = (float(angle) for angle in face.euler)
            frames = self._pipe.generate(face, request.case.prompt, request.seed, self._sampling)
            angles = {"reference_pitch": pitch, "reference_yaw": yaw, "reference_roll": roll}
            yield Output(frames, float(self._settings["fps"] or 0), notes={**self._notes, **angles})

    def _face(self, reference: Reference) -> Any:
        """What the face reader finds, once a person."""
        if reference.sha256 not in self._known:
            with Image.open(Path(reference.path)) as image:
                picture = np.asarray(image.convert("RGB"))
            try:
                self._known[reference.sha256] = self._pipe.faces.read(picture)
            except UserError as error:
                raise RefusedError(error.what) from error
        return self._known[reference.sha256]


def _folder(settings: Mapping[str, Scalar], name: str, otherwise: str, how: str) -> Path:
    given = folder_of(str(settings[name] or otherwise), name)
    if not given:
        raise UserError(f"faithfulfaces has no {name}: the setting is empty", f"{how}, then --set {name}=FOLDER")
    if not Path(given).is_dir():
        raise UserError(f"the {name} {given} is no folder on this machine", f"{how}, then --set {name}=FOLDER")
    return Path(given)


def _choice(settings: Mapping[str, Scalar], name: str, choices: Mapping[str, Any]) -> Any:
    if settings[name] not in choices:
        raise UserError(f"there is no {name} {settings[name]!r}", f"--set {name}=one of: {', '.join(choices)}")
    return choices[str(settings[name])]
