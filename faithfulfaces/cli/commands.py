"""The command line of the reference model. Data goes to stdout, everything else to stderr.

Exit codes: 0 done; 2 something the user can mend (two lines); 3 a bug, with its traceback; 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from faithfulfaces.cli.analyse import analyse
from faithfulfaces.cli.data import data_app
from faithfulfaces.cli.encode import encode
from faithfulfaces.cli.export import convert, export, import_lora
from faithfulfaces.cli.mini import mini_app
from faithfulfaces.cli.sample import sample
from ffbench.errors import UserError
from ffbench.exits import run_app

app = typer.Typer(
    name="faithfulfaces",
    help="FaithfulFaces: train the reference model, sample from it, look into it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


@app.command()
def train(
    recipe: Annotated[
        str, typer.Option(help="paper_vace14b, vace1_3b, aligner_only, mini_base, mini, debug, or FILE.py:FUNCTION.")
    ],
    out: Annotated[Path | None, typer.Option(help="Folder of the run; only --dry-run needs none.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint in --out.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan; needs no weights, data or GPU.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --dry-run: the plan as JSON.")] = False,
) -> None:
    """Train a recipe: a function that returns the whole configuration, one of ours or your own.

    On several GPUs: torchrun --nproc-per-node N -m faithfulfaces.train --recipe RECIPE --out DIR
    """
    from faithfulfaces.recipes import recipe as find

    config = find(recipe)
    if dry_run:
        from faithfulfaces.training.plan import plan, render

        made = plan(config)
        typer.echo(json.dumps(made.to_json(), indent=1) if as_json else render(made))
        return
    if as_json:
        raise UserError("--json prints the plan of --dry-run alone", "add --dry-run, or leave it out")
    if out is None:
        raise UserError("no --out", "name a folder for the run: --out runs/first")
    from faithfulfaces.runs import run

    run(config, out, resume=resume, report=_progress)


def _progress(step: int, values: Mapping[str, float]) -> None:
    shown = ("loss_pia", "loss_fm", "information_bound", "temperature", "grad_norm", "seconds_per_step")
    words = [f"{name} {values[name]:.4g}" for name in shown if name in values]
    typer.echo(f"step {step}  {'  '.join(words)}", err=True)


app.command()(encode)
app.command()(sample)
app.command()(export)
app.command("import")(import_lora)
app.command()(convert)
app.command()(analyse)
app.add_typer(data_app, name="data")
app.add_typer(mini_app, name="mini")


def main() -> None:
    """Entry point; see `run_app` for the exit codes."""
    run_app(app, "the same command goes on (train: with --resume)")
