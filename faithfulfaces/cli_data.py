"""`faithfulfaces data`: raw videos become training samples."""

from __future__ import annotations

import typer

data_app = typer.Typer(
    help="Training data from raw videos: filter by pose, caption, review, shards.", no_args_is_help=True
)


@data_app.callback()
def callback() -> None:
    """Training data from raw videos: filter by pose, caption, review, shards."""
