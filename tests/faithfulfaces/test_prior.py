from __future__ import annotations

import pytest
import torch
from diffusers import WanVACETransformer3DModel

from faithfulfaces.prior import Prior

INJECTIONS = ["add", "token", "modulation"]


@pytest.fixture(scope="module")
def transformer() -> WanVACETransformer3DModel:
    torch.manual_seed(0)
    return WanVACETransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        text_dim=16,
        freq_dim=32,
        ffn_dim=32,
        num_layers=3,
        rope_max_seq_len=32,
        vace_layers=[0, 2],
        vace_in_channels=96,
    ).eval()


def run(model: WanVACETransformer3DModel, batch: int = 2) -> torch.Tensor:
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        return model(
            hidden_states=torch.randn(batch, 16, 3, 4, 4, generator=g),
            timestep=torch.full((batch,), 500),
            encoder_hidden_states=torch.randn(batch, 7, 16, generator=g),
            control_hidden_states=torch.randn(batch, 96, 3, 4, 4, generator=g),
            return_dict=False,
        )[0]


def trained(injection: str) -> Prior:
    prior = Prior(8, 24, injection)
    torch.nn.init.normal_(prior.projection.weight, std=0.5)
    return prior


@pytest.mark.parametrize("injection", INJECTIONS)
def test_a_zero_projection_is_the_base_model_bit_for_bit(
    transformer: WanVACETransformer3DModel, injection: str
) -> None:
    base = run(transformer)
    with Prior(8, 24, injection).attached(transformer, torch.randn(2, 8)):
        assert torch.equal(run(transformer), base)


@pytest.mark.parametrize("injection", INJECTIONS)
def test_a_trained_prior_changes_each_video_by_its_own_face(
    transformer: WanVACETransformer3DModel, injection: str
) -> None:
    prior, base = trained(injection), run(transformer)
    faces = torch.randn(2, 8)
    with torch.no_grad(), prior.attached(transformer, faces):
        both = run(transformer)
    with torch.no_grad(), prior.attached(transformer, torch.stack([faces[0], torch.randn(8)])):
        other = run(transformer)
    assert not torch.allclose(both, base)
    torch.testing.assert_close(both[0], other[0])
    assert not torch.allclose(both[1], other[1])
    assert torch.equal(run(transformer), base), "the hook is gone afterwards"


def test_guidance_in_one_batch_carries_the_prior_in_both_branches(transformer: WanVACETransformer3DModel) -> None:
    prior, face = trained("add"), torch.randn(1, 8)
    with torch.no_grad(), prior.attached(transformer, face):
        once = run(transformer, 2)
    with torch.no_grad(), prior.attached(transformer, face.repeat(2, 1)):
        twice = run(transformer, 2)
    # one row and two rows of a matrix product round differently
    torch.testing.assert_close(once, twice)
    with pytest.raises(ValueError, match="cannot carry"), prior.attached(transformer, torch.randn(3, 8)):
        run(transformer, 2)


def test_the_hook_leaves_after_an_error_and_none_attaches_nothing(transformer: WanVACETransformer3DModel) -> None:
    base = run(transformer)
    with pytest.raises(RuntimeError), trained("add").attached(transformer, torch.randn(2, 8)):
        raise RuntimeError
    with trained("add").attached(transformer, None):
        assert torch.equal(run(transformer), base)


def test_gradient_reaches_the_projection_and_s(transformer: WanVACETransformer3DModel) -> None:
    prior, s = trained("add"), torch.randn(2, 8, requires_grad=True)
    with prior.attached(transformer, s):
        out = transformer(
            hidden_states=torch.randn(2, 16, 3, 4, 4),
            timestep=torch.full((2,), 500),
            encoder_hidden_states=torch.randn(2, 7, 16),
            control_hidden_states=torch.randn(2, 96, 3, 4, 4),
            return_dict=False,
        )[0]
    out.square().sum().backward()
    assert s.grad is not None
    assert prior.projection.weight.grad is not None
    assert s.grad.abs().sum() > 0


def test_unknown_injection_is_refused() -> None:
    with pytest.raises(ValueError, match="injection"):
        Prior(8, 24, "concat")
