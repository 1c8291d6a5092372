"""The networks of a build, opened once in each process, each on one thread: clips run side by side, not layers."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from faithfulfaces.dataset.checks import Check, check
from faithfulfaces.dataset.settings import Networks, Settings
from faithfulfaces.pose import EnlargedBoxPose
from ffbench.errors import UserError
from ffbench.extract.align import ARCFACE_TEMPLATE
from ffbench.extract.crops import Face, crop
from ffbench.extract.detect import Detector, detect_ladder, largest
from ffbench.extract.embed import Embedder
from ffbench.extract.networks import build
from ffbench.extract.pose import PoseEstimator
from ffbench.protocols import Network
from ffbench.weights import resolve

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]
SIDE = 112
"""px of the template of five points."""
PHOTOS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})


class Excluded(NamedTuple):
    """People who must not be in the samples."""

    names: tuple[str, ...]
    """N photographs."""
    embeddings: Floats
    """[N,D]."""


class Instruments(NamedTuple):
    """What looks at clips."""

    detector: Detector
    pose: PoseEstimator
    embedder: Embedder | None
    excluded: Excluded | None
    checks: tuple[Check, ...] = ()

    @property
    def ids(self) -> dict[str, str]:
        """Of each slot the id of its network."""
        ids = {"detector": self.detector.id, "pose": self.pose.id}
        return ids if self.embedder is None else ids | {"embedder": self.embedder.id}


def open_instruments(settings: Settings, device: str) -> Instruments:
    """Detector, pose estimator and, where the settings ask for them, filters, and a recogniser with excluded people.

    Raises:
        UserError: weights that are missing or not what they should be; a package or a check that cannot be imported; a
            folder of photographs without a face.
    """
    wanted = settings.networks
    with _one_cpu(device):
        detector = build("detector", Network(wanted.detector, wanted.detector_weights), device)
        aux = (("aux", wanted.pose_aux),) if wanted.pose_aux else ()
        pose = build("pose", Network(wanted.pose, wanted.pose_weights, aux), device)
        # the other estimators enlarge the box themselves, or read points alone
        if wanted.pose == "sixdrepnet":
            pose = EnlargedBoxPose(pose, wanted.box)
        embedder: Any = None
        if wanted.embedder:
            embedder = build("arc", Network(wanted.embedder, wanted.embedder_weights), device)
        found = (*_filters(settings, device), *map(check, settings.quality.checks))
    made = Instruments(detector, pose, embedder, None, found)
    _try(made, wanted)
    if settings.people.exclude:
        made = made._replace(excluded=_excluded(Path(settings.people.exclude), made, wanted))
    return made


def _try(made: Instruments, wanted: Networks) -> None:
    """Run each network once: one that ends its process here is no clip's fault, and stops the build."""
    picture = np.zeros((SIDE, SIDE, 3), np.uint8)
    box, points = np.array([[0, 0, SIDE, SIDE]], np.float32), ARCFACE_TEMPLATE[None]
    detect_ladder(made.detector, picture, wanted.ladder)
    made.pose.angles([picture], box, points)
    if made.embedder is not None:
        embed(made.embedder, [picture], box, points)


def _filters(settings: Settings, device: str) -> Iterator[Check]:
    """The built-in filters that are switched on."""
    if settings.quality.text:
        from faithfulfaces.dataset.overlay import TextFinder

        yield Check("text", TextFinder().share, True, settings.quality.text)
    if settings.quality.aesthetic:
        from faithfulfaces.dataset.aesthetic import Aesthetic

        wanted = settings.networks
        options = (("model", wanted.aesthetic_model),)
        clip = build("clip", Network("open-clip", wanted.aesthetic_clip, options), device)
        head = resolve(wanted.aesthetic_head).path
        yield Check("aesthetic", Aesthetic(clip, head).score, False, settings.quality.aesthetic)


def embed(embedder: Embedder, images: list[Pixels], boxes: Floats, points: Floats) -> Floats:
    """[N,D] unit embeddings of one face of each image; NaN where there is no direction."""
    faces = [Face(box, five, 1.0, 1, "640") for box, five in zip(boxes, points, strict=True)]
    return embedder(np.stack([crop(i, f, embedder.source) for i, f in zip(images, faces, strict=True)]))


def _excluded(folder: Path, made: Instruments, wanted: Networks) -> Excluded:
    import PIL.Image

    names, rows = [], []
    for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in PHOTOS):
        with PIL.Image.open(path) as image:
            picture = np.asarray(image.convert("RGB"))
        found, _ = detect_ladder(made.detector, picture, (*wanted.ladder, "pad25"))
        if not len(found.scores):
            # a photograph that is passed over would let its person into the training data
            raise UserError(f"people.exclude: no face found in {path}", "crop closer, or remove the photograph")
        assert made.embedder is not None
        index = largest(found)
        rows.append(embed(made.embedder, [picture], found.boxes[index][None], found.points[index][None])[0])
        names.append(path.relative_to(folder).as_posix())
    if not names:
        raise UserError(f"people.exclude: no photographs in {folder}", "give a folder of photographs")
    return Excluded(tuple(names), np.stack(rows))


@contextmanager
def _one_cpu(device: str) -> Iterator[None]:
    """Within, libraries that count CPUs to size their pools count one; only on a CPU device."""
    if device != "cpu" or not hasattr(os, "sched_setaffinity"):
        yield
        return
    all_cpus = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(all_cpus)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, all_cpus)
        # importing it takes longer than a clip: only where a network did
        if torch := sys.modules.get("torch"):
            torch.set_num_threads(1)
