"""`faithfulfaces mini`: the embedded world's networks, made anew."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

mini_app = typer.Typer(help="The mini world's networks: build them again.", no_args_is_help=True)


@mini_app.callback()
def callback() -> None:
    """The mini world's networks: build them again."""


@mini_app.command()
def build(
    out: Annotated[Path, typer.Option(help="Folder of the build; OUT/embedded is what ffbench/embedded ships.")],
    device: Annotated[str, typer.Option(help="Where the renderer runs: cpu, cuda or cuda:N.")] = "cpu",
    budget: Annotated[float, typer.Option(help="Minutes after which to stop; the same command goes on.")] = math.inf,
    trial: Annotated[bool, typer.Option("--trial", help="A few steps of everything, useless but quick.")] = False,
) -> None:
    """Render people, train codec, text encoder, instruments, base and FaithfulFaces. Hours on two cores; resumable."""
    import torch

    from faithfulfaces.mini.build import TRIAL, Build, OutOfTimeError, Sizes

    # networks this small lose time to threads that wait for each other
    torch.set_num_threads(1)
    try:
        Build(out, TRIAL if trial else Sizes(), device, budget, lambda line: typer.echo(line, err=True)).run()
    except OutOfTimeError:
        typer.echo(f"the budget of {budget:g} min is spent; the same command goes on", err=True)
        raise typer.Exit(1) from None
    typer.echo(str(out / "embedded"))
