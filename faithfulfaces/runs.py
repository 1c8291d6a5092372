"""What a folder of training holds: a run's aligner and log, or a checkpoint of `save_pretrained`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from faithfulfaces import checkpoint
from faithfulfaces.aligner import PoseSharedIdentityAligner
from faithfulfaces.config import Aligner
from faithfulfaces.log import LOG
from faithfulfaces.model import CONFIG, load_model
from faithfulfaces.train import MODEL
from ffbench.errors import UserError


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
    return inner if (inner / CONFIG).is_file() else folder


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
