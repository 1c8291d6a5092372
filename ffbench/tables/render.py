"""A sheet as a table: terminal text, Markdown, LaTeX, CSV and JSON. The same sheet gives the same bytes."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import textwrap
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from ffbench.metrics.catalog import METRICS
from ffbench.records import Cell, to_json
from ffbench.tables.sheet import Line, Sheet

MAIN: tuple[tuple[str, ...], ...] = (
    ("facesim_cur",),
    ("facesim_arc",),
    ("fid", "kid", "face_feature_distance"),
    ("clip_score",),
    ("facesim_arc_yaw45", "facesim_cur_yaw45"),
    ("pose_range",),
)
"""Columns of the main table; of several the first that has a number somewhere."""
DASH = "—"
_HEAD = 12
"""Letters in a line of a column's head in LaTeX."""


@dataclass(frozen=True)
class Entry:
    """One place of a table: its text, its rank among methods (1 best, 2 second, 0 neither) and its footnote."""

    text: str
    rank: int = 0
    note: int = 0


@dataclass(frozen=True)
class Heading:
    """A column: its title, and whether higher (True) or lower (False) is better; None where neither."""

    title: str
    better: bool | None = None

    @property
    def arrow(self) -> str:
        """The arrow that stands behind the title."""
        return "" if self.better is None else " ↑" if self.better else " ↓"


@dataclass(frozen=True)
class Table:
    """Everything that is printed, in order; methods first, then the controls."""

    columns: tuple[Heading, ...]
    methods: tuple[tuple[Entry, ...], ...]
    controls: tuple[tuple[Entry, ...], ...]
    footnotes: tuple[str, ...]
    """Numbered from 1."""
    notes: tuple[str, ...]
    """What holds for the whole table."""
    source: tuple[str, ...]
    """Suite, protocol, networks, and what the numbers compare with."""


def main_metrics(sheet: Sheet) -> list[str]:
    """Metrics of the main table: the columns that people read first, as far as the protocol has them."""

    def has_number(metric: str) -> bool:
        return any(cell.metric == metric and cell.group == "all" and not cell.reason for cell in sheet.cells)

    chosen = []
    for choice in MAIN:
        known = [metric for metric in choice if metric in sheet.metrics]
        chosen.extend([next((metric for metric in known if has_number(metric)), known[0])] if known else [])
    return chosen


def table(sheet: Sheet, metrics: Sequence[str], intervals: bool = False) -> Table:
    """The table of all videos: a row a method, a column a metric, then the face rate and the number of videos."""
    columns = [
        (metric, "all", Heading(METRICS[metric].title, METRICS[metric].higher_is_better))
        for metric in metrics
        if metric != "face_rate"  # it has its own place beside N
    ]
    return table_of(sheet, columns, intervals, counts=True)


def pose_table(sheet: Sheet, metric: str, axis: str = "yaw", intervals: bool = False) -> Table:
    """FaceSim by bins of |yaw| or |pitch|: a column a bin."""
    columns = [
        (metric, group, Heading(f"{group.partition(':')[2]}°", METRICS[metric].higher_is_better))
        for group in sheet.groups(f"{axis}:")
    ]
    return table_of(sheet, columns, intervals, counts=False)


def tag_table(sheet: Sheet, metric: str, intervals: bool = False) -> Table:
    """One metric by the tags of the cases: a column a tag."""
    columns = [
        (metric, group, Heading(group.partition(":")[2], METRICS[metric].higher_is_better))
        for group in sheet.groups("tag:")
    ]
    return table_of(sheet, columns, intervals, counts=False)


def table_of(sheet: Sheet, columns: Sequence[tuple[str, str, Heading]], intervals: bool, counts: bool) -> Table:
    """A table of any columns, each a metric, a group of cells and what stands above; `counts` adds faces and N."""
    order = _order(sheet, columns)
    footnotes: dict[str, list[str]] = {}

    def note(what: str, reason: str) -> int:
        """The number of a reason's footnote, which names every column that it holds for."""
        titles = footnotes.setdefault(" ".join(reason.split()), [])
        if what not in titles:
            titles.append(what)
        return list(footnotes).index(" ".join(reason.split())) + 1

    methods: list[tuple[Entry, ...]] = []
    controls: list[tuple[Entry, ...]] = []
    for line in order:
        entries = [Entry(line.label + (" (control)" if line.control else ""))]
        for metric, group, heading in columns:
            cell = sheet.cell(line.label, metric, group)
            if cell is None or math.isnan(cell.value):
                reason = cell.reason if cell else "not measured"
                entries.append(Entry(DASH, note=note(heading.title if group == "all" else "", reason)))
            else:
                rank = 0 if line.control else _rank(sheet, cell, heading.better)
                entries.append(Entry(_number(cell, intervals), rank))
        if counts:
            rate = _value(sheet, line.label, "face_rate", "all")
            entries.append(Entry(DASH if math.isnan(rate) else _shown(rate, "face_rate")))
            total = line.num_made + line.num_failed
            missing = note(line.label, f"{line.num_failed} of {total} videos failed") if line.num_failed else 0
            entries.append(Entry(str(line.num_made) if not missing else f"{line.num_made}/{total}", note=missing))
        (controls if line.control else methods).append(tuple(entries))
    headings = [heading for _, _, heading in columns]
    return Table(
        columns=(Heading(""), *headings, *((Heading("faces"), Heading("N")) if counts else ())),
        methods=tuple(methods),
        controls=tuple(controls),
        footnotes=tuple(": ".join(filter(None, [", ".join(titles), why])) for why, titles in footnotes.items()),
        notes=sheet.notes,
        source=_source(sheet, intervals),
    )


def _order(sheet: Sheet, columns: Sequence[tuple[str, str, Heading]]) -> list[Line]:
    """Methods best first by the first column that has numbers, then controls; names break ties."""
    methods = [line for line in sheet.lines if not line.control]
    for metric, group, heading in columns:
        values = {line.label: _value(sheet, line.label, metric, group) for line in methods}
        if not all(math.isnan(value) for value in values.values()):
            sign = 1.0 if heading.better is False else -1.0
            methods.sort(
                key=lambda line: (math.isnan(values[line.label]), sign * _zero(values[line.label]), line.label)
            )
            break
    return methods + sorted((line for line in sheet.lines if line.control), key=lambda line: line.label)


def _value(sheet: Sheet, label: str, metric: str, group: str) -> float:
    cell = sheet.cell(label, metric, group)
    return cell.value if cell else math.nan


def _zero(value: float) -> float:
    return 0.0 if math.isnan(value) else value


def _rank(sheet: Sheet, cell: Cell, better: bool | None) -> int:
    """1 for the best method of a column, 2 for the second; what prints alike ranks alike."""
    labels = [line.label for line in sheet.lines if not line.control]
    values = [_value(sheet, label, cell.metric, cell.group) for label in labels]
    if better is None or sum(not math.isnan(value) for value in values) < 2:
        return 0
    shown = {float(_shown(value, cell.metric)) for value in values if not math.isnan(value)}
    place = sorted(shown, reverse=better).index(float(_shown(cell.value, cell.metric)))
    return place + 1 if place < 2 else 0


def _shown(value: float, metric: str) -> str:
    shown = f"{value:.{METRICS[metric].decimals}f}"
    return shown.removeprefix("-") if float(shown) == 0 else shown


def _number(cell: Cell, intervals: bool) -> str:
    unit = METRICS[cell.metric].unit
    number = _shown(cell.value, cell.metric) + (unit if unit == "°" else "")
    if not intervals or math.isnan(cell.low):
        return number
    return f"{number} [{_shown(cell.low, cell.metric)}, {_shown(cell.high, cell.metric)}]"


def _source(sheet: Sheet, intervals: bool) -> tuple[str, ...]:
    which = "95% intervals by a bootstrap over identities" if intervals else "--ci for intervals"
    return (
        f"suite {sheet.suite} · protocol {sheet.protocol} · mean over identities; {which}",
        "networks: " + (", ".join(sheet.networks) or "none"),
        f"numbers compare only with others of suite {sheet.suite} and protocol {sheet.protocol}: docs/metrics.md",
    )


SUPERSCRIPT = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


def text(table: Table, ansi: bool = False) -> str:
    """The table for a terminal: aligned columns; best bold and second underlined, as `**` and `_` without `ansi`."""

    def plain(entry: Entry) -> str:
        shown = entry.text
        if entry.rank and not ansi:
            shown = f"**{shown}**" if entry.rank == 1 else f"_{shown}_"
        return shown + (str(entry.note).translate(SUPERSCRIPT) if entry.note else "")

    def painted(entry: Entry, padded: str) -> str:
        if not ansi or not entry.rank:
            return padded
        return padded.replace(entry.text, f"\x1b[{1 if entry.rank == 1 else 4}m{entry.text}\x1b[0m", 1)

    heads = [heading.title + heading.arrow for heading in table.columns]
    rows = [*table.methods, *table.controls]
    widths = [max([_width(head), *(_width(plain(row[i])) for row in rows)]) for i, head in enumerate(heads)]
    lines = ["   ".join(_pad(head, width, i > 0) for i, (head, width) in enumerate(zip(heads, widths, strict=True)))]
    for row in rows:
        shown = [painted(e, _pad(plain(e), width, i > 0)) for i, (e, width) in enumerate(zip(row, widths, strict=True))]
        lines.append("   ".join(shown))
    lines += [f"{str(i).translate(SUPERSCRIPT)} {note}" for i, note in enumerate(table.footnotes, 1)]
    lines += [f"note: {note}" for note in table.notes] + list(table.source)
    return "\n".join(line.rstrip() for line in lines)


def _width(shown: str) -> int:
    """Columns that a terminal gives to a string."""
    wide = sum(unicodedata.east_asian_width(char) in "WF" for char in shown)
    return len(shown) + wide - sum(unicodedata.combining(char) > 0 for char in shown)


def _pad(shown: str, width: int, right: bool) -> str:
    space = " " * (width - _width(shown))
    return space + shown if right else shown + space


def markdown(table: Table) -> str:
    """The table in GitHub's Markdown."""

    def shown(entry: Entry) -> str:
        value = _markdown(entry.text)
        value = f"**{value}**" if entry.rank == 1 else f"<u>{value}</u>" if entry.rank == 2 else value
        return value + (f"<sup>{entry.note}</sup>" if entry.note else "")

    lines = [
        "| " + " | ".join(_markdown(heading.title) + heading.arrow for heading in table.columns) + " |",
        "|:--" + "|--:" * (len(table.columns) - 1) + "|",
        *("| " + " | ".join(shown(entry) for entry in row) + " |" for row in (*table.methods, *table.controls)),
        "",
        *(f"<sup>{i}</sup> {_markdown(note)}  " for i, note in enumerate(table.footnotes, 1)),
        *(f"Note: {_markdown(note)}  " for note in table.notes),
        *(f"{_markdown(line)}  " for line in table.source),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _markdown(shown: str) -> str:
    for char in "\\`*_|<>[]":
        shown = shown.replace(char, {"<": "&lt;", ">": "&gt;"}.get(char, "\\" + char))
    return " ".join(shown.split())


_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "|": r"\textbar{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "°": r"$^\circ$",
    "✓": r"$\surd$",
    "·": r"$\cdot$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "…": r"\ldots{}",
    "—": "---",
    "–": "--",
}


_LATIN = frozenset(map(chr, [*range(0x20, 0x7F), *range(0xA1, 0x180)])) - frozenset("ĦħĸĿŀŉŦŧſ")
"""Letters that every LaTeX sets with T1 fonts."""


def latex_escape(shown: str) -> str:
    """Any string as LaTeX text; arrows and degrees become math, what pdfLaTeX has no letter for its code point."""

    def one(char: str) -> str:
        if char in _LATEX:
            return _LATEX[char]
        return char if char in _LATIN else f"[U+{ord(char):04X}]"

    return "".join(one(char) for char in " ".join(shown.split()))


def _stacked(heading: Heading) -> str:
    """A column's head in lines of few letters: long ones would make the column wider than its numbers."""
    lines = textwrap.wrap(heading.title, _HEAD, break_long_words=False, break_on_hyphens=False) or [""]
    escaped = [latex_escape(line) for line in [*lines[:-1], lines[-1] + heading.arrow]]
    if len(lines) < 2:
        return "".join(escaped)
    return r"\begin{tabular}[b]{@{}r@{}}" + r"\\".join(escaped) + r"\end{tabular}"


def latex(table: Table, caption: str = "") -> str:
    """The table for a paper (needs booktabs); every string is escaped.

    With graphicx, a table that is wider than its line is scaled down to it.
    """

    def shown(entry: Entry) -> str:
        value = latex_escape(entry.text)
        value = rf"\textbf{{{value}}}" if entry.rank == 1 else rf"\underline{{{value}}}" if entry.rank == 2 else value
        return value + (rf"\textsuperscript{{{entry.note}}}" if entry.note else "")

    def lines(rows: Sequence[Sequence[Entry]]) -> list[str]:
        return ["  " + " & ".join(shown(entry) for entry in row) + r" \\" for row in rows]

    notes = [rf"\textsuperscript{{{i}}} {latex_escape(note)}" for i, note in enumerate(table.footnotes, 1)]
    notes += [latex_escape(note) for note in (*table.notes, *table.source)]
    heads = " & ".join(_stacked(heading) for heading in table.columns)
    body = [
        r"\begin{table}[t]",
        r"\centering",
        *([rf"\caption{{{latex_escape(caption)}}}", r"\medskip"] if caption else []),
        r"\setlength{\tabcolsep}{4pt}",
        r"\begin{lrbox}{0}",
        rf"\begin{{tabular}}{{l{'r' * (len(table.columns) - 1)}}}",
        r"  \toprule",
        f"  {heads} " + r"\\",
        r"  \midrule",
        *lines(table.methods),
        *([r"  \midrule"] if table.methods and table.controls else []),
        *lines(table.controls),
        r"  \bottomrule",
        r"\end{tabular}",
        r"\end{lrbox}",
        r"\ifdim\wd0>\linewidth\ifdefined\resizebox\resizebox{\linewidth}{!}{\usebox0}\else\usebox0\fi\else\usebox0\fi",
        r"\par\medskip\footnotesize\raggedright",
        *(f"{note}\\\\" for note in notes[:-1]),
        *notes[-1:],
        r"\end{table}",
    ]
    return "\n".join(body) + "\n"


def csv_cells(sheet: Sheet) -> str:
    """Every cell as a row of CSV, one column a field; missing numbers are empty."""
    names = [field.name for field in dataclasses.fields(Cell) if field.name != "schema"]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(names)
    for cell in sheet.cells:
        values = (getattr(cell, name) for name in names)
        writer.writerow(["" if isinstance(value, float) and math.isnan(value) else value for value in values])
    return stream.getvalue()


def json_sheet(sheet: Sheet) -> str:
    """The sheet as JSON, a line a cell; `records.from_json(Sheet, text)` reads it back."""
    head = json.loads(to_json(dataclasses.replace(sheet, cells=())))
    head.pop("cells")
    lines = [f"  {json.dumps(name)}: {json.dumps(value, ensure_ascii=False)}," for name, value in head.items()]
    cells = ",\n".join("    " + to_json(cell) for cell in sheet.cells)
    return "\n".join(["{", *lines, '  "cells": [', cells, "  ]", "}"]) + "\n"


def title(metric: str) -> str:
    """What a metric is called in tables."""
    return METRICS[metric].title
