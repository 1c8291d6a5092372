"""One training step of layers of the 14B's real shapes under FSDP2, on CPU processes or GPUs.

    python tests/benchmarks/fourteen_layers.py write FOLDER      # 2 + 1 layers, random bf16 weights, about 2.6 GB
    torchrun --nproc-per-node 2 tests/benchmarks/fourteen_layers.py step FOLDER

Two main blocks and one VACE block of width 5120 with LoRA rank 128 and the paper's aligner width go the published
base's way: meta device, shards, files. Each process prints its seconds, its own parameters and its peak memory.
"""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

from faithfulfaces import parallel, recipes
from faithfulfaces.config import Base, Train
from faithfulfaces.trainer import Trainer
from faithfulfaces.training.madeup import made_up_clips

ARCH = {"num_layers": 2, "vace_layers": [0]}


def config(folder: Path) -> Train:
    """The paper's recipe on few layers, few tokens and few pairs."""
    paper = recipes.paper_vace14b()
    data = dataclasses.replace(
        paper.data, shards="", width=64, height=32, num_frames=5, video_batch=2, pair_batch=4, text_tokens=16, workers=1
    )
    return dataclasses.replace(
        paper,
        aligner=dataclasses.replace(paper.aligner, elements=256),
        base=Base(folder=str(folder)),
        data=data,
        parallel=dataclasses.replace(paper.parallel, compile=False),
    )


def write(folder: Path) -> None:
    """Random weights in bf16, tensor by tensor, in diffusers' layout."""
    from diffusers import WanVACETransformer3DModel

    with torch.device("meta"):
        model = WanVACETransformer3DModel(**ARCH)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_config(folder)
    g = torch.Generator().manual_seed(0)
    tensors = {
        n: torch.empty(p.shape, dtype=torch.bfloat16).normal_(0, 0.02, generator=g) for n, p in model.named_parameters()
    }
    save_file(tensors, folder / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})


def step(folder: Path) -> None:
    """Build, one step, report."""
    world = parallel.start()
    began = time.perf_counter()
    recipe = config(folder)
    with tempfile.TemporaryDirectory() as out:
        trainer = Trainer(recipe, made_up_clips(recipe), world, Path(out))
        built = time.perf_counter() - began
        terms = trainer.train_step()
    local = sum(getattr(p, "_local_tensor", p).numel() for p in trainer.learner.parameters())
    report = {
        "rank": world.rank,
        "processes": world.size,
        "whole_parameters": sum(p.numel() for p in trainer.learner.parameters()),
        "own_parameters": local,
        "build_seconds": round(built, 1),
        "step_seconds": round(time.perf_counter() - began - built, 1),
        "peak_rss_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        **{name: round(float(value), 4) for name, value in terms.items()},
    }
    print(json.dumps(report), flush=True)
    parallel.stop(world)
    os._exit(0)


if __name__ == "__main__":
    torch.set_num_threads(1)
    {"write": write, "step": step}[sys.argv[1]](Path(sys.argv[2]))
