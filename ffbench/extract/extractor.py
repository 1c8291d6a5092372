"""Videos and photographs become FaceTracks: one detection and one crop of each kind a frame, shared by all networks."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ffbench.extract.crops import SIDES, Face, chosen, crop
from ffbench.extract.detect import detect_all
from ffbench.extract.embed import Source
from ffbench.extract.loading import one_thread
from ffbench.extract.networks import open_networks
from ffbench.extract.track import VERSION, FaceTrack, Floats
from ffbench.protocols import Protocol
from ffbench.records import digest

if TYPE_CHECKING:
    from ffbench.extract.clip import TextFeatures
    from ffbench.video import Clip

Image = NDArray[np.uint8]


class _Sheet(NamedTuple):
    """The distinct sampled frames of one video or photograph, before and after detection."""

    number: NDArray[np.int64]
    time: NDArray[np.float64]
    pixels: Image
    rows: NDArray[np.int64]
    """[T] row of each sampled frame; a short video is sampled with repeats, which are measured once."""
    faces: list[Face | None]


class Extractor:
    """Runs a protocol's networks.

    Args:
        protocol: the recipe.
        device: `cpu`, `cuda` or `cuda:N`.

    Raises:
        UserError: the detector's weights are missing, or a file is not what it should be.
    """

    def __init__(self, protocol: Protocol, device: str = "cpu") -> None:
        self.protocol = protocol
        self.timings: dict[str, float] = {}
        """Seconds spent by part since the start: open, detect, crop, pose, clip, text and the slots' names."""
        with self._timed("open"):
            self._networks = open_networks(protocol, device)

    @property
    def ids(self) -> Mapping[str, str]:
        """Ids by slot, of the networks that run."""
        return self._networks.ids

    @property
    def missing(self) -> Mapping[str, str]:
        """Why a slot's network does not run, with the command that mends it."""
        return self._networks.missing

    def track_key(self, sha256: str) -> str:
        """Key of the track of a video or photograph: its bytes, the recipe and the networks that really ran.

        A track made while weights were missing therefore is not taken for one made after they came.
        """
        return digest([sha256, self.protocol.track_recipe, sorted(self.ids.items()), VERSION])

    def track(self, clips: Sequence[Clip]) -> list[FaceTrack]:
        """One FaceTrack a video; networks see the faces of all videos together, and no video changes another's numbers.

        Raises:
            KeyError: a clip was read without the samplers of the protocol.
        """
        sheets = []
        for clip in clips:
            frames = clip.frames[self.protocol.face_sampler]
            sheets.append(self._sheet(frames.pixels, frames.number, frames.time))
        tracks = self._measure(sheets, [clip.size for clip in clips])
        return [self._with_text_frames(track, clip) for track, clip in zip(tracks, clips, strict=True)]

    def reference(self, image: Image) -> FaceTrack:
        """The one-row track of a photograph, uint8 [H,W,3] RGB."""
        sheet = self._sheet(image[None], np.zeros(1, np.int64), np.zeros(1))
        return self._measure([sheet], [(image.shape[1], image.shape[0])])[0]

    def texts(self, prompts: Sequence[str]) -> TextFeatures:
        """Embedded prompts.

        Raises:
            RuntimeError: the protocol has no text network, or its weights are missing (see `missing`).
        """
        if self._networks.clip is None:
            raise RuntimeError("this protocol runs without a text network")
        with self._timed("text"):
            return self._networks.clip.texts(prompts)

    def long_texts(self, prompt: str) -> Floats:
        """[S,D] of a prompt's parts.

        Raises:
            RuntimeError: as `texts`.
        """
        if self._networks.clip is None:
            raise RuntimeError("this protocol runs without a text network")
        with self._timed("text"):
            return self._networks.clip.long_texts(prompt)

    def _sheet(self, pixels: Image, number: NDArray[np.int64], seconds: NDArray[np.float64]) -> _Sheet:
        _, first, rows = np.unique(number, return_index=True, return_inverse=True)
        distinct = pixels[first]
        with self._timed("detect"):
            found = detect_all(self._networks.detector, list(distinct), self.protocol.ladder)
        faces = [chosen(all_faces, step, distinct.shape[1:3]) for all_faces, step in found]
        return _Sheet(number, seconds, distinct, rows, faces)

    def _measure(self, sheets: Sequence[_Sheet], sizes: Sequence[tuple[int, int]]) -> list[FaceTrack]:
        """Networks over all faces of all sheets, then each sheet's own rows back."""
        pairs = [
            (image, face) for sheet in sheets for image, face in zip(sheet.pixels, sheet.faces, strict=True) if face
        ]
        with self._timed("crop"):
            crops = self._crops(pairs)
        values: dict[str, Floats] = {}
        for slot, embedder in self._networks.embedders.items():
            with self._timed(slot):
                values[slot] = embedder(crops[embedder.source])
        for slot, net in self._networks.feature_nets.items():
            with self._timed(slot):
                values[slot] = net(crops["align224"])
        values["angles"] = self._angles(pairs)
        tracks, start = [], 0
        for sheet, size in zip(sheets, sizes, strict=True):
            stop = start + sum(face is not None for face in sheet.faces)
            tracks.append(self._assemble(sheet, size, {name: rows[start:stop] for name, rows in values.items()}))
            start = stop
        return tracks

    def _crops(self, pairs: Sequence[tuple[Image, Face]]) -> dict[Source, Image]:
        wanted: set[Source] = {embedder.source for embedder in self._networks.embedders.values()}
        if self._networks.feature_nets:
            wanted.add("align224")
        made: dict[Source, Image] = {}
        for source in sorted(wanted):
            crops = [crop(image, face, source) for image, face in pairs]
            empty = np.zeros((0, SIDES[source], SIDES[source], 3), np.uint8)
            made[source] = np.stack(crops) if crops else empty
        return made

    def _angles(self, pairs: Sequence[tuple[Image, Face]]) -> Floats:
        if self._networks.pose is None or not pairs:
            return np.full((len(pairs), 3), np.nan, np.float32)
        with self._timed("pose"):
            boxes, points = np.stack([face.box for _, face in pairs]), np.stack([face.points for _, face in pairs])
            return self._networks.pose.angles([image for image, _ in pairs], boxes, points)

    def _assemble(self, sheet: _Sheet, size: tuple[int, int], values: Mapping[str, Floats]) -> FaceTrack:
        faces = sheet.faces
        seen = np.array([face is not None for face in faces], bool)

        def spread(rows: NDArray[np.floating]) -> Floats:
            """Rows of the frames with a face -> rows of all sampled frames, NaN elsewhere."""
            out = np.full((len(faces), *rows.shape[1:]), np.nan, np.float32)
            out[seen] = rows
            return out[sheet.rows]

        met = [face for face in faces if face is not None]
        return FaceTrack(
            number=np.asarray(sheet.number, np.int64),
            time=np.asarray(sheet.time, np.float64),
            box=spread(np.array([face.box for face in met], np.float32).reshape(-1, 4)),
            points=spread(np.array([face.points for face in met], np.float32).reshape(-1, 5, 2)),
            det_score=spread(np.array([face.score for face in met], np.float32)),
            num_faces=np.array([face.num_faces if face else 0 for face in faces], np.int64)[sheet.rows],
            step=tuple(face.step if (face := faces[row]) else "" for row in sheet.rows),
            angles=spread(values["angles"]),
            embeddings={slot: spread(values[slot]) for slot in self._networks.embedders},
            features={slot: spread(values[slot]) for slot in self._networks.feature_nets},
            clip_number=np.zeros(0, np.int64),
            clip=np.zeros((0, 0), np.float32),
            size=size,
            networks=dict(self.ids),
            missing=dict(self.missing),
        )

    def _with_text_frames(self, track: FaceTrack, clip: Clip) -> FaceTrack:
        frames = clip.frames[self.protocol.text_sampler]
        number = np.asarray(frames.number, np.int64)
        if self._networks.clip is None:
            return dataclasses.replace(track, clip_number=number)
        _, first, rows = np.unique(number, return_index=True, return_inverse=True)
        with self._timed("clip"):
            seen = self._networks.clip.images(frames.pixels[first], self.protocol.clip_colour)
        return dataclasses.replace(track, clip_number=number, clip=seen[rows])

    @contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            with one_thread():
                yield
        finally:
            self.timings[part] = self.timings.get(part, 0.0) + time.perf_counter() - start
