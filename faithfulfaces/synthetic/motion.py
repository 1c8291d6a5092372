"""Moving people: seeded trajectories of the six scene types, with what passes in front of the face."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from faithfulfaces.synthetic.captions import CLOTHES, GLOVES, SCENES, caption
from faithfulfaces.synthetic.head import EXPRESSION, Expression
from faithfulfaces.synthetic.labels import Labels
from faithfulfaces.synthetic.people import Person, linear
from faithfulfaces.synthetic.render import render
from faithfulfaces.synthetic.scene import Blob, Colour, Frame, Setting

Curve = NDArray[np.float64]
Tracks = dict[str, Curve]


@dataclass(frozen=True)
class Plan:
    """A clip before it is drawn."""

    person: Person
    scene: str
    frames: tuple[Frame, ...]
    setting: Setting
    caption: str


@dataclass(frozen=True)
class Pace:
    """Which part of which motion the frames show; a few frames of all of it would jump."""

    start: float = 0.0
    end: float = 1.0
    """Share of the whole motion, 0..1."""
    motion: int | None = None
    """Seed of the trajectory, the same for everybody; None draws one for person and seed."""


@dataclass(frozen=True)
class Clip:
    """A drawn clip with its truth."""

    plan: Plan
    pixels: NDArray[np.uint8]
    """[T,size,size,3] RGB."""
    labels: Labels
    """T rows."""


def clip(person: Person, scene: str, seed: int, frames: int, size: int, device: torch.device | str = "cpu") -> Clip:
    """Draw `frames` frames of a person in a scene.

    Raises:
        ValueError: an unknown scene, or no frames.
    """
    plan = make_plan(person, scene, seed, frames)
    drawn = render([person] * frames, plan.frames, [plan.setting] * frames, size, device)
    return Clip(plan, drawn.pixels, drawn.labels)


def make_plan(
    person: Person,
    scene: str,
    seed: int,
    frames: int,
    place: str | None = None,
    pace: Pace | None = None,
) -> Plan:
    """Trajectory, setting and caption of a clip, from person, scene and seed alone; place and pace if not left open.

    Raises:
        ValueError: an unknown scene, or no frames.
    """
    if scene not in SCENES or frames < 1:
        raise ValueError(f"{frames} frames of scene {scene!r}; scenes are {', '.join(SCENES)}")
    rng = np.random.default_rng([11, person.seed, list(SCENES).index(scene), seed])
    pace = pace or Pace()
    t = np.linspace(pace.start, pace.end, frames)
    place = place or str(rng.choice(SCENES[scene] if rng.uniform() < 0.75 else sum(SCENES.values(), ())))
    cloth, trim = (str(c) for c in rng.choice(list(CLOTHES), 2, replace=False))
    glove = str(rng.choice(list(GLOVES)))
    own = rng if pace.motion is None else np.random.default_rng([53, list(SCENES).index(scene), pace.motion])
    tracks = _MOTIONS[scene](t, own)
    covered = "cover" in tracks
    skin: Colour = person.colours["skin"]
    blobs = _gloves(tracks, linear(GLOVES[glove])) if scene == "boxing" else _hands(tracks, skin, frames)
    setting = Setting(
        backdrop=place,
        cloth=linear(CLOTHES[cloth]),
        trim=linear(CLOTHES[trim]),
        neckline=float(rng.uniform(0, 0.3)),
        light=float(rng.uniform(-0.7, 0.7)),
        seed=int(rng.integers(1 << 31)),
    )
    text = caption(scene, place, cloth, glove, covered, rng)
    return Plan(person, scene, tuple(_frame(tracks, blobs[i], i) for i in range(frames)), setting, text)


def reference_frames(person: Person) -> tuple[Frame, Frame]:
    """A person's frontal and non-frontal reference pose: at rest, and turned by 35 to 60 degrees to either side."""
    rng = np.random.default_rng([13, person.seed])
    yaw = float(rng.uniform(35, 60) * rng.choice([-1, 1]))
    return Frame(), Frame(pitch=float(rng.uniform(-8, 12)), yaw=yaw, roll=float(rng.uniform(-8, 8)), body_yaw=0.4 * yaw)


def _frame(tracks: Tracks, blobs: tuple[Blob, ...], i: int) -> Frame:
    def at(name: str, rest: float = 0.0) -> float:
        return float(tracks[name][i]) if name in tracks else rest

    yaw = (at("yaw") + 180) % 360 - 180
    expression = Expression(**{name: at(name) for name in EXPRESSION})
    return Frame(
        at("pitch"), yaw, at("roll"), at("body_yaw", 0.4 * yaw), (at("x"), at("y")), at("zoom", 1), expression, blobs
    )


def _wander(t: Curve, rng: np.random.Generator, size: float, speed: float = 1.0) -> Curve:
    """A smooth random curve within about +-size."""
    out = np.zeros_like(t)
    for weight, cycles in ((0.65, 0.8), (0.35, 1.9)):
        out += weight * np.sin(2 * np.pi * (cycles * speed * rng.uniform(0.7, 1.3) * t + rng.uniform()))
    return size * out


def _pulse(t: Curve, centre: float, width: float) -> Curve:
    """0..1..0 around a time."""
    return np.asarray(np.exp(-(((t - centre) / width) ** 2)), np.float64)


def _blinks(t: Curve, rng: np.random.Generator) -> Curve:
    return np.asarray(np.max([_pulse(t, c, 0.025) for c in rng.uniform(0, 1, 2)], axis=0), np.float64)


def _boxing(t: Curve, rng: np.random.Generator) -> Tracks:
    yaw = _wander(t, rng, rng.uniform(40, 65), 1.3)
    guard = np.max([_pulse(t, c, 0.09) for c in rng.uniform(0.05, 0.95, 2)], axis=0)
    return {
        "yaw": yaw, "pitch": -6 + _wander(t, rng, 10), "roll": _wander(t, rng, 14), "x": _wander(t, rng, 0.12, 1.3),
        "guard": guard, "left": _wander(t, rng, 1, 2.4), "right": _wander(t, rng, 1, 2.4),
        "brow": -0.4 + _wander(t, rng, 0.3), "blink": 0.2 + 0.3 * guard, "jaw": 0.12 * np.abs(_wander(t, rng, 1, 3)),
    }  # fmt: skip


def _dancing(t: Curve, rng: np.random.Generator) -> Tracks:
    beat = rng.uniform(1.5, 2.6)
    yaw = rng.uniform(35, 60) * np.sin(2 * np.pi * (beat * t + rng.uniform())) + _wander(t, rng, 14)
    return {
        "yaw": yaw, "pitch": _wander(t, rng, 16, 1.4), "roll": _wander(t, rng, 26, 1.3),
        "x": _wander(t, rng, 0.16, 1.5), "y": 0.06 * np.abs(np.sin(2 * np.pi * beat * t)) - 0.03,
        "smile": 0.5 + _wander(t, rng, 0.4),
        "jaw": 0.15 * np.clip(_wander(t, rng, 1, 2), 0, 1), "blink": _blinks(t, rng), "brow": _wander(t, rng, 0.4),
    }  # fmt: skip


def _turning(t: Curve, rng: np.random.Generator) -> Tracks:
    side, start, end = rng.choice([-1, 1]), rng.uniform(0.05, 0.2), rng.uniform(0.6, 0.85)
    share = np.clip((t - start) / (end - start), 0, 1)
    ease = share * share * (3 - 2 * share)
    lead = side * 24 * np.sin(np.pi * ease)
    after = np.clip((t - end) / 0.15, 0, 1)
    return {
        "yaw": side * 180 * (1 - ease) - lead + after * _wander(t, rng, 8), "body_yaw": side * 180 * (1 - ease),
        "pitch": _wander(t, rng, 7), "roll": _wander(t, rng, 6), "smile": 0.7 * after * rng.uniform(0, 1),
        "blink": _blinks(t, rng), "brow": _wander(t, rng, 0.3),
    }  # fmt: skip


def _ballet(t: Curve, rng: np.random.Generator) -> Tracks:
    tracks = {
        "yaw": _wander(t, rng, rng.uniform(55, 80)), "pitch": 8 + _wander(t, rng, 18), "roll": _wander(t, rng, 18),
        "x": _wander(t, rng, 0.14), "y": _wander(t, rng, 0.06), "blink": 0.1 + 0.9 * _blinks(t, rng),
        "gaze_x": _wander(t, rng, 0.5), "gaze_y": _wander(t, rng, 0.4),
    }  # fmt: skip
    if rng.uniform() < 0.5:
        tracks["cover"] = _pulse(t, rng.uniform(0.1, 0.9), 0.1)
    return tracks


def _speech(t: Curve, rng: np.random.Generator) -> Tracks:
    syllables = rng.uniform(5, 8)
    voice = np.abs(np.sin(2 * np.pi * (syllables / 2 * t + rng.uniform()))) * np.clip(
        0.6 + _wander(t, rng, 0.6, 1.5), 0, 1
    )
    return {
        "yaw": _wander(t, rng, rng.uniform(25, 50)), "pitch": _wander(t, rng, 10, 1.3), "roll": _wander(t, rng, 8),
        "jaw": 0.75 * voice, "pucker": np.clip(_wander(t, rng, 0.8, 3), 0, 1), "smile": _wander(t, rng, 0.5),
        "brow": _wander(t, rng, 0.9, 1.4), "blink": _blinks(t, rng), "gaze_x": _wander(t, rng, 0.4),
    }  # fmt: skip


def _dramatic(t: Curve, rng: np.random.Generator) -> Tracks:
    faces = np.array([
        (0.9, -0.2, 0.1, 1.0, -0.5), (0.0, -0.9, 0.0, -1.0, 0.3), (0.5, 1.0, 0.0, 0.4, 0.4),
        (0.2, 0.0, 1.0, 0.6, -0.3), (0.0, 0.9, 0.0, 0.3, 0.0), (0.0, -0.3, 0.2, -0.7, 0.9),
    ])  # fmt: skip
    keys = faces[rng.permutation(len(faces))[:4]]
    at = t * 3
    low = np.minimum(at.astype(int), 2)
    share = np.clip((at - low) * 1.8 - 0.4, 0, 1)[:, None]
    share = share * share * (3 - 2 * share)
    now = keys[low] * (1 - share) + keys[low + 1] * share
    tracks = dict(zip(("jaw", "smile", "pucker", "brow", "blink"), now.T, strict=True))
    tracks |= {
        "yaw": _wander(t, rng, rng.uniform(35, 60)), "pitch": _wander(t, rng, 16, 1.2), "roll": _wander(t, rng, 14),
        "gaze_x": _wander(t, rng, 0.6), "gaze_y": _wander(t, rng, 0.4), "zoom": 1.05 + _wander(t, rng, 0.05),
    }  # fmt: skip
    if rng.uniform() < 0.5:
        tracks["cover"] = _pulse(t, rng.uniform(0.1, 0.9), 0.08)
    return tracks


_MOTIONS: Mapping[str, Callable[[Curve, np.random.Generator], Tracks]] = {
    "boxing": _boxing,
    "dancing": _dancing,
    "turning": _turning,
    "ballet": _ballet,
    "speech": _speech,
    "dramatic": _dramatic,
}


def _gloves(tracks: Tracks, colour: Colour) -> list[tuple[Blob, ...]]:
    """Two gloves with thumbs and pale cuffs: low at rest, in front of the face when the guard is up."""
    out = []
    pale = (0.75, 0.74, 0.70)
    for i, guard in enumerate(tracks["guard"]):
        frame: list[Blob] = []
        for side, name in ((-1, "left"), (1, "right")):
            punch = float(np.clip(tracks[name][i], 0, 1)) * (1 - guard)
            x = side * (0.72 - 0.42 * guard - 0.30 * punch) + float(tracks["x"][i])
            y = -1.12 + 0.72 * guard + 0.30 * punch
            z, lean = 1.25 + 0.2 * punch, side * (0.25 - 0.15 * guard)
            frame += [
                Blob((x + side * 0.04, y - 0.30, z - 0.1), (0.19, 0.16, 0.18), pale, lean),
                Blob((x, y, z), (0.27, 0.30, 0.26), colour, lean),
                Blob((x - side * 0.20, y - 0.03, z + 0.10), (0.10, 0.18, 0.13), colour, lean + side * 0.3),
            ]
        out.append(tuple(frame))
    return out


def _hands(tracks: Tracks, skin: Colour, frames: int) -> list[tuple[Blob, ...]]:
    """Two bare hands with fingers that rise over the face and sink again."""
    if "cover" not in tracks:
        return [()] * frames
    out = []
    for up in tracks["cover"]:
        frame: list[Blob] = []
        for side in (-1, 1):
            x, y, z = side * (0.62 - 0.34 * up), -1.75 + 1.55 * up, 1.15
            frame.append(Blob((x + side * 0.10, y - 0.62, z - 0.25), (0.15, 0.50, 0.15), skin, -side * 0.2))
            frame.append(Blob((x, y - 0.06, z), (0.19, 0.22, 0.10), skin, side * 0.2))
            for finger in range(4):
                lean = side * (0.28 - 0.13 * finger)
                base = x + side * (-0.12 + 0.085 * finger)
                reach = 0.24 - 0.02 * abs(finger - 1.5)
                centre = (base - reach * 0.9 * math.sin(lean), y + 0.10 + reach * 0.75, z + 0.02)
                frame.append(Blob(centre, (0.048, reach, 0.06), skin, lean))
        out.append(tuple(frame))
    return out
