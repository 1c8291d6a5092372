"""One entry on any number of processes: `torchrun --nproc-per-node N -m faithfulfaces.train --recipe R --out DIR`."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from faithfulfaces.config import Train
from faithfulfaces.data import Clips
from ffbench.errors import UserError

Report = Callable[[int, Mapping[str, float]], None]
CONFIG, MODEL = "config.json", "model"


def run(
    config: Train, out: Path, *, resume: bool = False, report: Report | None = None, clips: Clips | None = None
) -> None:
    """Train in this process, or as one of torchrun's.

    Args:
        config: the recipe's.
        out: folder of the run: config.json, log.jsonl, checkpoints, and at the end model.
        resume: go on from the newest checkpoint; without one, start.
        report: called with what is logged, on the first process.
        clips: what to learn from; by default the recipe's shards.

    Raises:
        UserError: when the folder holds a run already, or the recipe does not fit data or machine.
    """
    from faithfulfaces import parallel
    from faithfulfaces.release import release
    from faithfulfaces.trainer import Trainer

    if not resume and (out / CONFIG).exists():
        raise UserError(f"{out} holds a run already", "go on with --resume, or choose another --out")
    world = parallel.start(config.parallel.context)
    try:
        trainer = Trainer(config, clips or open_clips(config), world, out)
        if resume:
            trainer.resume()
        parallel.barrier(world)
        if world.first:
            out.mkdir(parents=True, exist_ok=True)
            (out / CONFIG).write_text(json.dumps(dataclasses.asdict(config), indent=1) + "\n", "utf-8")
        trainer.train(report=report)
        release(trainer.learner, out / MODEL, world)
    finally:
        parallel.stop(world)


def open_clips(config: Train) -> Clips:
    """The recipe's shards, or made-up clips where it names none.

    Raises:
        UserError: when shards are missing or incomplete.
    """
    from faithfulfaces.madeup import made_up_clips
    from faithfulfaces.shards import ShardClips

    if not config.data.shards:
        return made_up_clips(config)
    return ShardClips(Path(config.data.shards), config.aligner.image_size if config.aligner else 1)


if __name__ == "__main__":
    from faithfulfaces.cli import main

    sys.argv.insert(1, "train")
    main()
