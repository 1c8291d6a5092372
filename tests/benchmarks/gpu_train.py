"""What training costs on one GPU, in one call of less than ten minutes.

    python tests/benchmarks/gpu_train.py --out DIR [--tiny]

`pool`: the fused correlation-max-pool, forward and backward, against the naive form and against the forward matrix
product alone, at the paper's size. `train`: the real trainer's step on a base of VACE-1.3B's shape with random weights,
at 832x480x17 (9,360 tokens): seconds, tokens a second, share of the peak, and memory with and without activation
checkpointing. DIR/gpu_train.json is written after every row, so that a run cut short leaves what it had. `--tiny` runs
the same code at toy sizes on any machine; its numbers mean nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from faithfulfaces import recipes
from faithfulfaces.config import Train
from faithfulfaces.maxpool import correlation_max_pool
from faithfulfaces.parallel import World
from faithfulfaces.trainer import Trainer
from faithfulfaces.training.flops import num_tokens, utilisation
from faithfulfaces.training.madeup import made_up_clips

PAPER = {"B": 2048, "L": 196, "C": 4096, "D": 1024}
TOY = {"B": 8, "L": 16, "C": 64, "D": 16}
Row = dict[str, Any]


def main() -> None:
    """Measure part by part, and write after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tiny", action="store_true")
    given = parser.parse_args()
    if not given.tiny and not torch.cuda.is_available():
        sys.exit("no GPU here\nrun it with --tiny, which measures nothing, or on a machine with a GPU")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    given.out.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {"machine": _machine(device), "tiny": given.tiny, "pool": [], "train": []}

    def keep(part: str, row: Row) -> None:
        found[part].append(row)
        (given.out / "gpu_train.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")
        print(json.dumps({part: row}), flush=True)

    for dtype in (torch.float32, torch.bfloat16):
        keep("pool", pool(device, dtype, TOY if given.tiny else PAPER, rounds=3 if given.tiny else 10))
    for checkpointing, compiled in ((True, False), (False, False), (True, True)):
        if given.tiny and compiled:
            continue
        keep("train", train(device, _config(given.tiny, checkpointing, compiled), steps=2 if given.tiny else 10))


def pool(device: torch.device, dtype: torch.dtype, size: dict[str, int], rounds: int) -> Row:
    """Median milliseconds of the three forms and their peak MiB beyond inputs, outputs and gradients."""
    B, L, C, D = size.values()
    g = torch.Generator().manual_seed(0)
    tokens = torch.randn(B, L, D, generator=g).to(device, dtype).requires_grad_()
    dictionary = torch.randn(C, D, generator=g).to(device, dtype).requires_grad_()
    weights = torch.randn(B, C, generator=g).to(device, dtype)

    def both(form: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
        tokens.grad = dictionary.grad = None
        form(tokens, dictionary).backward(weights)

    @torch.no_grad()
    def product() -> None:
        torch.matmul(tokens.view(-1, D), dictionary.T)

    forms: dict[str, Callable[[], None]] = {
        "fused": lambda: both(correlation_max_pool),
        "naive": lambda: both(lambda e, d: (e @ d.T).amax(1)),
        "product": product,
    }
    row: Row = {**size, "dtype": str(dtype).removeprefix("torch."), "rounds": rounds}
    returned = tokens.numel() + dictionary.numel()
    for name, form in forms.items():
        tokens.grad = dictionary.grad = None
        form()
        tokens.grad = dictionary.grad = None
        before = _allocated(device, reset=True)
        form()
        kept = 0 if name == "product" else (returned + B * C) * tokens.element_size()
        row[f"{name}_extra_mib"] = (_peak(device) - before - kept) / 2**20 if device.type == "cuda" else None
        row[f"{name}_ms"] = statistics.median(_milliseconds(form, device) for _ in range(rounds))
    row["fused_to_product"] = row["fused_ms"] / row["product_ms"]
    return row


def train(device: torch.device, config: Train, steps: int) -> Row:
    """Median seconds of a step after two for warming up, what follows from them, and the peak of memory."""
    parallel = config.parallel
    row: Row = {"checkpointing": parallel.activation_checkpointing, "compile": parallel.compile, "steps": steps}
    row |= {"video": f"{config.data.width}x{config.data.height}x{config.data.num_frames}", "videos": 1}
    with tempfile.TemporaryDirectory() as folder:
        try:
            trainer = Trainer(config, made_up_clips(config), World(0, 1, device, None), Path(folder))
            row["parameters"] = sum(p.numel() for p in trainer.learner.parameters())
            for _ in range(2):
                trainer.train_step()
            _allocated(device, reset=True)
            seconds = [_milliseconds(trainer.train_step, device) / 1000 for _ in range(steps)]
        except torch.OutOfMemoryError as error:
            return row | {"failed": str(error).partition("\n")[0]}
        finally:
            gc.collect()
    for loader in (trainer.pairs, trainer.videos):
        if loader is not None:
            loader.close()
    step = statistics.median(seconds)
    tokens = num_tokens(config.data)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return row | {
        "tokens": tokens,
        "seconds_per_step": step,
        "slowest": max(seconds),
        "tokens_per_second": tokens / step,
        "operations": trainer.work,
        "flops_utilisation": utilisation(trainer.work / step, name),
        "peak_gib": _peak(device) / 2**30 if device.type == "cuda" else None,
    }


def _config(tiny: bool, checkpointing: bool, compiled: bool) -> Train:
    """One video and few pairs a step: the pool has its own rows, and a step is then nearly all the base's."""
    config = recipes.debug() if tiny else recipes.vace1_3b()
    pairs = 4 if tiny else 32
    data = dataclasses.replace(
        config.data, shards="", video_batch=1, video_micro_batch=1, pair_batch=pairs, num_frames=5 if tiny else 17
    )
    parallel = dataclasses.replace(config.parallel, activation_checkpointing=checkpointing, compile=compiled)
    base = dataclasses.replace(config.base, folder="")
    return dataclasses.replace(config, data=data, parallel=parallel, base=base)


def _milliseconds(work: Callable[[], Any], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    began = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return 1000 * (time.perf_counter() - began)


def _allocated(device: torch.device, *, reset: bool) -> int:
    if device.type != "cuda":
        return 0
    if reset:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device)


def _peak(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated(device)


def _machine(device: torch.device) -> Row:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {"device": name, "torch": torch.__version__, "cuda": torch.version.cuda, "python": platform.python_version()}


if __name__ == "__main__":
    main()
