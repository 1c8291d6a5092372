"""The paper's Tables 1 to 6 from runs of one's own: each row is made or reused, scored, and printed in its place.

A row that cannot be had, such as one whose checkpoint nobody trained, stays in its place with the reason. A row with
several checkpoints is several trainings of the same thing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ffbench.ablate.checkpoints import (
    ANOTHER,
    OURS,
    WITHOUT,
    Checkpoint,
    Kind,
    elements_of,
    find_checkpoints,
    read_checkpoint,
)
from ffbench.ablate.paper import write_table
from ffbench.ablate.table import Line, Made, files_of
from ffbench.ablate.trainings import Trainings
from ffbench.durable import write_atomic
from ffbench.errors import UserError
from ffbench.generate import GenerateOptions, generate
from ffbench.protocols import Protocol
from ffbench.records import digest, from_json
from ffbench.score import ScoreOptions, score
from ffbench.store import safe_name
from ffbench.suites import Suite
from ffbench.tables.archive import keep
from ffbench.tables.published import METHOD_OF, published_table
from ffbench.tables.results import portable
from ffbench.tables.rows import Row, alike, load_rows
from ffbench.tables.sheet import Sheet

if TYPE_CHECKING:
    from ffbench.figures.write import FigureOptions

HEADS: Mapping[str, tuple[str, ...]] = {
    "table1": ("Methods",),
    "table2": ("Identity Aligner", "Euler Embedding"),
    "table3": ("Dictionary Elements",),
    "table4": ("Pooling Type",),
    "table5": ("Methods",),
    "table6": ("Perturbation Range",),
}
"""The tables, and what stands above their rows' names."""
TABLE_1 = (OURS, "vace", "oracle", "impostor", "still")
"""Rows of Table 1 unless others are named: what the embedded world can make, and its controls."""
ELEMENTS = 4096
"""The paper's dictionary."""


@dataclass(frozen=True)
class Variant:
    """One row of a table: a method of ffbench, or the checkpoints that it needs."""

    names: tuple[str, ...]
    published: str
    """Name of its row in the published table; empty where it has none."""
    method: str = ""
    """What makes its videos; empty where only a checkpoint does."""
    wants: Kind | None = None
    """The checkpoints that are used instead of `method` where there are any; None for rows that take none."""
    checkpoints: tuple[Checkpoint, ...] = ()


@dataclass(frozen=True)
class Ablation:
    """One table of the paper, to be made."""

    name: str
    """`table1` to `table6`."""
    variants: tuple[Variant, ...]
    base: int = 0
    """The row that the others are compared with."""
    notes: tuple[str, ...] = ()

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
    results: Path | None = None
    """Where the table goes with the records that it is rendered from; nowhere if None."""
    figures: FigureOptions | None = None
    """Draw the figures that go with the table; none if None."""


@dataclass(frozen=True)
class Ablated:
    """The text for the terminal, the folder of the files, and how many rows could not be had."""

    text: str
    folder: Path
    num_missing: int


def ablation(
    name: str, methods: Sequence[str] = (), checkpoints: Sequence[Path] = (), among: Sequence[Path] = ()
) -> Ablation:
    """The rows of a table of the paper, with those of one's own.

    Args:
        name: `table1` to `table6`.
        methods: rows of Table 1 or 5 instead of the usual ones.
        checkpoints: folders that `faithfulfaces train` or `mini phantom` wrote; each must belong to a row.
        among: folders below which checkpoints lie; those that belong to no row of this table are left.

    Raises:
        UserError: for an unknown table, methods for another table than 1 and 5, or a folder that holds no checkpoint.
    """
    if name not in HEADS:
        raise UserError(f"there is no ablation {name!r}", f"choose one of: {', '.join(HEADS)}")
    if methods and name not in ("table1", "table5"):
        raise UserError(f"the rows of {name} are variants of {OURS}, not methods", "leave --method out, or take table5")
    named = [read_checkpoint(folder) for folder in checkpoints]
    trained = [one for place in among for one in find_checkpoints(place)]
    # a folder and one that holds it may both be given
    found = list({one.folder: one for one in [*named, *trained]}.values())
    elements = elements_of(found) or ELEMENTS
    what = _rows_of(name, methods, elements)
    if named and not any(one.wants is not None for one in what.variants):
        raise UserError(f"no row of {name} takes a checkpoint", "leave --checkpoint out")
    rows = [
        dataclasses.replace(one, checkpoints=tuple(c for c in found if c.kind(elements) == one.wants))
        for one in what.variants
    ]
    for one in named:
        if one.kind(elements) not in {row.wants for row in rows}:
            parts = ", ".join(f"{part} {value!r}" for part, value in one.kind(elements)) or "a whole aligner"
            raise UserError(f"{one.folder}: {parts} belongs to no row of {name}", "leave it out")
    # beside trainings on one base, the method's own checkpoint would be of another one
    if any(one.method == OURS for one in trained):
        own = [row.checkpoints or row.wants in (None, ANOTHER) for row in rows]
        rows = [row if kept else dataclasses.replace(row, method="") for row, kept in zip(rows, own, strict=True)]
    return dataclasses.replace(what, variants=tuple(rows))


def ablate(what: Ablation, suite: Suite, options: AblateOptions) -> Ablated:
    """Make or reuse every row, score it, and write `table.md`, `table.tex`, `table.csv` and `cells.json`.

    Raises:
        UserError: where not one row can be had (the first row's), or rows may not stand together.
    """
    if what.views:
        suite = _by_pairs(suite)
    wanted = frozenset((case.case_id, 0) for case in suite.cases[: options.generate.limit])
    lines: list[Line] = []
    found: list[Trainings] = []
    shown: list[Row] = []
    errors: list[UserError] = []
    for variant in what.variants:
        try:
            rows = {seed: row.only(wanted) for seed, row in _trainings(what, variant, suite, options).items()}
        except UserError as error:
            errors.append(error)
            lines.append(Line(variant.names, variant.published, "", portable(f"{error.what}; {error.fix}")))
            continue
        label = " / ".join(variant.names)
        # in an ablation a control is a row like the others: it takes part in what is best
        controls = {seed: row.control and what.name == "table1" for seed, row in rows.items()}
        rows = {seed: dataclasses.replace(row, label=label, control=controls[seed]) for seed, row in rows.items()}
        shown.append(next(iter(rows.values())))
        found.append(Trainings(label, {seed: keep(row) for seed, row in rows.items()}))
        lines.append(Line(variant.names, variant.published, label, ""))
    if not found:
        raise errors[0]
    alike([row for one in found for row in one.rows.values()])
    notes = (*what.notes, *_switched_off(what))
    made = Made(what.name, HEADS[what.name], tuple(lines), tuple(found), lines[what.base].label, notes)
    folder = options.out / f"{safe_name(suite.name)}@{safe_name(suite.version)}" / f"ablate-{what.name}"
    files = files_of(made, options.intervals, options.published)
    for name, content in files.items():
        if name != "text":
            write_atomic(folder / name, content.encode())
    if options.results:
        write_table(made, options.intervals, options.published, options.results)
    if options.figures:
        from ffbench.ablate.figures import write_figures

        places = [folder, *([options.results / folder.parent.name] if options.results else [])]
        cells = from_json(Sheet, files["cells.json"])
        write_figures((what.name, HEADS[what.name]), cells, shown, options.figures, places)
    return Ablated(files["text"], folder, len(errors))


def _trainings(what: Ablation, variant: Variant, suite: Suite, options: AblateOptions) -> dict[int | None, Row]:
    """Make, score and load the rows of one line, by seed."""
    if not variant.checkpoints:
        if not variant.method:
            raise UserError(*_no_checkpoint(what, variant))
        return {None: _row(variant.method, suite, options)}
    seeds = [one.seed for one in variant.checkpoints]
    if len(set(seeds)) < len(seeds):
        places = ", ".join(str(one.folder) for one in variant.checkpoints)
        raise UserError(
            f"{' / '.join(variant.names)}: {len(seeds)} checkpoints are not told apart by their seeds ({places})",
            "give one of each seed",
        )
    rows: dict[int | None, Row] = {}
    for one in sorted(variant.checkpoints, key=lambda c: -1 if c.seed is None else c.seed):
        # a trained part is left out by its checkpoint; perturbed angles are a setting
        method = variant.method if what.name == "table6" else one.method
        generating = dataclasses.replace(options.generate, settings=(*options.generate.settings, *one.settings))
        # a run folder holds one set of settings: a checkpoint needs a folder of its own
        own = dataclasses.replace(
            options,
            generate=generating,
            out=options.out / f"checkpoint-{digest([str(one.folder), one.content()], 8)}",
        )
        rows[one.seed] = _row(method, suite, own)
    return rows


def _row(method: str, suite: Suite, options: AblateOptions) -> Row:
    done = generate(suite, method, options.out, options.generate)
    score(done.run, ScoreOptions(options.protocol, options.generate.device, engine=options.generate.engine))
    found = load_rows(done.run, options.protocol.id)
    if len(found) > 1:
        raise UserError(f"{done.run.root} holds {len(found)} groups of settings", "keep them in folders of their own")
    return found[0]


def _no_checkpoint(what: Ablation, variant: Variant) -> tuple[str, str]:
    parts = ", ".join(f"{part}={value}" for part, value in variant.wants or ()) or "a whole aligner"
    change = ", ".join(f"{part}={value!r}" for part, value in variant.wants or ())
    return (
        f"no checkpoint with {parts} was given",
        f"faithfulfaces train --recipe FILE.py:FUNCTION --out FOLDER, whose recipe has Aligner({change}), "
        f"then ffbench ablate {what.name} --checkpoint FOLDER/model",
    )


def _rows_of(table: str, methods: Sequence[str], elements: int) -> Ablation:
    published = published_table(int(table[-1]))
    if table == "table1" or methods:
        known = {row.method: row.name for row in published.rows}
        chosen = tuple(dict.fromkeys(methods)) or TABLE_1
        return Ablation(table, tuple(Variant((one,), known.get(one, ""), one) for one in chosen))
    names = [row.name for row in published.rows]
    if table == "table2":
        wants: Mapping[str, Kind] = {"yes/yes": (), "yes/no": (("euler", False),), "no/no": WITHOUT}
        variants = [
            Variant(tuple("✓" if one == "yes" else "×" for one in row.name.split("/")), row.name, row.method,
                    wants[row.name])
            for row in published.rows
        ]  # fmt: skip
        return Ablation(table, tuple(variants), names.index("yes/yes"))
    if table == "table3":
        return _sizes(names, elements)
    if table == "table4":
        # every recipe pools by the maximum, so the method's own checkpoint is that row
        variants = [
            Variant((f"{name.title()} Pooling",), name, OURS if name == "max" else "",
                    () if name == "max" else (("pooling", name),))
            for name in names
        ]  # fmt: skip
        return Ablation(table, tuple(variants), names.index("max"))
    if table == "table5":
        kinds: Mapping[str, Kind] = {
            "Phantom": ANOTHER, "FaithfulFaces without aligner": WITHOUT, "FaithfulFaces": (),
        }  # fmt: skip
        variants = [Variant((METHOD_OF[name],), name, METHOD_OF[name], kinds.get(name)) for name in names]
        return Ablation(table, tuple(variants), names.index("FaithfulFaces"))
    variants = [
        Variant(("No Perturbation" if row.name == "0" else f"-{row.name}° to +{row.name}°",), row.name, row.method, ())
        for row in published.rows
    ]
    return Ablation(table, tuple(variants), names.index("0"))


def _sizes(names: Sequence[str], elements: int) -> Ablation:
    """Rows of Table 3 around a dictionary of another size: the same steps up and down."""
    scale = ELEMENTS / elements
    sizes = {name: int(name) / scale for name in names}
    variants = [
        Variant((f"{size:g}",), name, "", () if size == elements else (("elements", int(size)),))
        for name, size in sizes.items()
    ]
    notes = []
    if scale != 1:
        notes.append(
            f"sizes are the paper's divided by {scale:g}, as this model's {elements} elements are of its {ELEMENTS}; "
            "each row stands beside the paper's row of the same place"
        )
    return Ablation("table3", tuple(variants), names.index(str(ELEMENTS)), tuple(notes))


def _switched_off(what: Ablation) -> list[str]:
    """Rows whose part was there in training, and only left out in sampling."""
    whole = (None, (), ANOTHER)
    rows = [one for one in what.variants if one.wants not in whole and one.method and not one.checkpoints]
    parts = [" / ".join(one.names) for one in rows]
    return [f"{', '.join(parts)}: a part of one checkpoint switched off, not trained without it"] if parts else []


def _by_pairs(suite: Suite) -> Suite:
    """The suite with both views of each person and prompt one after the other, so that a limit leaves whole pairs."""
    order: dict[tuple[str, str], int] = {}
    for case in suite.cases:
        order.setdefault((case.identity_id, case.prompt_id), len(order))
    ordered = sorted(suite.cases, key=lambda case: order[case.identity_id, case.prompt_id])
    return dataclasses.replace(suite, cases=tuple(ordered))
