"""The threshold of the pose variation from manual labels, with what it costs (Section 3.4; the paper labelled 2,000).

Positive means qualified; a clip is taken when its variation is greater than the threshold. Pure but for the reading.
"""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from faithfulfaces.dataset.records import plain
from ffbench.errors import UserError

Floats = NDArray[np.float64]
YES, NO = frozenset({"1", "yes", "true", "qualified"}), frozenset({"0", "no", "false", "unqualified"})


class Labelled(NamedTuple):
    """Clips that people judged."""

    keys: tuple[str, ...]
    truth: NDArray[np.bool_]
    """[N] qualified."""
    disputed: int
    """Clips left out: as many said yes as no."""


class Curve(NamedTuple):
    """One row a threshold, ascending; the first is -inf, which takes every clip."""

    threshold: Floats
    precision: Floats
    """NaN where no clip is taken."""
    recall: Floats
    false_rate: Floats
    """Share of the unqualified clips that are taken."""


class Calibrated(NamedTuple):
    """What labels say of a threshold."""

    threshold: float
    """Of the greatest Youden's J = recall - false rate; halfway between the two clips that it parts."""
    interval: tuple[float, float]
    """Percentile interval of 95% over resamples of the clusters."""
    precision: float
    recall: float
    auc: float
    """Area under the ROC: the chance that a qualified clip varies more than an unqualified one, ties half."""
    auc_interval: tuple[float, float]
    clips: int
    qualified: int
    clusters: int
    unused: int
    """Resamples without clips of both kinds."""


def read_labels(path: Path) -> Labelled:
    """Labels of a CSV with columns `clip` and `qualified`, and any others; of several people the majority counts.

    Raises:
        UserError: for a missing column or a label that is neither yes nor no; names the line.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"--labels {path}: {error}", "give a CSV with the columns clip and qualified") from error
    votes: dict[str, list[bool]] = defaultdict(list)
    for number, row in enumerate(rows, 2):
        said = (row.get("qualified") or "").strip().lower()
        if not row.get("clip") or said not in YES | NO:
            raise UserError(
                f"--labels {path}:{number}: no clip, or {said!r} is neither 1 nor 0",
                "give a CSV with the columns clip and qualified (1 or 0)",
            )
        votes[row["clip"].strip()].append(said in YES)
    clear = {key: sum(said) * 2 > len(said) for key, said in sorted(votes.items()) if sum(said) * 2 != len(said)}
    return Labelled(tuple(clear), np.array(list(clear.values()), bool), len(votes) - len(clear))


def curve(values_N: Floats, truth_N: NDArray[np.bool_]) -> Curve:
    """Precision, recall and false rate at every threshold that parts clips.

    Args:
        values_N: finite variations, degrees.
        truth_N: qualified; both kinds must be there.
    """
    steps = np.unique(values_N)
    # halfway between neighbours: nothing in the data prefers either end
    threshold = np.concatenate([[-np.inf], (steps[:-1] + steps[1:]) / 2, [steps[-1]]])
    order = np.argsort(values_N, kind="stable")
    ranked, good = values_N[order], truth_N[order]
    below = np.searchsorted(ranked, threshold, side="right")
    hits_below = np.concatenate([[0], np.cumsum(good)])[below]
    hits = int(truth_N.sum()) - hits_below
    taken = len(values_N) - below
    with np.errstate(invalid="ignore"):
        precision = np.where(taken > 0, hits / np.maximum(taken, 1), np.nan)
    return Curve(threshold, precision, hits / truth_N.sum(), (taken - hits) / (~truth_N).sum())


def auc(values_N: Floats, truth_N: NDArray[np.bool_]) -> float:
    """Area under the ROC by ranks (Mann-Whitney), ties half."""
    from scipy.stats import rankdata

    ranks, count = rankdata(values_N), int(truth_N.sum())
    return float((ranks[truth_N].sum() - count * (count + 1) / 2) / (count * (len(values_N) - count)))


def calibrate(
    values_N: Floats, truth_N: NDArray[np.bool_], clusters_N: Sequence[str], resamples: int = 1000, seed: int = 0
) -> Calibrated:
    """The threshold and how sure it is; clips of one source share its fate in every resample.

    Args:
        values_N: variations, degrees.
        truth_N: what people say.
        clusters_N: source of each clip.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Raises:
        UserError: when one of the two kinds is missing.
    """
    if not truth_N.any() or truth_N.all():
        raise UserError(
            f"{int(truth_N.sum())} of {len(truth_N)} labelled clips are qualified: nothing to part",
            "label clips of both kinds",
        )
    made = curve(values_N, truth_N)
    best = _best(made)
    groups: dict[str, list[int]] = defaultdict(list)
    for row, cluster in enumerate(clusters_N):
        groups[cluster].append(row)
    members = [np.array(rows) for _, rows in sorted(groups.items())]
    rng = np.random.default_rng(seed)
    found, areas = [], []
    for _ in range(resamples):
        rows = np.concatenate([members[i] for i in rng.integers(len(members), size=len(members))])
        if truth_N[rows].any() and not truth_N[rows].all():
            again = curve(values_N[rows], truth_N[rows])
            found.append(again.threshold[_best(again)])
            areas.append(auc(values_N[rows], truth_N[rows]))
    return Calibrated(
        threshold=float(made.threshold[best]),
        interval=_interval(found),
        precision=float(made.precision[best]),
        recall=float(made.recall[best]),
        auc=auc(values_N, truth_N),
        auc_interval=_interval(areas),
        clips=len(values_N),
        qualified=int(truth_N.sum()),
        clusters=len(members),
        unused=resamples - len(found),
    )


def at(values_N: Floats, truth_N: NDArray[np.bool_], threshold: float) -> Mapping[str, float]:
    """Precision and recall of a given threshold; NaN where nothing is taken."""
    taken = values_N > threshold
    hits = float((taken & truth_N).sum())
    precision = hits / taken.sum() if taken.any() else float("nan")
    return {"precision": precision, "recall": hits / truth_N.sum(), "taken": int(taken.sum())}


class Report(NamedTuple):
    """A calibration with the clips that it rests on."""

    result: Calibrated
    values: Floats
    truth: NDArray[np.bool_]
    missing: int
    """Labelled clips whose pose was never told, or that are no clips of the build."""
    disputed: int

    def to_json(self) -> dict[str, Any]:
        """The result, the paper's threshold beside it, and what was left out; null for NaN."""
        paper = at(self.values, self.truth, 120.0)
        table = self.result._asdict() | {"at_120": dict(paper), "missing": self.missing, "disputed": self.disputed}
        return dict(plain(table))


def report(labels: Labelled, rows: Sequence[Mapping[str, Any]], column: str) -> Report:
    """Calibrate on the labelled clips of a manifest.

    Args:
        labels: of people.
        rows: of the manifest.
        column: `variation` or `variation_robust`.

    Raises:
        UserError: when clips of one kind are missing.
    """
    known = {row["key"]: row for row in rows if np.isfinite(row[column])}
    kept = [index for index, key in enumerate(labels.keys) if key in known]
    values = np.array([known[labels.keys[i]][column] for i in kept], np.float64)
    truth = labels.truth[kept] if kept else np.zeros(0, bool)
    result = calibrate(values, truth, [known[labels.keys[i]]["source"] for i in kept])
    return Report(result, values, truth, len(labels.keys) - len(kept), labels.disputed)


def draw_clips(rows: Sequence[Mapping[str, Any]], count: int, seed: int) -> str:
    """CSV of clips drawn from those that passed step 1, with an empty column `qualified` and no angles."""
    posed = [row for row in rows if np.isfinite(row["variation"])]
    chosen = np.random.default_rng(seed).permutation(len(posed))[:count]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("clip", "qualified", "source", "start", "seconds"))
    for index in sorted(chosen.tolist()):
        row = posed[index]
        writer.writerow((row["key"], "", row["source"], row["start"], row["seconds"]))
    return text.getvalue()


def picture(path: Path, values_N: Floats, truth_N: NDArray[np.bool_], result: Calibrated) -> None:
    """Two panels: the ROC, and precision and recall over the threshold. SVG or PNG by suffix.

    Raises:
        UserError: another suffix, or a file that cannot be written.
    """
    from matplotlib.figure import Figure

    if path.suffix not in (".svg", ".png"):
        raise UserError(f"--picture {path} is neither .svg nor .png", "give one of these suffixes")
    made = curve(values_N, truth_N)
    figure = Figure(figsize=(9, 4), layout="constrained")
    roc, both = figure.subplots(1, 2)
    roc.plot(made.false_rate, made.recall, drawstyle="steps-post", color="#1f4e79")
    roc.plot([0, 1], [0, 1], ":", color="0.6")
    best = _best(made)
    roc.plot(made.false_rate[best], made.recall[best], "o", color="#c0392b")
    roc.set(xlabel="unqualified clips taken", ylabel="qualified clips taken", title=f"ROC, area {result.auc:.3f}")
    finite = np.isfinite(made.threshold)
    both.plot(made.threshold[finite], made.precision[finite], label="precision", color="#1f4e79")
    both.plot(made.threshold[finite], made.recall[finite], label="recall", color="#c0392b")
    both.axvspan(*result.interval, color="0.9", zorder=0)
    both.axvline(result.threshold, color="0.3", lw=1)
    title = f"{result.threshold:.0f} ({result.interval[0]:.0f} to {result.interval[1]:.0f}), {result.clips} clips"
    both.set(xlabel="threshold of the pose variation, degrees", ylim=(0, 1.03), title=title)
    both.legend(loc="lower left")
    # no date and no random ids: the same numbers give the same bytes
    metadata: dict[str, Any] = {"Date": None} if path.suffix == ".svg" else {}
    try:
        figure.savefig(path, dpi=150, metadata=metadata)
    except OSError as error:
        raise UserError(f"--picture {path}: {error}", "name a file that can be written") from error


def _best(made: Curve) -> int:
    """Of equals the middle one, so that a gap in the data is parted in its middle."""
    score = made.recall - made.false_rate
    equal = np.flatnonzero(score >= score.max() - 1e-12)
    return int(equal[len(equal) // 2])


def _interval(values: Sequence[float]) -> tuple[float, float]:
    if not values:
        return float("nan"), float("nan")
    low, high = np.percentile(values, (2.5, 97.5), method="nearest")
    return float(low), float(high)
