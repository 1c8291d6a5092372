"""The training loop: two loaders, two losses, one optimizer, everything in a checkpoint."""

from __future__ import annotations

import dataclasses
import math
import resource
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from faithfulfaces import checkpoint, parallel
from faithfulfaces.config import Data, Optim, Train
from faithfulfaces.data import Clips, Loader, Pairs, PairSampler, Videos, VideoSampler, accumulation
from faithfulfaces.learner import Learner, build, pair_loss
from faithfulfaces.parallel import World
from faithfulfaces.training.flops import num_tokens, utilisation, video_work
from faithfulfaces.training.log import TrainingLog
from faithfulfaces.training.probe import GenerationProbe
from ffbench.errors import UserError

Report = Callable[[int, Mapping[str, float]], None]
Made = TypeVar("Made", Pairs, Videos)


def learning_rate(optim: Optim, step: int, steps: int) -> float:
    """Of optimizer step 1..steps: linear warm-up, then constant or a cosine to zero."""
    if step <= optim.warmup_steps:
        return optim.lr * step / optim.warmup_steps
    if optim.schedule == "constant":
        return optim.lr
    done = (step - optim.warmup_steps) / max(1, steps - optim.warmup_steps)
    return optim.lr * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


class Trainer:
    """One run on one process.

    Args:
        config: the recipe's.
        clips: where crops and cached videos come from.
        world: this process's place.
        out: folder of the run.
        learner: what learns; by default the recipe's.

    Raises:
        UserError: when batches do not divide, or the data is too small for them.
    """

    def __init__(self, config: Train, clips: Clips, world: World, out: Path, learner: Learner | None = None) -> None:
        self.config, self.clips, self.world, self.out = config, clips, world, out
        data = config.data
        self.micro_batches = accumulation(data, world.video_size) if config.base else 0
        self.pairs: Loader[Pairs] | None = None
        if config.aligner:
            pairs = PairSampler(clips, data.pair_batch, config.seed, with_reference=data.pairs == "reference")
            self.pairs = Loader(pairs, world.rank, world.size, data.workers, data.ahead)
        self.videos: Loader[Videos] | None = None
        if config.base:
            videos = VideoSampler(clips, data.video_batch, config.seed, data.text_tokens)
            _check_size(data, clips)
            _check_context(data, world)
            self.videos = Loader(videos, world.video_rank, world.video_size, data.workers, data.ahead)
        self.learner: Learner = learner or build(config, world)
        # counted once: the transformer's shapes do not change
        self.work = video_work(self.learner.transformer, data).model if self.learner.transformer is not None else 0.0
        self.trainable = [p for p in self.learner.parameters() if p.requires_grad]
        optim = config.optim
        self.optimizer = torch.optim.AdamW(
            self.trainable, optim.lr, betas=optim.betas, eps=optim.eps, weight_decay=optim.weight_decay
        )
        self.noise = parallel.noise_generator(config.seed, world)
        self.probe = GenerationProbe(config, world, out) if config.probe else None
        self.step = 0
        self.waited = 0.0
        elements = config.aligner.elements if config.aligner else 0
        self.used_C = torch.zeros(elements, dtype=torch.bool, device=world.device)

    def train_step(self) -> dict[str, Tensor]:
        """One optimizer step; the log's terms as tensors on the device.

        Raises:
            UserError: when the losses' gradient is not finite; weights are still those of the step before.
        """
        self.step += 1
        rate = learning_rate(self.config.optim, self.step, self.config.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        terms: dict[str, Tensor] = {}
        if self.videos is not None:
            terms["loss_fm"] = self._flow_backward(self._next(self.videos))
        if self.pairs is not None:
            aligned, winners = pair_loss(self.learner, self._next(self.pairs), self.world)
            aligned.loss.backward()
            self.used_C[winners] = True
            terms |= {
                "loss_pia": aligned.loss.detach(),
                "information_bound": aligned.information_bound,
                "accuracy": aligned.accuracy,
            }
        norm = nn.utils.clip_grad_norm_(self.trainable, self.config.optim.grad_clip)
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
        # the one wait for the device in a step: a broken gradient must never reach the weights
        if not math.isfinite(norm.item()):
            values = ", ".join(f"{name} {float(value):.4g}" for name, value in terms.items())
            raise UserError(
                f"gradient is not finite at step {self.step} ({values})",
                "go on from the last checkpoint with a lower Optim.lr, or look at the samples of this step",
            )
        self.optimizer.step()
        if self.learner.temperature is not None:
            self.learner.temperature.clamp()
        return terms | {"grad_norm": norm}

    def _flow_backward(self, videos: Videos) -> Tensor:
        if self.clips.blank is None:
            raise ValueError("L_FM needs cached latents of the grey video")
        total = torch.zeros((), device=self.world.device)
        blank = self.clips.blank.to(self.world.device)
        for i in range(self.micro_batches):
            rows = slice(i * self.config.data.video_micro_batch, (i + 1) * self.config.data.video_micro_batch)
            loss = self.learner.flow_loss(Videos(*(t[rows] for t in videos)), blank, self.noise) / self.micro_batches
            # processes that share a video each hold the gradient of their tokens, and FSDP2 takes the mean over all
            (loss * self.world.context).backward()
            total += loss.detach()
        return parallel.average(total, self.world)

    def _next(self, loader: Loader[Made]) -> Made:
        began = time.perf_counter()
        batch = next(loader)
        self.waited += time.perf_counter() - began
        return type(batch)(*(t.to(self.world.device, non_blocking=True) for t in batch))

    def train(self, *, report: Report | None = None, tensorboard: bool = False) -> None:
        """Step to the end of the schedule, with log and checkpoints. `report` gets what the log gets."""
        log = TrainingLog(self.out, self.step, tensorboard=tensorboard) if self.world.first else None
        every, began, self.waited = self.config.log_every, time.perf_counter(), 0.0
        since = self.step
        try:
            while self.step < self.config.steps:
                terms = self.train_step()
                seconds = time.perf_counter() - began
                probed = self._probed()
                if self.step % every == 0 or self.step == self.config.steps or probed:
                    values = self._logged(terms, seconds, self.step - since) | probed
                    began, since, self.waited = time.perf_counter(), self.step, 0.0
                    if log is not None:
                        log.write(self.step, values)
                        if report is not None:
                            report(self.step, values)
                if self.step % self.config.checkpoint.every == 0 or self.step == self.config.steps:
                    self.save()
        finally:
            if log is not None:
                log.close()
            for loader in self._loaders().values():
                loader.close()

    def _probed(self) -> dict[str, float]:
        if self.probe is None or (self.step % self.probe.every and self.step != self.config.steps):
            return {}
        values = self.probe.measure(self.learner)
        self.probe.keep_best(self.learner, self.step, values)
        return values

    @torch.no_grad()
    def _logged(self, terms: Mapping[str, Tensor], seconds: float, steps: int) -> dict[str, float]:
        values = {name: float(value) for name, value in terms.items()}
        values |= {
            "loss": values.get("loss_pia", 0.0) + values.get("loss_fm", 0.0),
            "lr": self.optimizer.param_groups[0]["lr"],
            "memory_gib": _peak_gib(self.world.device),
            "data_wait_share": self.waited / seconds,
            "seconds_per_step": seconds / steps,
        }
        if self.learner.temperature is not None:
            used = self.used_C.float()
            if self.world.mesh is not None:
                torch.distributed.all_reduce(used, torch.distributed.ReduceOp.MAX)
            self.used_C.zero_()
            values |= {
                "temperature": 1 / float(self.learner.temperature()),
                "dictionary_usage": float(used.mean()),
                "pairs_per_second": self.config.data.pair_batch * steps / seconds,
            }
        if self.videos is not None:
            rate = self.config.data.video_batch * steps / seconds
            values["videos_per_second"] = rate
            device = torch.cuda.get_device_name(self.world.device) if self.world.device.type == "cuda" else "cpu"
            share = utilisation(self.work * rate / self.world.size, device)
            values |= {} if share is None else {"flops_utilisation": share}
        return values

    def _loaders(self) -> dict[str, Loader[Pairs] | Loader[Videos]]:
        loaders = {"pairs": self.pairs, "videos": self.videos}
        return {name: loader for name, loader in loaders.items() if loader is not None}

    def save(self) -> Path:
        """Write a checkpoint and remove the oldest; every process must call."""
        loaders = {name: loader.state_dict() for name, loader in self._loaders().items()}
        progress = checkpoint.Progress(self.step, loaders, dataclasses.asdict(self.config))
        tensors = checkpoint.run_tensors(self.learner, self.optimizer, self.noise, self.world)
        folder = self.out / "checkpoints"
        path = checkpoint.save(folder, tensors, progress, self.world)
        checkpoint.prune(folder, self.config.checkpoint.keep, self.world)
        return path

    def resume(self) -> bool:
        """Go on from the newest checkpoint of the folder; false where there is none.

        Raises:
            UserError: when it is of another world size, shape or loader.
        """
        path = checkpoint.newest(self.out / "checkpoints", self.world)
        if path is None:
            return False
        progress = checkpoint.read_progress(path, dataclasses.asdict(self.config), self.world)
        for name, loader in self._loaders().items():
            loader.load_state_dict(progress.loaders[name])
        tensors = checkpoint.run_tensors(self.learner, self.optimizer, self.noise, self.world)
        checkpoint.load(path, tensors)
        self.noise.set_state(tensors[f"noise.{self.world.rank}"])
        self.step = progress.step
        return True


def _peak_gib(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    # Linux counts in KiB, macOS in bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)


def _check_context(data: Data, world: World) -> None:
    if num_tokens(data) % world.context:
        raise UserError(
            f"a video of Data.width, Data.height and Data.num_frames has {num_tokens(data)} tokens, which "
            f"Parallel.context {world.context} does not divide",
            "choose another Parallel.context or size",
        )


def _check_size(data: Data, clips: Clips) -> None:
    wanted = (data.latent_frames, data.height // 8, data.width // 8)
    if clips.blank is not None and tuple(clips.blank.shape[1:]) != wanted:
        raise UserError(
            f"cached latents are {tuple(clips.blank.shape[1:])} (frames, height, width), the recipe's "
            f"{data.width}x{data.height}x{data.num_frames} makes {wanted}",
            "encode the videos at the recipe's size, or set Data.width, Data.height and Data.num_frames",
        )
