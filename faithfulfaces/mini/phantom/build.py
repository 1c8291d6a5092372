"""`faithfulfaces mini phantom`: a small Phantom from the main blocks of a small VACE base, once a seed.

OUT/seed-K/run is a training, OUT/seed-K/model what it made: a Wan folder in diffusers' layout, there when all is done.
OUT/footage holds what was rendered for it, where none was given.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from faithfulfaces import parallel, recipes
from faithfulfaces.backbone import load_encoders
from faithfulfaces.config import Checkpoint, Optim, Train
from faithfulfaces.data import InMemoryClips
from faithfulfaces.mini import footage as rendered
from faithfulfaces.mini.build import OutOfTimeError, Say
from faithfulfaces.mini.codec import PatchCodec
from faithfulfaces.mini.footage import Footage
from faithfulfaces.mini.phantom.clips import padded, phantom_clips
from faithfulfaces.mini.phantom.learn import PhantomLearner, main_stack
from faithfulfaces.mini.words import embed
from faithfulfaces.runs import CONFIG, MODEL
from faithfulfaces.trainer import Trainer
from faithfulfaces.training.release import release
from ffbench.durable import write_atomic
from ffbench.embedded import FOLDER
from ffbench.errors import UserError

ABOUT = "phantom.json"
"""Beside a model: {"method": "phantom", "seed": ..., "steps": ...}, by which `ffbench ablate` knows it."""
NEGATIVE = ""
"""The negative prompt of the mini suites."""


STEPS = 300
"""Of each training: what there was time for (docs/mini.md), not where it stops learning."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What it is made from, and how long."""

    base: Path = FOLDER / "base"
    """VACE folder in diffusers' layout, of the mini world."""
    footage: Path | None = None
    """Folder of train_0000.npz, ...; None renders them."""
    blocks: int = 60
    """Files of footage, at most where a folder is given."""
    block: int = rendered.BLOCK
    """People of a file that is rendered."""
    seeds: int = 3
    """Trainings: seeds 0, 1, ..."""
    steps: int = STEPS
    videos: int = 16
    """Of a step."""
    minutes: float = float("inf")
    """Budget of the call."""


def recipe(options: Options, seed: int) -> Train:
    """As the base was made, from its main blocks and with references behind the videos."""
    made = recipes.mini_base()
    assert made.base is not None
    return dataclasses.replace(
        made,
        name="mini_phantom",
        seed=seed,
        steps=options.steps,
        base=dataclasses.replace(made.base, folder=str(options.base.resolve() / "transformer")),
        data=dataclasses.replace(
            made.data, text_drop=0.0, video_batch=options.videos, video_micro_batch=options.videos
        ),
        optim=Optim(lr=1e-3, warmup_steps=50, schedule="cosine", betas=(0.9, 0.99)),
        checkpoint=Checkpoint(every=50),
        log_every=20,
    )


def build_phantom(out: Path, options: Options, say: Say) -> list[Path]:
    """Render and train what is not there yet; processes that run side by side share the trainings.

    Args:
        out: folder of the build.
        options: see Options.
        say: told what happens.

    Returns:
        The trainings that other processes hold at the end.

    Raises:
        UserError: where base or footage lack something, or a training was begun with another recipe.
        OutOfTimeError: the budget is spent; the same call goes on.
    """
    # before footage is rendered, which takes long
    if not (options.base / "transformer").is_dir():
        raise UserError(f"the base {options.base} holds no transformer", "give a VACE folder in diffusers' layout")
    watch = say, time.monotonic() + 60 * options.minutes
    blocks = _footage(out, options, watch)
    held = []
    for seed in range(options.seeds):
        folder = out / f"seed-{seed}"
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(folder / ".lock", timeout=0):
                if (folder / MODEL).is_dir():
                    continue
                _check_time(watch)
                _train(recipe(options, seed), folder / "run", (options.base, blocks), watch)
                _publish(folder, options, seed)
                say(f"phantom, seed {seed}: {folder / MODEL}")
        except Timeout:
            held.append(folder)
    return held


def _footage(out: Path, options: Options, watch: tuple[Say, float]) -> list[Path]:
    if options.footage is not None:
        found = sorted(options.footage.glob("train_*.npz"))[: options.blocks]
        if not found:
            raise UserError(
                f"{options.footage} holds no train_0000.npz",
                "give the folder `footage` of a `faithfulfaces mini build`, or leave --footage out to render it",
            )
        return found
    blocks = [out / "footage" / f"train_{block:04d}.npz" for block in range(options.blocks)]
    for number, path in enumerate(blocks):
        if not path.is_file():
            _check_time(watch)
            rendered.clips("train", number, "cpu", options.block).save(path)
            watch[0](f"footage {number + 1} of {options.blocks}")
    return blocks


def _check_time(watch: tuple[Say, float]) -> None:
    if time.monotonic() > watch[1]:
        raise OutOfTimeError


def _train(config: Train, run: Path, source: tuple[Path, Sequence[Path]], watch: tuple[Say, float]) -> None:
    base, blocks = source
    transformer = main_stack(base)
    clips, negative = open_clips(base, blocks)

    def report(step: int, values: Mapping[str, float]) -> None:
        watch[0](f"phantom, seed {config.seed}, {step} of {config.steps}: loss {values['loss_fm']:.3f}")
        if step < config.steps:
            _check_time(watch)

    world = parallel.start()
    trainer = Trainer(config, clips, world, run, PhantomLearner(config, transformer, negative).to(world.device))
    trainer.resume()
    write_atomic(run / CONFIG, (json.dumps(dataclasses.asdict(config), indent=1) + "\n").encode())
    try:
        trainer.train(report=report)
    except OutOfTimeError:
        trainer.save()
        raise
    release(trainer.learner, run / MODEL, world)


def open_clips(base: Path, blocks: Sequence[Path]) -> tuple[InMemoryClips, Tensor]:
    """Clips of files of footage by a base's encoders, and the negative prompt's embedding [L,D].

    Raises:
        UserError: where the base lacks a part, or is not of the mini world.
    """
    pipeline = load_encoders(base, torch.float32)
    if not isinstance(pipeline.vae, PatchCodec):
        raise UserError(f"the autoencoder of {base} is not the mini world's", "give the base of a `mini build`")
    words = pipeline.tokenizer, pipeline.text_encoder
    negative = padded(embed(*words, [NEGATIVE])[0], recipes.mini_base().data.text_tokens)
    footage = Footage.joined([Footage.load(path) for path in blocks])
    return phantom_clips(footage, pipeline.vae, *words), negative


def _publish(folder: Path, options: Options, seed: int) -> None:
    """The Wan folder that Phantom's method reads; it gets its name when it is whole."""
    fresh = folder / "model.part"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    shutil.move(folder / "run" / MODEL, fresh / "transformer")
    index: dict[str, Any] = json.loads((options.base / "model_index.json").read_text("utf-8"))
    for part in ("vae", "text_encoder", "tokenizer", "scheduler"):
        shutil.copytree(options.base / part, fresh / part)
    index |= {"_class_name": "WanPipeline", "transformer": ["diffusers", "WanTransformer3DModel"]}
    (fresh / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", "utf-8")
    about = {"method": "phantom", "seed": seed, "steps": options.steps}
    (fresh / ABOUT).write_text(json.dumps(about) + "\n", "utf-8")
    fresh.rename(folder / MODEL)
