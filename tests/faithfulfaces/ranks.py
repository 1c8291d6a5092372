"""What the tests run under torchrun: `ranks.py gradients|context-add|killed|resumed|base|probe OUT`."""

from __future__ import annotations

import dataclasses
import os
import signal
import socket
import subprocess
import sys
import types
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from faithfulfaces import parallel, recipes
from faithfulfaces.config import Train
from faithfulfaces.data import Pairs, PairSampler, Videos, VideoSampler
from faithfulfaces.learner import Learner, build, pair_loss
from faithfulfaces.runs import run
from faithfulfaces.trainer import Trainer
from faithfulfaces.training.madeup import made_up_clips


def launch(processes: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run this file, under torchrun where there are several processes."""
    command = [sys.executable]
    if processes > 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command += ["-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
        command += ["--master-addr", "127.0.0.1", "--master-port", str(port)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.run(
        [*command, __file__, *arguments], env=environment, capture_output=True, text=True, timeout=600, check=False
    )


def whole(tensor: Tensor) -> Tensor:
    return (tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor).detach().clone()


def move(learner: Learner) -> None:
    """Away from the zeros of LoRA's B and of the prior, where most gradients vanish."""
    with torch.no_grad():
        for name, parameter in sorted(learner.named_parameters()):
            if parameter.requires_grad and not parameter.any():
                values = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name))) * 0.05
                if hasattr(parameter, "placements"):
                    from torch.distributed.tensor import distribute_tensor

                    mesh, places = parameter.device_mesh, parameter.placements
                    values = distribute_tensor(values, mesh, places, src_data_rank=None)
                parameter.copy_(values)


def gradients(config: Train, world: parallel.World) -> dict[str, Tensor]:
    """Of both losses on the joined batch; each video has noise of its own, so any number of ranks draws the same."""
    clips = made_up_clips(config)
    learner = build(config, world)
    move(learner)
    sampler = PairSampler(clips, config.data.pair_batch, config.seed)
    draws = sampler.at(0)
    # two clips of one person, on different ranks when there are two
    draws[-1] = draws[-1]._replace(label=draws[0].label)
    mine = draws[world.rank :: world.size]
    pairs: Pairs = sampler.collate(mine, [sampler.read(draw) for draw in mine])
    pair_loss(learner, pairs, world).terms.loss.backward()
    if config.base is not None:
        video_sampler = VideoSampler(clips, config.data.video_batch, config.seed, config.data.text_tokens)
        rows = video_sampler.at(0)
        per_rank = len(rows) // world.size
        for i in range(world.rank * per_rank, (world.rank + 1) * per_rank):
            videos: Videos = video_sampler.collate(rows[i : i + 1], [video_sampler.read(rows[i])])
            noise = torch.Generator().manual_seed(i)
            (learner.flow_loss(videos, clips.blank, noise) / per_rank).backward()
    return {name: whole(p.grad) for name, p in learner.named_parameters() if p.grad is not None}


def shared(injection: str = "add") -> Train:
    """Six tokens a video, a gradient that reaches the aligner too, and recomputation: what splitting could break."""
    debug = recipes.debug()
    data = dataclasses.replace(debug.data, width=32, video_batch=2, video_micro_batch=2)
    together = dataclasses.replace(debug.parallel, context=2)
    return dataclasses.replace(debug, data=data, injection=injection, prior_grad=True, parallel=together)


def video_gradients(config: Train, world: parallel.World) -> dict[str, Tensor]:
    """Of L_FM through the trainer's own accumulation, and the loss."""
    clips = made_up_clips(config)
    trainer = Trainer(config, clips, world, Path())
    move(trainer.learner)
    assert trainer.videos is not None
    loss = trainer._flow_backward(next(trainer.videos))
    for loader in trainer._loaders().values():
        loader.close()
    named = trainer.learner.named_parameters()
    return {"loss": loss} | {name: whole(p.grad) for name, p in named if p.grad is not None}


def six_steps(steps: int = 6) -> Train:
    debug = recipes.debug()
    return dataclasses.replace(debug, steps=steps, checkpoint=dataclasses.replace(debug.checkpoint, every=3))


def trained(config: Train, out: Path, steps: int) -> dict[str, Tensor]:
    """Weights after some steps of the real trainer."""
    world = parallel.start()
    trainer = Trainer(config, made_up_clips(config), world, out)
    for _ in range(steps):
        trainer.train_step()
    weights = {name: whole(p) for name, p in trainer.learner.named_parameters() if p.requires_grad}
    for loader in trainer._loaders().values():
        loader.close()
    return weights


def kill_at_four(step: int, _: Mapping[str, float]) -> None:
    if step == 4:
        os.kill(os.getpid(), signal.SIGKILL)


def base_output(folder: Path, world: parallel.World) -> dict[str, Tensor]:
    """One forward of a base that was loaded through the meta device."""
    config = dataclasses.replace(
        recipes.debug(), base=dataclasses.replace(recipes.debug().base, folder=str(folder), arch={})
    )
    learner = build(config, world)
    assert isinstance(learner.transformer, nn.Module)
    with torch.no_grad():
        (out,) = learner.transformer(**inputs(), return_dict=False)
    return {"out": out}


def probed(folder: Path, world: parallel.World) -> dict[str, Tensor]:
    """What the probe measures of three cases, the best model that it keeps, and the weights that it measured.

    The latents are sampled by the sharded transformer; a VAE of random weights would show no face, so its place is
    taken by one that shows the photograph, dimmed by what was sampled.
    """
    from faithfulfaces.training import probe as probing
    from ffbench.protocols import PROTOCOLS
    from tests.faithfulfaces import encoded

    networks = folder / f"networks{world.rank}"
    networks.mkdir(exist_ok=True)
    PROTOCOLS["tiny"] = encoded.protocol(networks)  # type: ignore[index]
    config = encoded.recipe(folder / "base", folder / "clips/encoded")
    asked = dataclasses.replace(encoded.probe(folder / "clips/encoded"), cases=3)
    config = dataclasses.replace(config, probe=asked)
    learner = build(config, world)
    move(learner)
    generation = probing.GenerationProbe(config, world, folder / f"run{world.size}")
    person = torch.from_numpy(encoded.portrait().copy())

    def shown(_: object, latents_zFhw: Tensor) -> np.ndarray:
        light = 0.4 + 0.6 * torch.sigmoid(4 * latents_zFhw.mean())
        return np.stack([(person * light).to(torch.uint8).numpy()] * 5)

    probing.decoded = shown  # type: ignore[assignment]
    values = generation.measure(learner)
    generation.keep_best(learner, 7, values)
    trained = {name: whole(p) for name, p in learner.named_parameters() if p.requires_grad}
    return trained | {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}


def inputs() -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(5)
    return {
        "hidden_states": torch.randn(1, 16, 3, 4, 4, generator=g),
        "timestep": torch.tensor([500.0]),
        "encoder_hidden_states": torch.randn(1, 6, 16, generator=g),
        "control_hidden_states": torch.randn(1, 96, 3, 4, 4, generator=g),
    }


if __name__ == "__main__":
    what, target = sys.argv[1], Path(sys.argv[2])
    # some distribution installs a top-level package of this name, which would win over a folder without __init__
    sys.modules["tests"] = types.ModuleType("tests")
    sys.modules["tests"].__path__ = [str(Path(__file__).parents[1])]
    torch.set_num_threads(1)
    if what == "killed":
        run(six_steps(), target, report=kill_at_four)
    elif what == "resumed":
        run(six_steps(), target, resume=True)
    else:
        here = parallel.start(2 if what.startswith("context") else 1)
        result = {
            "gradients": lambda: gradients(recipes.debug(), here),
            "context-add": lambda: video_gradients(shared("add"), here),
            "context-token": lambda: video_gradients(shared("token"), here),
            "base": lambda: base_output(target.parent / "base", here),
            "probe": lambda: probed(target.parent, here),
        }[what]()
        if here.first:
            save_file({name: t.contiguous() for name, t in result.items()}, target)
        parallel.stop(here)
        sys.stdout.flush()
        # gloo's threads can abort the interpreter's own end ("terminate called"), long after the result is on disk
        os._exit(0)
