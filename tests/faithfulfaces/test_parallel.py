from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from diffusers import WanVACETransformer3DModel
from safetensors.torch import load_file

from faithfulfaces import parallel, recipes
from faithfulfaces.trainer import _check_context
from ffbench.errors import UserError
from tests.faithfulfaces import ranks

RTOL, ATOL = 1e-4, 2e-6
"""Of float32 sums in another order."""


class _Of:
    """The shape of a mesh whose last dimension has a size, without processes."""

    def __init__(self, size: int) -> None:
        self._size = size

    def __getitem__(self, _: object) -> _Of:
        return self

    def size(self) -> int:
        return self._size


def alone() -> parallel.World:
    return parallel.World(0, 1, torch.device("cpu"), None)


def test_two_ranks_have_the_gradient_of_one_on_the_joined_batch(tmp_path: Path) -> None:
    done = ranks.launch(2, "gradients", str(tmp_path / "two.safetensors"))
    assert done.returncode == 0, done.stderr
    two, one = load_file(tmp_path / "two.safetensors"), ranks.gradients(recipes.debug(), alone())
    assert one.keys() == two.keys()
    assert {name.split(".")[0] for name in one} == {"aligner", "temperature", "prior", "transformer"}
    assert all(gradient.any() for name, gradient in one.items() if "lora" in name or "dictionary" in name)
    for name, gradient in one.items():
        torch.testing.assert_close(
            two[name], gradient, rtol=RTOL, atol=ATOL * float(gradient.abs().max() + 1), msg=name
        )


@pytest.mark.parametrize("injection", ["add", pytest.param("token", marks=pytest.mark.slow)])
def test_two_ranks_that_share_a_video_have_its_loss_and_gradient(tmp_path: Path, injection: str) -> None:
    done = ranks.launch(2, f"context-{injection}", str(tmp_path / "two.safetensors"))
    assert done.returncode == 0, done.stderr
    two, one = load_file(tmp_path / "two.safetensors"), ranks.video_gradients(ranks.shared(injection), alone())
    assert one.keys() == two.keys()
    assert {name.split(".")[0] for name in one} == {"loss", "aligner", "prior", "transformer"}
    for name, gradient in one.items():
        assert gradient.any(), name
        torch.testing.assert_close(
            two[name], gradient, rtol=RTOL, atol=ATOL * float(gradient.abs().max() + 1), msg=name
        )


def test_sharing_that_does_not_come_out_is_refused_with_the_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    world = dataclasses.replace(alone(), size=6, rank=4, context_mesh=_Of(3))
    assert (world.context, world.video_rank, world.video_size) == (3, 1, 2)
    with pytest.raises(UserError, match=r"Parallel\.context 3 does not divide the base's 2 attention heads"):
        parallel.share_tokens(WanVACETransformer3DModel(**recipes.TINY_ARCH), world)
    config = dataclasses.replace(ranks.shared(), data=dataclasses.replace(ranks.shared().data, width=16, height=32))
    with pytest.raises(UserError, match=r"has 6 tokens, which Parallel\.context 4 does not divide"):
        _check_context(config.data, dataclasses.replace(world, context_mesh=_Of(4)))
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(UserError, match=r"Parallel\.context 3 does not divide 4 processes"):
        parallel.start(3)


def test_a_world_that_torchrun_did_not_start_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match="WORLD_SIZE is 2, and MASTER_ADDR, MASTER_PORT is not set") as caught:
        parallel.start()
    assert "torchrun" in caught.value.fix


def test_ranks_that_share_a_video_draw_the_same_noise() -> None:
    def draw(rank: int, context: object) -> float:
        world = parallel.World(rank, 4, torch.device("cpu"), None, context)
        return float(torch.rand(1, generator=parallel.noise_generator(0, world)))

    assert draw(0, _Of(2)) == draw(1, _Of(2)) == draw(0, None)
    assert draw(2, _Of(2)) == draw(3, _Of(2)) == draw(1, None)
    assert draw(0, None) != draw(1, None)


def test_wrapping_changes_no_name_and_no_result() -> None:
    plain = dataclasses.replace(
        recipes.debug(), parallel=dataclasses.replace(recipes.debug().parallel, activation_checkpointing=False)
    )
    without, with_ac = ranks.gradients(plain, alone()), ranks.gradients(recipes.debug(), alone())
    assert without.keys() == with_ac.keys()
    assert all(torch.equal(without[name], with_ac[name]) for name in without)


def test_checkpointing_recomputes_each_block_once() -> None:
    calls = []

    class Block(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            calls.append(1)
            return x.sin().exp()

    block = Block()
    parallel.checkpoint_activations([block])
    block(torch.ones(3, requires_grad=True)).sum().backward()
    assert len(calls) == 2


def test_noise_differs_between_ranks_and_seeds() -> None:
    def draw(seed: int, rank: int) -> float:
        world = parallel.World(rank, 64, torch.device("cpu"), None)
        return float(torch.rand(1, generator=parallel.noise_generator(seed, world)))

    drawn = {draw(seed, rank) for seed in range(8) for rank in range(64)}
    assert len(drawn) == 512
    assert draw(3, 5) == draw(3, 5)


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_base_comes_through_the_meta_device_as_from_pretrained(tmp_path: Path, processes: int) -> None:
    torch.manual_seed(1)
    base = WanVACETransformer3DModel(**recipes.TINY_ARCH)
    # two files, as the published bases have several
    base.save_pretrained(tmp_path / "base", max_shard_size="100KB")
    assert len(list((tmp_path / "base").glob("*.safetensors"))) > 1
    with torch.no_grad():
        (want,) = WanVACETransformer3DModel.from_pretrained(tmp_path / "base")(**ranks.inputs(), return_dict=False)
    if processes == 1:
        got = ranks.base_output(tmp_path / "base", alone())["out"]
    else:
        done = ranks.launch(2, "base", str(tmp_path / "two.safetensors"))
        assert done.returncode == 0, done.stderr
        got = load_file(tmp_path / "two.safetensors")["out"]
    assert torch.equal(got, want)
