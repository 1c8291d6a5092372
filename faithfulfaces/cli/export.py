"""`faithfulfaces export`, `import` and `convert`: LoRA files of diffusers, ComfyUI and DiffSynth-Studio."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ffbench.errors import UserError

if TYPE_CHECKING:
    from faithfulfaces.lora import LoraWeights


class KeyStyle(enum.StrEnum):
    """Whose names a file's keys have."""

    diffusers = "diffusers"
    comfyui = "comfyui"
    diffsynth = "diffsynth"


StyleOption = Annotated[KeyStyle, typer.Option(help="Whose names the keys get.")]
OutOption = Annotated[Path, typer.Option(help="The file, .safetensors.")]
CheckpointOption = Annotated[Path, typer.Option(help="Folder of a finished run or of save_pretrained.")]
FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="LoRA file of any of the three styles.")]


def export(checkpoint: CheckpointOption, style: StyleOption, out: OutOption) -> None:
    """Write a checkpoint's LoRA for another tool."""
    from faithfulfaces.model import LORA, load_model
    from faithfulfaces.runs import model_folder

    folder = model_folder(checkpoint)
    weights = load_model(folder)[1].lora
    if weights is None:
        raise UserError(f"{folder} holds no {LORA}", "give a checkpoint that was trained on a base")
    _write(out, weights, style)


def convert(file: FileArgument, style: StyleOption, out: OutOption) -> None:
    """Rewrite a LoRA file's keys; no bit of a tensor changes."""
    from faithfulfaces.export import read_lora

    _write(out, read_lora(file).weights, style)


def import_lora(
    file: FileArgument,
    checkpoint: CheckpointOption,
    out: Annotated[Path, typer.Option(help="Folder of the new checkpoint.")],
) -> None:
    """Put a LoRA file back: the checkpoint's aligner and prior with that LoRA, as a new checkpoint."""
    from faithfulfaces.export import read_lora
    from faithfulfaces.model import load_model, save_model, with_lora
    from faithfulfaces.runs import model_folder

    config, parts = load_model(model_folder(checkpoint))
    found = read_lora(file)
    if out.exists():
        raise UserError(f"--out {out} is there already", "give a folder that is not there yet")
    save_model(out, config, with_lora(parts, config, found.weights, str(file)))
    typer.echo(f"{_size(found.weights)}, read as {found.style}, 0 keys unmatched", err=True)
    typer.echo(str(out))


def _write(out: Path, weights: LoraWeights, style: KeyStyle) -> None:
    from faithfulfaces.export import read_lora, save_lora

    if out.suffix != ".safetensors":
        raise UserError(f"--out {out} is no .safetensors file", "give --out such as lora.safetensors")
    save_lora(out, weights, style.value)
    # what was written is read by the same eyes as any file: it says so itself if a key matches nothing
    found = read_lora(out)
    typer.echo(f"{_size(found.weights)}, written as {found.style}, 0 keys unmatched", err=True)
    typer.echo(str(out))


def _size(weights: LoraWeights) -> str:
    return f"{len(weights.tensors) // 2} modules of rank {weights.rank}, alpha {weights.alpha:g}"
