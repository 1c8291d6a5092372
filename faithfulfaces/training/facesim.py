"""FaceSim of frames in memory, as `ffbench score` measures it of a video: same detector, crops, embedder and mean."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ffbench.errors import UserError
from ffbench.extract.crops import SIDES, chosen, crop
from ffbench.extract.detect import Detector, detect_all
from ffbench.extract.embed import Embedder, Floats
from ffbench.extract.networks import EMBEDDERS, build
from ffbench.metrics import Measured
from ffbench.metrics.identity import facesim, missing_as_zero
from ffbench.protocols import Protocol
from ffbench.video import sample_indices

Picture = NDArray[np.uint8]


class FaceSim:
    """One face encoder of a protocol.

    Args:
        protocol: names detector, ladder, embedders and which frames count.
        slot: `arc`, `cur` or `facenet`.
        device: `cpu`, `cuda` or `cuda:N`.

    Raises:
        UserError: when the protocol lacks the slot, or weights are missing.
    """

    def __init__(self, protocol: Protocol, slot: str, device: str = "cpu") -> None:
        have = [name for name in EMBEDDERS if name in protocol.networks]
        if slot not in have:
            raise UserError(f"protocol {protocol.name} has no face encoder {slot!r}", f"choose of {', '.join(have)}")
        self._protocol = protocol
        self._detector: Detector = build("detector", protocol.networks["detector"], device)
        self._embedder: Embedder = build(slot, protocol.networks[slot], device)
        self.id = f"{protocol.id} {slot} {self._embedder.id}"

    def embeddings(self, images: Sequence[Picture]) -> Floats:
        """[N,D] of unit length from uint8 [H,W,3] RGB images; a row of NaN where no face is found."""
        found = detect_all(self._detector, images, self._protocol.ladder)
        faces = [
            chosen(all_faces, step, image.shape[:2]) for (all_faces, step), image in zip(found, images, strict=True)
        ]
        source = self._embedder.source
        cut = [crop(image, face, source) for image, face in zip(images, faces, strict=True) if face]
        rows = self._embedder(np.stack(cut) if cut else np.zeros((0, SIDES[source], SIDES[source], 3), np.uint8))
        whole = np.full((len(images), rows.shape[1]), np.nan, np.float32)
        whole[[face is not None for face in faces]] = rows
        return whole

    def reference(self, photograph: Picture, name: str) -> Floats:
        """[D] of a photograph.

        Raises:
            UserError: it holds no face.
        """
        row: Floats = self.embeddings([photograph])[0]
        if not np.isfinite(row).all():
            raise UserError(f"{name} holds no face that the protocol's detector finds", "take it out of the cases")
        return row

    def frames(self, reference: Floats, frames_THW3: Picture, fps: float) -> tuple[Measured, Measured]:
        """FaceSim over the frames with a face, and over all frames with a missing face as 0, of a video in memory."""
        taken = sample_indices(self._protocol.face_sampler, np.arange(len(frames_THW3)) / fps)
        distinct, rows = np.unique(taken, return_inverse=True)
        embeddings = self.embeddings(list(frames_THW3[distinct]))[rows]
        return facesim(reference, embeddings), missing_as_zero(reference, embeddings)
