"""A run in its folder: how it is trained, and what is taken from it afterwards."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from faithfulfaces import checkpoint, parallel
from faithfulfaces.aligner import PoseSharedIdentityAligner
from faithfulfaces.config import Aligner, Train
from faithfulfaces.data import Clips
from faithfulfaces.model import CONFIG as MODEL_CONFIG
from faithfulfaces.model import load_model
from faithfulfaces.shards import ShardClips
from faithfulfaces.trainer import Trainer
from faithfulfaces.training.log import LOG
from faithfulfaces.training.madeup import made_up_clips
from faithfulfaces.training.release import release
from ffbench.errors import UserError

Report = Callable[[int, Mapping[str, float]], None]
CONFIG, MODEL = "config.json", "model"
"""In the folder of a run: its recipe, and once it is finished its checkpoint of `save_pretrained`."""


def run(
    config: Train, out: Path, *, resume: bool = False, report: Report | None = None, clips: Clips | None = None
) -> None:
    """Train in this process, or as one of torchrun's.

    Args:
        config: the recipe's.
        out: folder of the run: config.json, log.jsonl, checkpoints, and at the end model.
        resume: go on from the newest checkpoint; without one, start.
        report: called with what is logged, on the first process.
        clips: what to learn from; by default the recipe's shards.

    Raises:
        UserError: when the folder holds a run already, or the recipe does not fit data or machine.
    """
    if not resume and (out / CONFIG).exists():
        raise UserError(f"{out} holds a run already", "go on with --resume, or choose another --out")
    world = parallel.start(config.parallel.context)
    try:
        trainer = Trainer(config, clips or open_clips(config), world, out)
        if resume:
            trainer.resume()
        parallel.barrier(world)
        if world.first:
            out.mkdir(parents=True, exist_ok=True)
            (out / CONFIG).write_text(json.dumps(dataclasses.asdict(config), indent=1) + "\n", "utf-8")
        trainer.train(report=report)
        release(trainer.learner, out / MODEL, world)
    finally:
        parallel.stop(world)


def open_clips(config: Train) -> Clips:
    """The recipe's shards, or made-up clips where it names none.

    Raises:
        UserError: when shards are missing or incomplete.
    """
    if not config.data.shards:
        return made_up_clips(config)
    return ShardClips(Path(config.data.shards), config.aligner.image_size if config.aligner else 1)


class Trained(NamedTuple):
    """An aligner and where it came from."""

    aligner: PoseSharedIdentityAligner
    """In float32 on the CPU, frozen, in evaluation mode."""
    source: Path
    log: Path | None
    """The run's, where there is one."""


def model_folder(folder: Path) -> Path:
    """The checkpoint of `save_pretrained` that a folder is, or that a finished run holds as `model`."""
    inner = folder / MODEL
    return inner if (inner / MODEL_CONFIG).is_file() else folder


def open_aligner(folder: Path) -> Trained:
    """The aligner of a checkpoint, a finished run, or the newest training checkpoint of an unfinished one.

    Raises:
        UserError: naming the folder or file that is missing, damaged or of another shape.
    """
    log = folder / LOG if (folder / LOG).is_file() else None
    model = model_folder(folder)
    steps = [folder] if (folder / checkpoint.MARKER).is_file() else checkpoint.complete(folder / "checkpoints")
    if model != folder or not steps:
        aligner = load_model(model)[1].aligner
        if aligner is None:
            raise UserError(f"{model} was trained without an aligner", "give a run of another recipe")
        return Trained(aligner, model, log)
    return Trained(_of_step(steps[-1]), steps[-1], log)


def _of_step(folder: Path) -> PoseSharedIdentityAligner:
    config = _aligner_config(folder / checkpoint.MARKER)
    aligner = PoseSharedIdentityAligner(config)
    # state_dict shares its memory with the aligner, and loading fills it in place
    checkpoint.load(folder, {f"model.aligner.{name}": tensor for name, tensor in aligner.state_dict().items()})
    for name, tensor in aligner.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise UserError(f"checkpoint {folder}: {name} holds values that are not finite", "give an earlier one")
    return aligner.eval().requires_grad_(False)


def _aligner_config(marker: Path) -> Aligner:
    try:
        about: Mapping[str, Any] = json.loads(marker.read_text("utf-8"))
        if about["config"]["aligner"] is None:
            raise UserError(f"{marker.parent} was trained without an aligner", "give a run of another recipe")
        return Aligner(**about["config"]["aligner"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{marker} cannot be read: {error!r}", "give a run that this version trained") from error
