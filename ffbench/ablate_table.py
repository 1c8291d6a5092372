"""Scored rows as a table of the paper's layout: names in front, published columns behind, differences below."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

from ffbench import render
from ffbench.compare import CLEAR, compare_rows
from ffbench.metrics import aggregate
from ffbench.metrics.catalog import METRICS
from ffbench.published import METRIC_OF, VIEWS, PublishedTable, beside, published_table
from ffbench.render import DASH, Entry, Heading, Table
from ffbench.rows import Row
from ffbench.tables import Sheet, valued

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
    rows: Sequence[Row]
    sheet: Sheet
    base: str
    """Label of the row that the others are compared with; empty where it could not be had."""


def lay_out(made: Made, intervals: bool, with_published: bool) -> Table:
    """The table; a row that could not be had has dashes and its reason below."""
    views = made.name == "table5"
    published = published_table(int(made.name[-1]))
    if views:
        shown = _views_table(made.sheet, intervals)
        notes = [note for row in made.rows for note in _drop(row)]
    else:
        metrics = [metric for metric in render.main_metrics(made.sheet) if metric in COLUMNS]
        shown = render.table(made.sheet, metrics, intervals)
        notes = _against_base(made, published)
    measured = {entries[0].text: entries[1:] for entries in shown.methods}
    footnotes = list(shown.footnotes)
    rows = []
    for line in made.lines:
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
        footnotes=tuple(footnotes),
        notes=(*shown.notes, *notes),
    )
    if not with_published:
        return table
    known = {row.name: row for row in published.rows}
    return beside(table, published, [known.get(line.published) for line in made.lines])


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


def _drop(row: Row) -> list[str]:
    """Non-frontal minus frontal of one method, paired by person and prompt."""
    notes = []
    for metric in FACESIM:
        sides: dict[str, dict[tuple[str, str, int], float]] = {view: {} for view in VIEWS}
        for (case_id, take), value in valued(row, metric).items() if metric in row.metrics else ():
            case = row.cases[case_id]
            for view in set(case.tags) & set(VIEWS):
                sides[view][case.identity_id, case.prompt_id, take] = value
        shared = sorted(set(sides[VIEWS[0]]) & set(sides[VIEWS[1]]))
        if shared:
            values = [[sides[view][pair] for pair in shared] for view in VIEWS]
            found = aggregate.paired(values[1], values[0], [person for person, _, _ in shared])
            numbers = _numbers(found.difference, (found.low, found.high), found.p)
            counts = f"{found.num_identities} identities, {found.num_pairs} pairs"
            notes.append(f"{row.label}, non-frontal minus frontal: {METRICS[metric].title} {numbers}, {counts}")
    return notes


def _against_base(made: Made, published: PublishedTable) -> list[str]:
    """Every row minus the full method, paired by case, and whether the paper's difference has the same sign."""
    rows = {row.label: row for row in made.rows}
    if made.base not in rows:
        return []
    names = {line.label: line.published for line in made.lines if line.label}
    notes = []
    for label, row in rows.items():
        for found in compare_rows(row, rows[made.base], common_cases=True).rows if label != made.base else ():
            if found.metric not in FACESIM or found.difference is None:
                continue
            interval = (_nan(found.low), _nan(found.high))
            numbers = _numbers(found.difference, interval, _nan(found.p))
            counts = f"{found.num_identities} identities, {found.num_pairs} pairs"
            verdict = _verdict(
                published, (names[label], names[made.base]), found.metric, (found.difference, _nan(found.p))
            )
            notes.append(f"{label} minus {made.base}: {found.title} {numbers}, {counts}{verdict}")
    return notes


def _verdict(published: PublishedTable, names: tuple[str, str], metric: str, found: tuple[float, float]) -> str:
    """How a measured difference and its p stand to that of the paper."""
    known = {row.name: row for row in published.rows}
    if not (names[0] in known and names[1] in known):
        return ""
    row, base = (float(known[name].values[metric, "all"]) for name in names)
    difference, p = found
    if not p < CLEAR:
        return f"; no clear difference (the paper's is {row - base:+.3f})"
    agrees = (difference > 0) == (row > base)
    return f"; {'same direction as the paper' if agrees else 'against the direction of the paper'} ({row - base:+.3f})"


def _numbers(difference: float, interval: tuple[float, float], p: float) -> str:
    shown = f"{difference:+.4f}"
    if not any(math.isnan(end) for end in interval):
        shown += f" [{interval[0]:+.4f}, {interval[1]:+.4f}]"
    return shown + ("" if math.isnan(p) else f", p {'< 0.001' if p < 0.001 else f'= {p:.3f}'}")


def _nan(value: float | None) -> float:
    return math.nan if value is None else value
