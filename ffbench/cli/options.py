"""Options that several commands share, and the few steps between an option and a call."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ffbench.errors import UserError
from ffbench.shard import Shard

if TYPE_CHECKING:
    from ffbench.engine import Engine
    from ffbench.protocols import Protocol
    from ffbench.store import Run
    from ffbench.suites import Suite


class Redo(enum.StrEnum):
    """Which work that was done before is done again."""

    missing = "missing"
    failed = "failed"
    all = "all"


class EngineKind(enum.StrEnum):
    """Where work runs."""

    local = "local"
    ray = "ray"


LOOKING = ("ls", "show", "compare", "validate")
"""Commands that change nothing where runs are kept."""


def place(ctx: typer.Context, out: Path) -> Path:
    """The folder that an option names; for `s3://bucket/folder` a cache of it, uploaded while the command works."""
    from ffbench.storage import url_of

    if ctx.resilient_parsing or not url_of(out):
        return out
    from ffbench.mirror import mirrored

    # a list needs the records alone
    return ctx.with_resource(mirrored(out, files=ctx.info_name != "ls", write=ctx.info_name not in LOOKING))


def places(ctx: typer.Context, runs: list[Path] | None) -> list[Path] | None:
    """`place` of each."""
    return runs and [place(ctx, one) for one in runs]


SuiteOption = Annotated[str, typer.Option(help="Embedded suite, or a folder, CSV or JSONL of your own.")]
OutOption = Annotated[Path, typer.Option(help="Where runs are kept; s3://bucket/folder too.", callback=place)]
RunsArgument = Annotated[
    list[Path] | None,
    typer.Argument(help="Run folders or folders of them; all below --out if left out.", callback=places),
]
LimitOption = Annotated[int | None, typer.Option(min=1, help="Only so many videos; for trials.")]
DeviceOption = Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")]
ProtocolOption = Annotated[
    str | None,
    typer.Option(help="Recipe of measurement, ffbench ls protocols; by default mini for suite mini, else basic."),
]
NetworksOption = Annotated[Path | None, typer.Option(help="TOML file of other measuring networks; docs/metrics.md.")]
RedoOption = Annotated[Redo, typer.Option(help="Work that is done again.")]
CommercialOption = Annotated[bool, typer.Option(help="Refuse weights that are for research only.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Data as JSON on stdout.")]
SetOption = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A setting of the method.")]
TakesOption = Annotated[int, typer.Option(min=1, help="Videos a case, each with a seed of its own.")]
MethodsOption = Annotated[list[str], typer.Option("--method", "-m", help="ffbench ls methods; may be repeated.")]
MaxCostOption = Annotated[float | None, typer.Option(min=0, metavar="USD", help="Refuse to start above this cost.")]
PriceOption = Annotated[float | None, typer.Option(min=0, metavar="USD", help="Price of a video, if not the card's.")]
HourPriceOption = Annotated[
    float | None, typer.Option(min=0, metavar="USD", help="Price of an hour of one worker's machine, for --dry-run.")
]
TimeoutOption = Annotated[float, typer.Option(min=1, metavar="SECONDS", help="Longest time for one video.")]
MemoryOption = Annotated[float | None, typer.Option(min=0, metavar="GIB", help="Most memory of a method's process.")]
VideosOption = Annotated[Path | None, typer.Option(help="Your finished videos: a folder, or a CSV/JSONL of them.")]
PublishedOption = Annotated[bool, typer.Option("--with-published", help="Show the paper's numbers beside, apart.")]
ReferencesOption = Annotated[Path | None, typer.Option(help="Photographs for --videos: a folder or one file.")]
EngineOption = Annotated[
    EngineKind | None,
    typer.Option("--engine", help="local: processes of this machine; ray: a Ray cluster. docs/cluster.md."),
]
WorkersOption = Annotated[
    int, typer.Option(min=0, help="How many at once; 0: one a GPU with --device cuda, else 1 (ray: one a CPU).")
]
AddressOption = Annotated[str, typer.Option(help="Of a Ray cluster that stands; else one of this machine is begun.")]
ShardOption = Annotated[
    Shard | None,
    typer.Option(parser=Shard.parse, metavar="I/N", help="Only part I of N of the cases, for array jobs."),
]
PromptsOption = Annotated[Path | None, typer.Option(help="Prompts for --videos: CSV, JSONL or text.")]


def say(line: str) -> None:
    """Print a line for people: stderr, so that stdout holds data alone; caches by the address they stand for."""
    from ffbench.storage import shown

    typer.echo(shown(line), err=True)


def engine_of(kind: EngineKind | None, workers: int, address: str, device: str) -> Engine:
    """The engine of `--engine`, `--workers` and `--address`; without `--engine` this process where one worker does.

    Raises:
        UserError: for an address without Ray.
    """
    from ffbench.engine import Engine
    from ffbench.engine.devices import gpus

    if address and kind is not EngineKind.ray:
        raise UserError("--address is the address of a Ray cluster", "add --engine ray, or leave it out")
    if kind is None:
        several = workers > 1 or (not workers and device == "cuda" and len(gpus()) > 1)
        return Engine("local" if several else "here", workers, device=device)
    return Engine(kind.value, workers, address, device)


def protocol_of(name: str | None, networks: Path | None, suite: str = "") -> Protocol:
    """The protocol of `--protocol` and `--networks`, or the default of a suite."""
    from ffbench.protocols import default_protocol, get_protocol, with_networks

    recipe = get_protocol(name or default_protocol(suite))
    return with_networks(recipe, networks) if networks else recipe


def suite_given(videos: Path, references: Path | None, prompts: Path | None) -> Suite:
    """The suite that `--videos`, `--references` and `--prompts` make."""
    from ffbench.suites import suite_of_videos

    return suite_of_videos(videos, references, prompts)


def runs_of(paths: list[Path] | None, out: Path) -> list[Run]:
    """Every run at or below the given folders, or below `--out`.

    Raises:
        UserError: where there is none.
    """
    from ffbench.store import find_runs

    found = [run for path in (paths or [out]) for run in find_runs(path)]
    if not found:
        places = ", ".join(str(path) for path in (paths or [out]))
        raise UserError(f"no run below {places}", "ffbench generate --method still makes one")
    return found
