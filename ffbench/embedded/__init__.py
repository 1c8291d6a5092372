"""The mini world's data: photographs of its thirty people, measuring networks, the small base and its checkpoint.

Everything here was made by `faithfulfaces mini build`; figures.json says with what seeds and how good it is.
"""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).resolve().parent
"""Where the files lie."""
NAME = "mini"
"""What a card's setting says for the embedded base or checkpoint."""


def folder_of(setting: str, part: str) -> str:
    """The path that a setting means: of the embedded `part` (`base`, `checkpoint`) for `mini`, else the setting."""
    return str(FOLDER / part) if setting == NAME else setting
