"""Rows of several trainings of one method as one row: means over seeds, and differences of two such rows."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ffbench.metrics import aggregate
from ffbench.metrics.catalog import METRICS
from ffbench.metrics.crossed import crossed
from ffbench.records import Cell
from ffbench.tables.rows import Row, Video
from ffbench.tables.sheet import Line, Sheet, assemble, cells, rounded, valued


@dataclass(frozen=True)
class Trainings:
    """One line of a table: a row, or a row for each training of it."""

    label: str
    rows: Mapping[int | None, Row]
    """By seed of the training; one row with None where nobody said."""


@dataclass(frozen=True)
class Difference:
    """One metric of a line minus that of another, on the videos that have a number in both."""

    value: float
    low: float
    high: float
    p: float
    num_seeds: int
    num_identities: int
    num_pairs: int


def pooled_sheet(lines: Sequence[Trainings]) -> Sheet:
    """The sheet of rows that are alike (`rows.alike`); of a line with several trainings the cells over all of them."""
    counts = [
        Line(
            line.label,
            all(row.control for row in line.rows.values()),
            sum(row.num_made for row in line.rows.values()),
            sum(len(row.generations) - row.num_made for row in line.rows.values()),
        )
        for line in lines
    ]
    several = sorted({len(line.rows) for line in lines} - {1})
    notes = []
    if several:
        notes.append(
            f"rows of {' and '.join(map(str, several))} trainings: mean over seeds of the mean over identities, "
            "N counts the videos of all; intervals and p by analysis of variance over seeds and identities"
        )
    rows = [row for line in lines for row in line.rows.values()]
    return assemble(rows, counts, notes, [cell for line in lines for cell in _pooled(line)])


def difference(a: Trainings, b: Trainings, metric: str) -> Difference | None:
    """First line minus second, paired by seed and video; None where nothing is shared.

    Where only one side has seeds, each of its trainings is set against the one row of the other.
    """
    shared = [seed for seed in a.rows if seed in b.rows]
    if shared:
        sides = [(a.rows[seed], b.rows[seed]) for seed in shared]
    elif len(a.rows) == 1 or len(b.rows) == 1:
        sides = [(one, two) for one in a.rows.values() for two in b.rows.values()]
    else:
        return None
    tables = [_differences(one, two, metric) for one, two in sides]
    pairs = sum(len(table) for table in tables)
    if not all(tables):
        return None
    if len(tables) == 1:
        people = [sides[0][0].cases[case_id].identity_id for case_id, _ in tables[0]]
        plain = aggregate.paired(list(tables[0].values()), [0.0] * pairs, people)
        return Difference(plain.difference, plain.low, plain.high, plain.p, 1, plain.num_identities, pairs)
    means = [_by_identity(row, table) for (row, _), table in zip(sides, tables, strict=True)]
    people = sorted(frozenset.intersection(*map(frozenset, means)))
    found = crossed([[table[one] for one in people] for table in means])
    return Difference(found.mean, found.low, found.high, found.p, found.num_seeds, found.num_identities, pairs)


def _differences(a: Row, b: Row, metric: str) -> dict[Video, float]:
    one, two = valued(a, metric), valued(b, metric)
    return {video: one[video] - two[video] for video in one if video in two}


def _by_identity(row: Row, values: Mapping[Video, float]) -> dict[str, float]:
    groups: dict[str, list[float]] = {}
    for (case_id, _), value in sorted(values.items()):
        groups.setdefault(row.cases[case_id].identity_id, []).append(value)
    return {one: math.fsum(found) / len(found) for one, found in groups.items()}


def _pooled(line: Trainings) -> Iterator[Cell]:
    rows = list(line.rows.values())
    if len(rows) == 1:
        yield from (dataclasses.replace(cell, method=line.label) for cell in cells(rows[0]))
        return
    by_place = [{(cell.metric, cell.group): cell for cell in cells(row)} for row in rows]
    for place, first in by_place[0].items():
        if place[1] != "all" and not place[1].startswith("tag:"):
            continue
        found = [table[place] for table in by_place if place in table]
        counted = dataclasses.replace(
            first,
            method=line.label,
            num_videos=sum(cell.num_videos for cell in found),
            num_unscored=sum(cell.num_unscored for cell in found),
            num_failed=sum(cell.num_failed for cell in found),
            coverage=_mean([cell.coverage for cell in found if not math.isnan(cell.coverage)]),
        )
        yield _valued(counted, rows, found)


def _valued(cell: Cell, rows: Sequence[Row], found: Sequence[Cell]) -> Cell:
    """The cell with its mean, interval and identities over trainings; `found` are those of single trainings."""
    lacking = next((one.reason for one in found if one.reason), "")
    if lacking or len(found) < len(rows):
        return _missing(cell, lacking or "not every training has it")
    if METRICS[cell.metric].level == "set":
        # a set has one value a training: too few for an interval
        people = min(one.num_identities for one in found)
        return dataclasses.replace(cell, value=_mean([one.value for one in found]), num_identities=people)
    tables = []
    for row in rows:
        tag = cell.group.removeprefix("tag:")
        chosen = frozenset(v for v in row.generations if cell.group == "all" or tag in row.cases[v[0]].tags)
        tables.append(_by_identity(row, valued(row.only(chosen), cell.metric)))
    shared = sorted(frozenset.intersection(*map(frozenset, tables)))
    if not shared:
        return _missing(cell, "no identity has a number under every seed")
    over = crossed([[table[one] for one in shared] for table in tables])
    mean, low, high = (rounded(value) for value in over[:3])
    return dataclasses.replace(cell, value=mean, low=low, high=high, num_identities=over.num_identities)


def _missing(cell: Cell, reason: str) -> Cell:
    return dataclasses.replace(
        cell, value=math.nan, low=math.nan, high=math.nan, num_identities=0, num_videos=0, reason=reason,
        num_unscored=cell.num_videos + cell.num_unscored,
    )  # fmt: skip


def _mean(values: Sequence[float]) -> float:
    return rounded(math.fsum(values) / len(values)) if values else math.nan
