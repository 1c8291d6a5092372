"""The base by itself: every tensor learns by L_FM, and what is written is a diffusers model."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from diffusers import WanVACETransformer3DModel

from faithfulfaces import recipes, runs
from faithfulfaces.config import Train
from faithfulfaces.data import VideoSampler
from faithfulfaces.learner import build
from faithfulfaces.model import load_model
from faithfulfaces.parallel import World
from faithfulfaces.runs import open_aligner
from faithfulfaces.training.log import read_log
from faithfulfaces.training.madeup import made_up_clips
from ffbench.errors import UserError

ALONE = World(0, 1, torch.device("cpu"), None)


def base_only(**data: object) -> Train:
    config = recipes.debug()
    data = {"video_micro_batch": 4, **data}
    return dataclasses.replace(config, aligner=None, lora=None, data=dataclasses.replace(config.data, **data))


def test_every_tensor_of_the_base_learns() -> None:
    learner = build(base_only(), ALONE)
    assert learner.aligner is None
    assert learner.prior is None
    assert learner.temperature is None
    assert all(p.requires_grad and p.dtype == torch.float32 for p in learner.parameters())
    assert not any("lora" in name for name, _ in learner.named_parameters())


def test_a_run_writes_the_base_as_diffusers_does_and_goes_on(tmp_path: Path) -> None:
    config = dataclasses.replace(base_only(), steps=6, checkpoint=dataclasses.replace(base_only().checkpoint, every=3))
    torch.manual_seed(0)
    runs.run(config, tmp_path / "whole")
    halves = dataclasses.replace(config, steps=3)
    runs.run(halves, tmp_path / "halves")
    runs.run(config, tmp_path / "halves", resume=True)
    models = [WanVACETransformer3DModel.from_pretrained(tmp_path / name / "model") for name in ("whole", "halves")]
    for (name, one), two in zip(models[0].named_parameters(), models[1].parameters(), strict=True):
        assert torch.equal(one, two), name
    first = build(config, ALONE).transformer.state_dict()
    assert all(not torch.equal(first[name], p) for name, p in models[0].named_parameters())
    assert json.loads((tmp_path / "whole/config.json").read_text())["aligner"] is None
    assert {"loss_fm", "loss", "videos_per_second"} <= read_log(tmp_path / "whole/log.jsonl")[-1].keys()


def test_some_prompts_are_left_out() -> None:
    """With every prompt left out, the prompt cannot matter; with none, it does."""
    for drop, alike in ((0.0, False), (0.999999, True)):
        config = base_only(text_drop=drop)
        clips = made_up_clips(config)
        sampler = VideoSampler(clips, 4, 0, config.data.text_tokens)
        videos = sampler.collate(sampler.at(0), [sampler.read(row) for row in sampler.at(0)])
        other = videos._replace(text=-3 * videos.text)
        learner = build(config, ALONE)
        one, two = (learner.flow_loss(v, clips.blank, torch.Generator().manual_seed(0)) for v in (videos, other))
        assert (one == two) == alike


@pytest.mark.parametrize("field", ["base", "lora"])
def test_parts_that_do_not_go_together_are_refused(field: str) -> None:
    with pytest.raises(ValueError, match=r"Train\.lora goes with"):
        dataclasses.replace(recipes.debug(), **{field: None})
    with pytest.raises(ValueError, match="nothing would be trained"):
        dataclasses.replace(recipes.debug(), aligner=None, base=None, lora=None)


def test_a_lora_alone_learns_while_the_base_stays(tmp_path: Path) -> None:
    """The row without aligner of Table 2: L_FM through the LoRA, no pairs, no prior."""
    config = dataclasses.replace(recipes.debug(), aligner=None, steps=2)
    learner = build(config, ALONE)
    assert {("lora_" in name, p.requires_grad) for name, p in learner.named_parameters()} == {
        (True, True),
        (False, False),
    }
    runs.run(config, tmp_path / "run")
    logged = read_log(tmp_path / "run/log.jsonl")[-1]
    assert "loss_fm" in logged
    assert "loss_pia" not in logged
    assert sorted(path.name for path in (tmp_path / "run/model").iterdir()) == [
        "README.md",
        "config.json",
        "pytorch_lora_weights.safetensors",
    ]
    about, parts = load_model(tmp_path / "run/model")
    assert (about.aligner, parts.aligner, parts.prior) == (None, None, None)
    (tmp_path / "run/model/pytorch_lora_weights.safetensors").unlink()
    with pytest.raises(UserError, match="has neither an aligner nor"):
        load_model(tmp_path / "run/model")
    with pytest.raises(UserError, match="trained without an aligner"):
        runs.run(config, tmp_path / "other")
        open_aligner(tmp_path / "other")
