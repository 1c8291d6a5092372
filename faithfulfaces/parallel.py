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

from ffbench.errors import UserError

TIMEOUT = timedelta(minutes=30)
"""The slowest thing that all wait for is one rank's reading of the base."""


@dataclass(frozen=True)
class World:
    """Where this process stands; `mesh` is None for a single process."""

    rank: int
    size: int
    device: torch.device
    mesh: DeviceMesh | None
    context_mesh: DeviceMesh | None = None
    """[data, ring 1, ulysses]: its last dimension are the processes that share the tokens of one video."""

    @property
    def first(self) -> bool:
        """Whether this process writes files."""
        return self.rank == 0

    @property
    def context(self) -> int:
        """Processes that share the tokens of one video: neighbours in rank."""
        return 1 if self.context_mesh is None else self.context_mesh["ulysses"].size()

    @property
    def video_rank(self) -> int:
        """Which share of the videos this process works on; all that share tokens work on the same."""
        return self.rank // self.context

    @property
    def video_size(self) -> int:
        """Number of shares of the videos."""
        return self.size // self.context


def start(context: int = 1) -> World:
    """Join the processes that torchrun started, or stand alone. The device is chosen before anything is loaded.

    Args:
        context: processes that share the tokens of one video.

    Raises:
        UserError: when the number of processes is no multiple of `context`, or torchrun did not start them.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size % context:
        raise UserError(
            f"Parallel.context {context} does not divide {size} processes",
            "start a multiple of it by torchrun --nproc-per-node, or set Parallel.context to 1",
        )
    absent = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if size > 1 and absent:
        raise UserError(
            f"WORLD_SIZE is {size}, and {', '.join(absent)} is not set", "start by torchrun, or take WORLD_SIZE away"
        )
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    if size == 1:
        return World(0, 1, device, None)
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=TIMEOUT, device_id=device if device.type == "cuda" else None)
    mesh = init_device_mesh(device.type, (size,), mesh_dim_names=("data",))
    shape, names = (size // context, 1, context), ("videos", "ring", "ulysses")
    context_mesh = init_device_mesh(device.type, shape, mesh_dim_names=names) if context > 1 else None
    return World(dist.get_rank(), size, device, mesh, context_mesh)


def stop(world: World) -> None:
    """Leave the process group."""
    if world.mesh is not None:
        dist.destroy_process_group()


def noise_generator(seed: int, world: World) -> torch.Generator:
    """Noise and timesteps of this process's videos; they differ between processes, unless these share the videos."""
    # a splitmix step keeps neighbouring (seed, rank) pairs far apart
    mixed = (seed * 0x9E3779B97F4A7C15 + (world.video_rank + 1) * 0xBF58476D1CE4E5B9) % 2**63
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


def share_tokens(transformer: Any, world: World) -> None:
    """Cut the tokens of each video over the processes that share it: DeepSpeed-Ulysses, by diffusers' hooks.

    Before the blocks each process takes its run of tokens; self-attention exchanges tokens for heads and back; after
    the last block the tokens are gathered, and every process computes the same loss. Gradients of adapters are then
    those of a process's own tokens: their sum over the processes is the gradient, so the loss is multiplied by
    `World.context` where FSDP2 averages over all.

    `transformer.enable_parallelism` does the same, but fails in diffusers 0.42 on a CPU (`rank %
    torch.accelerator.device_count()` divides by zero) and without a plan, which no VACE class has.

    Raises:
        UserError: when the base's attention heads do not divide.
    """
    if world.context_mesh is None:
        return
    from diffusers import ContextParallelConfig, ParallelConfig
    from diffusers.hooks import apply_context_parallel

    heads = transformer.config.num_attention_heads
    if heads % world.context:
        raise UserError(
            f"Parallel.context {world.context} does not divide the base's {heads} attention heads",
            f"choose a divisor of {heads}",
        )
    mesh = world.context_mesh["ring", "ulysses"]
    config = ParallelConfig(context_parallel_config=ContextParallelConfig(ulysses_degree=world.context, mesh=mesh))
    config.setup(world.rank, world.size, world.device, mesh=mesh)
    for module in transformer.modules():
        processor: Any = getattr(module, "processor", None)
        if hasattr(processor, "_parallel_config"):
            processor._parallel_config = config
    apply_context_parallel(transformer, config.context_parallel_config, _token_plan())


def _token_plan() -> dict[str, Any]:
    from diffusers.models._modeling_parallel import ContextParallelInput, ContextParallelOutput

    tokens = ContextParallelInput(split_dim=1, expected_dims=3)
    rotary = ContextParallelInput(split_dim=1, expected_dims=4, split_output=True)
    return {
        "rope": {0: rotary, 1: rotary},
        # later VACE blocks get what the first one made, and no other reads the video's tokens
        "vace_blocks.0": {"hidden_states": tokens, "control_hidden_states": tokens},
        "blocks.0": {"hidden_states": tokens},
        "proj_out": ContextParallelOutput(gather_dim=1, expected_dims=3),
    }


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
