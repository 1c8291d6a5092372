"""A truth as text for the terminal and as files: the instruments by head pose, and the metrics by defect."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from ffbench.durable import write_atomic
from ffbench.metrics.catalog import METRICS
from ffbench.provenance import provenance
from ffbench.truth.accuracy import APART_EDGES, BEHIND, OVERLAP, SHOWN, Fact
from ffbench.truth.defects import DEFECTS
from ffbench.truth.examine import Truth, as_json
from ffbench.truth.sensitivity import Move, Trial, Verdict

MARKS: dict[Verdict, str] = {
    "seen": " ", "side effect": "~", "not moved": "=", "blind": "!", "rewards": "+", "not formed": " ",
}  # fmt: skip
_LEGEND = (
    "mean difference ± half of its 95% interval, clustered by person (both ends in truth.json)",
    "  (blank) moves, as it is there to   ~ moves, though it is there for something else   = does not move",
    "  FINDINGS:  ! does not move, though it is there to see this defect   + gets better under a defect",
)


def as_text(truth: Truth) -> str:
    """Everything that is printed."""
    parts = [f"protocol {truth.protocol}; {truth.source}"]
    if truth.facts:
        parts += [_by_yaw(truth.facts), _verification(truth.facts), _captions(truth.facts)]
    if truth.trial is not None:
        parts.append(_defects(truth.trial))
    parts += [f"not measured, {slot}: {reason}" for slot, reason in sorted(truth.missing.items())]
    return "\n\n".join(part for part in parts if part) + "\n"


def write(truth: Truth, text: str, folder: Path, device: str) -> dict[str, Any]:
    """Write truth.txt, truth.json, instruments.png and defects.png; returns what truth.json holds."""
    from ffbench.truth.figure import draw_defects, draw_instruments, save

    data = as_json(truth) | {"provenance": provenance(device)}
    write_atomic(folder / "truth.txt", text.encode())
    write_atomic(folder / "truth.json", (json.dumps(data, indent=1) + "\n").encode())
    if truth.facts:
        save(draw_instruments(truth), folder / "instruments.png")
    if truth.trial is not None and truth.trial.videos:
        save(draw_defects(truth.trial), folder / "defects.png")
    return data


def findings(trial: Trial) -> list[str]:
    """Each metric that fails to see a defect, or likes it, in words."""
    said = []
    for move in trial.moves:
        if move.verdict in ("blind", "rewards"):
            does = "does not see" if move.verdict == "blind" else "gets better under"
            said.append(f"{METRICS[move.metric].title} {does} '{move.defect}': {_signed(move)} of {_true(move)}")
    return said


def _by_yaw(facts: Sequence[Fact]) -> str:
    names = ("recall", "misplaced", "landmarks px", "landmarks %", "pitch", "yaw", "roll")
    titles = ("recall", "misplaced", "landmarks px", "landmarks %", "pitch °", "yaw °", "roll °")
    known = {(fact.of, fact.group): fact for fact in facts}
    groups = [fact.group for fact in facts if fact.of == "recall" and fact.group not in ("all", "hidden")]
    rows = [["|yaw|", "N", "people", *titles]]
    for group in [*groups, "all"]:
        first = known["recall", group]
        cells = [_interval(known.get((name, group)), 2 if "a" in name and " " not in name else 1) for name in names]
        rows.append([group, str(first.count), str(first.people), *cells])
    lines = ["Detection, landmarks and head pose by |yaw| in degrees; 95% intervals clustered by person", *_table(rows)]
    hidden, behind = known["recall", "hidden"], known["false", "behind"]
    lines += [
        f"recall: a box that overlaps the true one by {OVERLAP} (IoU), of N frames that show {SHOWN:.0%} of the face or"
        " more; misplaced: a box elsewhere",
        f"hidden faces (less than {SHOWN:.0%} shows, |yaw| up to 90): {_interval(hidden, 2)} found, N {hidden.count}",
        f"false detections from behind (|yaw| above {BEHIND:.0f}): {_interval(behind, 2)}, N {behind.count}",
        "landmarks: mean distance of the five points, px of the frame and % of sqrt(width x height) of the true box;"
        " angles: mean absolute error",
    ]
    return "\n".join(lines)


def _verification(facts: Sequence[Fact]) -> str:
    slots = [fact.of.removeprefix("auc ") for fact in facts if fact.of.startswith("auc ") and fact.group == "all"]
    if not slots:
        return ""
    groups = ["all", *(f"{low}-{high}" for low, high in pairwise(APART_EDGES))]
    known = {(fact.of, fact.group): fact for fact in facts}
    rows = [["yaw apart", "pairs", *(f"AUC {slot}" for slot in slots)]]
    for group in groups:
        some = [known[f"auc {slot}", group] for slot in slots]
        rows.append([group, str(some[0].count), *(_interval(fact, 3) for fact in some)])
    rates = [fact for fact in facts if fact.of.startswith("true accepts")]
    told = [f"{fact.of} at {fact.group} ones: {_number(fact.value, 2)}" for fact in rates]
    return "\n".join(["Verification: pairs of frames of one person against pairs of two", *_table(rows), *told])


def _captions(facts: Sequence[Fact]) -> str:
    some = [fact for fact in facts if fact.of == "caption"]
    if not some:
        return ""
    told, chance = some
    return (
        f"Text: a frame's own caption is the {told.group} in {_interval(told, 2)} of {told.count} frames "
        f"({chance.group}: {chance.value:.3f})"
    )


def _defects(trial: Trial) -> str:
    metrics = list(dict.fromkeys(move.metric for move in trial.moves))
    known = {(move.defect, move.metric): move for move in trial.moves}
    formed = [m for m in metrics if any(known[d.name, m].videos for d in DEFECTS)]
    rows = [["metric", "as it is", *(defect.name for defect in DEFECTS)]]
    for metric in formed:
        moves = [known[defect.name, metric] for defect in DEFECTS]
        first = next(move for move in moves if move.videos)
        rows.append([METRICS[metric].title, _true(first), *(_signed(m) + MARKS[m.verdict] for m in moves)])
    shares = [f"{trial.changed[defect.name]:.0%}" for defect in DEFECTS]
    rows.append(["frames touched", "", *(share + " " for share in shares)])
    lines = [
        f"Metrics under known defects: {trial.videos} videos of {trial.identities} people",
        *_table(rows),
        *_LEGEND,
    ]
    lines += ["", *(f"{defect.name}: {defect.summary}" for defect in DEFECTS)]
    unformed = {m: next(x.reason for x in trial.moves if x.metric == m) for m in metrics if m not in formed}
    lines += ["", *(f"not formed, {metric}: {reason}" for metric, reason in unformed.items())] if unformed else []
    lines += ["", *(f"finding: {line}" for line in findings(trial))]
    lines += [f"left out: {note}" for note in trial.notes]
    return "\n".join(lines)


def _true(move: Move) -> str:
    return _number(move.true, METRICS[move.metric].decimals)


def _signed(move: Move) -> str:
    if math.isnan(move.difference):
        return "–"
    decimals = METRICS[move.metric].decimals
    half = "" if math.isnan(move.low) else f"±{(move.high - move.low) / 2:.{decimals}f}"
    return f"{move.difference:+.{decimals}f}{half}"


def _interval(fact: Fact | None, decimals: int) -> str:
    if fact is None or math.isnan(fact.value):
        return "–"
    if math.isnan(fact.low):
        return f"{fact.value:.{decimals}f}"
    return f"{fact.value:.{decimals}f} [{fact.low:.{decimals}f}, {fact.high:.{decimals}f}]"


def _number(value: float, decimals: int) -> str:
    return "–" if math.isnan(value) else f"{value:.{decimals}f}"


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
             for row in rows]  # fmt: skip
    return [lines[0], "-" * len(lines[0]), *lines[1:]]
