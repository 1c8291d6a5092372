"""People from seeds: every number that makes one rendered head another's.

Lengths are in head units: half the height of an average head, about 11 cm. Shapes: N people, K relief bumps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float32]

SPLITS: Mapping[str, range] = {
    "train": range(0, 1_000_000),
    "measure": range(1_000_000, 2_000_000),
    "test": range(2_000_000, 3_000_000),
    "suite": range(3_000_000, 3_000_030),
}
"""Whose seeds are whose: the generator's people, the measuring networks', held-out ones, and the suite's thirty."""

NUM_BUMPS = 48

RANGES: Mapping[str, tuple[float, float]] = {
    # skull and jaw
    "head_width": (0.88, 1.12),
    "head_height": (0.92, 1.10),
    "head_depth": (0.92, 1.08),
    "face_width": (0.86, 1.12),
    "face_depth": (0.92, 1.08),
    "jaw_width": (0.72, 1.22),
    "jaw_corner": (0.00, 1.00),
    "jaw_length": (0.88, 1.14),
    "chin_width": (0.85, 1.55),
    "chin_out": (-0.05, 0.11),
    "chin_height": (0.80, 1.25),
    "cheekbone": (-0.02, 0.085),
    "cheek_fat": (-0.06, 0.07),
    "temple": (-0.06, 0.03),
    "forehead": (-0.04, 0.06),
    "brow_ridge": (-0.01, 0.075),
    # eyes
    "eye_spacing": (0.235, 0.330),
    "eye_height": (-0.05, 0.05),
    "eye_size": (0.84, 1.18),
    "eye_depth": (-0.035, 0.035),
    "eye_open": (0.70, 1.45),
    "eye_width": (0.84, 1.06),
    "eye_tilt": (-0.20, 0.26),
    "eye_peak": (-0.45, 0.45),
    "lid_fold": (0.018, 0.075),
    "lid_droop": (0.00, 0.35),
    "iris_size": (0.42, 0.51),
    "eye_bag": (0.0, 1.0),
    "lash": (0.1, 1.0),
    # brows
    "brow_height": (0.125, 0.245),
    "brow_thickness": (0.012, 0.048),
    "brow_arch": (-0.02, 0.075),
    "brow_slope": (-0.24, 0.30),
    "brow_length": (0.78, 1.28),
    "brow_gap": (0.03, 0.16),
    "brow_density": (0.30, 1.0),
    # nose
    "nose_length": (-0.085, 0.075),
    "nose_out": (-0.05, 0.14),
    "nose_bridge": (-0.055, 0.060),
    "bridge_width": (0.70, 1.65),
    "nose_hump": (-0.040, 0.050),
    "tip_size": (0.72, 1.38),
    "tip_up": (-0.06, 0.07),
    "nostril_width": (0.72, 1.55),
    "nostril_size": (0.75, 1.25),
    # mouth
    "mouth_height": (-0.055, 0.055),
    "mouth_width": (0.170, 0.275),
    "lip_upper": (0.024, 0.074),
    "lip_lower": (0.032, 0.090),
    "lip_out": (0.2, 1.6),
    "cupid": (0.0, 0.8),
    "mouth_curve": (-0.035, 0.035),
    "philtrum": (0.0, 1.0),
    "lip_red": (0.15, 1.0),
    # ears, neck
    "ear_size": (0.72, 1.30),
    "ear_flare": (0.02, 0.60),
    "ear_height": (-0.08, 0.08),
    "neck_width": (0.78, 1.18),
    "shoulders": (0.84, 1.12),
    # skin
    "melanin": (0.0, 1.0),
    "undertone": (-1.0, 1.0),
    "ruddy": (0.0, 1.0),
    "freckles": (-1.2, 1.0),
    "blotch": (0.2, 1.0),
    "gloss": (0.3, 1.0),
    "age": (0.0, 1.0),
    # hair
    "hairline": (0.50, 0.84),
    "widow_peak": (-0.10, 0.12),
    "hair_part": (-1.0, 1.0),
    "hair_volume": (0.0, 1.0),
    "hair_shade": (0.0, 1.0),
    "hair_curl": (0.0, 1.0),
    "sideburn": (0.0, 1.0),
    "iris_hue": (0.0, 1.0),
    "glasses_width": (0.155, 0.225),
    "glasses_height": (0.10, 0.185),
    "glasses_round": (0.1, 1.0),
    "glasses_thick": (0.008, 0.021),
    "glasses_shade": (0.0, 1.0),
    "lens_tint": (0.0, 0.22),
}
"""Parameters drawn for everybody: least and greatest value."""

STYLES = ("bald", "buzz", "short", "crop", "quiff", "fringe", "bob", "long", "afro", "bun", "receding")
BEARDS = ("none", "stubble", "moustache", "goatee", "short", "full")

_SKIN = (
    (255, 226, 208),
    (243, 204, 176),
    (226, 178, 140),
    (198, 144, 104),
    (156, 104, 70),
    (112, 72, 48),
    (72, 46, 34),
)
_HAIR = ((18, 15, 14), (44, 30, 22), (78, 50, 30), (112, 72, 40), (150, 66, 30), (178, 128, 70), (220, 188, 128))
_GREY = ((120, 118, 116), (205, 203, 200))
_IRIS = ((46, 28, 18), (84, 52, 28), (118, 92, 44), (86, 112, 62), (74, 112, 148), (110, 134, 150))
_FRAMES = ((22, 22, 24), (70, 44, 28), (150, 120, 60), (120, 24, 30), (30, 50, 100), (170, 172, 176))


@dataclass(frozen=True)
class Person:
    """One identity; equal seeds give equal people on every machine."""

    seed: int
    values: Mapping[str, float]
    """Of `RANGES`, and 0..1 weights of style and beard parts."""
    colours: Mapping[str, tuple[float, float, float]]
    """skin, hair, brow, lips, iris, frame: linear RGB in 0..1."""
    relief: Floats
    """[K] height of each bump on the half face, head units."""
    tint: Floats
    """[K,3] change of the skin's colour at each bump, relative."""
    style: str
    beard: str
    glasses: bool

    @property
    def split(self) -> str:
        """Whose seed this is."""
        return split_of(self.seed)


def split_of(seed: int) -> str:
    """Name in `SPLITS` of a seed; a seed has one at most, so that people of two splits are never the same.

    Raises:
        ValueError: a seed of no split.
    """
    for name, seeds in SPLITS.items():
        if seed in seeds:
            return name
    raise ValueError(f"seed {seed} belongs to no split; they are {dict(SPLITS)}")


def suite_people() -> list[Person]:
    """The suite's thirty."""
    return [person(seed) for seed in SPLITS["suite"]]


def linear(colour: Sequence[float]) -> tuple[float, float, float]:
    """Linear RGB 0..1 of sRGB 0..255 (IEC 61966-2-1)."""
    c = np.asarray(colour, np.float64) / 255
    r, g, b = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    return float(r), float(g), float(b)


def person(seed: int) -> Person:
    """The person of a seed.

    Raises:
        ValueError: a seed of no split.
    """
    split_of(seed)
    rng = np.random.default_rng([20_261, seed])
    # one hidden axis ties jaw, brows, beard and hair together as they are in people; it moves, it does not decide
    male = rng.uniform(-1, 1)
    lean = {"jaw_width": 1, "jaw_corner": 1, "brow_ridge": 1, "brow_thickness": 1, "chin_width": 1, "neck_width": 1,
            "shoulders": 1, "lip_upper": -1, "lip_red": -1, "lash": -1, "brow_arch": -1, "nostril_width": 1,
            "eye_size": -1, "brow_height": -1}  # fmt: skip
    share = {}
    for name in RANGES:
        pull = 0.28 * male * lean.get(name, 0)
        share[name] = float(np.clip(rng.uniform() + pull, 0, 1))
    values = {name: low + (high - low) * share[name] for name, (low, high) in RANGES.items()}
    style = _style(rng, male, share["age"])
    beard = str(rng.choice(BEARDS, p=(0.3, 0.15, 0.13, 0.14, 0.14, 0.14))) if male > 0 else "none"
    glasses = bool(rng.uniform() < 0.22)
    values |= _style_values(style, rng) | _beard_values(beard) | {"glasses": float(glasses)}
    relief = np.clip(rng.normal(size=NUM_BUMPS), -2, 2).astype(np.float32)
    # mostly lighter and darker, a little redder and yellower
    tint = rng.normal(size=(NUM_BUMPS, 1)) * (0.07, 0.085, 0.095) + rng.normal(size=(NUM_BUMPS, 3)) * (
        0.01,
        0.022,
        0.03,
    )
    colours = _colours(values, rng)
    return Person(seed, values, colours, relief, np.clip(tint, -0.25, 0.25).astype(np.float32), style, beard, glasses)


def _style(rng: np.random.Generator, male: float, age: float) -> str:
    short = np.array([1.0, 1.2, 1.5, 1.5, 1.3, 1.2, 0.25, 0.3, 0.8, 0.15, 0.3 + 1.2 * age])
    long = np.array([0.1, 0.25, 0.5, 0.6, 0.3, 1.3, 2.0, 2.2, 0.9, 1.5, 0.05])
    weight = short if male > 0 else long
    return str(rng.choice(STYLES, p=weight / weight.sum()))


def _style_values(style: str, rng: np.random.Generator) -> dict[str, float]:
    """Thickness of the cap, lower end, how far it comes forward at the sides, and which extra volumes there are."""
    cap, end, side = {
        "bald": (-0.5, -0.3, 0.0),
        "buzz": (0.012, -0.30, 0.10),
        "short": (0.045, -0.36, 0.10),
        "crop": (0.065, -0.42, 0.12),
        "quiff": (0.050, -0.34, 0.10),
        "fringe": (0.070, -0.50, 0.16),
        "bob": (0.095, -0.78, 0.22),
        "long": (0.080, -1.30, 0.24),
        "afro": (0.10, -0.50, 0.12),
        "bun": (0.045, -0.40, 0.10),
        "receding": (0.030, -0.36, 0.06),
    }[style]
    u = rng.uniform(-1, 1, 4)
    return {
        "hair_cap": cap * (1 + 0.25 * u[0]),
        "hair_end": end + 0.10 * u[1] * (1 if style in ("bob", "long", "fringe") else 0.4),
        "hair_side": side + 0.05 * u[2],
        "has_curtain": float(style in ("bob", "long")),
        "has_afro": float(style == "afro"),
        "has_bun": float(style == "bun"),
        "has_quiff": float(style == "quiff"),
        "has_fringe": float(style in ("fringe",) or (style in ("bob", "long", "crop") and u[3] > 0.3)),
        "recede": float(style == "receding"),
        "shaved": float(style in ("bald", "buzz")),
    }


def _beard_values(beard: str) -> dict[str, float]:
    moustache, chin, cheek, length = {
        "none": (0.0, 0.0, 0.0, 0.0),
        "stubble": (0.42, 0.42, 0.38, 0.0),
        "moustache": (1.0, 0.0, 0.0, 0.2),
        "goatee": (0.9, 1.0, 0.0, 0.5),
        "short": (0.75, 0.8, 0.7, 0.25),
        "full": (1.0, 1.0, 1.0, 1.0),
    }[beard]
    return {"beard_lip": moustache, "beard_chin": chin, "beard_cheek": cheek, "beard_length": length}


def _between(stops: Sequence[Sequence[float]], share: float) -> Floats:
    """Colour at 0..1 of the way along the stops, sRGB."""
    at = share * (len(stops) - 1)
    grid = np.arange(len(stops))
    return np.array([np.interp(at, grid, [s[c] for s in stops]) for c in range(3)], np.float32)


def _colours(values: Mapping[str, float], rng: np.random.Generator) -> dict[str, tuple[float, float, float]]:
    skin = _between(_SKIN, values["melanin"]) * (1 + np.array([0.02, -0.01, -0.07], np.float32) * values["undertone"])
    # dark skin goes with dark hair mostly
    hair = _between(_HAIR, values["hair_shade"] * (1 - 0.75 * values["melanin"] ** 0.7))
    grey = np.clip((values["age"] - 0.62) / 0.3, 0, 1) * rng.uniform(0.4, 1)
    hair = hair * (1 - grey) + _between(_GREY, float(rng.uniform())) * grey
    red = np.array([rng.uniform(150, 205), rng.uniform(50, 95), rng.uniform(60, 100)], np.float32)
    share = 0.32 + 0.45 * values["lip_red"]
    lips = (skin * (0.86, 0.64, 0.62)) * (1 - share) + red * (1 - 0.45 * values["melanin"]) * share
    iris = _between(_IRIS, values["iris_hue"] * (1 - 0.8 * values["melanin"]))
    frame = _between(_FRAMES, values["glasses_shade"])
    out = {"skin": skin, "hair": hair, "brow": hair * 0.72, "lips": lips, "iris": iris, "frame": frame}
    return {name: linear(np.clip(colour, 0, 255)) for name, colour in out.items()}


class Params:
    """People as tensors: `p["jaw_width"]` is [N,1], `p.colour["skin"]` [N,3,1], `p.relief` [N,K], `p.tint` [N,3,K]."""

    def __init__(self, people: Sequence[Person], device: torch.device | str = "cpu") -> None:
        names = list(people[0].values)
        table = torch.tensor([[who.values[n] for n in names] for who in people], dtype=torch.float32).to(device)
        self._columns: dict[str, Tensor] = {n: table[:, i : i + 1] for i, n in enumerate(names)}
        self.colour = {
            name: torch.tensor([who.colours[name] for who in people], dtype=torch.float32)[..., None].to(device)
            for name in people[0].colours
        }
        self.relief = torch.from_numpy(np.stack([who.relief for who in people])).to(device)
        self.tint = torch.from_numpy(np.stack([who.tint for who in people])).to(device).transpose(1, 2)
        self.seed = torch.tensor([[float(who.seed % 65_536)] for who in people]).to(device)

    def __getitem__(self, name: str) -> Tensor:
        return self._columns[name]
