from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import WanVACEPipeline, WanVACETransformer3DModel

from faithfulfaces import recipes
from faithfulfaces.config import Base, Optim, Parallel, Train
from faithfulfaces.context import vace_context
from faithfulfaces.data import InMemoryClips, VideoSampler
from faithfulfaces.learner import Learner, base_folder, build
from faithfulfaces.parallel import World
from faithfulfaces.trainer import Trainer, learning_rate
from faithfulfaces.training.log import read_log
from faithfulfaces.training.madeup import made_up_clips
from faithfulfaces.training.probe import retrieval_rank1
from ffbench.errors import UserError

ALONE = World(0, 1, torch.device("cpu"), None)


def change(config: Train, part: str, **fields: object) -> Train:
    return dataclasses.replace(config, **{part: dataclasses.replace(getattr(config, part), **fields)})


def videos_of(config: Train) -> tuple[object, torch.Tensor]:
    clips = made_up_clips(config)
    assert clips.blank is not None
    sampler = VideoSampler(clips, config.data.video_batch, config.seed, config.data.text_tokens)
    rows = sampler.at(0)
    return sampler.collate(rows, [sampler.read(row) for row in rows]), clips.blank


def flow_gradients(config: Train) -> tuple[float, Learner]:
    learner = build(config, ALONE)
    videos, blank = videos_of(config)
    loss = learner.flow_loss(videos, blank, torch.Generator().manual_seed(0))
    loss.backward()
    return float(loss.detach()), learner


def test_step_zero_is_the_base_model_bit_for_bit() -> None:
    """LoRA's B and the prior's projection are zero: S cannot be seen yet, whatever the face."""
    config = recipes.debug()
    learner = build(config, ALONE)
    assert learner.prior is not None
    torch.manual_seed(config.seed)
    base = WanVACETransformer3DModel(**recipes.TINY_ARCH)
    x = {
        "hidden_states": torch.randn(2, 16, 3, 2, 2),
        "timestep": torch.tensor([300.0, 800.0]),
        "encoder_hidden_states": torch.randn(2, 6, 16),
        "control_hidden_states": torch.randn(2, 96, 3, 2, 2),
    }
    with torch.no_grad(), learner.prior.attached(learner.transformer, torch.randn(2, config.aligner.dim)):
        (mine,) = learner.transformer(**x, return_dict=False)
    with torch.no_grad():
        (theirs,) = base(**x, return_dict=False)
    assert torch.equal(mine, theirs)


def test_each_loss_moves_its_own_part() -> None:
    _, learner = flow_gradients(recipes.debug())
    moved = {name for name, p in learner.named_parameters() if p.grad is not None and p.grad.any()}
    assert any(".lora_B." in name for name in moved)
    assert any(name.startswith("prior.projection") for name in moved)
    frozen = [name for name, p in learner.named_parameters() if not p.requires_grad]
    assert all(name.startswith("transformer.") and ".lora_" not in name for name in frozen)


@pytest.mark.parametrize("prior_grad", [False, True])
def test_prior_grad_alone_lets_flow_matching_reach_the_aligner(prior_grad: bool) -> None:
    learner = build(dataclasses.replace(recipes.debug(), prior_grad=prior_grad), ALONE)
    # a zero projection would stop the gradient in either case
    with torch.no_grad():
        learner.prior.projection.weight.normal_()
    videos, blank = videos_of(recipes.debug())
    learner.flow_loss(videos, blank, torch.Generator().manual_seed(0)).backward()
    reached = learner.aligner.dictionary_CD.grad
    assert (reached is not None and bool(reached.any())) == prior_grad


@pytest.mark.parametrize("injection", ["add", "token", "modulation"])
def test_every_injection_trains(injection: str, tmp_path: Path) -> None:
    config = dataclasses.replace(recipes.debug(), injection=injection)
    trainer = Trainer(config, made_up_clips(config), ALONE, tmp_path)
    assert trainer.train_step()["loss_fm"] > 0
    assert trainer.learner.prior.projection.weight.any()


def test_bfloat16_base_keeps_adapters_and_aligner_in_float32() -> None:
    config = change(recipes.debug(), "parallel", dtype="bfloat16")
    loss, learner = flow_gradients(config)
    assert loss == pytest.approx(flow_gradients(recipes.debug())[0], rel=0.05)
    assert {p.dtype for p in learner.parameters() if p.requires_grad} == {torch.float32}
    assert learner.transformer.blocks[0].ffn.net[2].weight.dtype == torch.bfloat16
    # diffusers keeps these in float32 when it loads a model in bfloat16
    assert learner.transformer.condition_embedder.time_embedder.linear_1.weight.dtype == torch.float32
    assert learner.transformer.scale_shift_table.dtype == torch.float32


def test_micro_batches_sum_to_the_batch(tmp_path: Path) -> None:
    """Noise of its own for each draw makes the values differ, not the number of videos or the scale."""
    losses = []
    for size in (1, 4):
        config = change(recipes.debug(), "data", video_micro_batch=size)
        trainer = Trainer(config, made_up_clips(config), ALONE, tmp_path)
        assert trainer.micro_batches == 4 // size
        losses.append(float(np.mean([float(trainer.train_step()["loss_fm"]) for _ in range(6)])))
        trainer.videos.close()
    assert losses[0] == pytest.approx(losses[1], rel=0.5)


def test_a_gradient_that_is_not_finite_names_the_step_and_leaves_the_weights(tmp_path: Path) -> None:
    config = dataclasses.replace(recipes.debug(), base=None, lora=None)
    trainer = Trainer(config, made_up_clips(config), ALONE, tmp_path)
    trainer.train_step()
    with torch.no_grad():
        trainer.learner.aligner.positions_LD[0, 0] = torch.nan
    before = {name: p.clone() for name, p in trainer.learner.named_parameters()}
    with pytest.raises(UserError, match=r"not finite at step 2 \(loss_pia nan"):
        trainer.train_step()
    for name, parameter in trainer.learner.named_parameters():
        assert torch.equal(parameter.nan_to_num(), before[name].nan_to_num()), name


def test_temperature_is_clamped_after_the_step(tmp_path: Path) -> None:
    config = dataclasses.replace(recipes.debug(), base=None, lora=None)
    trainer = Trainer(config, made_up_clips(config), ALONE, tmp_path)
    with torch.no_grad():
        trainer.learner.temperature.log_scale.fill_(math.log(100.0) + 1)
    trainer.train_step()
    assert float(trainer.learner.temperature().detach()) <= 100.001


def test_learning_rate_warms_up_and_decays() -> None:
    optim = Optim(lr=1.0, warmup_steps=4)
    assert [learning_rate(optim, s, 10) for s in (1, 2, 4, 5, 10)] == [0.25, 0.5, 1.0, 1.0, 1.0]
    cosine = dataclasses.replace(optim, schedule="cosine")
    assert learning_rate(cosine, 7, 10) == pytest.approx(0.5)
    assert learning_rate(cosine, 10, 10) == pytest.approx(0.0)
    assert learning_rate(dataclasses.replace(optim, warmup_steps=0), 1, 10) == 1.0


def test_the_log_has_every_column(tmp_path: Path) -> None:
    config = dataclasses.replace(recipes.debug(), steps=4, log_every=2)
    seen: list[int] = []
    Trainer(config, made_up_clips(config), ALONE, tmp_path).train(report=lambda step, _: seen.append(step))
    lines = read_log(tmp_path / "log.jsonl")
    assert [line["step"] for line in lines] == seen == [2, 4]
    last = lines[-1]
    assert last["information_bound"] == pytest.approx(math.log(8) - last["loss_pia"], abs=1e-5)
    assert last["loss"] == pytest.approx(last["loss_pia"] + last["loss_fm"])
    assert 0 < last["dictionary_usage"] <= 1
    assert 0 <= last["data_wait_share"] <= 1
    assert 0.01 <= last["temperature"] < 1
    assert last["memory_gib"] > 0
    assert last["lr"] == config.optim.lr
    assert last["videos_per_second"] == pytest.approx(last["pairs_per_second"] / 2)


def test_the_context_is_what_the_pipeline_builds_from_a_reference() -> None:
    """Against diffusers' own `prepare_video_latents` and `prepare_masks`, with a codec that only averages."""

    class Codec(torch.nn.Module):
        """Frame means at 1/8 size in sixteen channels, as `AutoencoderKLWan.encode` shapes them."""

        dtype = torch.float32
        config = SimpleNamespace(latents_mean=[0.1] * 16, latents_std=[2.0] * 16, z_dim=16)

        def encode(self, video: torch.Tensor) -> object:
            small = torch.nn.functional.avg_pool3d(video[:, :, ::4], (1, 8, 8)).repeat(1, 6, 1, 1, 1)[:, :16] + 0.3
            return SimpleNamespace(latents=small)

    pipe = SimpleNamespace(
        vae=Codec(),
        transformer=SimpleNamespace(config=SimpleNamespace(patch_size=(1, 2, 2))),
        _execution_device=torch.device("cpu"),
        vae_scale_factor_temporal=4,
        vae_scale_factor_spatial=8,
    )
    face = torch.rand(3, 32, 48) * 2 - 1
    video, mask = torch.zeros(1, 3, 9, 32, 48), torch.ones(1, 3, 9, 32, 48)
    latents = WanVACEPipeline.prepare_video_latents(pipe, video, mask, [[face]], None, torch.device("cpu"))
    masks = WanVACEPipeline.prepare_masks(pipe, mask, [[face]])
    want = torch.cat([latents, masks], dim=1)

    def encode(frames: torch.Tensor) -> torch.Tensor:
        return (pipe.vae.encode(frames).latents - 0.1) / 2.0

    got = vace_context(encode(face[None, :, None]), encode(video)[0])
    assert got.shape == want.shape == (1, 96, 4, 4, 6)
    torch.testing.assert_close(got, want)


def test_a_base_whose_files_do_not_fit_is_refused(tmp_path: Path) -> None:
    WanVACETransformer3DModel(**recipes.TINY_ARCH).save_pretrained(tmp_path)
    config = change(recipes.debug(), "base", folder=str(tmp_path))
    build(config, ALONE)
    arch = (tmp_path / "config.json").read_text().replace('"num_layers": 2', '"num_layers": 3')
    (tmp_path / "config.json").write_text(arch)
    with pytest.raises(UserError, match=r"tensors of the base are missing \['blocks.2"):
        build(config, ALONE)
    with pytest.raises(UserError, match=r"no config\.json"):
        base_folder(Base(folder=str(tmp_path / "nothing")))


def test_latents_of_another_size_are_refused_with_both(tmp_path: Path) -> None:
    config = recipes.debug()
    with pytest.raises(UserError, match=r"cached latents are \(2, 2, 2\).*32x16x5 makes \(2, 2, 4\)"):
        Trainer(change(config, "data", width=32), made_up_clips(config), ALONE, tmp_path)


def test_a_pipeline_folder_is_a_base_too(tmp_path: Path) -> None:
    WanVACETransformer3DModel(**recipes.TINY_ARCH).save_pretrained(tmp_path / "transformer")
    assert base_folder(Base(folder=str(tmp_path))) == tmp_path / "transformer"


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch's own, while tracing
def test_compiled_blocks_give_the_same_loss_and_gradient() -> None:
    # one block of each stack: every block is compiled by itself
    plain_config = change(recipes.debug(), "base", arch={**recipes.TINY_ARCH, "num_layers": 1})
    config = change(plain_config, "parallel", compile=True)
    assert config.parallel == Parallel(activation_checkpointing=True, compile=True, dtype="float32")
    # eager "compilation": the wrapping is tested, not the code generator
    original, compiled_blocks = torch.compile, []
    torch.compile = lambda f: compiled_blocks.append(f) or original(f, backend="aot_eager")
    try:
        compiled = flow_gradients(config)
    finally:
        torch.compile = original
    assert len(compiled_blocks) == 2
    plain = flow_gradients(plain_config)
    assert compiled[0] == pytest.approx(plain[0], rel=1e-5)
    theirs, ours = (dict(learner.named_parameters()) for _, learner in (plain, compiled))
    assert list(ours) == list(theirs)
    learned = {name for name, parameter in theirs.items() if parameter.grad is not None}
    assert {name for name, parameter in ours.items() if parameter.grad is not None} == learned != set()
    for name in learned:
        torch.testing.assert_close(ours[name].grad, theirs[name].grad, rtol=1e-4, atol=1e-6, msg=name)


def test_retrieval_is_one_for_equal_views_and_chance_for_swapped_people() -> None:
    config = dataclasses.replace(recipes.debug(), base=None, lora=None)
    learner = build(config, ALONE)
    rng = np.random.default_rng(0)
    one = rng.integers(0, 255, (6, 1, 16, 16, 3)).astype(np.uint8)
    euler = np.zeros((6, 2, 3), np.float32)
    names = [str(i) for i in range(6)]
    assert retrieval_rank1(learner, InMemoryClips(names, np.concatenate([one, one], 1), euler)) == 1
    assert retrieval_rank1(learner, InMemoryClips(names, np.concatenate([one, one[::-1]], 1), euler)) == 0
