"""The paper's Tables 2 to 6 from runs of one's own: each row is made or reused, scored, and printed in its place.

A row that cannot be had, such as one whose checkpoint nobody trained, stays in its place with the reason.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ffbench import render
from ffbench.ablate_table import Line, Made, lay_out
from ffbench.durable import write_atomic
from ffbench.errors import UserError
from ffbench.generate import GenerateOptions, generate
from ffbench.protocols import Protocol
from ffbench.published import METHOD_OF, published_table
from ffbench.records import digest
from ffbench.rows import Row, alike, load_rows
from ffbench.score import ScoreOptions, score
from ffbench.store import safe_name
from ffbench.suites import Suite
from ffbench.tables import sheet

HEADS: Mapping[str, tuple[str, ...]] = {
    "table2": ("Identity Aligner", "Euler Embedding"),
    "table3": ("Dictionary Elements",),
    "table4": ("Pooling Type",),
    "table5": ("Methods",),
    "table6": ("Perturbation Range",),
}
"""The tables, and what stands above their rows' names."""
OURS = "faithfulfaces"
CONFIG = "config.json"
"""Of a checkpoint: its `aligner` says what was trained."""


@dataclass(frozen=True)
class Variant:
    """One row of an ablation: a method of ffbench, or the checkpoint that it needs."""

    names: tuple[str, ...]
    published: str
    """Name of its row in the published table; empty where it has none."""
    method: str = ""
    wants: tuple[str, Any] | None = None
    """A field of the checkpoint's `aligner` and its value; a checkpoint that has it is used instead of `method`."""
    checkpoint: str = ""
    """Folder that was given for it."""


@dataclass(frozen=True)
class Ablation:
    """One table of the paper, to be made."""

    name: str
    """`table2` to `table6`."""
    variants: tuple[Variant, ...]
    base: int = 0
    """The row that the others are compared with."""

    @property
    def views(self) -> bool:
        """Whether it compares the views of the reference."""
        return self.name == "table5"


@dataclass(frozen=True)
class AblateOptions:
    """How to make, measure and print it."""

    protocol: Protocol
    out: Path
    generate: GenerateOptions = field(default_factory=GenerateOptions)
    """`settings` hold for every row."""
    intervals: bool = False
    published: bool = False


@dataclass(frozen=True)
class Ablated:
    """The text for the terminal, the folder of the files, and how many rows could not be had."""

    text: str
    folder: Path
    num_missing: int


def ablation(name: str, methods: Sequence[str] = (), checkpoints: Sequence[Path] = ()) -> Ablation:
    """The rows of a table of the paper, with those of one's own.

    Args:
        name: `table2` to `table6`.
        methods: rows of Table 5 instead of the paper's three.
        checkpoints: folders that `faithfulfaces train` wrote; each becomes the row whose part it has.

    Raises:
        UserError: for an unknown table, methods for another table than 5, or a folder that holds no checkpoint.
    """
    if name not in HEADS:
        raise UserError(f"there is no ablation {name!r}", f"choose one of: {', '.join(HEADS)}")
    if methods and name != "table5":
        raise UserError(f"the rows of {name} are variants of {OURS}, not methods", "leave --method out, or take table5")
    published = published_table(int(name[-1]))
    if methods:
        known = {row.method: row.name for row in published.rows}
        return Ablation(name, tuple(Variant((one,), known.get(one, ""), one) for one in dict.fromkeys(methods)))
    variants = tuple(_variant(name, row.name, row.method) for row in published.rows)
    full = {"table2": "yes/yes", "table3": "4096", "table4": "max", "table5": "FaithfulFaces", "table6": "0"}[name]
    base = [row.name for row in published.rows].index(full)
    return _with_checkpoints(Ablation(name, variants, base), checkpoints)


def ablate(what: Ablation, suite: Suite, options: AblateOptions) -> Ablated:
    """Make or reuse every row, score it, and write `table.md`, `table.tex`, `table.csv` and `cells.json`.

    Raises:
        UserError: where not one row can be had (the first row's), or rows may not stand together.
    """
    if what.views:
        suite = _by_pairs(suite)
    wanted = frozenset((case.case_id, 0) for case in suite.cases[: options.generate.limit])
    lines: list[Line] = []
    rows: list[Row] = []
    errors: list[UserError] = []
    for variant in what.variants:
        try:
            row = _row(what, variant, suite, options).only(wanted)
        except UserError as error:
            errors.append(error)
            lines.append(Line(variant.names, variant.published, "", f"{error.what}; {error.fix}"))
            continue
        # a control is a row like the others here: it takes part in what is best
        rows.append(dataclasses.replace(row, label=" / ".join(variant.names), control=False))
        lines.append(Line(variant.names, variant.published, rows[-1].label, ""))
    if not rows:
        raise errors[0]
    rows, _ = alike(rows)
    made = Made(what.name, HEADS[what.name], tuple(lines), rows, sheet(rows), lines[what.base].label)
    table = lay_out(made, options.intervals, options.published)
    folder = options.out / f"{safe_name(suite.name)}@{safe_name(suite.version)}" / f"ablate-{what.name}"
    number = what.name[-1]
    files = {
        "table.md": render.markdown(table),
        "table.tex": render.latex(table, f"Ablation, laid out as Table {number} of the paper"),
        "table.csv": render.csv_cells(made.sheet),
        "cells.json": render.json_sheet(made.sheet),
    }
    for name, content in files.items():
        write_atomic(folder / name, content.encode())
    return Ablated(render.text(table), folder, len(errors))


def _row(what: Ablation, variant: Variant, suite: Suite, options: AblateOptions) -> Row:
    """Make, score and load one row."""
    if not variant.method:
        part, value = variant.wants or ("", "")
        raise UserError(
            f"no checkpoint with {part}={value} was given",
            f"faithfulfaces train --recipe FILE.py:FUNCTION --out FOLDER, whose recipe has Aligner({part}={value!r}), "
            f"then ffbench ablate {what.name} --checkpoint FOLDER/model",
        )
    settings, out = options.generate.settings, options.out
    if variant.checkpoint:
        # a run folder holds one set of settings: a checkpoint of its own needs a folder of its own
        settings, out = (
            (*settings, f"checkpoint={variant.checkpoint}"),
            out / f"checkpoint-{digest(variant.checkpoint, 8)}",
        )
    done = generate(suite, variant.method, out, dataclasses.replace(options.generate, settings=settings))
    score(done.run, ScoreOptions(options.protocol, options.generate.device))
    found = load_rows(done.run, options.protocol.id)
    if len(found) > 1:
        raise UserError(f"{done.run.root} holds {len(found)} groups of settings", "keep them in folders of their own")
    return found[0]


def _variant(table: str, name: str, method: str) -> Variant:
    if table == "table2":
        aligner, euler = name.split("/")
        marks = tuple("✓" if one == "yes" else "×" for one in (aligner, euler))
        return Variant(marks, name, method, ("euler", False) if name == "yes/no" else None)
    if table == "table3":
        return Variant((name,), name, "", ("elements", int(name)))
    if table == "table4":
        # every recipe pools by the maximum, so the method's own checkpoint is that row
        return Variant((f"{name.title()} Pooling",), name, OURS if name == "max" else "", ("pooling", name))
    if table == "table5":
        return Variant((method,), name, METHOD_OF[name])
    return Variant(("No Perturbation" if name == "0" else f"-{name}° to +{name}°",), name, method)


def _with_checkpoints(what: Ablation, checkpoints: Sequence[Path]) -> Ablation:
    """Rows take the checkpoints that have what they want; a second one, or another size, gets a row of its own."""
    variants, base = list(what.variants), what.base
    wanted = sorted({one.wants[0] for one in variants if one.wants})
    if checkpoints and not wanted:
        raise UserError(
            f"the rows of {what.name} share one checkpoint",
            "leave --checkpoint out, or give it as --set checkpoint=FOLDER",
        )
    for folder in checkpoints:
        part = wanted[0]
        value = _aligner(folder).get(part)
        place = next((i for i, one in enumerate(variants) if one.wants == (part, value)), None)
        given = str(folder.resolve())
        if place is None:
            if part != "elements":
                raise UserError(f"{folder / CONFIG}: {part} {value!r} belongs to no row of {what.name}", "leave it out")
            variants.append(Variant((str(value),), "", OURS, (part, value), given))
        elif variants[place].checkpoint:
            variants.append(
                dataclasses.replace(variants[place], names=(f"{value} ({folder.resolve().name})",), checkpoint=given)
            )
        else:
            variants[place] = dataclasses.replace(variants[place], method=OURS, checkpoint=given)
    return dataclasses.replace(what, variants=tuple(variants), base=base)


def _aligner(folder: Path) -> dict[str, Any]:
    """What a checkpoint says of its aligner."""
    path = folder / CONFIG
    try:
        found = json.loads(path.read_text("utf-8"))["aligner"]
        return dict(found)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is no checkpoint's: {type(error).__name__} {error}", "give a folder that faithfulfaces train wrote"
        ) from error


def _by_pairs(suite: Suite) -> Suite:
    """The suite with both views of each person and prompt one after the other, so that a limit leaves whole pairs."""
    order: dict[tuple[str, str], int] = {}
    for case in suite.cases:
        order.setdefault((case.identity_id, case.prompt_id), len(order))
    ordered = sorted(suite.cases, key=lambda case: order[case.identity_id, case.prompt_id])
    return dataclasses.replace(suite, cases=tuple(ordered))
