from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from diffusers import WanVACETransformer3DModel
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

from faithfulfaces import recipes
from faithfulfaces.cli import app
from faithfulfaces.config import Base, Data, Lora
from faithfulfaces.learner import bare_transformer
from faithfulfaces.training.flops import num_tokens, utilisation, video_work
from faithfulfaces.training.plan import plan, render


def test_the_14b_plan() -> None:
    made = plan(recipes.paper_vace14b())
    with torch.device("meta"):
        base = WanVACETransformer3DModel()
    assert made.frozen == sum(p.numel() for p in base.parameters()) == 17_337_592_896
    loras = {place: n for place, n in made.places.items() if place.endswith(".lora")}
    stacks, attentions = ("blocks", "vace_blocks"), ("attn1", "attn2")
    assert loras.keys() == {f"{s}.*.{a}.to_{p}.lora" for s in stacks for a in attentions for p in "qkv"}
    # 48 blocks x 6 projections, A and B of 128 x 5120 each
    assert sum(tensors for tensors, _ in loras.values()) == 2 * 288
    assert sum(n for _, n in loras.values()) == 288 * 2 * 128 * 5120 == 377_487_360
    assert made.places.keys() - loras.keys() == {"aligner", "temperature", "prior"}
    assert made.trainable == sum(n for _, n in made.places.values())
    assert made.tokens_per_video == 22 * 30 * 52
    assert made.tokens_per_step == 32 * made.tokens_per_video
    assert made.steps_per_epoch == 51_624 // 32
    assert made.accumulation[8] == 4
    assert made.accumulation[32] == 1
    assert "no multiple of 64" in str(made.accumulation[64])
    assert 64 not in made.hours["H20"]


def test_memory_by_part_is_bytes_over_gpus() -> None:
    one, eight = plan(recipes.paper_vace14b()).memory[:2]
    assert (one.gpus, eight.gpus) == (1, 8)
    # bfloat16, but for the few tensors that diffusers keeps in float32
    assert 17.34e9 * 2 / 2**30 < one.frozen < 17.34e9 * 2.02 / 2**30
    assert one.trainable == pytest.approx(391_464_961 * 4 / 2**30)
    assert one.optimizer == pytest.approx(2 * one.gradients)
    assert eight.frozen == pytest.approx(one.frozen / 8)
    assert one.gathered == 0 < eight.gathered
    assert one.total == pytest.approx(
        one.frozen + one.trainable + one.gradients + one.optimizer + one.gathered + one.activations
    )


def test_a_base_alone_has_a_plan_of_its_own() -> None:
    made = plan(recipes.mini_base())
    assert made.frozen == 0 and made.places.keys() == {"transformer"}
    # no pairs: what they would not divide by is no reason against a number of GPUs
    assert made.accumulation[1] == 1
    assert "Data.video_batch 16" in str(made.accumulation[8])
    assert made.memory[0].activations > 0
    assert "plan of mini_base" in render(made)


def test_operations_are_torch_s_own_count() -> None:
    config = dataclasses.replace(
        recipes.debug(),
        base=Base(arch=recipes.TINY_ARCH),
        lora=Lora(rank=4, alpha=4),
        data=Data(shards="", width=128, height=96, num_frames=9, text_tokens=512),
    )
    transformer = bare_transformer(config, recipes.TINY_ARCH)
    frames, height, width = 4, 12, 16
    counter = FlopCounterMode(display=False)
    with counter:
        out = transformer(
            hidden_states=torch.zeros(1, 16, frames, height, width),
            timestep=torch.tensor([500.0]),
            encoder_hidden_states=torch.zeros(1, 512, 16),
            control_hidden_states=torch.zeros(1, 96, frames, height, width),
            return_dict=False,
        )[0]
        forward = counter.get_total_flops()
        out.sum().backward()
    work = video_work(transformer, config.data)
    assert work.tokens == num_tokens(config.data) == frames * height // 2 * width // 2
    # embeddings and the output projection are left out; at this width they weigh far more than at 5120
    assert work.forward == pytest.approx(forward, rel=0.12)
    assert work.backward == pytest.approx(counter.get_total_flops() - forward, rel=0.3)
    assert work.done(recomputed=True) == 2 * work.forward + work.backward


def test_utilisation_knows_the_device_or_says_nothing() -> None:
    assert utilisation(148e12, "NVIDIA H20") == pytest.approx(1.0)
    assert utilisation(989e12 / 2, "NVIDIA H200") == pytest.approx(0.5)
    assert utilisation(1e12, "Some GPU") is None


def test_dry_run_prints_the_plan_as_text_and_json() -> None:
    runner = CliRunner()
    text = runner.invoke(app, ["train", "--recipe", "vace1_3b", "--dry-run"])
    assert text.exit_code == 0, text.output
    assert "ESTIMATE" in text.output
    assert "8 GPUs: 4" in text.output
    assert max(len(line) for line in text.output.splitlines()) <= 120
    made = json.loads(runner.invoke(app, ["train", "--recipe", "aligner_only", "--dry-run", "--json"]).output)
    assert made["frozen"] == 0
    assert made["tokens_per_step"] == 0
    assert made["assumed_utilisation"] == 0.45
