"""`faithfulfaces mini build`: everything that the mini world ships, from nothing; stopped and started at will.

OUT/footage, parts, base, faithful, instruments hold the stages; OUT/embedded is what ffbench/embedded ships.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from faithfulfaces import recipes, runs
from faithfulfaces.config import MINI_FACES, Train
from faithfulfaces.mini import figures, footage, instruments, words
from faithfulfaces.mini.assemble import SAMPLING, assemble
from faithfulfaces.mini.codec import PatchCodec, fit
from faithfulfaces.mini.dataset import clips_of
from faithfulfaces.mini.footage import Footage
from faithfulfaces.mini.truthset import CLIPS, clip_block, write_truth
from faithfulfaces.model import load_model, save_model

Say = Callable[[str], None]


class OutOfTimeError(Exception):
    """The budget is spent; the same command goes on."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much is made; the defaults are what is shipped."""

    block: int = footage.BLOCK
    """People of one file of footage."""
    train_blocks: int = 60
    measure_blocks: int = 24
    test_blocks: int = 3
    codec_people: int = 1250
    text_steps: int = 500
    base_steps: int = recipes.mini_base().steps
    faithful_steps: int = recipes.mini().steps
    arc_steps: int = 1500
    cur_steps: int = 1000
    pose_steps: int = 1000
    clip_steps: int = 700
    feature_steps: int = 500
    videos: int = recipes.mini().data.video_batch
    pairs: int = recipes.mini().data.pair_batch


TRIAL = Sizes(
    block=6, train_blocks=3, measure_blocks=3, test_blocks=2, codec_people=12, text_steps=5, base_steps=4,
    faithful_steps=4, arc_steps=3, cur_steps=3, pose_steps=3, clip_steps=3, feature_steps=3, videos=4, pairs=8,
)  # fmt: skip
"""A minute of everything: does the machinery run?"""


class Build:
    """One build in a folder.

    Args:
        out: folder of the build.
        sizes: of every stage.
        device: a PyTorch device for the renderer.
        minutes: budget of this command; infinity for none.
        say: told what happens.
    """

    def __init__(self, out: Path, sizes: Sizes, device: str, minutes: float, say: Say) -> None:
        self.out, self.sizes, self.device, self.say = out, sizes, device, say
        self.deadline = time.monotonic() + 60 * minutes

    def run(self) -> None:
        """Every stage that is not done yet.

        Raises:
            OutOfTimeError: the budget is spent.
        """
        for stage in (self.render, self.parts, self.instruments, self.base, self.faithful, self.ship):
            self.say(stage.__name__)
            stage()

    def render(self) -> None:
        """Footage in blocks, each a file."""
        sizes = self.sizes
        for split, blocks in (
            ("train", sizes.train_blocks),
            ("measure", sizes.measure_blocks),
            ("test", sizes.test_blocks),
        ):
            for block in range(blocks):
                path = self._block(split, block)
                if not path.is_file():
                    self._check_time()
                    made = footage.clips if split == "train" else footage.loose
                    made(split, block, self.device, sizes.block).save(path)
                    self.say(f"{split} block {block + 1} of {blocks}")

    def parts(self) -> None:
        """Codec, tokenizer and text encoder."""
        folder = self.out / "parts"
        if not (folder / "vae" / "config.json").is_file():
            fit(torch.from_numpy(self._footage("train").pixels[: self.sizes.codec_people])).save_pretrained(
                folder / "vae"
            )
        if not (folder / "text_encoder" / "config.json").is_file():
            tokenizer = words.make_tokenizer(words.vocabulary())
            encoder = words.make_encoder(len(tokenizer))
            losses = words.train_encoder(tokenizer, encoder, self.sizes.text_steps)
            tokenizer.save_pretrained(folder / "tokenizer")
            encoder.save_pretrained(folder / "text_encoder")
            self._log("text_encoder", [[i + 1, loss] for i, loss in enumerate(losses)])

    def instruments(self) -> None:
        """The measuring networks, on people of their own."""
        sizes, seen = self.sizes, None
        vocabulary = words.vocabulary()
        makers: Mapping[str, Callable[[Footage, instruments.Report], Any]] = {
            "arc": lambda f, r: instruments.train_embedder(f, "arc", sizes.arc_steps, 0, r),
            "pose": lambda f, r: instruments.train_pose(f, sizes.pose_steps, 0, r),
            "clip": lambda f, r: instruments.train_clip(f, vocabulary, sizes.clip_steps, 0, r),
            "cur": lambda f, r: instruments.train_embedder(f, "cur", sizes.cur_steps, 1, r),
            "features": lambda f, r: instruments.train_features(f, sizes.feature_steps, 0, r),
        }
        for name, make in makers.items():
            path = self.out / "instruments" / f"{name}.safetensors"
            if path.is_file():
                continue
            seen = seen or self._footage("measure")
            log: list[list[float]] = []
            net = make(seen, functools.partial(self._report, name, log))
            self._log(name, log)
            instruments.write(net, path)

    def base(self) -> None:
        """The base, from nothing."""
        config = dataclasses.replace(recipes.mini_base(), steps=self.sizes.base_steps)
        self._train(config, self.out / "base")
        if not (self.out / "base_folder" / "model_index.json").is_file():
            assemble(self.out / "parts", self.out / "base" / runs.MODEL, self.out / "base_folder")

    def faithful(self) -> None:
        """The paper's two losses on the frozen base."""
        config = recipes.mini()
        assert config.base is not None
        base = dataclasses.replace(config.base, folder=str(self.out / "base_folder" / "transformer"))
        self._train(dataclasses.replace(config, base=base, steps=self.sizes.faithful_steps), self.out / "faithful")

    def ship(self) -> None:
        """Everything in one folder, with figures of held-out people."""
        ready = self.out / "embedded"
        shutil.rmtree(ready, ignore_errors=True)
        shutil.copytree(self.out / "base_folder", ready / "base")
        config, parts = load_model(self.out / "faithful" / runs.MODEL)
        ours = dataclasses.replace(config, base="mini", faces=MINI_FACES, sampling=SAMPLING)
        save_model(ready / "checkpoint", ours, parts, torch.float16)
        for path in (self.out / "instruments").glob("*.safetensors"):
            shutil.copy(path, ready / path.name)
        loose = [Footage.load(self._block("test", block)) for block in range(self.sizes.test_blocks)]
        count = min(CLIPS, self.sizes.block)
        clips = footage.clips("test", clip_block(loose, count), self.device, count)
        write_truth(ready / "truth.npz", loose, clips)
        (ready / "words.txt").write_text("\n".join(words.vocabulary()) + "\n", "utf-8")
        (ready / "figures.json").write_text(json.dumps(self.figures(), indent=1) + "\n", "utf-8")

    def figures(self) -> dict[str, Any]:
        """Sizes, and what every network can do with people that it has not seen."""
        test = self._footage("test")
        codec = PatchCodec.from_pretrained(self.out / "parts" / "vae")
        unseen = Footage.load(self._block("train", self.sizes.train_blocks - 1))
        made = figures.of_instruments(self.out / "instruments", words.vocabulary(), test)
        return {"sizes": dataclasses.asdict(self.sizes), "codec": figures.codec_quality(codec, unseen)} | made

    def _train(self, config: Train, out: Path) -> None:
        if (out / runs.MODEL).is_dir():
            return
        sizes = self.sizes
        data = dataclasses.replace(
            config.data, video_batch=sizes.videos, video_micro_batch=sizes.videos, pair_batch=sizes.pairs
        )
        config = dataclasses.replace(config, data=data)
        from transformers import AutoTokenizer, UMT5EncoderModel

        folder = self.out / "parts"
        clips = clips_of(
            self._footage("train"),
            PatchCodec.from_pretrained(folder / "vae"),
            AutoTokenizer.from_pretrained(folder / "tokenizer"),
            UMT5EncoderModel.from_pretrained(folder / "text_encoder").eval(),
        )

        def report(step: int, values: Mapping[str, float]) -> None:
            shown = ", ".join(
                f"{name} {values[name]:.3f}" for name in ("loss_fm", "loss_pia", "accuracy") if name in values
            )
            self.say(f"{config.name} {step} of {config.steps}: {shown}")
            self._check_time()

        runs.run(config, out, resume=(out / runs.CONFIG).is_file(), report=report, clips=clips)

    def _footage(self, split: str) -> Footage:
        blocks = {
            "train": self.sizes.train_blocks,
            "measure": self.sizes.measure_blocks,
            "test": self.sizes.test_blocks,
        }
        return Footage.joined([Footage.load(self._block(split, block)) for block in range(blocks[split])])

    def _block(self, split: str, block: int) -> Path:
        return self.out / "footage" / f"{split}_{block:04d}.npz"

    def _report(self, name: str, log: list[list[float]], step: int, loss: float) -> None:
        log.append([step, loss])
        self.say(f"{name} {step}: loss {loss:.3f}")
        self._check_time()

    def _log(self, name: str, losses: list[list[float]]) -> None:
        path = self.out / "logs" / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(losses) + "\n", "utf-8")

    def _check_time(self) -> None:
        if time.monotonic() > self.deadline:
            raise OutOfTimeError
