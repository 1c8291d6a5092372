"""What a loss curve does not tell: does the aligner know a person again in another pose, do videos show the person?"""

from __future__ import annotations

import io
import itertools
import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load, load_file
from torch import Tensor
from torch.nn import functional as F

from faithfulfaces.backbone import load_scheduler, load_vae
from faithfulfaces.config import Probe, Train
from faithfulfaces.context import vace_context
from faithfulfaces.data import Cached, Clips, Crop, stack
from faithfulfaces.faces import resized
from faithfulfaces.learner import Learner
from faithfulfaces.parallel import World, barrier
from faithfulfaces.shards import BLANK, read_shard
from faithfulfaces.training.facesim import FaceSim
from faithfulfaces.training.release import release
from ffbench.errors import UserError
from ffbench.protocols import get_protocol

if TYPE_CHECKING:
    from diffusers import AutoencoderKLWan, UniPCMultistepScheduler

BATCH = 64
FPS = 16
"""Of the base's videos."""
BEST, RESULT = "best", "probe.json"
CRITERION = "probe_facesim_missing_as_zero"
"""What the best checkpoint is chosen by: a model that loses the face cannot win by its few good frames."""


@torch.no_grad()
def representations(learner: Learner, crops: Sequence[Crop]) -> torch.Tensor:
    """S [N,D] of crops, unit length, on the learner's device."""
    device = next(learner.parameters()).device
    parts = []
    for start in range(0, len(crops), BATCH):
        rgb, euler = stack(crops[start : start + BATCH])
        parts.append(F.normalize(learner.align(rgb.to(device), euler.to(device)).s_BD.float(), dim=-1))
    return torch.cat(parts)


def retrieval_rank1(learner: Learner, clips: Clips, query: int = 1, gallery: int = 0) -> float:
    """Share of clips whose query crop is nearest, by cosine, to the gallery crop of the same clip.

    Args:
        learner: with its aligner.
        clips: one clip an identity, of people that were not trained on. Chance is 1 / their number.
        query: index of the crop that asks.
        gallery: index of the crop that answers.
    """
    asked, answers = (
        representations(learner, [clips.crop(c, index) for c in range(len(clips.identities))])
        for index in (query, gallery)
    )
    nearest = (asked @ answers.T).argmax(1)
    return float((nearest == torch.arange(len(nearest), device=nearest.device)).float().mean())


class Case(NamedTuple):
    """One person and one prompt."""

    name: str
    photograph: NDArray[np.uint8]
    """[H,W,3], the reference crop at its own scale."""
    crop: Crop
    """The same as the aligner reads it."""
    cached: Cached


class Cases(NamedTuple):
    """What the probe generates."""

    cases: list[Case]
    blank: Tensor
    negative: Tensor
    """[T,text_dim] of the negative prompt."""


def load_cases(folder: Path, count: int, image_size: int) -> Cases:
    """The first clips of a folder that `faithfulfaces encode` wrote.

    Raises:
        UserError: when the folder is of another kind, or holds too few clips.
    """
    common = load_file(folder / BLANK) if (folder / BLANK).is_file() else {}
    if not {"blank", "negative"} <= common.keys():
        raise UserError(
            f"{folder} has no {BLANK} with the negative prompt", "give Probe.shards a folder of `faithfulfaces encode`"
        )
    samples = itertools.chain.from_iterable(read_shard(path) for path in sorted(folder.glob("*.tar")))
    cases = []
    for sample in itertools.islice(samples, count):
        with Image.open(io.BytesIO(sample.crops[sample.reference])) as image:
            photograph = np.asarray(image.convert("RGB"))
        euler = np.asarray(sample.euler[sample.reference], np.float32)
        tensors = load(sample.files["cache.safetensors"])
        cached = Cached(tensors["latents"], tensors["reference"], tensors["text"])
        cases.append(Case(sample.key, photograph, Crop(resized(photograph, image_size), euler), cached))
    if len(cases) < count:
        raise UserError(
            f"{folder} holds {len(cases)} clips, Probe.cases is {count}", "lower Probe.cases or add clips of others"
        )
    return Cases(cases, common["blank"], common["negative"])


class GenerationProbe:
    """Generates fixed cases with the model in training, as the pipeline would, and measures FaceSim.

    All processes must call it: each generates its share. Random state of the training is not touched.

    Args:
        config: the recipe's, with `Train.probe` and a base folder in diffusers' layout (its VAE decodes).
        world: this process's place.
        out: folder of the run; the best model is kept in `out/best`.

    Raises:
        UserError: when cases, VAE or measuring networks are missing, or a case's reference holds no face.
    """

    def __init__(self, config: Train, world: World, out: Path) -> None:
        if config.probe is None or config.base is None:
            raise ValueError("a probe needs Train.probe and Train.base")
        self.config, self.probe, self.world, self.folder = config, config.probe, world, out / BEST
        base = Path(config.base.folder)
        image_size = config.aligner.image_size if config.aligner else 1
        self.cases = load_cases(Path(self.probe.shards), self.probe.cases, image_size)
        self.vae, self.scheduler = load_vae(base), load_scheduler(base)
        self.facesim = FaceSim(get_protocol(self.probe.protocol), self.probe.slot)
        self.references = [self.facesim.reference(case.photograph, f"case {case.name}") for case in self.cases.cases]
        if world.first:
            _settle(self.folder)
        barrier(world)
        self.best = _best(self.folder)

    @property
    def every(self) -> int:
        """Steps between two probes."""
        return self.probe.every

    @torch.no_grad()
    def measure(self, learner: Learner) -> dict[str, float]:
        """FaceSim over all cases, for the log.

        Returns:
            `probe_facesim`: mean over cases of the mean over frames with a face, NaN where there is none;
            `probe_facesim_missing_as_zero`: the same with missing faces as 0; `probe_scored`: share of cases with a
            face in any frame.
        """
        count, world = len(self.cases.cases), self.world
        table = torch.zeros(count, 2, dtype=torch.float64, device=world.device)
        self.vae.to(world.device)
        # every process makes as many videos: a sharded model's forward waits for all
        for place in range(world.rank, -(-count // world.size) * world.size, world.size):
            index = place % count
            frames = decoded(self.vae, sampled(learner, self.cases, index, self.probe, self.scheduler))
            if place < count:
                measured = self.facesim.frames(self.references[index], frames, FPS)
                table[index] = torch.tensor([m.value for m in measured])
        self.vae.to("cpu")
        if world.mesh is not None:
            torch.distributed.all_reduce(table)
        found, zeroed = table.cpu().unbind(1)
        return {
            "probe_facesim": float(found.nanmean()),
            CRITERION: float(zeroed.mean()),
            "probe_scored": float((~found.isnan()).double().mean()),
        }

    def keep_best(self, learner: Learner, step: int, values: Mapping[str, float]) -> bool:
        """Write the model to `out/best` when it is better than all before; every process must call."""
        if not values[CRITERION] > self.best:
            return False
        self.best = values[CRITERION]
        fresh = self.folder.with_name(BEST + ".new")
        if self.world.first:
            shutil.rmtree(fresh, ignore_errors=True)
        barrier(self.world)
        release(learner, fresh, self.world)
        if self.world.first:
            about = {"step": step, "measured": self.facesim.id, **values}
            (fresh / RESULT).write_text(json.dumps(about, indent=1) + "\n", "utf-8")
            shutil.rmtree(self.folder, ignore_errors=True)
            _settle(self.folder)
        barrier(self.world)
        return True


def sampled(learner: Learner, cases: Cases, index: int, probe: Probe, scheduler: UniPCMultistepScheduler) -> Tensor:
    """Latents [z,F,h,w] of one case: the steps of `WanVACEPipeline` on tensors that are cached."""
    case, config = cases.cases[index], learner.config
    transformer, device = learner.transformer, next(learner.parameters()).device
    steps = type(scheduler).from_config(scheduler.config, flow_shift=probe.flow_shift)
    steps.set_timesteps(probe.steps, device=device)
    reference, blank = (t.to(device).float() for t in (case.cached.reference[None], cases.blank))
    drawn = (1, len(blank), 1 + blank.shape[1], *blank.shape[2:])
    latents = torch.randn(drawn, generator=torch.Generator().manual_seed(probe.seed + index)).to(device)
    dtype = getattr(torch, config.parallel.dtype)
    control = vace_context(reference, blank).to(dtype)
    texts = [_padded(text, config.data.text_tokens).to(device, dtype) for text in (case.cached.text, cases.negative)]
    prior: AbstractContextManager[None] = nullcontext()
    if learner.prior is not None:
        rgb, euler = stack([case.crop])
        prior = learner.prior.attached(transformer, learner.align(rgb.to(device), euler.to(device)).s_BD)
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32, cache_enabled=False), prior:
        for t in steps.timesteps:
            with_prompt, without = (
                transformer(
                    hidden_states=latents.to(dtype),
                    timestep=t.expand(1),
                    encoder_hidden_states=text,
                    control_hidden_states=control,
                    return_dict=False,
                )[0]
                for text in texts
            )
            prediction = without + probe.guidance * (with_prompt - without)
            latents = steps.step(prediction, t, latents, return_dict=False)[0]
    return latents[0, :, 1:]


def decoded(vae: AutoencoderKLWan, latents_zFhw: Tensor) -> NDArray[np.uint8]:
    """Frames uint8 [T,H,W,3]; values that are not finite become black, where no face is found."""
    mean, std = (
        torch.tensor(values, device=latents_zFhw.device).view(1, -1, 1, 1, 1)
        for values in (vae.config.latents_mean, vae.config.latents_std)
    )
    video = vae.decode(latents_zFhw[None].float() / (1.0 / std) + mean, return_dict=False)[0][0]
    pixels = ((video * 0.5 + 0.5).clamp(0, 1).nan_to_num(0.0) * 255).round()
    return np.asarray(pixels.permute(1, 2, 3, 0).to("cpu", torch.uint8))


def _padded(text: Tensor, length: int) -> Tensor:
    return F.pad(text[:length], (0, 0, 0, max(0, length - len(text))))[None]


def _settle(folder: Path) -> None:
    """Finish a change of the best model that was interrupted between its two renames."""
    fresh = folder.with_name(BEST + ".new")
    if not folder.exists() and (fresh / RESULT).is_file():
        fresh.rename(folder)


def _best(folder: Path) -> float:
    path = folder / RESULT
    return float(json.loads(path.read_text("utf-8"))[CRITERION]) if path.is_file() else float("-inf")
