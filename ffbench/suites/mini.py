"""The suite `mini`: the thirty people of the mini world, whose photographs are embedded."""

from __future__ import annotations

from ffbench.embedded import FOLDER
from ffbench.suites.cases import Identity, reference

VERSION = "1"
COUNT = 30
VIEWS = ("frontal", "non-frontal")


def mini_identities() -> list[Identity]:
    """Thirty people with their frontal photograph."""
    return [_identity(number, VIEWS[0]) for number in range(COUNT)]


def mini_views() -> list[Identity]:
    """Each person twice, first with the frontal and then with the non-frontal photograph."""
    return [_identity(number, view, view) for number in range(COUNT) for view in VIEWS]


def _identity(number: int, view: str, label: str = "") -> Identity:
    name = f"person{number:02d}"
    return Identity(name, (reference(FOLDER / "people" / f"{name}-{view}.png", view),), label)
