"""Does the aligner learn to know people again in another pose? Rendered people, the included trainer, a CPU.

    python tests/benchmarks/aligner_learning.py --out runs/learning [--footage DIR] [--steps 1200] [--depth 2] [...]

Trains the aligner alone (L_PIA, no base) on pairs of frames of different clips, light and dress, and their mirror
images as other people. Measured on people of the split `test`, whom it never sees: rank-1 of every frame against the
most frontal frame of each person, log n - L_PIA, and whether dictionary elements answer to pose (mutual information
with the pose group, against poses shuffled within people). What is printed, as JSON lines, is in OUT/learning.json.

Without --footage it renders the people (of the split `measure`) into OUT/footage, block by block, half a second a
person on one core; `--footage` takes such a folder, or that of `faithfulfaces mini build`.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch

from faithfulfaces.config import Aligner, Data, Optim, Train
from faithfulfaces.data import Cached, Crop
from faithfulfaces.mini import footage
from faithfulfaces.mini.figures import across_poses, face_crops
from faithfulfaces.mini.footage import BLOCK, Footage
from faithfulfaces.parallel import World
from faithfulfaces.trainer import Trainer

MIRROR = np.array([1, -1, -1], np.float32)
"""Of pitch, yaw and roll."""
TEST_BLOCKS = 3
"""150 people."""
QUICK = 9
"""Shuffles of a measurement on the way."""


class LooseClips:
    """All shown frames of a person as one clip, and their mirror images as another person's."""

    blank = None

    def __init__(self, people: Footage, size: int) -> None:
        crops, rows = face_crops(people, size)
        groups = [[crops[i] for i in np.flatnonzero(rows == person)] for person in np.unique(rows)]
        self._clips = [group for group in groups if len(group) > 1]
        names = [str(number) for number in range(len(self._clips))]
        self.identities = [*names, *(f"{name} mirrored" for name in names)]
        self.num_crops = [len(clip) for clip in self._clips] * 2
        self.references = [0] * len(self.identities)

    def crop(self, clip: int, index: int) -> Crop:
        """One crop; of the second half, mirrored."""
        found = self._clips[clip % len(self._clips)][index]
        if clip < len(self._clips):
            return found
        return Crop(np.ascontiguousarray(found.rgb[:, ::-1]), found.euler * MIRROR)

    def cached(self, clip: int) -> Cached:
        """Nothing: L_PIA needs no videos."""
        raise KeyError(clip)


def main() -> None:
    """Render or read, train, measure, print."""
    args = _arguments()
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    folder = args.footage or args.out / "footage"
    folder.mkdir(exist_ok=True)
    aligner = Aligner(
        elements=args.elements, dim=args.dim, image_size=48, patch=args.patch, depth=args.depth, heads=4,
        euler=not args.no_euler,
    )  # fmt: skip
    began = time.perf_counter()
    people = _loose(folder, "measure", -(-args.people // BLOCK))
    strangers = _loose(folder, "test", TEST_BLOCKS)
    print(json.dumps({"people": len(people.seeds), "footage_seconds": _since(began)}), flush=True)
    config = Train(
        name="aligner_learning", steps=args.steps, seed=args.seed, aligner=aligner, log_every=args.steps,
        data=Data(shards="", pair_batch=args.pairs, workers=1),
        optim=Optim(lr=args.lr, warmup_steps=min(50, args.steps // 10), schedule="cosine", betas=(0.9, 0.99)),
    )  # fmt: skip
    trainer = Trainer(config, LooseClips(people, aligner.image_size), World(0, 1, torch.device("cpu"), None), args.out)
    told = [_measured(trainer, strangers, {}, 0.0, QUICK)]
    began, busy = time.perf_counter(), time.process_time()
    terms: list[dict[str, float]] = []
    while trainer.step < args.steps:
        terms.append({name: float(value) for name, value in trainer.train_step().items()})
        if trainer.step % args.every == 0 or trainer.step == args.steps:
            recent = {
                name: float(np.mean([one[name] for one in terms[-50:]]))
                for name in ("loss_pia", "information_bound", "accuracy")
            }
            recent |= {"cpu_seconds": round(time.process_time() - busy, 1)}
            shuffles = args.permutations if trainer.step == args.steps else QUICK
            told.append(_measured(trainer, strangers, recent, _since(began), shuffles))
    if trainer.pairs is not None:
        trainer.pairs.close()
    options = {name: str(value) for name, value in vars(args).items() if not isinstance(value, Path)}
    (args.out / "learning.json").write_text(json.dumps({"options": options, "steps": told}, indent=1) + "\n", "utf-8")


def _measured(
    trainer: Trainer, strangers: Footage, recent: dict[str, float], seconds: float, permutations: int
) -> dict[str, float]:
    assert trainer.learner.aligner is not None
    found = {"step": trainer.step, "seconds": seconds, **recent}
    found |= across_poses(trainer.learner.aligner, strangers, permutations)
    print(json.dumps(found), flush=True)
    return found


def _loose(folder: Path, split: str, blocks: int) -> Footage:
    made = []
    for block in range(blocks):
        path = folder / f"{split}_{block:04d}.npz"
        if not path.is_file():
            footage.loose(split, block).save(path)
        made.append(Footage.load(path))
    return Footage.joined(made)


def _since(began: float) -> float:
    return round(time.perf_counter() - began, 1)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--footage", type=Path)
    parser.add_argument("--people", type=int, default=1200)
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--every", type=int, default=100, help="steps between two measurements")
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--depth", type=int, default=2, help="0 is the paper's letter")
    parser.add_argument("--patch", type=int, default=8)
    parser.add_argument("--dim", type=int, default=192)
    parser.add_argument("--elements", type=int, default=512)
    parser.add_argument("--no-euler", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--permutations", type=int, default=999)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    main()
