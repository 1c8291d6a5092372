"""The small Phantom's network is the base without its branch; its loss is stated anew in float64."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from diffusers import WanVACETransformer3DModel

from faithfulfaces import recipes
from faithfulfaces.data import Videos
from faithfulfaces.mini.phantom.learn import PhantomLearner, feed, main_stack
from ffbench.embedded import FOLDER
from ffbench.errors import UserError


def videos(count: int) -> Videos:
    drawn = torch.Generator().manual_seed(1)
    return Videos(
        torch.zeros(count, 3, 1, 1, dtype=torch.uint8),
        torch.zeros(count, 3),
        torch.randn(count, 48, 5, 8, 8, generator=drawn),
        torch.randn(count, 48, 1, 8, 8, generator=drawn),
        torch.randn(count, 48, 128, generator=drawn),
    )


@torch.no_grad()
def test_the_main_stack_is_the_base_with_its_branch_at_nothing() -> None:
    vace = WanVACETransformer3DModel.from_pretrained(FOLDER / "base" / "transformer", torch_dtype=torch.float32).eval()
    batch = videos(2)
    hidden, timestep = torch.cat([batch.latents, batch.reference], 2), torch.tensor([999, 400])
    control = torch.randn(2, 160, 6, 8, 8)
    none = torch.zeros(len(vace.config.vace_layers))
    (expected,) = vace(hidden, timestep, batch.text, None, control, none, return_dict=False)
    (got,) = main_stack(FOLDER / "base").eval()(hidden, timestep, batch.text, return_dict=False)
    assert torch.allclose(got, expected, atol=1e-5)
    (other,) = vace(hidden, timestep, batch.text, None, control, none + 1, return_dict=False)
    assert (other - expected).abs().max() > 0.1, "the test would miss a branch that is on"


def test_a_folder_without_a_vace_transformer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no transformer"):
        main_stack(tmp_path)


def test_shares_of_the_passes_are_those_of_the_guidance() -> None:
    batch = videos(1)
    many = Videos(*(tensor.expand(600, *tensor.shape[1:]) for tensor in batch))
    negative = torch.randn(48, 128)
    fed = feed(many, negative, torch.Generator().manual_seed(0))
    assert fed.hidden.shape == (600, 48, 6, 8, 8) and fed.timestep.tolist() == [999] * 600
    seen = (fed.hidden[:, :, 5:] == batch.reference).flatten(1).all(1)
    blank = (fed.hidden[:, :, 5:] == 0).flatten(1).all(1)
    told, untold = ((fed.text == text).flatten(1).all(1) for text in (batch.text, negative))
    assert (seen ^ blank).all() and (told ^ untold).all()
    assert not (blank & told).any(), "no pass of the guidance shows the prompt without the reference"
    shares = [float(rows.float().mean()) for rows in (seen & told, seen & untold, blank & untold)]
    assert shares == pytest.approx([0.8, 0.1, 0.1], abs=0.04)
    start = fed.hidden[:, :, :5]
    assert abs(float(start.mean())) < 0.01 and float(start.std()) == pytest.approx(1, abs=0.01), "noise alone"
    assert len(start.flatten(1)[:, 0].unique()) == 600


def test_the_loss_is_the_mean_squared_error_of_the_video_alone() -> None:
    recipe = recipes.mini_base()
    config = dataclasses.replace(recipe, parallel=dataclasses.replace(recipe.parallel, dtype="float32"))
    learner = PhantomLearner(config, main_stack(FOLDER / "base"), torch.zeros(48, 128))
    batch = videos(3)
    loss = learner.flow_loss(batch, torch.zeros(()), torch.Generator().manual_seed(2))
    fed = feed(batch, learner.negative_LD, torch.Generator().manual_seed(2))
    with torch.no_grad():
        (said,) = learner.transformer(fed.hidden, fed.timestep, fed.text, return_dict=False)
    naive = (said[:, :, :5].double() - batch.latents.double()).square().mean()
    assert loss.item() == pytest.approx(float(naive), rel=1e-5)
    loss.backward()
    names = [name for name, one in learner.transformer.named_parameters() if one.grad is None or not one.grad.any()]
    assert names == [], "every tensor learns"
