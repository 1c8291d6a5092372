"""Sentences about a clip: who wears what, does what, and where; the words are those of the benchmark's prompts."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

SCENES: Mapping[str, tuple[str, ...]] = {
    "boxing": ("brick-walled boxing gym", "city rooftop at sunrise", "windy sandy beach", "cluttered home garage"),
    "dancing": ("living room in the evening", "night market", "salt flat at dusk"),
    "turning": ("wooden pier on a misty lake", "reading hall of a library", "railway platform in winter",
                "sunlit restaurant kitchen"),
    "ballet": ("mirrored rehearsal studio", "theatre stage with red curtain", "autumn park"),
    "speech": ("lecture hall", "town square in the rain", "garden party at night"),
    "dramatic": ("dim room with a rainy window", "roller coaster on a sunny day", "inventor's workshop"),
}  # fmt: skip
"""Scene types and their places, as in prompts/prompts.toml."""

CLOTHES: Mapping[str, tuple[int, int, int]] = {
    "charcoal": (54, 56, 60),
    "black": (24, 24, 26),
    "white": (236, 234, 230),
    "grey": (134, 136, 140),
    "cream coloured": (238, 224, 196),
    "sand coloured": (206, 178, 134),
    "beige": (190, 166, 138),
    "olive green": (98, 104, 52),
    "dark teal": (18, 84, 90),
    "turquoise": (54, 186, 186),
    "dark blue": (28, 42, 92),
    "pale pink": (238, 186, 192),
    "orange": (230, 122, 40),
    "rust coloured": (166, 74, 40),
    "red": (182, 28, 34),
    "silver": (190, 194, 202),
}
"""Colour words and their sRGB."""

GLOVES: Mapping[str, tuple[int, int, int]] = {
    "red": (190, 22, 26),
    "black": (34, 34, 38),
    "blue": (28, 56, 170),
    "white": (226, 226, 222),
}

_WORN = re.compile(
    r"(?:wearing|dressed in|person in) an? (?:[\w-]+ ){0,3}?(?P<colour>"
    + "|".join(CLOTHES)
    + r")\b(?! (?:\w+ )?gloves)"
)

_GARMENTS = {
    "boxing": ("sleeveless top", "training shirt", "hooded top"),
    "dancing": ("coat", "shirt", "jacket", "loose sweater"),
    "turning": ("raincoat", "blazer", "wool coat", "jacket"),
    "ballet": ("leotard", "tunic", "wrap cardigan", "costume"),
    "speech": ("suit jacket", "trench coat", "linen shirt", "waistcoat"),
    "dramatic": ("shirt", "leather apron", "crumpled shirt", "sweater"),
}
_ACTIONS = {
    "boxing": (
        "trains with {glove} boxing gloves, throws a jab, a cross and a hook, and weaves behind the raised guard",
        "boxes with {glove} gloves, turning the face from one profile to the other",
        "circles in a boxing routine, {glove} boxing gloves briefly covering the face",
    ),
    "dancing": (
        "dances, shaking the head from left to right",
        "performs a free and sweeping dance, leaning the head far to each side",
        "moves to a quick beat and throws the head left and right again and again",
    ),
    "turning": (
        "stands with the back to the camera and then turns around to face it",
        "is seen from behind, looks over the shoulder and turns slowly towards the camera",
        "turns from the back through a clear profile until the face meets the lens",
    ),
    "ballet": (
        "dances ballet, turns slowly and lifts the chin high",
        "performs a ballet solo, the head sweeping from one shoulder to the other",
        "rehearses ballet with a long neck, looking along one arm and then the other",
    ),
    "speech": (
        "gives a passionate speech, looking from the left rows to the right rows",
        "speaks with a wide open mouth and raised eyebrows",
        "talks to a crowd, the lips moving clearly with every word",
    ),
    "dramatic": (
        "lives through a storm of feelings, from fear to a calm smile",
        "shows dramatic expressions, the mouth falling open and the eyes widening",
        "frowns, gasps, laughs and shakes the head",
    ),
}
_COVER = {
    "ballet": " Both arms cross the face and open again.",
    "dramatic": " Both hands fly up over the face for a moment.",
}
_CAMERA = (
    "The camera stays close to the face at eye level.",
    "The camera keeps the head and shoulders large in the picture.",
    "A steady camera holds the face in the centre of the frame.",
    "",
)


def caption(scene: str, place: str, cloth: str, glove: str, covered: bool, rng: np.random.Generator) -> str:
    """One or two sentences; `glove` names the colour of boxing gloves, `covered` says that hands cross the face."""
    action = str(rng.choice(_ACTIONS[scene])).format(glove=glove)
    wear = f"{_article(cloth)} {cloth} {rng.choice(_GARMENTS[scene])}"
    where = f"{_preposition(place)} {_article(place)} {place}"
    forms = (
        f"A person wearing {wear} {action} {where}.",
        f"{where.capitalize()}, a person in {wear} {action}.",
        f"The video shows a person {where}, dressed in {wear}. The person {action}.",
    )
    text = str(rng.choice(forms)) + (_COVER.get(scene, "") if covered else "")
    return f"{text} {rng.choice(_CAMERA)}".strip()


def named_cloth(text: str) -> str | None:
    """The colour word of `CLOTHES` that a sentence gives to what the person wears; None where it names another."""
    found = _WORN.search(text)
    return found["colour"] if found else None


def _article(words: str) -> str:
    return "an" if words[0] in "aeio" else "a"


def _preposition(place: str) -> str:
    if place.split()[0] in ("wooden", "railway", "theatre", "salt", "city", "windy", "roller"):
        return "on"
    return "at" if place.split()[0] in ("night", "garden") else "in"
