"""The recipe `mini` with a part changed, trained with several seeds: the rows of Tables 2 to 4 at this world's size.

OUT/variants/NAME/seed-K/run is a training, OUT/variants/NAME/seed-K/model its checkpoint, there when all is done.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from faithfulfaces import recipes, runs
from faithfulfaces.config import MINI_FACES, Train
from faithfulfaces.data import Clips
from faithfulfaces.mini.assemble import SAMPLING
from faithfulfaces.mini.build import OutOfTimeError, Say, Sizes
from faithfulfaces.mini.codec import PatchCodec
from faithfulfaces.mini.dataset import clips_of
from faithfulfaces.mini.footage import Footage
from faithfulfaces.model import load_model, save_model
from ffbench.errors import UserError

FOLDER = "variants"
LADDER = (128, 256, 1024, 2048, 4096)
"""Dictionary sizes beside the recipe's 512: each an eighth of one of Table 3's, as 512 is of the paper's 4096."""


def _aligner(**changes: Any) -> Callable[[Train], Train]:
    def changed(config: Train) -> Train:
        assert config.aligner is not None
        return dataclasses.replace(config, aligner=dataclasses.replace(config.aligner, **changes))

    return changed


PARTS: Mapping[str, Callable[[Train], Train]] = {
    "full": lambda config: config,
    "no-euler": _aligner(euler=False),
    "no-aligner": lambda config: dataclasses.replace(config, aligner=None),
}
"""The rows of Table 2: name -> how the recipe is changed."""
POOLINGS = {f"pooling-{kind}": _aligner(pooling=kind) for kind in ("sum", "mean")}
"""Those of Table 4 beside the full one."""
ELEMENTS = {f"elements-{size}": _aligner(elements=size) for size in LADDER}
"""Those of Table 3 beside the full one."""
VARIANTS: Mapping[str, Callable[[Train], Train]] = {**PARTS, **POOLINGS, **ELEMENTS}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What is trained, and how long."""

    only: tuple[str, ...] = ()
    """Names of VARIANTS; empty for all."""
    seeds: int = 3
    """Trainings of each: seeds 0, 1, ..."""
    sizes: Sizes = dataclasses.field(default_factory=Sizes)
    minutes: float = float("inf")
    """Budget of the call."""

    def __post_init__(self) -> None:
        for name in self.only:
            if name not in VARIANTS:
                raise UserError(f"there is no variant {name!r}", f"choose of {', '.join(VARIANTS)}")


def order(only: Sequence[str], seeds: int) -> list[tuple[str, int]]:
    """Variants and seeds as they are trained: Table 2's with every seed, then Table 4's, then Table 3's."""
    return [
        (name, seed)
        for table in (PARTS, POOLINGS, ELEMENTS)
        for seed, name in product(range(seeds), table)
        if not only or name in only
    ]


def variant(name: str, seed: int, base: Path, sizes: Sizes) -> Train:
    """The recipe of one training on the base in a folder of diffusers' layout."""
    config = recipes.mini()
    assert config.base is not None
    data = dataclasses.replace(
        config.data, video_batch=sizes.videos, video_micro_batch=sizes.videos, pair_batch=sizes.pairs
    )
    own = dataclasses.replace(config.base, folder=str(base / "transformer"))
    return VARIANTS[name](dataclasses.replace(config, base=own, data=data, steps=sizes.faithful_steps, seed=seed))


def build_variants(out: Path, options: Options, say: Say) -> list[Path]:
    """Train what is not trained yet; processes that run side by side share the work, each training is held by one.

    Args:
        out: folder of `faithfulfaces mini build` whose footage, parts and base are made.
        options: see Options.
        say: told what happens.

    Returns:
        The trainings that other processes hold at the end.

    Raises:
        UserError: where the build lacks something, or a training was begun with another recipe.
        OutOfTimeError: the budget is spent; the same call goes on.
    """
    base = out / "base_folder"
    if not (base / "model_index.json").is_file():
        raise UserError(f"{base} holds no base", f"faithfulfaces mini build --out {out} makes one")
    deadline = time.monotonic() + 60 * options.minutes
    clips: Clips | None = None
    held = []
    for name, seed in order(options.only, options.seeds):
        folder = out / FOLDER / name / f"seed-{seed}"
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(folder / ".lock", timeout=0):
                if (folder / runs.MODEL).is_dir():
                    continue
                config = variant(name, seed, base, options.sizes)
                if not _trained_before(config, out / "faithful", folder):
                    clips = clips or _clips(out, options.sizes)
                    _train(config, folder, clips, (say, deadline))
                _publish(folder, base)
                say(f"{name}, seed {seed}: {folder / runs.MODEL}")
        except Timeout:
            held.append(folder)
    return held


def _train(config: Train, folder: Path, clips: Clips, watch: tuple[Say, float]) -> None:
    say, deadline = watch

    def report(step: int, values: Mapping[str, float]) -> None:
        shown = [f"{name} {values[name]:.3f}" for name in ("loss_fm", "loss_pia", "accuracy") if name in values]
        say(f"{folder.parent.name}, seed {config.seed}, {step} of {config.steps}: {', '.join(shown)}")
        if time.monotonic() > deadline:
            raise OutOfTimeError

    runs.run(config, folder / "run", resume=(folder / "run" / runs.CONFIG).is_file(), report=report, clips=clips)


def _trained_before(config: Train, other: Path, folder: Path) -> bool:
    """Take the training of `faithfulfaces mini build` over where it is the very same one."""
    wanted = json.loads(json.dumps(dataclasses.asdict(config)))
    if not (other / runs.MODEL).is_dir() or json.loads((other / runs.CONFIG).read_text("utf-8")) != wanted:
        return False
    shutil.rmtree(folder / "run", ignore_errors=True)
    shutil.copytree(other, folder / "run", ignore=shutil.ignore_patterns("checkpoints"))
    return True


def _publish(folder: Path, base: Path) -> None:
    """The checkpoint as `ffbench` reads it: with its base, the mini world's face reading and sampling."""
    config, parts = load_model(folder / "run" / runs.MODEL)
    config = dataclasses.replace(config, base=str(base.resolve()), faces=MINI_FACES, sampling=SAMPLING)
    fresh = folder / "model.part"
    save_model(fresh, config, parts)
    fresh.rename(folder / runs.MODEL)
    # once is enough: two folders would be taken for two trainings
    shutil.rmtree(folder / "run" / runs.MODEL)


def _clips(out: Path, sizes: Sizes) -> Clips:
    from transformers import AutoTokenizer, UMT5EncoderModel

    blocks = [out / "footage" / f"train_{block:04d}.npz" for block in range(sizes.train_blocks)]
    if lacking := [path for path in blocks if not path.is_file()]:
        raise UserError(f"{lacking[0]} is not there", f"faithfulfaces mini build --out {out} renders it")
    parts = out / "base_folder"
    return clips_of(
        Footage.joined([Footage.load(path) for path in blocks]),
        PatchCodec.from_pretrained(parts / "vae"),
        AutoTokenizer.from_pretrained(parts / "tokenizer"),
        UMT5EncoderModel.from_pretrained(parts / "text_encoder").eval(),
    )
