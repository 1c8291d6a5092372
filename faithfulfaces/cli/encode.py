"""`faithfulfaces encode`: videos and prompts of shards become what the trainer reads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def encode(
    shards: Annotated[Path, typer.Option(help="Folder of shards (*.tar) with videos.")],
    base: Annotated[Path, typer.Option(help="VACE folder in diffusers' layout: its VAE and text encoder are used.")],
    out: Annotated[Path, typer.Option(help="Folder of the shards that the trainer reads.")],
    recipe: Annotated[
        str, typer.Option(help="Recipe whose frame size, prompt length and dtype count.")
    ] = "paper_vace14b",
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N; under torchrun each process has its own.")] = "cpu",
) -> None:
    """Encode videos, references and prompts once, before training. The same command goes on after an interruption."""
    import os

    from faithfulfaces.encode import encode as run
    from faithfulfaces.recipes import recipe as find
    from ffbench.extract.loading import torch_device

    if device == "cuda" and "LOCAL_RANK" in os.environ:
        device = f"cuda:{os.environ['LOCAL_RANK']}"
    done = run(find(recipe), shards, base, out, device=torch_device(device))
    failed = f", {done.failed} left out (see {out}/*.failed.jsonl)" if done.failed else ""
    typer.echo(
        f"encoded {done.clips} clips in {done.shards} shards{failed}; {done.skipped} shards were there already",
        err=True,
    )
    if done.failed and not done.clips:
        raise typer.Exit(1)
