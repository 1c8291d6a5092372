"""Recipes: functions that return a `Train`. A variant changes a copy: `dataclasses.replace(vace1_3b(), steps=100)`."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

from faithfulfaces.config import Aligner, Base, Checkpoint, Data, Lora, Optim, Parallel, Train
from ffbench.errors import UserError

TINY_ARCH = {
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "text_dim": 16,
    "freq_dim": 32,
    "ffn_dim": 32,
    "num_layers": 2,
    "vace_layers": [0],
    "rope_max_seq_len": 32,
}
MINI_ARCH = {
    "num_attention_heads": 4,
    "attention_head_dim": 64,
    "in_channels": 48,
    "out_channels": 48,
    "text_dim": 128,
    "freq_dim": 256,
    "ffn_dim": 768,
    "num_layers": 6,
    "vace_layers": [0, 2, 4],
    "vace_in_channels": 2 * 48 + 64,
    "rope_max_seq_len": 32,
}
VACE_1_3B_ARCH = {
    "num_attention_heads": 12,
    "attention_head_dim": 128,
    "ffn_dim": 8960,
    "num_layers": 30,
    "vace_layers": list(range(0, 30, 2)),
}


def paper_vace14b() -> Train:
    """Section 4.1 to the letter: VACE-14B, 832x480, 81 frames, LoRA rank 128 on QKV, C = 4096, 32 videos, 1024 pairs.

    The paper's 32 GPUs are a matter of torchrun, not of the recipe; on 8, a step accumulates 4 micro-batches.
    """
    return Train(
        name="paper_vace14b",
        steps=5000,
        aligner=Aligner(elements=4096),
        base=Base(folder="models/Wan2.1-VACE-14B-diffusers"),
        lora=Lora(rank=128),
        data=Data(width=832, height=480, num_frames=81, video_batch=32, pair_batch=1024),
        parallel=Parallel(activation_checkpointing=True, compile=True, dtype="bfloat16"),
    )


def vace1_3b() -> Train:
    """The paper's recipe on VACE-1.3B."""
    paper = paper_vace14b()
    base = Base(folder="models/Wan2.1-VACE-1.3B-diffusers", arch=VACE_1_3B_ARCH)
    return dataclasses.replace(paper, name="vace1_3b", base=base)


def aligner_only() -> Train:
    """The aligner by itself, on L_PIA; needs crops and angles, no videos and no base."""
    return dataclasses.replace(paper_vace14b(), name="aligner_only", base=None, lora=None)


_MINI_DATA = Data(
    shards="", width=64, height=64, num_frames=9, temporal_factor=2, pair_batch=64, video_batch=16,
    video_micro_batch=16, text_tokens=48, workers=1,
)  # fmt: skip


_ONE_STEP: dict[str, Any] = {"shift": 1e6, "prediction": "sample", "weighting": "uniform"}
"""All noise levels at one: the base says the mean video at once, which two CPU cores can learn in an hour.

The whole way from noise wants many times as much (docs/experiments.md).
"""


def mini_base() -> Train:
    """The mini world's base: a small VACE from nothing, every tensor trained, some prompts left out for guidance."""
    return Train(
        name="mini_base",
        steps=2500,
        aligner=None,
        base=Base(arch=MINI_ARCH, **_ONE_STEP),
        data=dataclasses.replace(_MINI_DATA, text_drop=0.15),
        optim=Optim(lr=1e-3, warmup_steps=100, schedule="cosine", betas=(0.9, 0.99)),
        parallel=Parallel(activation_checkpointing=False, dtype="bfloat16"),
        checkpoint=Checkpoint(every=250),
        log_every=50,
    )


def mini() -> Train:
    """The paper's two losses on the mini world's base, in half an hour of one CPU core.

    Pairs with the photograph, and S in the modulation: in fewer steps both learn what S is good for
    (docs/experiments.md).
    """
    return Train(
        name="mini",
        steps=1600,
        aligner=Aligner(elements=512, dim=192, image_size=48, patch=8, depth=2, heads=4),
        base=Base(folder="models/mini", arch=MINI_ARCH, **_ONE_STEP),
        lora=Lora(rank=32, alpha=32),
        data=dataclasses.replace(_MINI_DATA, pairs="reference"),
        injection="modulation",
        optim=Optim(lr=1e-3, warmup_steps=50, schedule="cosine", betas=(0.9, 0.99)),
        parallel=Parallel(activation_checkpointing=False, dtype="float32"),
        checkpoint=Checkpoint(every=100),
        log_every=20,
    )


def debug() -> Train:
    """Ten steps of everything on a CPU, with random weights and made-up clips: does the machinery run?"""
    return Train(
        name="debug",
        steps=10,
        aligner=Aligner(elements=64, dim=16, image_size=16, patch=4, depth=1, heads=2),
        base=Base(arch=TINY_ARCH),
        lora=Lora(rank=2, alpha=2),
        data=Data(
            shards="", width=16, height=16, num_frames=5, pair_batch=8, video_batch=4, video_micro_batch=2,
            text_tokens=6, workers=1,
        ),
        optim=Optim(lr=1e-3, warmup_steps=2),
        parallel=Parallel(activation_checkpointing=True, dtype="float32"),
        checkpoint=Checkpoint(every=5),
        log_every=1,
    )  # fmt: skip


RECIPES: dict[str, Callable[[], Train]] = {
    recipe.__name__: recipe for recipe in (paper_vace14b, vace1_3b, aligner_only, mini_base, mini, debug)
}


def recipe(name: str) -> Train:
    """A recipe by name, or `FILE.py:FUNCTION` of the user's own.

    Raises:
        UserError: when there is none of that name, it returns no `Train`, or a field of it cannot be.
    """
    if name in RECIPES:
        return RECIPES[name]()
    path, colon, function = name.rpartition(":")
    if not colon or not Path(path).is_file():
        raise UserError(f"no recipe {name!r}", f"choose of {', '.join(RECIPES)}, or give your own as FILE.py:FUNCTION")
    spec = importlib.util.spec_from_file_location("faithfulfaces_user_recipe", path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} is no Python file", "give FILE.py:FUNCTION")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        made = getattr(module, function, lambda: None)()
    except (ValueError, TypeError) as error:
        # what a field says of itself; any other error is the file's own and keeps its traceback
        raise UserError(f"{name}: {error}", "mend that field in the recipe") from error
    except SyntaxError as error:
        raise UserError(f"{path} is no Python: {error}", "mend that line") from error
    if not isinstance(made, Train):
        raise UserError(f"{name} gives no faithfulfaces.config.Train", "let the function return one")
    return made
