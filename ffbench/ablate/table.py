"""Scored rows as a table of the paper's layout: names in front, published columns behind, differences below."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass

from ffbench.ablate.trainings import Difference, Trainings, difference, pooled_sheet
from ffbench.metrics.catalog import METRICS
from ffbench.tables import render
from ffbench.tables.published import CAPTIONS, METRIC_OF, VIEWS, PublishedTable, beside, published_table
from ffbench.tables.render import DASH, Entry, Heading, Table
from ffbench.tables.rows import Row
from ffbench.tables.sheet import BINNED, Sheet

CLEAR = 0.05
"""p below which a difference is called one."""
COLUMNS = {*METRIC_OF.values(), "fid", "kid"}
FACESIM = ("facesim_cur", "facesim_arc")


@dataclass(frozen=True)
class Line:
    """One row in the order of the paper."""

    names: tuple[str, ...]
    published: str
    """Name of its published row; empty where it has none."""
    label: str
    """Its label in the sheet; empty where it could not be had."""
    reason: str


@dataclass(frozen=True)
class Made:
    """What a table is laid out from."""

    name: str
    heads: tuple[str, ...]
    lines: tuple[Line, ...]
    rows: tuple[Trainings, ...]
    base: str
    """Label of the row that the others are compared with; empty where it could not be had."""
    notes: tuple[str, ...] = ()


def files_of(made: Made, intervals: bool, with_published: bool) -> Mapping[str, str]:
    """`table.md`, `table.tex`, `table.csv` and `cells.json` by name, and the same table as `text` for a terminal."""
    sheet = pooled_sheet(made.rows)
    table = lay_out(made, sheet, intervals, with_published)
    number = int(made.name[-1])
    poses = [
        f"\n{render.title(metric)} by |yaw|\n\n" + render.markdown(render.pose_table(sheet, metric))
        for metric in BINNED
        if number == 1 and any(c.metric == metric and c.group.startswith("yaw:") and not c.reason for c in sheet.cells)
    ]
    return {
        "text": render.text(table),
        "table.md": render.markdown(table) + "".join(poses),
        "table.tex": render.latex(table, f"{CAPTIONS[number].capitalize()}, laid out as Table {number} of the paper"),
        "table.csv": render.csv_cells(sheet),
        "cells.json": render.json_sheet(sheet),
    }


def lay_out(made: Made, sheet: Sheet, intervals: bool, with_published: bool) -> Table:
    """The table; a row that could not be had has dashes and its reason below."""
    published = published_table(int(made.name[-1]))
    if made.name == "table5":
        shown = _views_table(sheet, intervals)
        notes = [note for row in made.rows for note in _drop(row)]
    else:
        metrics = [metric for metric in render.main_metrics(sheet) if metric in COLUMNS or made.name == "table1"]
        shown = render.table(sheet, metrics, intervals)
        notes = _against_base(made, published)
    measured = {entries[0].text: entries[1:] for entries in shown.methods}
    controls = {entries[0].text.removesuffix(" (control)"): entries for entries in shown.controls}
    footnotes = list(shown.footnotes)
    rows = []
    for line in (line for line in made.lines if line.label not in controls):
        names = tuple(Entry(name) for name in line.names)
        if line.label:
            rows.append(names + measured[line.label])
            continue
        if line.reason not in footnotes:
            footnotes.append(line.reason)
        dash = Entry(DASH, note=footnotes.index(line.reason) + 1)
        rows.append(names + (dash,) * (len(shown.columns) - 1))
    table = dataclasses.replace(
        shown,
        columns=(*(Heading(head) for head in made.heads), *shown.columns[1:]),
        methods=tuple(rows),
        controls=tuple(controls.values()),
        footnotes=tuple(footnotes),
        notes=(*shown.notes, *made.notes, *notes),
    )
    if not with_published:
        return table
    known = {row.name: row for row in published.rows}
    places = [known.get(line.published) for line in made.lines if line.label not in controls]
    return beside(table, published, places)


def drop(frontal: float, other: float) -> str:
    """Relative loss from a frontal to a non-frontal reference as the paper prints it; empty where it has no meaning.

    Args:
        frontal: FaceSim by the frontal reference.
        other: FaceSim by the non-frontal one.
    """
    if not (frontal > 0 and not math.isnan(other)):
        return ""
    percent = 100 * (1 - other / frontal)
    return f"{'↓' if percent >= 0 else '↑'} {abs(percent):.2f}%"


def _views_table(sheet: Sheet, intervals: bool) -> Table:
    """FaceSim by the view of the reference, with the drop behind the second of each pair."""
    columns = [
        (metric, f"tag:{view}", Heading(f"{METRICS[metric].title} {view}", True))
        for metric in FACESIM
        if metric in sheet.metrics
        for view in VIEWS
    ]
    shown = render.table_of(sheet, columns, intervals, counts=True)
    rows = []
    for entries in shown.methods:
        cells = list(entries)
        for i, (metric, group, _) in enumerate(columns, 1):
            frontal, here = (
                sheet.cell(entries[0].text, metric, f"tag:{VIEWS[0]}"),
                sheet.cell(entries[0].text, metric, group),
            )
            if group != f"tag:{VIEWS[0]}" and frontal and here and (lost := drop(frontal.value, here.value)):
                cells[i] = dataclasses.replace(cells[i], text=f"{cells[i].text} ({lost})")
        rows.append(tuple(cells))
    return dataclasses.replace(shown, methods=tuple(rows))


def _drop(line: Trainings) -> list[str]:
    """Non-frontal minus frontal of one method, paired by person and prompt."""
    notes = []
    for metric in FACESIM:
        if not all(metric in row.metrics for row in line.rows.values()):
            continue
        # as two lines whose videos bear the same names
        frontal, other = (
            Trainings(line.label, {seed: _of_view(row, view) for seed, row in line.rows.items()}) for view in VIEWS
        )
        if found := difference(other, frontal, metric):
            notes.append(f"{line.label}, non-frontal minus frontal: {METRICS[metric].title} {_numbers(found)}")
    return notes


def _of_view(row: Row, view: str) -> Row:
    """The videos of one view, named by person and prompt."""
    names = {
        video: (f"{case.identity_id}\n{case.prompt_id}", video[1])
        for video in row.generations
        if view in (case := row.cases[video[0]]).tags
    }
    return dataclasses.replace(
        row,
        cases={name[0]: row.cases[video[0]] for video, name in names.items()},
        generations={name: row.generations[video] for video, name in names.items()},
        scores={name: row.scores[video] for video, name in names.items() if video in row.scores},
    )


def _against_base(made: Made, published: PublishedTable) -> list[str]:
    """Every row minus the full method, paired by case, and whether the paper's difference has the same sign."""
    lines = {line.label: line for line in made.rows}
    if made.base not in lines:
        return []
    names = {line.label: line.published for line in made.lines if line.label}
    notes = []
    for label, line in lines.items():
        for metric in FACESIM if label != made.base else ():
            if found := difference(line, lines[made.base], metric):
                verdict = _verdict(published, (names[label], names[made.base]), metric, found)
                title = METRICS[metric].title
                notes.append(f"{label} minus {made.base}: {title} {_numbers(found)}{verdict}")
    return notes


def _verdict(published: PublishedTable, names: tuple[str, str], metric: str, found: Difference) -> str:
    """How a measured difference and its p stand to that of the paper."""
    known = {row.name: row for row in published.rows}
    if not (names[0] in known and names[1] in known):
        return ""
    row, base = (float(known[name].values[metric, "all"]) for name in names)
    if not found.p < CLEAR:
        return f"; no clear difference (the paper's is {row - base:+.3f})"
    agrees = (found.value > 0) == (row > base)
    return f"; {'same direction as the paper' if agrees else 'against the direction of the paper'} ({row - base:+.3f})"


def _numbers(found: Difference) -> str:
    shown = f"{found.value:+.4f}"
    if not math.isnan(found.low):
        shown += f" [{found.low:+.4f}, {found.high:+.4f}]"
    if not math.isnan(found.p):
        shown += f", p {'< 0.001' if found.p < 0.001 else f'= {found.p:.3f}'}"
    seeds = f"{found.num_seeds} seeds, " if found.num_seeds > 1 else ""
    return f"{shown}, {seeds}{found.num_identities} identities, {found.num_pairs} pairs"
