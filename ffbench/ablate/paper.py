"""Tables of a results folder: which rows they are made of is data, so that anybody can make them again.

<folder>/<suite>@<version>/tables.json names the rows of each table; table1.md, .tex, .csv and .json beside it follow
from it and from the videos' files of those rows (`ffbench.tables.results`).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ffbench.ablate.table import Line, Made, files_of
from ffbench.ablate.trainings import Trainings
from ffbench.durable import write_atomic
from ffbench.errors import UserError
from ffbench.records import from_json, to_json
from ffbench.tables.results import Problem, read_row, write_results

INDEX = "tables.json"
SUFFIXES = {"table.md": ".md", "table.tex": ".tex", "table.csv": ".csv", "cells.json": ".json"}


@dataclass(frozen=True)
class Layout:
    """What one table is made of."""

    heads: tuple[str, ...]
    lines: tuple[Line, ...]
    rows: Mapping[str, Any]
    """Label of a line -> [[seed or null, file], ...]."""
    base: str
    notes: tuple[str, ...]
    intervals: bool
    published: bool


def write_table(made: Made, intervals: bool, with_published: bool, folder: Path) -> list[Path]:
    """Put a table with its rows into a results folder, and form it from what was written there; the table's files."""
    suite = next(iter(made.rows[0].rows.values())).suite
    place = folder / suite
    rows: dict[str, list[list[Any]]] = {}
    for line in made.rows:
        for seed, row in line.rows.items():
            (path,) = write_results([row], folder)
            rows.setdefault(line.label, []).append([seed, path.with_suffix(".jsonl").relative_to(place).as_posix()])
    known = read_layouts(place)
    known[made.name] = Layout(made.heads, made.lines, rows, made.base, made.notes, intervals, with_published)
    written = {name: json.loads(to_json(layout)) for name, layout in sorted(known.items())}
    write_atomic(place / INDEX, (json.dumps(written, indent=1, ensure_ascii=False) + "\n").encode())
    return _write(place, form_tables(place, {made.name: known[made.name]}))


def render_again(folder: Path) -> list[Path]:
    """Form every table and figure below a results folder anew from its records; the files.

    For use after a change of their looks.

    Raises:
        UserError: where there is none, or a file is missing or damaged.
    """
    from ffbench.figures.archive import render_figures

    places = [index.parent for index in sorted(folder.rglob(INDEX))]
    if not places:
        raise UserError(f"no {INDEX} below {folder}", "ffbench ablate TABLE --results FOLDER makes a table")
    return [path for place in places for path in [*_write(place, form_tables(place)), *render_figures(place)]]


def _write(place: Path, files: Mapping[str, str]) -> list[Path]:
    for name, text in files.items():
        write_atomic(place / name, text.encode())
    return [place / name for name in files]


def read_layouts(place: Path) -> dict[str, Layout]:
    """The tables of a folder `<suite>@<version>`; none where it has no index.

    Raises:
        UserError: where the index cannot be read.
    """
    path = place / INDEX
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text("utf-8"))
        return {name: from_json(Layout, json.dumps(layout)) for name, layout in found.items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: {error}", "write it anew: ffbench ablate TABLE --results FOLDER") from error


def form_tables(place: Path, layouts: Mapping[str, Layout] | None = None) -> dict[str, str]:
    """Tables of a folder `<suite>@<version>` by file name, formed anew; the same records give the same bytes.

    Args:
        place: the folder.
        layouts: which tables; by default those of its index.

    Raises:
        UserError: where a file is missing or damaged.
    """
    files: dict[str, str] = {}
    for name, layout in (read_layouts(place) if layouts is None else layouts).items():
        lines = []
        for label, places in layout.rows.items():
            rows = {seed: read_row(place / path) for seed, path in places}
            lines.append(
                Trainings(label, {seed: dataclasses.replace(row, label=label, control=row.control and name == "table1")
                                  for seed, row in rows.items()})
            )  # fmt: skip
        made = Made(name, layout.heads, layout.lines, tuple(lines), layout.base, layout.notes)
        formed = files_of(made, layout.intervals, layout.published)
        files |= {name + suffix: formed[part] for part, suffix in SUFFIXES.items()}
    return files


def check_tables(folder: Path) -> list[Problem]:
    """Tables and figures that are not what their data give, in every `<suite>@<version>` below a results folder."""
    from ffbench.figures.archive import check_figures

    problems = check_figures(folder)
    for index in sorted(folder.rglob(INDEX)):
        try:
            formed = form_tables(index.parent)
        except UserError as error:
            problems.append(Problem("error", str(index), error.what, error.fix))
            continue
        for name, text in formed.items():
            path = index.parent / name
            if not path.is_file() or path.read_bytes() != text.encode():
                what = "is not what the records beside it give" if path.is_file() else "is missing"
                problems.append(
                    Problem("error", str(path), what, "write it anew: ffbench ablate render --results FOLDER")
                )
    return problems
