"""The command `ffbench ablate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ffbench.cli_options import (
    DeviceOption,
    JsonOption,
    LimitOption,
    NetworksOption,
    OutOption,
    ProtocolOption,
    PublishedOption,
    SetOption,
    TimeoutOption,
    protocol_of,
    say,
)


def ablate(
    table: Annotated[str, typer.Argument(help="table2, table3, table4, table5 or table6 of the paper.")],
    suite: Annotated[str | None, typer.Option(help="By default mini; mini-views for table5.")] = None,
    protocol: ProtocolOption = None,
    networks: NetworksOption = None,
    out: OutOption = Path("runs"),
    limit: LimitOption = None,
    checkpoint: Annotated[
        list[Path] | None, typer.Option(help="A trained checkpoint for the row whose part it has; may be repeated.")
    ] = None,
    method: Annotated[list[str] | None, typer.Option("--method", "-m", help="Rows of table5 of your own.")] = None,
    setting: SetOption = None,
    device: DeviceOption = "cpu",
    timeout: TimeoutOption = 7200.0,
    ci: Annotated[bool, typer.Option("--ci", help="Print 95% intervals, clustered by identity.")] = False,
    with_published: PublishedOption = False,
    as_json: JsonOption = False,
) -> None:
    """Make an ablation of the paper: its rows from runs, reused where they are there."""
    from ffbench.ablate import AblateOptions, ablation
    from ffbench.ablate import ablate as make
    from ffbench.generate import GenerateOptions
    from ffbench.suites import load_suite

    what = ablation(table, method or (), checkpoint or ())
    chosen = load_suite(suite or ("mini-views" if what.views else "mini"))
    recipe = protocol_of(protocol, networks, chosen.name)
    generating = GenerateOptions(settings=tuple(setting or ()), limit=limit, device=device, timeout=timeout)
    made = make(what, chosen, AblateOptions(recipe, out, generating, ci, with_published))
    typer.echo((made.folder / "cells.json").read_text("utf-8") if as_json else made.text)
    say(f"tables: {made.folder}")
    raise typer.Exit(1 if made.num_missing else 0)
