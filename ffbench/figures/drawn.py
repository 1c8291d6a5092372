"""What a drawn figure says apart from its looks, and what its bytes depend on: two figures are compared by both."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from typing import Any

import matplotlib as mpl
import numpy as np
import PIL
from matplotlib.collections import Collection, PathCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from ffbench.records import digest

_DIGITS = 4
"""Of a number that is compared: more would differ between processors."""


def versions() -> dict[str, str]:
    """What the bytes of a picture depend on beside its data."""
    return {
        "matplotlib": mpl.__version__,
        "freetype": mpl.ft2font.__freetype_version__,
        "numpy": np.__version__,
        "pillow": PIL.__version__,
        "machine": platform.machine(),
    }


def drawn(figure: Figure) -> str:
    """16 hex digits over what a figure says: its words, curves, bars, shares and their colours, and sizes of pictures.

    Where letters stand and how pixels are blended is left out: that changes with fonts and versions.
    """
    facts: list[Any] = [[text.get_text() for text in figure.findobj(Text) if text.axes is None]]
    for axes in figure.axes:
        facts.append([axes.get_xlabel(), axes.get_ylabel()])
        facts.append([fact for artist in axes.get_children() for fact in _facts(artist)])
    return digest([*facts, _rounded(figure.get_size_inches())])


def _facts(artist: Any) -> Iterator[Any]:
    if isinstance(artist, Text):
        yield artist.get_text()
    elif isinstance(artist, AxesImage):
        values = np.asarray(artist.get_array())
        yield [*values.shape, *([] if values.dtype == np.uint8 else _rounded(values))]
    elif isinstance(artist, Rectangle):
        place = _rounded([*artist.get_xy(), artist.get_width(), artist.get_height()])
        yield [*place, to_hex(artist.get_facecolor()), artist.get_hatch()]
    elif isinstance(artist, Line2D):
        yield [to_hex(artist.get_color()), *_rounded(artist.get_xydata())]
    elif isinstance(artist, PathCollection):
        yield [
            *(to_hex(tuple(one)) for one in np.asarray(artist.get_facecolor()).tolist()),
            *_rounded(artist.get_offsets()),
        ]
    elif isinstance(artist, Collection):
        yield [_rounded(path.vertices) for path in artist.get_paths()]


def _rounded(values: Any) -> list[str]:
    numbers: list[float] = np.ma.filled(np.ma.asarray(values, float), np.nan).ravel().tolist()
    # what differs from zero by a processor's rounding is zero
    return [f"{round(number, 9) + 0.0:.{_DIGITS}g}" for number in numbers]
