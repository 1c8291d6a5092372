"""How every figure looks and is saved: a column or a page wide, letters of 7 pt and more, the same bytes twice.

Colours are Okabe and Ito's, each with a marker and, beyond seven, a line style of its own, so that grey print and
colour-blind eyes tell methods apart; shares and cosines are shown in cividis.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ffbench.durable import write_atomic

COLUMN, PAGE = 3.4, 6.9
"""Inches: one column and both of a two-column page."""
DPI = 300
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vPX*"
STYLES = ("-", "--", "-.", ":")
SHARES = "cividis"
"""Map of shares and cosines."""
TURNS = "PuOr"
"""Map of signed angles: brown, white, violet."""
_STYLE: Any = {
    "font.size": 8, "axes.titlesize": 8, "axes.labelsize": 8, "xtick.labelsize": 7, "ytick.labelsize": 7,
    "legend.fontsize": 7, "figure.titlesize": 7, "axes.spines.top": False, "axes.spines.right": False,
    "axes.linewidth": 0.6, "hatch.linewidth": 0.5,
    # letters in the PDF stay letters
    "pdf.fonttype": 42,
}  # fmt: skip
KINDS = ("png", "pdf")
_PLAIN: Mapping[str, Any] = {
    "png": {"Software": None},
    "pdf": {"CreationDate": None, "Producer": None, "Creator": None},
}
"""No date and no version in a file: the same figure is the same bytes."""


@contextmanager
def styled() -> Iterator[None]:
    """The style of all figures, while one is drawn or saved."""
    with mpl.rc_context(_STYLE):
        yield


def look(place: int) -> dict[str, Any]:
    """Colour, marker and line style of the method at a place in a sheet."""
    return {
        "color": COLOURS[place % len(COLOURS)],
        "marker": MARKERS[place % len(MARKERS)],
        "linestyle": STYLES[place // len(COLOURS) % len(STYLES)],
    }


def save(figure: Figure, folder: Path, name: str, kinds: Sequence[str] = KINDS, dpi: int = DPI) -> list[Path]:
    """Write NAME.png and NAME.pdf; each file is absent, old or complete."""
    FigureCanvasAgg(figure)
    paths = []
    for kind in kinds:
        stream = io.BytesIO()
        with styled():
            figure.savefig(stream, format=kind, dpi=dpi, metadata=_PLAIN[kind])
        paths.append(folder / f"{name}.{kind}")
        write_atomic(paths[-1], stream.getvalue())
    return paths
