"""`faithfulfaces mini`: the embedded world's networks, made anew."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

mini_app = typer.Typer(help="The mini world's networks: build them again.", no_args_is_help=True)


BudgetOption = Annotated[
    float, typer.Option(min=0, help="Minutes after which to stop; the same command goes on.", show_default="no limit")
]


def _say(line: str) -> None:
    typer.echo(line, err=True)


@contextmanager
def _within(budget: float) -> Iterator[None]:
    """Ends the command where the minutes are spent."""
    import torch

    from faithfulfaces.mini.build import OutOfTimeError

    # networks this small lose time to threads that wait for each other
    torch.set_num_threads(1)
    try:
        yield
    except OutOfTimeError:
        _say(f"the budget of {budget:g} min is spent; the same command goes on")
        raise typer.Exit(1) from None


def _trained(folder: Path, held: Sequence[object]) -> None:
    typer.echo(str(folder))
    if held:
        _say(f"{len(held)} trainings are in the hands of another process: {held[0]}")
        raise typer.Exit(1)


@mini_app.command()
def build(
    out: Annotated[Path, typer.Option(help="Folder of the build; OUT/embedded is what ffbench/embedded ships.")],
    device: Annotated[str, typer.Option(help="Where people are rendered: cpu, cuda or cuda:N.")] = "cpu",
    budget: BudgetOption = math.inf,
    trial: Annotated[bool, typer.Option("--trial", help="A few steps of everything: useless but quick.")] = False,
    with_variants: Annotated[
        bool, typer.Option("--variants", help="Afterwards train what `mini variants` trains.")
    ] = False,
) -> None:
    """Render people, train codec, text encoder, instruments, base and FaithfulFaces. Hours on two cores; resumable."""
    from faithfulfaces.mini.build import TRIAL, Build, Sizes
    from ffbench.extract.loading import torch_device

    made = Build(out, TRIAL if trial else Sizes(), torch_device(device), budget, _say)
    with _within(budget):
        made.run()
    typer.echo(str(out / "embedded"))
    if with_variants:
        variants(out, budget=budget, trial=trial)


@mini_app.command()
def variants(
    out: Annotated[Path, typer.Option(help="Folder of `mini build`; OUT/variants holds what is trained.")],
    only: Annotated[
        list[str] | None, typer.Option(help="A variant by name; may be repeated.", show_default="all")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How many trainings of each variant.")] = 3,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of each training.", show_default="1600")] = None,
    budget: BudgetOption = math.inf,
    trial: Annotated[bool, typer.Option("--trial", help="A few steps on what `mini build --trial` made.")] = False,
) -> None:
    """Train the rows of Tables 2 to 4 with several seeds. Resumable; processes side by side share the work."""
    import dataclasses

    from faithfulfaces.mini.build import TRIAL, Sizes
    from faithfulfaces.mini.variants import FOLDER, Options, build_variants

    sizes = TRIAL if trial else Sizes()
    if steps is not None:
        sizes = dataclasses.replace(sizes, faithful_steps=steps)
    options = Options(only=tuple(only or ()), seeds=seeds, sizes=sizes, minutes=budget)
    with _within(budget):
        held = build_variants(out, options, _say)
    _trained(out / FOLDER, held)


@mini_app.command()
def phantom(
    out: Annotated[Path, typer.Option(help="Folder of the build; OUT/seed-K/model is base and checkpoint in one.")],
    base: Annotated[
        Path | None, typer.Option(help="VACE folder whose main blocks it starts from.", show_default="embedded")
    ] = None,
    footage: Annotated[
        Path | None, typer.Option(help="Folder of footage of `mini build`.", show_default="rendered below OUT")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How many trainings.")] = 3,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of each training.", show_default="300")] = None,
    budget: BudgetOption = math.inf,
) -> None:
    """Train the small Phantom of Table 5: `ffbench ablate table5 --checkpoints OUT` takes it as a row. Resumable."""
    from faithfulfaces.mini.phantom.build import STEPS, Options, build_phantom
    from ffbench.embedded import FOLDER

    options = Options(base=base or FOLDER / "base", footage=footage, seeds=seeds, steps=steps or STEPS, minutes=budget)
    with _within(budget):
        held = build_phantom(out, options, _say)
    _trained(out, held)
