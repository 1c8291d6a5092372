"""The command `ffbench ablate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ffbench.cli.options import (
    AddressOption,
    DeviceOption,
    EngineOption,
    JsonOption,
    LimitOption,
    NetworksOption,
    OutOption,
    ProtocolOption,
    PublishedOption,
    SetOption,
    TimeoutOption,
    WorkersOption,
    engine_of,
    protocol_of,
    say,
)


def ablate(
    table: Annotated[str, typer.Argument(help="table1 to table6 of the paper, all, or render.")],
    suite: Annotated[str | None, typer.Option(help="By default mini; mini-views for table5.")] = None,
    protocol: ProtocolOption = None,
    networks: NetworksOption = None,
    out: OutOption = Path("runs"),
    limit: LimitOption = None,
    checkpoint: Annotated[
        list[Path] | None, typer.Option(help="A trained checkpoint for the row whose part it has; may be repeated.")
    ] = None,
    checkpoints: Annotated[
        list[Path] | None,
        typer.Option(help="A folder of them, of `faithfulfaces mini variants` or `mini phantom`; seeds are averaged."),
    ] = None,
    method: Annotated[list[str] | None, typer.Option("--method", "-m", help="Rows of table1 or table5.")] = None,
    setting: SetOption = None,
    device: DeviceOption = "cpu",
    engine: EngineOption = None,
    workers: WorkersOption = 0,
    address: AddressOption = "",
    timeout: TimeoutOption = 7200.0,
    ci: Annotated[bool, typer.Option("--ci", help="Print 95% intervals, clustered by identity.")] = False,
    with_published: PublishedOption = False,
    results: Annotated[Path | None, typer.Option(help="Put the table there with its records, to be committed.")] = None,
    figures: Annotated[bool, typer.Option("--figures", help="Draw the figures that go with the table.")] = False,
    figure_case: Annotated[list[str] | None, typer.Option(help="Case of grids; three by rule if left out.")] = None,
    boxes: Annotated[bool, typer.Option("--boxes", help="Face boxes in grids.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Make a table of the paper: its rows from runs, reused where they are there.

    `render` makes the tables and figures of --results anew from the records there.
    """
    from ffbench.ablate.paper import render_again
    from ffbench.ablate.study import HEADS, AblateOptions, ablation
    from ffbench.ablate.study import ablate as make
    from ffbench.generate import GenerateOptions
    from ffbench.suites import load_suite

    if table == "render":
        for path in render_again(results or Path("results")):
            typer.echo(str(path))
        return
    drawn = None
    if figures or figure_case or boxes:
        from ffbench.figures.write import FigureOptions

        drawn = FigureOptions(tuple(figure_case or ()), boxes, with_published)
    missing = 0
    # a table that is made with others takes what of the options concerns it
    everything = table == "all"
    for name in HEADS if everything else (table,):
        takes = not everything or name not in ("table1", "table6")
        rows = () if everything and name not in ("table1", "table5") else method or ()
        what = ablation(name, rows, (checkpoint or ()) if takes else (), (checkpoints or ()) if takes else ())
        chosen = load_suite(suite or ("mini-views" if what.views else "mini"))
        recipe = protocol_of(protocol, networks, chosen.name)
        where = engine_of(engine, workers, address, device)
        settings = tuple(setting or ())
        generating = GenerateOptions(settings, limit=limit, device=device, timeout=timeout, engine=where)
        made = make(what, chosen, AblateOptions(recipe, out, generating, ci, with_published, results, drawn))
        typer.echo((made.folder / "cells.json").read_text("utf-8") if as_json else made.text)
        say(f"tables: {made.folder}")
        missing += made.num_missing
    if results:
        say(f"results: {results}; next: ffbench validate {results}")
    raise typer.Exit(1 if missing else 0)
