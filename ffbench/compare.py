"""Two runs side by side: paired differences on the cases that both made."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ffbench.errors import UserError
from ffbench.metrics import aggregate
from ffbench.metrics.catalog import METRICS
from ffbench.store import Run
from ffbench.tables.rows import Row, Video, alike, distinct_labels, load_rows, pick_protocol
from ffbench.tables.sheet import faced, set_metric, valued, why_missing

CLEAR = 0.05
"""p below which a difference is called one."""
MAIN = ("facesim_cur", "facesim_arc", "clip_score")
"""Metrics whose verdict is printed in words; every row has its own in the data."""


@dataclass(frozen=True)
class Difference:
    """One metric of A minus B. `difference` is None where it was not formed, and `reason` says why."""

    metric: str
    title: str
    difference: float | None
    low: float | None
    high: float | None
    p: float | None
    num_pairs: int
    num_identities: int
    better: str
    """Label of the row that the difference favours; empty where neither end is better, or p is not below CLEAR."""
    reason: str = ""
    verdict: str = ""
    """One sentence: which is above, by how much, or that no difference is shown; empty without an interval."""


@dataclass(frozen=True)
class Comparison:
    """Paired differences of two runs, and the same as text."""

    a: str
    b: str
    rows: tuple[Difference, ...]
    text: str


def compare(run_a: Run, run_b: Run, protocol: str | None = None, *, common_cases: bool = False) -> Comparison:
    """Paired differences A - B of every metric, with 95% intervals and p values clustered by identity.

    Args:
        run_a: a scored run.
        run_b: another one.
        protocol: id or name; None where both are scored with one.
        common_cases: use the cases that both made and, metric by metric, those with a number on both sides.

    Raises:
        UserError: where the runs differ in suite, protocol, metric version, network, case content or cases.
    """
    chosen = pick_protocol([run_a, run_b], protocol)
    return compare_rows(*distinct_labels([_one(run_a, chosen), _one(run_b, chosen)]), common_cases=common_cases)


def compare_rows(first: Row, second: Row, *, common_cases: bool = False) -> Comparison:
    """`compare` for two rows that are loaded, under their labels."""
    (a, b), left_out = alike([first, second], common_cases)
    rows = tuple(
        (_set_level if METRICS[metric].level == "set" else _paired)(a, b, metric, common_cases) for metric in a.metrics
    )
    head = f"{a.label} minus {b.label} · suite {a.suite} · protocol {a.protocol}"
    width = max(len(row.title) for row in rows)
    lines = [head, *(f"{row.title:<{width}}  {_line(row, a, b)}" for row in rows)]
    tail = ["95% intervals and p by resampling identities; p is not corrected for the number of metrics"]
    told = [f"  {row.verdict}" for row in rows if row.metric in MAIN and row.verdict]
    words = ["in words:", *told] if told else []
    return Comparison(a.label, b.label, rows, "\n".join([*lines, *words, *([left_out] if left_out else []), *tail]))


def _one(run: Run, protocol: str) -> Row:
    rows = load_rows(run, protocol)
    if len(rows) > 1:
        names = ", ".join(row.label for row in rows)
        raise UserError(
            f"{run.root} holds {len(rows)} groups of settings: {names}", "keep them in folders of their own"
        )
    return rows[0]


def _paired(a: Row, b: Row, metric: str, common_cases: bool) -> Difference:
    values_a, values_b = valued(a, metric), valued(b, metric)
    shared = sorted(set(values_a) & set(values_b))
    everything = frozenset(a.generations)
    if not values_a or not values_b:
        lacking = a if not values_a else b
        return _none(metric, f"{lacking.label}: {why_missing(lacking, metric, everything)}")
    if set(values_a) != set(values_b) and not common_cases:
        counts = " and ".join(f"{row.label} {_lacking(row, values)}" for row, values in ((a, values_a), (b, values_b)))
        return _none(metric, f"videos without a value: {counts}; --common-cases compares the {len(shared)} shared ones")
    if not shared:
        return _none(metric, "no case has a number on both sides")
    people = [a.cases[case_id].identity_id for case_id, _ in shared]
    found = aggregate.paired([values_a[v] for v in shared], [values_b[v] for v in shared], people)
    numbers = (found.difference, found.low, found.high, found.p)
    return _difference(metric, numbers, (found.num_pairs, found.num_identities), a, b)


def _lacking(row: Row, values: dict[Video, float]) -> int:
    return len(row.generations) - len(values)


def _set_level(a: Row, b: Row, metric: str, common_cases: bool) -> Difference:
    seen = (faced(a), faced(b))
    shared = seen[0] & seen[1]
    if seen[0] != seen[1]:
        if not common_cases:
            counts = [len(row.generations) - len(videos) for row, videos in zip((a, b), seen, strict=True)]
            return _none(
                metric,
                f"videos without a face: {a.label} {counts[0]} and {b.label} {counts[1]}; "
                f"--common-cases compares the {len(shared)} shared ones",
            )
        a, b = a.only(shared), b.only(shared)
    (value_a, reason_a), (value_b, reason_b) = set_metric(a, metric), set_metric(b, metric)
    if reason_a or reason_b:
        return _none(metric, f"{a.label}: {reason_a}" if reason_a else f"{b.label}: {reason_b}")
    people = {a.cases[case_id].identity_id for case_id, _ in shared}
    # a set has one value: no pairs, so no interval
    numbers = (value_a - value_b, math.nan, math.nan, math.nan)
    return _difference(metric, numbers, (len(shared), len(people)), a, b)


def _difference(
    metric: str, numbers: tuple[float, float, float, float], counts: tuple[int, int], a: Row, b: Row
) -> Difference:
    value, low, high, p = (None if math.isnan(number) else number for number in numbers)
    better = ""
    higher = METRICS[metric].higher_is_better
    if higher is not None and value and p is not None and p < CLEAR:
        better = a.label if (value > 0) == higher else b.label
    verdict = verdict_of(metric, numbers, counts, (a.label, b.label))
    return Difference(metric, METRICS[metric].title, value, low, high, p, *counts, better, verdict=verdict)


def verdict_of(
    metric: str, numbers: tuple[float, float, float, float], counts: tuple[int, int], labels: tuple[str, str]
) -> str:
    """Such as `a above b on FaceSim-Cur by 0.05 [0.03, 0.07], N = 600, 30 identities`; empty without an interval."""
    value, low, high, p = numbers
    if math.isnan(p) or math.isnan(low):
        return ""
    info, places = METRICS[metric], METRICS[metric].decimals + 1
    known = f"N = {counts[0]}, {counts[1]} identities"
    if not p < CLEAR:
        shown = f"{value:+.{places}f} [{low:+.{places}f}, {high:+.{places}f}]"
        return f"no clear difference between {labels[0]} and {labels[1]} on {info.title} ({shown}), {known}"
    if value < 0:
        labels, value, low, high = labels[::-1], -value, -high, -low
    worse = "" if info.higher_is_better is not False else " (lower is better)"
    return (
        f"{labels[0]} above {labels[1]} on {info.title}{worse} by {value:.{places}f} "
        f"[{low:.{places}f}, {high:.{places}f}], {known}"
    )


def _none(metric: str, reason: str) -> Difference:
    return Difference(metric, METRICS[metric].title, None, None, None, None, 0, 0, "", reason)


def _line(row: Difference, a: Row, b: Row) -> str:
    if row.difference is None:
        return f"not compared: {row.reason}"
    places = METRICS[row.metric].decimals + 1
    parts = [f"{row.difference:+.{places}f}"]
    if row.low is not None and row.high is not None:
        parts.append(f"[{row.low:+.{places}f}, {row.high:+.{places}f}]")
    if row.better:
        parts.append(f"{row.better} better than {b.label if row.better == a.label else a.label},")
    elif METRICS[row.metric].higher_is_better is not None and row.p is not None:
        parts.append("no clear difference,")
    elif METRICS[row.metric].level == "set":
        parts.append("(one value a set: no interval)")
    parts.append(f"{row.num_identities} identities, {row.num_pairs} " + ("pairs" if row.p is not None else "videos"))
    return " ".join(parts) + ("" if row.p is None else f", p {_p(row.p)}")


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"
