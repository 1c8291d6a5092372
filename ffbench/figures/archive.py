"""Figures of a results folder with the data that they are drawn from, so that anybody can draw them again.

<folder>/<suite>@<version>/figures/figures.json says what each figure is drawn from: cells of table1.json and the like,
and what lies in figures/data: per-frame values, and for grids the very frames in one picture with a JSON beside it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from matplotlib.figure import Figure

from ffbench.durable import write_atomic
from ffbench.errors import UserError
from ffbench.figures.blocks import read_block, write_block
from ffbench.figures.drawing import Drawing, draw
from ffbench.figures.drawn import drawn, versions
from ffbench.figures.style import save
from ffbench.records import from_json, to_json
from ffbench.tables.frames import VideoFrames, frames_lines, read_lines
from ffbench.tables.results import Problem
from ffbench.tables.sheet import Sheet

FOLDER, INDEX, DATA = "figures", "figures.json", "data"
DPI = 120
"""Of committed pictures: mini's frames have no more to show."""
T = TypeVar("T")
_AGAIN = "write it anew: ffbench ablate TABLE --results FOLDER --figures"


@dataclass(frozen=True)
class Kept:
    """One figure of a folder; its fields are those of a `Drawing`, with files for what is large."""

    table: str
    """Whose cells it is drawn from: `table1`."""
    kind: str
    metric: str
    case: str
    take: int
    note: str
    boxes: bool
    published: bool
    blocks: tuple[str, ...]
    """Names in data/, of a .json and a .png each."""
    frames: str
    """File of per-frame values in data/; empty where it needs none."""
    drawn: str
    """`drawing.drawn` of it."""


def keep_figures(table: str, drawings: Iterable[Drawing], frames: Sequence[VideoFrames], place: Path) -> list[Path]:
    """Put the figures of a table into its results folder, drawn from what was written there; their pictures.

    Args:
        table: `table1` and the like, whose cells lie in the place already; its earlier figures are taken away.
        drawings: those without data are left out.
        frames: per-frame values of the videos.
        place: `<folder>/<suite>@<version>`.
    """
    made_with, known = read_index(place)
    known = {name: kept for name, kept in known.items() if kept.table != table}
    folder = place / FOLDER
    per_frame = f"{table}.jsonl"
    made = _sheet(place, table)
    for one in drawings:
        if draw(one, made, frames) is None:
            continue
        blocks = tuple(f"{one.name}-{i}" if i else one.name for i in range(len(one.blocks)))
        for name, block in zip(blocks, one.blocks, strict=True):
            write_block(block, folder / DATA / name)
        needs = per_frame if one.kind in ("coverage", "over-time") else ""
        known[one.name] = Kept(
            table, one.kind, one.metric, *one.video, one.note, one.boxes, one.published, blocks, needs, ""
        )
    if any(kept.frames == per_frame for kept in known.values()):
        metrics = {kept.metric for kept in known.values() if kept.frames == per_frame}
        write_atomic(folder / DATA / per_frame, "".join(f"{line}\n" for line in frames_lines(frames, metrics)).encode())
    if not known:
        return []
    _write_index(place, known, made_with)
    return render_figures(place, {name for name, kept in known.items() if kept.table == table})


def render_figures(place: Path, names: Collection[str] | None = None) -> list[Path]:
    """Draw figures of a folder `<suite>@<version>` anew from their data, and note with which versions; the pictures.

    Args:
        place: the folder.
        names: of the figures; all by default, and where the others were drawn with other versions.

    Raises:
        UserError: where a file is missing or damaged.
    """
    made_with, known = read_index(place)
    if not known:
        return []
    chosen = set(known if names is None or made_with != versions() else names)
    paths = []
    for name, figure in form_figures(place, chosen):
        known[name] = dataclasses.replace(known[name], drawn=drawn(figure))
        paths += save(figure, place / FOLDER, name, ("png",), DPI)
    _write_index(place, known)
    kept = {f"{name}.png" for name in known}
    data = {f"{block}{end}" for one in known.values() for block in one.blocks for end in (".json", ".png")}
    data |= {one.frames for one in known.values()}
    stale = [path for path in (place / FOLDER).glob("*.png") if path.name not in kept]
    for path in [*stale, *(path for path in (place / FOLDER / DATA).glob("*") if path.name not in data)]:
        path.unlink()
    return paths


def form_figures(place: Path, names: Collection[str] | None = None) -> Iterator[tuple[str, Figure]]:
    """Name and figure of all (or those) that a folder's index names, from the data beside it.

    Raises:
        UserError: where a file is missing or damaged.
    """
    sheets: dict[str, Sheet] = {}
    series: dict[str, list[VideoFrames]] = {"": []}
    for name, kept in read_index(place)[1].items():
        if names is not None and name not in names:
            continue
        made = sheets.setdefault(kept.table, _sheet(place, kept.table))
        if kept.frames not in series:
            series[kept.frames] = _parsed(
                place / FOLDER / DATA / kept.frames, lambda path: read_lines(path.read_text("utf-8").splitlines())
            )
        blocks = tuple(_parsed(place / FOLDER / DATA / block, read_block) for block in kept.blocks)
        one = Drawing(
            name, kept.kind, kept.metric, (kept.case, kept.take), kept.note, kept.boxes, kept.published, blocks
        )
        try:
            figure = draw(one, made, series[kept.frames])
        except ValueError as error:
            raise UserError(f"{place / FOLDER / INDEX}: {name}: {error}", _AGAIN) from error
        if figure is None:
            raise UserError(f"{place / FOLDER / INDEX}: nothing is left to draw {name} from", _AGAIN)
        yield name, figure


def check_figures(folder: Path) -> list[Problem]:
    """Figures that are not what their data give, in every `<suite>@<version>` below a results folder."""
    problems = []
    for index in sorted(folder.rglob(f"{FOLDER}/{INDEX}")):
        place = index.parents[1]
        try:
            known = read_index(place)[1]
            formed = {name: drawn(figure) for name, figure in form_figures(place)}
        except UserError as error:
            problems.append(Problem("error", str(index), error.what, error.fix))
            continue
        for name, kept in known.items():
            picture = index.parent / f"{name}.png"
            if not picture.is_file():
                problems.append(Problem("error", str(picture), "is missing", "ffbench ablate render --results FOLDER"))
            if formed[name] != kept.drawn:
                what = "does not show what its data give"
                problems.append(Problem("error", str(picture), what, "ffbench ablate render --results FOLDER"))
    return problems


def read_index(place: Path) -> tuple[dict[str, str], dict[str, Kept]]:
    """Versions, and figures by name, of a folder `<suite>@<version>`; nothing where it has no index.

    Raises:
        UserError: where the index cannot be read.
    """
    path = place / FOLDER / INDEX
    if not path.is_file():
        return {}, {}

    def parse(path: Path) -> tuple[dict[str, str], dict[str, Kept]]:
        found: Mapping[str, Any] = json.loads(path.read_text("utf-8"))
        return dict(found["made_with"]), {
            name: from_json(Kept, json.dumps(one)) for name, one in found["figures"].items()
        }

    return _parsed(path, parse)


def _write_index(place: Path, known: Mapping[str, Kept], made_with: Mapping[str, str] | None = None) -> None:
    listed = {name: json.loads(to_json(kept)) for name, kept in sorted(known.items())}
    text = json.dumps({"made_with": made_with or versions(), "figures": listed}, indent=1, ensure_ascii=False) + "\n"
    write_atomic(place / FOLDER / INDEX, text.encode())


def _sheet(place: Path, table: str) -> Sheet:
    return _parsed(place / f"{table}.json", lambda path: from_json(Sheet, path.read_text("utf-8")))


def _parsed(path: Path, read: Callable[[Path], T]) -> T:
    try:
        return read(path)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path}: {error}", _AGAIN) from error
