"""How good are the instruments? A protocol measured where the truth is known: labelled frames, and defects put in.

OUT/truth/truth.txt, truth.json, instruments.png, defects.png
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ffbench.errors import UserError
from ffbench.extract.extractor import Extractor
from ffbench.extract.networks import EMBEDDERS
from ffbench.image import ImageError, read_image
from ffbench.progress import bar
from ffbench.protocols import Protocol
from ffbench.score import FALSE_ACCEPT_RATE
from ffbench.suites import Suite
from ffbench.truth import accuracy
from ffbench.truth.accuracy import Fact, Pairs
from ffbench.truth.labelled import Labelled, TruthSet
from ffbench.truth.sensitivity import Subject, Trial, try_defects
from ffbench.video import Clip, Frames, read_clip, sample_indices

CURVE_POINTS = 200
"""Of an ROC in the JSON file."""


@dataclass(frozen=True)
class Truth:
    """All that is found out, under one protocol."""

    protocol: str
    networks: dict[str, str]
    missing: dict[str, str]
    source: str
    """Where the videos are from."""
    facts: tuple[Fact, ...]
    """About the instruments; empty for the user's own videos, whose truth nobody knows."""
    curves: dict[str, Pairs] = field(default_factory=dict)
    """slot -> pairs of frames."""
    trial: Trial | None = None


def of_embedded(labelled: TruthSet, protocol: Protocol, device: str) -> Truth:
    """The instruments on the labelled frames, and the metrics on its clips with and without defects.

    Raises:
        UserError: a network's weights are damaged, or the detector's are missing.
    """
    extractor = Extractor(protocol, device)
    facts, curves = _instruments(extractor, labelled.loose)
    subjects = _subjects(labelled, protocol)
    trial = _trial(extractor, subjects)
    source = (
        f"rendered people of the split test: {len(labelled.loose.seeds)} in {labelled.loose.seen.size} loose frames, "
        f"{len(subjects)} others in a clip of {labelled.clips.seen.shape[1]} frames each"
    )
    return Truth(protocol.id, dict(extractor.ids), dict(extractor.missing), source, tuple(facts), curves, trial)


def of_videos(suite: Suite, protocol: Protocol, device: str) -> Truth:
    """The metrics on the user's videos with and without defects.

    Raises:
        UserError: as `of_embedded`, or for a reference that cannot be read.
    """
    extractor = Extractor(protocol, device)
    samplers = sorted({protocol.face_sampler, protocol.text_sampler})
    subjects = []
    for case in suite.cases:
        path = Path(case.references[0].path)
        try:
            photo = read_image(path)
        except (OSError, ImageError) as error:
            raise UserError(f"reference {path}: {error}", "give a readable photograph") from error
        video = suite.given[case.case_id]
        subjects.append(
            Subject(case.case_id, case.identity_id, photo, case.prompt, partial(read_clip, video, samplers))
        )
    trial = _trial(extractor, subjects)
    source = f"{len(subjects)} videos of {len({s.identity for s in subjects})} people of {suite.name}"
    return Truth(protocol.id, dict(extractor.ids), dict(extractor.missing), source, (), {}, trial)


def as_json(truth: Truth) -> dict[str, Any]:
    """A truth as plain data; a number that is not there is null."""
    trial = truth.trial
    return {
        "protocol": truth.protocol,
        "source": truth.source,
        "networks": truth.networks,
        "missing": truth.missing,
        "instruments": [_plain(dataclasses.asdict(fact)) for fact in truth.facts],
        "roc": {slot: _curve(pairs) for slot, pairs in truth.curves.items()},
        "defects": [_plain(dataclasses.asdict(move)) for move in trial.moves] if trial else [],
        "changed_frames": _plain(dict(trial.changed)) if trial else {},
        "videos": trial.videos if trial else 0,
        "left_out": list(trial.notes) if trial else [],
    }


def clip_of(pixels: NDArray[np.uint8], fps: float, samplers: Sequence[str]) -> Clip:
    """A Clip of frames in memory, sampled as a file of them would be."""
    times = np.arange(len(pixels)) / fps
    taken = {sampler: sample_indices(sampler, times) for sampler in samplers}
    return Clip(
        {sampler: Frames(pixels[rows], rows, times[rows]) for sampler, rows in taken.items()},
        (pixels.shape[2], pixels.shape[1]), fps, len(pixels), len(pixels) / fps,
    )  # fmt: skip


def _instruments(extractor: Extractor, loose: Labelled) -> tuple[list[Fact], dict[str, Pairs]]:
    protocol = extractor.protocol
    tracks = []
    with bar("labelled frames", len(loose.seeds), "person") as progress:
        for pixels in loose.pixels:
            # every frame once, whatever the protocol's samplers are
            frames = Frames(pixels, np.arange(len(pixels)), np.arange(len(pixels), dtype=np.float64))
            size = (pixels.shape[2], pixels.shape[1])
            every = dict.fromkeys((protocol.face_sampler, protocol.text_sampler), frames)
            tracks += extractor.track([Clip(every, size, 1.0, len(pixels), float(len(pixels)))])
            progress.advance()
    facts = [*accuracy.detection(tracks, loose), *accuracy.landmarks(tracks, loose)]
    if "pose" in extractor.ids:
        facts += accuracy.pose(tracks, loose)
    curves = {slot: accuracy.pairs(tracks, loose, slot) for slot in EMBEDDERS if slot in extractor.ids}
    for slot, pairs in curves.items():
        facts += accuracy.verified(slot, pairs)
    if "clip" in extractor.ids:
        said = [str(caption) for caption in loose.captions.reshape(-1)]
        facts += accuracy.retrieval(
            np.concatenate([track.clip for track in tracks]), extractor.texts(said).embeddings, loose
        )
    return facts, curves


def _subjects(labelled: TruthSet, protocol: Protocol) -> list[Subject]:
    clips = labelled.clips
    samplers = sorted({protocol.face_sampler, protocol.text_sampler})
    return [
        Subject(
            f"person {seed}", str(seed), photo, str(caption),
            partial(clip_of, pixels, labelled.fps, samplers),
        )
        for seed, photo, caption, pixels in zip(
            clips.seeds.tolist(), labelled.portraits, clips.captions, clips.pixels, strict=True
        )
    ]  # fmt: skip


def _trial(extractor: Extractor, subjects: Sequence[Subject]) -> Trial:
    with bar("defects", len(subjects), "video") as progress:
        return try_defects(extractor, subjects, FALSE_ACCEPT_RATE, progress.advance)


def _curve(pairs: Pairs) -> dict[str, list[float]]:
    if not pairs.same.any() or pairs.same.all():
        return {"false_accept": [], "true_accept": []}
    curve = pairs.curve()
    rates = np.concatenate([[0.0], np.geomspace(1 / len(pairs.same), 1, CURVE_POINTS - 1)])
    # the step's upper end: the greatest share of right pairs at this rate of false ones
    rows = np.searchsorted(curve.false_accept, rates, "right") - 1
    return {"false_accept": _short(rates), "true_accept": _short(curve.true_accept[rows])}


def _short(values: NDArray[np.float64]) -> list[float]:
    return [float(f"{value:.5g}") for value in values]


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in values.items()}
