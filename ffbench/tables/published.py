"""The paper's Tables 1 to 6 as data, and their cells beside measured ones: in columns of their own, never mixed.

They were measured by the paper's authors with what ffbench calls the protocol `consisid` on the suite `paper`.
"""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ffbench.metrics.catalog import METRICS
from ffbench.tables import render
from ffbench.tables.render import DASH, Entry, Heading, Table
from ffbench.tables.sheet import Sheet

PAPER = "FaithfulFaces: Pose-Faithful Facial Identity Preservation for Text-to-Video Generation"
PROTOCOL = "consisid"
SUITE = "paper"
VIEWS = ("frontal", "non-frontal")
CAPTIONS = {
    1: "all methods",
    2: "parts of FaithfulFaces",
    3: "dictionary elements",
    4: "kinds of pooling",
    5: "frontal and non-frontal references",
    6: "perturbed Euler angles",
}
METRIC_OF = {
    "facesim_cur": "facesim_cur",
    "facesim_arc": "facesim_arc",
    "fid": "face_feature_distance",
    "clip_score": "clip_score",
}
"""Column of a file -> the metric that its numbers are; the paper's FID is ConsisID's feature distance."""
TITLES = {"facesim_cur": "FaceSim-Cur", "facesim_arc": "FaceSim-Arc", "fid": "FID", "clip_score": "CLIPScore"}
METHOD_OF = {
    "Vidu": "vidu",
    "Kling": "kling",
    "ConsisID": "consisid",
    "VACE-14B": "vace",
    "HunyuanCustom": "hunyuancustom",
    "Stand-In": "standin",
    "Phantom-14B": "phantom",
    "Phantom": "phantom",
    "Concat-ID-Wan": "concat_id",
    "SkyReels-A2": "skyreels_a2",
    "MAGREF": "magref",
    "FaithfulFaces": "faithfulfaces",
    "FaithfulFaces without aligner": "faithfulfaces@no-aligner",
}
"""A row's name in the paper -> the method of ffbench that it is; one of another size is another method."""
_PARTS = {"yes/yes": "faithfulfaces", "yes/no": "faithfulfaces@no-euler", "no/no": "faithfulfaces@no-aligner"}
"""Aligner and Euler embedding, with or without."""


@dataclass(frozen=True)
class PublishedRow:
    """One row of a table of the paper."""

    name: str
    """As the file says: a method, `4096`, `max`, `yes/no`, `5`."""
    method: str
    """The method of ffbench that it is; empty where only a checkpoint tells it from others."""
    values: Mapping[tuple[str, str], str]
    """(column, group) -> the number as it is printed; the group is `all`, or the view of the reference."""


@dataclass(frozen=True)
class PublishedTable:
    """One table of the paper."""

    number: int
    rows: tuple[PublishedRow, ...]

    @property
    def columns(self) -> tuple[tuple[str, str], ...]:
        """(column, group) of its numbers: column by column, and in each the groups."""
        return tuple(sorted(self.rows[0].values, key=lambda key: list(TITLES).index(key[0])))

    def row(self, method: str) -> PublishedRow | None:
        """The row of a method of ffbench, if there is one."""
        return next((row for row in self.rows if row.method and row.method == method), None)

    def named(self, name: str) -> PublishedRow:
        """The row of a name; KeyError where there is none."""
        return {row.name: row for row in self.rows}[name]

    def source(self, rows: Sequence[PublishedRow]) -> str:
        """Where the numbers of some rows come from and what they compare with, as a note."""
        names = ", ".join(f"{row.method} = {row.name}" if row.method else row.name for row in rows)
        return (
            f"published columns: Table {self.number} of the paper ({PAPER}), rows {names}; they belong to protocol "
            f"{PROTOCOL} and suite {SUITE} and were not measured here"
        )


def folder() -> Path:
    """Where the files lie: in the checkout, or in the installed package."""
    here = Path(__file__).resolve()
    checkout = here.parents[2] / "results" / "published"
    return checkout if checkout.is_dir() else here.parents[1] / "published"


def published_table(number: int) -> PublishedTable:
    """Table 1 to 6 of the paper."""
    with (folder() / f"table{number}.csv").open(newline="", encoding="utf-8") as stream:
        lines = list(csv.DictReader(stream))
    rows: dict[str, dict[tuple[str, str], str]] = {}
    for line in lines:
        group = line.get("view", "all")
        values = {(column, group): line[column] for column in TITLES if column in line}
        rows.setdefault(_NAME[number](line), {}).update(values)
    found = [PublishedRow(name, _method(number, name), values) for name, values in rows.items()]
    return PublishedTable(number, tuple(found))


def fitting(methods: Sequence[str], suite: str) -> PublishedTable | None:
    """The table that holds most of some methods; of several the first, None where none holds any.

    Args:
        methods: names such as `faithfulfaces@no-euler`.
        suite: `name@version`; on suites with both views of each person it is Table 5, on all others one of the rest.
    """
    views = suite.startswith(("nonfrontal", "mini-views"))
    candidates = [published_table(number) for number in ((5,) if views else (1, 2, 6))]
    held = [sum(table.row(method) is not None for method in set(methods)) for table in candidates]
    return candidates[held.index(max(held))] if max(held) else None


def beside(shown: Table, published: PublishedTable, rows: Sequence[PublishedRow | None]) -> Table:
    """A table with the published numbers in columns of their own, best and second marked among themselves.

    Args:
        shown: a measured table.
        published: the table that fits.
        rows: for each of `shown.methods` its row; rows that belong to none follow without measured numbers.
    """
    footnotes = list(shown.footnotes)

    def note(reason: str) -> int:
        if reason not in footnotes:
            footnotes.append(reason)
        return footnotes.index(reason) + 1

    def cells(row: PublishedRow | None) -> tuple[Entry, ...]:
        if row is None:
            reason = note(f"not in Table {published.number} of the paper")
            return tuple(Entry(DASH, note=reason) for _ in published.columns)
        return tuple(Entry(row.values[key], _rank(published, key, row.values[key])) for key in published.columns)

    methods = [entries + cells(row) for entries, row in zip(shown.methods, rows, strict=True)]
    controls = [entries + cells(None) for entries in shown.controls]
    for row in published.rows:
        if row not in rows:
            absent = [Entry(DASH, note=note("not measured here")) for _ in shown.columns[1:]]
            methods.append((Entry(row.method or row.name), *absent, *cells(row)))
    headings = [Heading(f"published {_title(key)}", METRICS[METRIC_OF[key[0]]].higher_is_better) for key in
                published.columns]  # fmt: skip
    return dataclasses.replace(
        shown,
        columns=(*shown.columns, *headings),
        methods=tuple(methods),
        controls=tuple(controls),
        footnotes=tuple(footnotes),
        notes=(*shown.notes, published.source(published.rows)),
    )


def with_published(shown: Table, published: PublishedTable) -> Table:
    """`beside` for a table whose rows are methods of ffbench, told by their names."""
    return beside(shown, published, [published.row(method_of(entries[0].text)) for entries in shown.methods])


def method_of(label: str) -> str:
    """The method in a row's label, which may end with its settings or its folder."""
    return label.partition(" ")[0]


def csv_cells(sheet: Sheet, published: PublishedTable) -> str:
    """`render.csv_cells` with the columns `published`, `published_table` and `published_row`.

    Published numbers without a measured cell are rows of their own, with an empty `value`.
    """
    stream = io.StringIO()
    measured = csv.DictReader(io.StringIO(render.csv_cells(sheet)))
    extra = ("published", "published_table", "published_row")
    names = [*(measured.fieldnames or ()), *extra]
    writer = csv.DictWriter(stream, names, restval="", lineterminator="\n")
    writer.writeheader()
    places = {(METRIC_OF[column], _group(group)): (column, group) for column, group in published.columns}
    left = {(row.method, key) for row in published.rows for key in published.columns}
    for line in measured:
        row, key = published.row(method_of(line["method"])), places.get((line["metric"], line["group"]))
        if row and key:
            left.discard((row.method, key))
            line |= dict(zip(extra, (row.values[key], str(published.number), row.name), strict=True))
        writer.writerow(line)
    for row in published.rows:
        for key in published.columns:
            if (row.method, key) in left:
                where = {
                    "suite": sheet.suite,
                    "protocol": sheet.protocol,
                    "method": row.method,
                    "reason": "not measured here",
                }
                where |= {"metric": METRIC_OF[key[0]], "group": _group(key[1])}
                writer.writerow(
                    where | dict(zip(extra, (row.values[key], str(published.number), row.name), strict=True))
                )
    return stream.getvalue()


def _group(group: str) -> str:
    return "all" if group == "all" else f"tag:{group}"


def _title(key: tuple[str, str]) -> str:
    return TITLES[key[0]] + ("" if key[1] == "all" else f" {key[1]}")


def _rank(published: PublishedTable, key: tuple[str, str], printed: str) -> int:
    better = METRICS[METRIC_OF[key[0]]].higher_is_better
    ordered = sorted({float(row.values[key]) for row in published.rows}, reverse=bool(better))
    place = ordered.index(float(printed))
    return place + 1 if place < 2 else 0


_NAME: Mapping[int, Callable[[Mapping[str, str]], str]] = {
    1: lambda line: line["method"],
    2: lambda line: f"{line['identity_aligner']}/{line['euler_embedding']}",
    3: lambda line: line["dictionary_elements"],
    4: lambda line: line["pooling"],
    5: lambda line: line["method"],
    6: lambda line: line["perturbation_degrees"],
}


def _method(number: int, name: str) -> str:
    if number == 2:
        return _PARTS[name]
    if number == 6:
        return "faithfulfaces" if name == "0" else f"faithfulfaces@euler-noise-{name}"
    return METHOD_OF.get(name, "")
