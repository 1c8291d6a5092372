"""Several processes on one model: process group, seeds, gather with gradient, and the three wrappings in their order.

Order: activation checkpointing, then compile, then `fully_shard`. The first two replace a block's `forward`, the third
hooks its `__call__`: so names of tensors never change, a block is compiled together with its recomputation, and no
collective is inside a compiled graph.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.utils.checkpoint import checkpoint

TIMEOUT = timedelta(minutes=30)
"""The slowest thing that all wait for is one rank's reading of the base."""


@dataclass(frozen=True)
class World:
    """Where this process stands; `mesh` is None for a single process."""

    rank: int
    size: int
    device: torch.device
    mesh: DeviceMesh | None

    @property
    def first(self) -> bool:
        """Whether this process writes files."""
        return self.rank == 0


def start() -> World:
    """Join the processes that torchrun started, or stand alone. The device is chosen before anything is loaded."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    if size == 1:
        return World(0, 1, device, None)
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=TIMEOUT, device_id=device if device.type == "cuda" else None)
    return World(dist.get_rank(), size, device, init_device_mesh(device.type, (size,), mesh_dim_names=("data",)))


def stop(world: World) -> None:
    """Leave the process group."""
    if world.mesh is not None:
        dist.destroy_process_group()


def noise_generator(seed: int, world: World) -> torch.Generator:
    """Random numbers of this process alone: noise and timesteps differ between processes, initial weights do not."""
    # a splitmix step keeps neighbouring (seed, rank) pairs far apart
    mixed = (seed * 0x9E3779B97F4A7C15 + (world.rank + 1) * 0xBF58476D1CE4E5B9) % 2**63
    return torch.Generator(world.device).manual_seed(mixed)


def gather(rows: Tensor, world: World) -> Tensor:
    """All processes' rows, in the order of ranks, with gradient: [n,...] -> [size n,...].

    Each process's gradient of its own loss reaches the owner of a row, and they are summed there. When every process
    computes the same loss of all rows, that is `size` times its gradient; FSDP2 averages over processes, so the result
    is the gradient of one process on the joined batch.
    """
    if world.mesh is None:
        return rows
    gathered: Tensor = _Gather.apply(rows, world)
    return gathered


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, world: World) -> Tensor:
        ctx.size = world.size
        out = rows.new_empty(world.size * len(rows), *rows.shape[1:])
        dist.all_gather_into_tensor(out, rows.contiguous())
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        mine = grads[0].new_empty(len(grads[0]) // ctx.size, *grads[0].shape[1:])
        dist.reduce_scatter_tensor(mine, grads[0].contiguous())
        return mine, None


def average(value: Tensor, world: World) -> Tensor:
    """Mean of a scalar over processes, without gradient; for the log."""
    value = value.detach().clone()
    if world.mesh is not None:
        dist.all_reduce(value)
    return value / world.size


def barrier(world: World) -> None:
    """Wait for all."""
    if world.mesh is not None:
        dist.barrier(device_ids=[world.device.index] if world.device.type == "cuda" else None)


def checkpoint_activations(blocks: Iterable[nn.Module]) -> None:
    """Keep each block's input alone and compute the rest again in the backward pass."""
    for block in blocks:
        block.forward = _recomputed(block.forward)


def _recomputed(forward: Any) -> Any:
    def recomputed(*args: Any, **kwargs: Any) -> Any:
        # no dropout anywhere: there is no random state to restore
        return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)

    return recomputed


def compile_blocks(blocks: Iterable[nn.Module]) -> None:
    """Compile each block by itself: all have one shape, so the first one's graph serves all."""
    for block in blocks:
        block.forward = torch.compile(block.forward)


def shard(module: nn.Module, blocks: Iterable[nn.Module], world: World) -> None:
    """Cut parameters over all processes, block by block, then what is left at the root. One process: nothing.

    The root, too, gives its whole tensors back after each forward: a forward without backward (the log, a prior without
    gradient) would otherwise leave them there, and the next step would compute with them as they were before the
    update.
    """
    if world.mesh is None:
        return
    for block in blocks:
        fully_shard(block, mesh=world.mesh, reshard_after_forward=True)
    # a view that leaves a sharded module can lose its backward hook to an in-place operation
    module.register_forward_hook(_own_memory)
    fully_shard(module, mesh=world.mesh, reshard_after_forward=True)


def _own_memory(_: nn.Module, __: Any, output: Any) -> Any:
    return (output[0].clone(), *output[1:]) if type(output) is tuple else output
