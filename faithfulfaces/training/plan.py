"""The plan of a run before anything is downloaded: the real model on the meta device, counted.

Parameters, tokens and steps are exact. Memory of activations and hours are estimates and say so.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from faithfulfaces.config import Train
from faithfulfaces.data import accumulation
from faithfulfaces.learner import Learner, bare_transformer
from faithfulfaces.training.flops import PEAK_BF16, VideoWork, video_work
from ffbench.errors import UserError

GPUS = (1, 8, 32, 64)
PAPER_SAMPLES = 51_624
"""Clips of the paper's data set (Section 3.4)."""
ASSUMED_UTILISATION = 0.45
GIB = 2**30


@dataclass(frozen=True)
class Memory:
    """GiB on one GPU, by part."""

    gpus: int
    frozen: float
    trainable: float
    gradients: float
    optimizer: float
    gathered: float
    """Two whole blocks: one in use, one on its way."""
    activations: float
    """Estimate."""

    @property
    def total(self) -> float:
        """Sum of the parts."""
        parts = (self.frozen, self.trainable, self.gradients, self.optimizer, self.gathered, self.activations)
        return sum(parts)


@dataclass(frozen=True)
class Plan:
    """What `--dry-run` prints."""

    recipe: str
    frozen: int
    trainable: int
    places: dict[str, tuple[int, int]]
    """Where trainable tensors are: kind -> (tensors, parameters)."""
    tokens_per_video: int
    tokens_per_step: int
    samples: int
    steps_per_epoch: int
    steps: int
    operations_per_step: float
    memory: list[Memory]
    accumulation: dict[int, int | str]
    """GPUs -> micro-batches a step, or why it does not divide."""
    hours: dict[str, dict[int, float]]
    """Estimate. Device -> GPUs -> hours of L_FM for all steps at the assumed utilisation."""

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return dataclasses.asdict(self) | {"assumed_utilisation": ASSUMED_UTILISATION}


def plan(config: Train, samples: int = PAPER_SAMPLES) -> Plan:
    """Count the run of a recipe.

    Args:
        config: the recipe's; of a base, the architecture in `Base.arch` is used, no file is opened.
        samples: clips of the data set.
    """
    with torch.device("meta"):
        transformer = None if config.base is None else bare_transformer(config, config.base.arch)
        learner = Learner(config, transformer)
    work = VideoWork(0, 0.0, 0.0) if transformer is None else video_work(transformer, config.data)
    trainable = {name: p for name, p in learner.named_parameters() if p.requires_grad}
    micro_batches = {gpus: _accumulation(config, gpus) for gpus in GPUS}
    fitting = [gpus for gpus, count in micro_batches.items() if isinstance(count, int)]
    operations = work.done(config.parallel.activation_checkpointing) * config.data.video_batch
    batch = config.data.video_batch if transformer is not None else config.data.pair_batch
    return Plan(
        recipe=config.name,
        frozen=sum(p.numel() for p in learner.parameters() if not p.requires_grad),
        trainable=sum(p.numel() for p in trainable.values()),
        places=_places(trainable),
        tokens_per_video=work.tokens,
        tokens_per_step=work.tokens * config.data.video_batch,
        samples=samples,
        steps_per_epoch=samples // batch,
        steps=config.steps,
        operations_per_step=operations,
        memory=[_memory(config, learner, work, gpus) for gpus in GPUS],
        accumulation=micro_batches,
        hours={
            name: {g: operations * config.steps / (g * peak * ASSUMED_UTILISATION) / 3600 for g in fitting}
            for name, peak in PEAK_BF16.items()
        },
    )


def _places(trainable: dict[str, nn.Parameter]) -> dict[str, tuple[int, int]]:
    tensors: Counter[str] = Counter()
    parameters: Counter[str] = Counter()
    for name, parameter in trainable.items():
        block, adapter, _ = re.sub(r"\.\d+\.", ".*.", name).removeprefix("transformer.").partition(".lora_")
        kind = block + ".lora" if adapter else name.partition(".")[0]
        tensors[kind] += 1
        parameters[kind] += parameter.numel()
    return {kind: (tensors[kind], parameters[kind]) for kind in tensors}


def _accumulation(config: Train, gpus: int) -> int | str:
    if config.aligner is not None and config.data.pair_batch % gpus:
        return f"Data.pair_batch {config.data.pair_batch} is no multiple of {gpus}"
    try:
        return 1 if config.base is None else accumulation(config.data, gpus)
    except UserError as error:
        return error.what


def _memory(config: Train, learner: Learner, work: VideoWork, gpus: int) -> Memory:
    def size(part: nn.Module, learns: bool) -> int:
        return sum(p.numel() * p.element_size() for p in part.parameters() if p.requires_grad == learns)

    frozen, trained = size(learner, False), size(learner, True)
    blocks = [] if learner.transformer is None else [*learner.transformer.blocks, *learner.transformer.vace_blocks]
    largest = max((size(b, True) + size(b, False) for b in blocks), default=0)
    return Memory(
        gpus=gpus,
        frozen=frozen / gpus / GIB,
        trainable=trained / gpus / GIB,
        gradients=trained / gpus / GIB,
        optimizer=2 * trained / gpus / GIB,
        gathered=2 * largest / GIB if gpus > 1 else 0.0,
        activations=_activations(config, learner, work, gpus) / GIB,
    )


def _activations(config: Train, learner: Learner, work: VideoWork, gpus: int) -> float:
    aligner, pairs = config.aligner, 0.0
    if aligner is not None:
        # tokens, and winners (int64) with weights of each crop; both halves of the pairs
        crops = 2 * config.data.pair_batch / gpus
        pairs = crops * (aligner.num_tokens * aligner.dim * 4 * (2 + 12 * aligner.depth) + aligner.elements * 12)
    if learner.transformer is None:
        return pairs
    arch, rows = learner.transformer.config, work.tokens * config.data.video_micro_batch
    width = arch.num_attention_heads * arch.attention_head_dim
    main, vace = len(learner.transformer.blocks), 2 * len(learner.transformer.vace_blocks)
    size = 2 if config.parallel.dtype == "bfloat16" else 4
    # inside a block: about 16 tensors of its width in the compute type, 8 in float32 (norms, adapters' inputs), two FFN
    inside = rows * (16 * width * size + 8 * width * 4 + 2 * arch.ffn_dim * size)
    kept = rows * width * size * (main + vace)
    videos = kept + inside if config.parallel.activation_checkpointing else inside * (main + vace // 2)
    # the two losses go backward one after the other
    return float(max(pairs, videos))


def render(made: Plan) -> str:
    """The plan as text, at most 100 columns."""
    lines = [
        f"plan of {made.recipe} (weights are not needed)",
        f"  frozen     {made.frozen:>15,}",
        f"  trainable  {made.trainable:>15,}",
    ]
    lines += [f"    {kind:<34}{tensors:>5} tensors {n:>13,}" for kind, (tensors, n) in made.places.items()]
    if made.tokens_per_video:
        lines += [f"  tokens     {made.tokens_per_video:,} a video, {made.tokens_per_step:,} a step"]
        lines += [f"  operations {made.operations_per_step:.3g} a step"]
    epochs = made.steps / made.steps_per_epoch if made.steps_per_epoch else float("nan")
    lines += [
        f"  steps      {made.steps:,} ({epochs:.1f} epochs of {made.steps_per_epoch:,}, from {made.samples:,} clips)",
    ]
    parts = ["frozen", "trainable", "gradients", "optimizer", "gathered", "activations", "total"]
    lines += ["", "GiB a GPU" + "".join(f"{p:>12}" for p in parts) + "  (activations: estimate)"]
    lines += [f"{m.gpus:>9}" + "".join(f"{getattr(m, p):>12.2f}" for p in parts) for m in made.memory]
    lines += ["", "micro-batches a step"]
    lines += [f"{g:>9} GPUs: {n}" for g, n in made.accumulation.items()]
    if made.operations_per_step:
        lines += ["", f"hours, an ESTIMATE at {ASSUMED_UTILISATION:.0%} of the peak, without data and VAE"]
        lines += [
            f"{name:>9}" + "".join(f"{h:>9.1f} ({g})" for g, h in row.items()) for name, row in made.hours.items()
        ]
    return "\n".join(lines)
