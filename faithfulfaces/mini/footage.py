"""What the mini world's networks learn from: rendered clips with portraits, and loose frames, in blocks on disk.

Shapes: n people of a block, T frames of a clip.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from faithfulfaces.synthetic.captions import SCENES
from faithfulfaces.synthetic.labels import Labels
from faithfulfaces.synthetic.motion import Pace, Plan, make_plan
from faithfulfaces.synthetic.people import SPLITS, Person, person
from faithfulfaces.synthetic.render import render
from faithfulfaces.synthetic.scene import Frame, Setting
from ffbench.durable import write_atomic
from ffbench.truth.labelled import Labelled

Scalar = TypeVar("Scalar", bound=np.generic)
SIZE, FRAMES, FPS = 64, 9, 8
"""Side in px, frames and rate of a mini video."""
PORTRAIT = 96
"""Side in px of a reference photograph."""
BLOCK = 50
"""People of one file."""
SPAN = (0.25, 0.7)
"""Part of a whole motion that 9 frames show; the turn from back to front is shown nearly whole."""
TURN = (0.2, 0.88)
MOTIONS = {"boxing": 134, "dancing": 32, "turning": 82, "ballet": 88, "speech": 146, "dramatic": 37}
"""Seed of each scene type's motion. Everybody moves alike in a scene: what two CPU cores can learn in an hour.

Chosen for a wide and even sweep of yaw (the turn: from 151 degrees to 1), few hidden faces and little roll.
"""
FACING = 75.0
"""Greatest |yaw| in degrees of a frame whose face counts as shown."""


@dataclass(frozen=True)
class Footage(Labelled):
    """Frames of n people, one row a person; a clip, or loose frames of independent clips."""

    portraits: NDArray[np.uint8]
    """[n,P,96,96,3]: a photograph of the person in another setting; P = 0 for loose frames."""
    portrait_angles: NDArray[np.float32]
    """[n,P,3]."""
    portrait_box: NDArray[np.float32]
    """[n,P,4] px."""

    @property
    def shown(self) -> NDArray[np.bool_]:
        """[n,T] frames in which the face can be told: turned away no further than `FACING`, mostly not hidden."""
        return (np.abs(self.angles[..., 1]) <= FACING) & (self.seen >= 0.25)

    def save(self, path: Path) -> None:
        """Write an .npz without pickles; a killed run leaves no half file under the name."""
        stream = io.BytesIO()
        np.savez_compressed(stream, **{f.name: getattr(self, f.name) for f in fields(self)})
        write_atomic(path, stream.getvalue())

    @staticmethod
    def load(path: Path) -> Footage:
        """Read a file of `save`."""
        with np.load(path, allow_pickle=False) as file:
            return Footage(**{f.name: file[f.name] for f in fields(Footage)})

    @staticmethod
    def joined(parts: list[Footage]) -> Footage:
        """Rows of all parts."""
        return Footage(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Footage)))


def mini_plan(who: Person, scene: str, seed: int, place: str | None = None) -> Plan:
    """The plan of a mini video: person, place, dress and light vary, the motion is the scene's."""
    span = TURN if scene == "turning" else SPAN
    return make_plan(who, scene, seed, FRAMES, place, Pace(*span, MOTIONS[scene]))


def _free_plan(who: Person, scene: str, seed: int) -> Plan:
    """As `mini_plan`, but with a motion of its own: measuring networks must know every pose."""
    if scene == "turning":
        return make_plan(who, scene, seed, FRAMES, None, Pace(*TURN))
    start = float(np.random.default_rng([17, who.seed, seed]).uniform(0, 1 - (SPAN[1] - SPAN[0])))
    return make_plan(who, scene, seed, FRAMES, None, Pace(start, start + SPAN[1] - SPAN[0]))


def clips(split: str, block: int, device: str = "cpu", count: int = BLOCK) -> Footage:
    """One clip and one portrait of each of the `count` people of a block; scene types take turns."""
    people = _people(split, block, count)
    scenes = list(SCENES)
    plans = [mini_plan(who, scenes[who.seed % len(scenes)], 0) for who in people]
    drawn = render(
        [who for who in people for _ in range(FRAMES)],
        [frame for plan in plans for frame in plan.frames],
        [plan.setting for plan in plans for _ in range(FRAMES)],
        SIZE,
        device,
    )
    posed = [portrait(who) for who in people]
    photos = render(people, [frame for frame, _ in posed], [setting for _, setting in posed], PORTRAIT, device)
    captions = np.array([plan.caption for plan in plans])
    return _footage(people, drawn.pixels, drawn.labels, captions, photos.pixels, photos.labels)


def loose(split: str, block: int, device: str = "cpu", count: int = BLOCK) -> Footage:
    """T frames of each of the `count` people of a block, each of another clip: scene, place, light and dress."""
    people = _people(split, block, count)
    scenes = list(SCENES)
    chosen = []
    for who in people:
        rng = np.random.default_rng([19, who.seed])
        for i in range(FRAMES):
            plan = _free_plan(who, scenes[(who.seed + i) % len(scenes)], i)
            chosen.append((plan, plan.frames[int(rng.integers(FRAMES))]))
    drawn = render(
        [plan.person for plan, _ in chosen], [f for _, f in chosen], [p.setting for p, _ in chosen], SIZE, device
    )
    captions = np.array([plan.caption for plan, _ in chosen]).reshape(len(people), FRAMES)
    none = Labels(
        np.zeros((0, 3), np.float32), np.zeros((0, 4), np.float32), np.zeros((0, 5, 2), np.float32),
        np.zeros((0, 5), bool), np.zeros(0, np.float32),
    )  # fmt: skip
    return _footage(people, drawn.pixels, drawn.labels, captions, np.zeros((0, PORTRAIT, PORTRAIT, 3), np.uint8), none)


def portrait(who: Person) -> tuple[Frame, Setting]:
    """A photograph of a training person: most frontal, some turned up to 60 degrees; never the clip's setting."""
    plan = make_plan(who, "speech", 1, 1)
    rng = np.random.default_rng([23, who.seed])
    widest = 60 if rng.uniform() < 0.3 else 15
    yaw = float(rng.uniform(-widest, widest))
    frame = Frame(pitch=float(rng.uniform(-15, 18)), yaw=yaw, roll=float(rng.uniform(-12, 12)), body_yaw=0.4 * yaw)
    return frame, plan.setting


def _people(split: str, block: int, count: int) -> list[Person]:
    first = SPLITS[split].start + block * count
    return [person(seed) for seed in range(first, min(first + count, SPLITS[split].stop))]


def _footage(
    people: list[Person],
    pixels: NDArray[np.uint8],
    labels: Labels,
    captions: NDArray[np.str_],
    photos: NDArray[np.uint8],
    photo_labels: Labels,
) -> Footage:
    n = len(people)

    def rows(values: NDArray[Scalar], count: int) -> NDArray[Scalar]:
        return values.reshape(n, count, *values.shape[1:])

    count = len(photos) // n
    return Footage(
        np.array([who.seed for who in people]),
        rows(pixels, FRAMES),
        captions,
        rows(labels.angles, FRAMES),
        rows(labels.box, FRAMES),
        rows(labels.points, FRAMES),
        rows(labels.seen, FRAMES),
        rows(photos, count),
        rows(photo_labels.angles, count),
        rows(photo_labels.box, count),
    )  # fmt: skip
