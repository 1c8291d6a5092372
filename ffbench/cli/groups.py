"""Command groups beside the three stages: weights, prompts, suites."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

weights_app = typer.Typer(
    help="Pinned weights: list, pull, verify, pack for an air-gapped machine.", no_args_is_help=True
)
prompts_app = typer.Typer(help="The suite's prompts, and new ones from a language model.", no_args_is_help=True)
suites_app = typer.Typer(help="Suites that are fetched rather than embedded.", no_args_is_help=True)
methods_app = typer.Typer(help="Environments of methods that cannot share this one.", no_args_is_help=True)
NamesArgument = Annotated[list[str] | None, typer.Argument(help="Names of `weights ls`; all if left out.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Data as JSON on stdout.")]


@weights_app.command("ls")
def weights_ls(as_json: JsonOption = False) -> None:
    """List every network with its size, licence and whether it is here."""
    from ffbench.weights import list_rows

    rows = list_rows()
    if as_json:
        typer.echo(json.dumps([row._asdict() for row in rows]))
        return
    for row in rows:
        size = f"{row.bytes / 1e6:.0f} MB" if row.bytes else "not published"
        use = "research only" if row.research_only else "commercial use"
        typer.echo(f"{row.name:<26} {'here' if row.present else 'missing':<8} {size:<13} {use:<15} {row.licence}")


@weights_app.command("pull")
def weights_pull(
    names: NamesArgument = None,
    source: Annotated[Path | None, typer.Option("--from", help="An archive made by `ffbench weights pack`.")] = None,
    commercial_ok: Annotated[bool, typer.Option(help="Refuse weights that are for research only.")] = False,
) -> None:
    """Download weights, or install them from an archive; verified before use."""
    from ffbench.weights import pull

    pull(names, commercial_ok=commercial_ok, source=source)


@weights_app.command("verify")
def weights_verify(names: NamesArgument = None, as_json: JsonOption = False) -> None:
    """Hash what is here and compare with the pins."""
    from ffbench.weights import verify

    rows = verify(names)
    if as_json:
        typer.echo(json.dumps([row._asdict() for row in rows]))
    else:
        for row in rows:
            typer.echo(f"{row.name:<44} {row.status}")
    raise typer.Exit(1 if any(row.status == "damaged" for row in rows) else 0)


@weights_app.command("pack")
def weights_pack(
    archive: Annotated[Path, typer.Argument(help="The tar file to write.")], names: NamesArgument = None
) -> None:
    """Pack weights that are here into one archive for a machine without network."""
    from ffbench.weights import pack

    pack(names, archive)


@prompts_app.command("ls")
def prompts_ls(as_json: JsonOption = False) -> None:
    """Print the suite's prompts."""
    from ffbench.suites import embedded_prompts

    for prompt in embedded_prompts():
        typer.echo(
            json.dumps(prompt._asdict(), ensure_ascii=False) if as_json else f"{prompt.prompt_id}: {prompt.prompt}\n"
        )


@prompts_app.command("new")
def prompts_new(
    base_scenes: Annotated[Path, typer.Option(help="JSONL or text file of base scenes.")],
    endpoint: Annotated[str, typer.Option(help="URL of an OpenAI-compatible server, up to /v1.")],
    model: Annotated[str, typer.Option(help="Model name at that server.")],
    out: Annotated[Path, typer.Option(help="JSONL file to write.")] = Path("prompts.jsonl"),
    variants: Annotated[int, typer.Option(min=0, help="Prompts of each scene with another background.")] = 2,
    seed: Annotated[int, typer.Option(help="Sent with each request.")] = 0,
) -> None:
    """Make more prompts in the manner of the paper; the key is read from OPENAI_API_KEY."""
    from ffbench.prompting import new_prompts

    made = new_prompts(base_scenes, endpoint, model, out, variants, seed)
    typer.echo(f"{len(made)} prompts -> {out}", err=True)


@suites_app.command("fetch")
def suites_fetch(name: Annotated[str, typer.Argument(help="Such as paper.")]) -> None:
    """Fetch a published suite's photographs, with a manifest of their hashes."""
    from ffbench.suites import fetch_suite

    typer.echo(str(fetch_suite(name)))


@methods_app.command("setup")
def methods_setup(
    name: Annotated[str, typer.Argument(help="A method of `ffbench ls methods`.")],
    python: Annotated[str, typer.Option(help="The interpreter to build on, such as python3.10.")],
    as_is: Annotated[bool, typer.Option("--as-is", help="It belongs to an environment that is ready.")] = False,
) -> None:
    """Make a method's own environment, install its requirements, try it and remember it."""
    from ffbench.methods import set_up

    made = set_up(name, python, as_is, sys.stderr.buffer)
    typer.echo(f"{name} runs with {made}", err=True)
    typer.echo(f"next: ffbench generate --method {name}", err=True)
