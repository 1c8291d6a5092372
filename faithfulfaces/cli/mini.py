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
    with_variants: Annotated[bool, typer.Option("--variants", help="Then train what `mini variants` trains.")] = False,
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
    if with_variants:
        variants(out, budget=budget, trial=trial)


@mini_app.command()
def variants(
    out: Annotated[Path, typer.Option(help="Folder of `mini build`; OUT/variants holds what is trained.")],
    only: Annotated[list[str] | None, typer.Option(help="A variant by name; may be repeated. By default all.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each variant.")] = 3,
    steps: Annotated[int | None, typer.Option(min=1, help="Of each training; by default the recipe's.")] = None,
    budget: Annotated[float, typer.Option(help="Minutes after which to stop; the same command goes on.")] = math.inf,
    trial: Annotated[bool, typer.Option("--trial", help="A few steps on what `mini build --trial` made.")] = False,
) -> None:
    """Train the rows of Tables 2 to 4 with several seeds. Resumable; processes side by side share the work."""
    import dataclasses

    import torch

    from faithfulfaces.mini.build import TRIAL, OutOfTimeError, Sizes
    from faithfulfaces.mini.variants import FOLDER, Options, build_variants

    torch.set_num_threads(1)
    sizes = TRIAL if trial else Sizes()
    if steps is not None:
        sizes = dataclasses.replace(sizes, faithful_steps=steps)
    options = Options(only=tuple(only or ()), seeds=seeds, sizes=sizes, minutes=budget)
    try:
        held = build_variants(out, options, lambda line: typer.echo(line, err=True))
    except OutOfTimeError:
        typer.echo(f"the budget of {budget:g} min is spent; the same command goes on", err=True)
        raise typer.Exit(1) from None
    typer.echo(str(out / FOLDER))
    if held:
        typer.echo(f"{len(held)} trainings are in the hands of another process: {held[0]}", err=True)
        raise typer.Exit(1)


@mini_app.command()
def phantom(
    out: Annotated[Path, typer.Option(help="Folder of the build; OUT/seed-K/model is base and checkpoint in one.")],
    base: Annotated[Path | None, typer.Option(help="VACE folder whose main blocks it starts from; embedded.")] = None,
    footage: Annotated[Path | None, typer.Option(help="That of a `mini build`; rendered below OUT without.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings.")] = 3,
    steps: Annotated[int | None, typer.Option(min=1, help="Of each training; by default the recipe's.")] = None,
    budget: Annotated[float, typer.Option(help="Minutes after which to stop; the same command goes on.")] = math.inf,
) -> None:
    """Train the small Phantom of Table 5: `ffbench ablate table5 --checkpoints OUT` takes it as a row. Resumable."""
    import torch

    from faithfulfaces.mini.build import OutOfTimeError
    from faithfulfaces.mini.phantom.build import STEPS, Options, build_phantom
    from ffbench.embedded import FOLDER

    torch.set_num_threads(1)
    options = Options(base=base or FOLDER / "base", footage=footage, seeds=seeds, steps=steps or STEPS, minutes=budget)
    try:
        held = build_phantom(out, options, lambda line: typer.echo(line, err=True))
    except OutOfTimeError:
        typer.echo(f"the budget of {budget:g} min is spent; the same command goes on", err=True)
        raise typer.Exit(1) from None
    typer.echo(str(out))
    if held:
        typer.echo(f"{len(held)} trainings are in the hands of another process: {held[0]}", err=True)
        raise typer.Exit(1)
