"""`faithfulfaces data`: raw videos become training samples."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from faithfulfaces.cli.review import caption, labels, review

if TYPE_CHECKING:
    from faithfulfaces.dataset.settings import Settings

data_app = typer.Typer(
    help="Training data from raw videos: filter by pose, caption, review, shards.", no_args_is_help=True
)
Root = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the build: --out of `data build`.")]


class Measure(StrEnum):
    """Columns of the manifest that `calibrate` can judge by."""

    range = "range"
    robust = "robust"
    steady = "steady"


class Where(StrEnum):
    """Engines on which a clip that crashes its decoder costs that clip alone."""

    local = "local"
    ray = "ray"


@data_app.command()
def build(
    videos: Annotated[Path, typer.Option(help="Folder of videos, or a text file with a path in each line.")],
    out: Annotated[Path, typer.Option(help="Folder of the build; the same command goes on after a kill.")],
    settings: Annotated[
        Path | None, typer.Option(help="TOML or JSON, see docs/dataset.md.", show_default="the paper's")
    ] = None,
    engine: Annotated[Where, typer.Option(help="Processes of this machine, or actors of a Ray cluster.")] = Where.local,
    workers: Annotated[int, typer.Option(help="How many; 0: as many as GPUs, or as the engine chooses.", min=0)] = 1,
    address: Annotated[
        str, typer.Option(help="Address of a running Ray cluster.", show_default="starts one here")
    ] = "",
    device: Annotated[str, typer.Option(help="cpu; cuda: a GPU for each worker; cuda:N: one for all.")] = "cpu",
    retry: Annotated[bool, typer.Option("--retry", help="Look again at clips that crashed, hung or failed.")] = False,
) -> None:
    """Take every video through the steps, then write manifest and shards. The same command goes on after a kill."""
    from faithfulfaces.dataset.build import build as run
    from faithfulfaces.dataset.settings import load
    from faithfulfaces.dataset.sources import find
    from faithfulfaces.dataset.workers import Plan
    from ffbench.engine import Engine
    from ffbench.errors import UserError

    if address and engine is not Where.ray:
        raise UserError("--address is the address of a Ray cluster", "add --engine ray, or leave it out")
    chosen = load(settings)
    plan = Plan(settings=chosen, root=out, engine=Engine(engine.value, workers, address, device))
    done = run(plan, find(videos), retry=retry)
    typer.echo(f"looked at {done.sources} videos ({done.failed} failed); {done.skipped} were done already", err=True)
    _combine(out, chosen)


@data_app.command()
def combine(root: Root) -> None:
    """Write manifest, shards and card again, with the prompts and reviews that are there now."""
    from faithfulfaces.dataset.build import settings_of
    from faithfulfaces.dataset.folder import Folder

    _combine(root, settings_of(Folder(root)))


@data_app.command()
def calibrate(
    root: Root,
    labels: Annotated[Path, typer.Option(help="CSV with the columns clip and qualified (1 or 0).")],
    picture: Annotated[Path | None, typer.Option(help="Where to draw ROC, precision and recall: SVG or PNG.")] = None,
    measure: Annotated[
        Measure, typer.Option(help="Variation to judge by: Eq. 8, or two that bad frames sway less.")
    ] = (Measure.range),
) -> None:
    """Find the threshold of the pose variation from manual labels; prints JSON."""
    from faithfulfaces.dataset.calibrate import picture as draw
    from faithfulfaces.dataset.calibrate import read_labels, report
    from faithfulfaces.dataset.folder import Folder
    from faithfulfaces.dataset.manifest import read

    column = "variation" if measure is Measure.range else f"variation_{measure.value}"
    made = report(read_labels(labels), read(Folder(root).manifest), column)
    if picture is not None:
        draw(picture, made.values, made.truth, made.result)
    typer.echo(json.dumps(made.to_json(), indent=1))


@data_app.command()
def stats(root: Root) -> None:
    """Print the statistics card: clips, reasons, variations, pose histograms before and after; JSON."""
    from faithfulfaces.dataset.folder import Folder
    from ffbench.errors import UserError

    path = Folder(root).card
    if not path.is_file():
        raise UserError(f"{root} holds no card", "run `faithfulfaces data build` or `data combine` first")
    typer.echo(path.read_text("utf-8"), nl=False)


@data_app.command()
def verify(
    root: Root,
    videos: Annotated[
        Path | None, typer.Option(help="The build's --videos: also check that they have not changed.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Do not decode the videos in the shards.")] = False,
) -> None:
    """Check that manifest and shards agree and that everything can be read; exit code 1 where not."""
    from faithfulfaces.dataset.build import read_settings
    from faithfulfaces.dataset.folder import Folder
    from faithfulfaces.dataset.verify import changed_sources, problems

    folder = Folder(root)
    faults = list(problems(folder, read_settings(folder), videos=not quick))
    if videos is not None:
        faults += changed_sources(folder, videos)
    for fault in faults:
        typer.echo(fault)
    typer.echo(f"{len(faults)} faults", err=True)
    if faults:
        raise typer.Exit(1)


@data_app.command()
def sample(
    root: Root,
    count: Annotated[int, typer.Option(help="How many clips; the paper drew 2000.", min=1)] = 2000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the draw.")] = 0,
) -> None:
    """Draw clips that passed detection, to be labelled for `calibrate`; prints CSV without their angles."""
    from faithfulfaces.dataset.calibrate import draw_clips
    from faithfulfaces.dataset.folder import Folder
    from faithfulfaces.dataset.manifest import read

    typer.echo(draw_clips(read(Folder(root).manifest), count, seed), nl=False)


def _combine(root: Path, settings: Settings) -> None:
    from faithfulfaces.dataset.card import write_card
    from faithfulfaces.dataset.combine import combine as put
    from faithfulfaces.dataset.folder import Folder

    made = put(Folder(root), settings)
    write_card(Folder(root), made.rows)
    qualified = sum(row.record.verdict == "qualified" for row in made.rows)
    typer.echo(f"{qualified} of {len(made.rows)} clips qualified; {made.written} shards written", err=True)


data_app.command()(caption)
data_app.command()(review)
data_app.command()(labels)
