"""`faithfulfaces data`: raw videos become training samples."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

data_app = typer.Typer(
    help="Training data from raw videos: filter by pose, caption, review, shards.", no_args_is_help=True
)
Out = Annotated[Path, typer.Option(help="Folder of the build.")]


@data_app.callback()
def callback() -> None:
    """Training data from raw videos: filter by pose, caption, review, shards."""


@data_app.command()
def build(
    videos: Annotated[Path, typer.Option(help="Folder of videos, or a text file of a path a line.")],
    out: Out,
    settings: Annotated[Path | None, typer.Option(help="TOML or JSON of settings (docs/dataset.md).")] = None,
    workers: Annotated[int, typer.Option(help="Processes.", min=1)] = 1,
    device: Annotated[str, typer.Option(help="Where networks run: cpu, cuda or cuda:N.")] = "cpu",
    retry: Annotated[bool, typer.Option("--retry", help="Look again at clips that crashed, hung or failed.")] = False,
) -> None:
    """Take every video through the steps, then write manifest and shards. The same command goes on after a kill."""
    from faithfulfaces.dataset.build import build as run
    from faithfulfaces.dataset.combine import combine as put
    from faithfulfaces.dataset.folder import Folder
    from faithfulfaces.dataset.settings import load
    from faithfulfaces.dataset.sources import find
    from faithfulfaces.dataset.workers import Plan

    chosen = load(settings)
    done = run(Plan(settings=chosen, root=out, device=device, workers=workers), find(videos), retry=retry)
    made = put(Folder(out), chosen)
    qualified = sum(row.record.verdict == "qualified" for row in made.rows)
    typer.echo(
        f"looked at {done.sources} videos ({done.failed} failed), {done.skipped} were done already; "
        f"{qualified} of {len(made.rows)} clips qualified; {made.written} shards written",
        err=True,
    )
