"""`ffbench import`: videos made elsewhere become a run of a method, to be scored like any other."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ffbench.cli.options import OutOption, SuiteOption, say


def import_videos(
    method: Annotated[str, typer.Option("--method", "-m", help="What made them, such as kling.")],
    folder: Annotated[Path, typer.Option("--from", help="Folder of the videos.")],
    table: Annotated[Path, typer.Option("--map", help="CSV or JSONL: video, and case or identity and prompt_id.")],
    suite: SuiteOption = "paper",
    out: OutOption = Path("runs"),
) -> None:
    """Take in videos that were made elsewhere, such as in a vendor's web app; the files stay where they are."""
    from ffbench.score import given_run
    from ffbench.store import run_folder
    from ffbench.suites import load_suite
    from ffbench.suites.imports import imported

    chosen = imported(load_suite(suite), folder, table)
    run = given_run(run_folder(out, chosen.name, chosen.version, method), chosen.cases, chosen.given, method)
    say(f"{len(chosen.cases)} videos of {method} on suite {chosen.name}@{chosen.version} -> {run.root}")
    say(f"next: ffbench score {run.root}")
