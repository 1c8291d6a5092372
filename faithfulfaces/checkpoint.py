"""Checkpoints by torch.distributed.checkpoint: trainable tensors, optimizer, random state, loaders, step.

Stored as safetensors, each process its own shards; nothing is pickled. `complete.json` is written last: a folder
without it was interrupted and is never read.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn

from faithfulfaces.parallel import World, barrier
from ffbench.durable import write_atomic
from ffbench.errors import UserError

CHECKPOINT_VERSION = 1
MARKER = "complete.json"


@dataclass(frozen=True)
class Progress:
    """What a checkpoint knows beside tensors."""

    step: int
    loaders: Mapping[str, dict[str, int]]
    config: Mapping[str, Any]


def adamw_state(optimizer: torch.optim.Optimizer, names: Mapping[Tensor, str]) -> dict[str, Tensor]:
    """The optimizer's tensors by the names of their parameters, made as zeros where no step was taken yet."""
    tensors: dict[str, Tensor] = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            state = optimizer.state[parameter]
            if not state:
                state["step"] = torch.zeros(())
                state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
            tensors |= {f"optimizer.{names[parameter]}.{key}": value for key, value in state.items()}
    return tensors


def run_tensors(
    model: nn.Module, optimizer: torch.optim.Optimizer, noise: torch.Generator, world: World
) -> dict[str, Tensor]:
    """All tensors that a resumed run needs; loading fills them in place, the random state excepted."""
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    tensors: dict[str, Tensor] = {f"model.{name}": parameter.detach() for name, parameter in trainable.items()}
    tensors |= adamw_state(optimizer, {parameter: name for name, parameter in trainable.items()})
    return tensors | {f"noise.{world.rank}": noise.get_state()}


def save(folder: Path, tensors: dict[str, Tensor], progress: Progress, world: World) -> Path:
    """Write `folder/step_N`; every process must call. Returns its path."""
    path = folder / f"step_{progress.step:07d}"
    if world.first:
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
    barrier(world)
    writer = dcp.HuggingFaceStorageWriter(str(path), save_distributed=True)
    with _one_process():
        dcp.save(tensors, storage_writer=writer, no_dist=world.mesh is None)
    barrier(world)
    if world.first:
        about = {
            "version": CHECKPOINT_VERSION,
            "world": world.size,
            "step": progress.step,
            "loaders": progress.loaders,
            "config": progress.config,
        }
        write_atomic(path / MARKER, json.dumps(about, indent=1).encode())
    barrier(world)
    return path


def prune(folder: Path, keep: int, world: World, spare: Path | None = None) -> None:
    """Remove all but the newest `keep` whole checkpoints, `spare` and nothing that is being written."""
    if world.first:
        for path in complete(folder)[:-keep]:
            if path != spare:
                # the marker goes first: half a checkpoint must not look whole
                (path / MARKER).unlink()
                shutil.rmtree(path)


def complete(folder: Path) -> list[Path]:
    """Whole checkpoints, oldest first."""
    return sorted(marker.parent for marker in folder.glob(f"step_*/{MARKER}"))


def newest(folder: Path, world: World) -> Path | None:
    """The newest whole checkpoint as rank 0 sees it: a shared disk may show the others less."""
    steps = [int(path.name.removeprefix("step_")) for path in complete(folder)] if world.first else []
    step = torch.tensor([steps[-1] if steps else -1], device=world.device)
    if world.mesh is not None:
        dist.broadcast(step, 0)
    return folder / f"step_{int(step):07d}" if int(step) >= 0 else None


def read_progress(path: Path, config: Mapping[str, Any], world: World) -> Progress:
    """What the checkpoint says of itself, after checking that this run can go on from it.

    Raises:
        UserError: for another number of processes (names both), or another shape (names the field).
    """
    about = json.loads((path / MARKER).read_text("utf-8"))
    if about["version"] != CHECKPOINT_VERSION:
        raise UserError(
            f"checkpoint {path} has version {about['version']}, this program reads {CHECKPOINT_VERSION}",
            "resume with the program that wrote it",
        )
    if about["world"] != world.size:
        raise UserError(
            f"checkpoint {path} was written by {about['world']} processes, this run has {world.size}",
            f"resume with --nproc-per-node that makes {about['world']}, or start a new run in another folder",
        )
    for field in ("aligner", "base", "lora", "injection", "seed", "optim"):
        theirs, mine = _plain(about["config"][field]), _plain(config[field])
        if theirs != mine:
            raise UserError(
                f"checkpoint {path} was trained with another {_difference(field, theirs, mine)}",
                "resume with the recipe that wrote it, or start a new run in another folder",
            )
    return Progress(about["step"], about["loaders"], about["config"])


def read_shards(folder: Path, tensors: dict[str, Tensor]) -> None:
    """Fill tensors from a folder of safetensors files; of a sharded one, each process reads its own part alone."""
    reader = dcp.HuggingFaceStorageReader(str(folder))
    with _one_process():
        dcp.load(tensors, storage_reader=reader, no_dist=not dist.is_initialized())


def load(path: Path, tensors: dict[str, Tensor]) -> None:
    """Fill the tensors in place from a checkpoint; every process must call.

    Raises:
        UserError: when a tensor is missing or of other shape.
    """
    try:
        read_shards(path, tensors)
    except (dcp.api.CheckpointException, RuntimeError, ValueError, KeyError) as error:
        raise UserError(
            f"checkpoint {path} does not fit this model: {str(error).strip().splitlines()[-1]}",
            "resume with the recipe that wrote it",
        ) from error


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))


def _difference(field: str, theirs: Any, mine: Any) -> str:
    if isinstance(theirs, dict) and isinstance(mine, dict):
        field, theirs, mine = next(
            (f"{field}.{k}", theirs.get(k), mine.get(k)) for k in theirs | mine if theirs.get(k) != mine.get(k)
        )
    return f"{field}: {theirs} there, {mine} here"


@contextmanager
def _one_process() -> Iterator[None]:
    with warnings.catch_warnings():
        # without a process group DCP warns that it works in one process, as it was told to
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield
