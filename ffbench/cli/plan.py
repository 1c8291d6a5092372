"""What `--dry-run` prints: the work that is left, how long it takes and what it costs."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ffbench.planning import Forecast, of_scores, of_videos

if TYPE_CHECKING:
    from ffbench.generate import GenerateOptions
    from ffbench.score import ScoreOptions
    from ffbench.store import Run
    from ffbench.suites import Suite


def print_generation(
    methods: Sequence[str],
    suite: Suite,
    out: Path,
    options: GenerateOptions,
    hour_price: float | None = None,
    as_json: bool = False,
) -> None:
    """Each method's videos that are to be made, with their settings, memory, time and price."""
    from ffbench.generate import meter_of, plan

    for method in dict.fromkeys(methods):
        made = plan(suite, method, out, options)
        time = of_videos(made.card, made.settings, len(made.todo), made.run, out)
        if as_json:
            typer.echo(json.dumps({"method": method, **_facts(made.run, time, len(made.done))}))
            continue
        settings = ", ".join(f"{key}={value}" for key, value in made.settings.items())
        typer.echo(f"{method}: {len(made.todo)} videos to make, {len(made.done)} done -> {made.run.root}")
        typer.echo(f"  settings {settings}")
        for memory in made.card.memory:
            typer.echo(f"  memory {memory.gib:g} GiB: {memory.configuration} ({memory.source})")
        if made.card.kind != "commercial":
            typer.echo(f"  time {time.line(options.engine.workers or 1, hour_price)}")
        if line := meter_of(made, options).estimate():
            typer.echo(f"  cost {line}")


def print_scoring(
    runs: Sequence[Run], out: Path, options: ScoreOptions, hour_price: float | None = None, as_json: bool = False
) -> None:
    """Each run's videos that wait for scores under the protocol, and how long they take."""
    from ffbench.score import pending

    for run in runs:
        todo, done = pending(run.sharded(options.shard), options)
        time = of_scores(len(todo), options.protocol.id, run, out)
        if as_json:
            typer.echo(json.dumps({"protocol": options.protocol.id, **_facts(run, time, done)}))
            continue
        typer.echo(f"{run.root}: {len(todo)} videos to score with {options.protocol.id}, {done} done")
        typer.echo(f"  time {time.line(options.engine.workers or 1, hour_price)}")


def _facts(run: Run, time: Forecast, done: int) -> dict[str, object]:
    seconds = None if math.isnan(time.seconds) else time.seconds
    return {"run": str(run.root), "left": time.left, "done": done, "seconds_a_video": seconds, "source": time.source}
