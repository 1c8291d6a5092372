"""How long what is left will take and what it costs, before it starts: from records, or from the work of networks."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ffbench.cards import Card
from ffbench.progress import clock
from ffbench.records import Generation, Scalar
from ffbench.store import Run, find_runs

GPU, PEAK, UTILISATION = "H100", 989e12, 0.4
"""Where nothing was measured: a GPU, its dense bf16 operations a second by NVIDIA's data sheet, an assumed share."""
WORK = Path(__file__).with_name("work.json")
"""Operations of a video by method, counted by tests/benchmarks/plan.py."""


@dataclass(frozen=True)
class Forecast:
    """Time of what is left."""

    left: int
    """Videos."""
    seconds: float
    """Of one video on one worker; NaN where nothing tells."""
    source: str
    """Where that is from."""

    def line(self, workers: int = 1, hour_price: float | None = None) -> str:
        """One line for people.

        Args:
            workers: that share the work evenly.
            hour_price: US dollars an hour of the machine of one worker.
        """
        if not self.left:
            return "nothing is left"
        if math.isnan(self.seconds):
            return f"unknown: {self.source}"
        hours = self.left * self.seconds / 3600
        parts = [f"about {clock(3600 * hours / workers)}" + (f" with {workers} workers" if workers > 1 else "")]
        if hour_price is not None:
            parts.append(f"${hours * hour_price:.2f} at ${hour_price:g} an hour")
        return f"{', '.join(parts)} ({self.source})"


def of_videos(card: Card, settings: Mapping[str, Scalar], left: int, run: Run, out: Path) -> Forecast:
    """Forecast of making videos.

    The mean of the run's own videos; else of the method's runs on other suites with the same settings; else the counted
    work of its networks. The loading of the method is not in it.
    """
    for runs, place in (([run], "here"), (find_runs(out), "on other suites")):
        same = [one for one in runs if one.root.name == run.root.name]
        times = _times((record for one in same for record in one.generations().values()), settings)
        if times:
            mean = sum(times) / len(times)
            return Forecast(left, mean, f"{mean:.3g} s a video, the mean of {len(times)} made {place}")
    work = _work(card.name, settings)
    if math.isnan(work):
        return Forecast(left, math.nan, "no video with these settings is measured; --limit 1 makes one")
    source = (
        f"nothing is measured; {work / 1e15:.0f} PFLOP a video at {UTILISATION:.0%} of an {GPU}'s peak, an assumption"
    )
    return Forecast(left, work / (PEAK * UTILISATION), source)


def of_scores(left: int, protocol: str, run: Run, out: Path) -> Forecast:
    """Forecast of scoring videos, from what earlier commands noted in run.json; see `paced`."""
    for runs, place in (([run], "here"), (find_runs(out), "in other runs")):
        paces = [one.meta().get("pace", {}).get(protocol, {}) for one in runs]
        videos = sum(pace.get("videos", 0) for pace in paces)
        if videos:
            mean = sum(pace.get("worker_seconds", 0.0) for pace in paces) / videos
            return Forecast(left, mean, f"{mean:.3g} s a video, the mean of {videos} scored {place}")
    return Forecast(left, math.nan, f"nothing is scored with {protocol} yet; --limit 4 scores some")


def paced(meta: dict[str, Any], protocol: str, videos: int, worker_seconds: float) -> None:
    """Add what a command took to run.json's `pace`; no number depends on it."""
    pace = meta.setdefault("pace", {}).setdefault(protocol, {"videos": 0, "worker_seconds": 0.0})
    pace["videos"] += videos
    pace["worker_seconds"] = round(pace["worker_seconds"] + worker_seconds, 3)


def _times(records: Iterable[Generation], settings: Mapping[str, Scalar]) -> list[float]:
    return [
        record.seconds
        for record in records
        if record.status == "ok" and math.isfinite(record.seconds) and dict(record.settings) == dict(settings)
    ]


def _work(method: str, settings: Mapping[str, Scalar]) -> float:
    """Operations of a video, NaN where they were not counted at this size."""
    for one in json.loads(WORK.read_text("utf-8")) if WORK.is_file() else []:
        size = "x".join(str(settings.get(key)) for key in ("width", "height", "num_frames"))
        # a variant that changes no size, such as vace@1.3b, has a line of its own or none
        if one["method"] == method and one["size"] == size:
            steps = settings.get("steps")
            share = steps / one["steps"] if isinstance(steps, int) else 1.0
            return float(one["flop_decoder"] + share * (one["flop_a_video"] - one["flop_decoder"]))
    return math.nan
