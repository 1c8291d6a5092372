from __future__ import annotations

import numpy as np
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


@pytest.mark.parametrize("injection", INJECTIONS)
def test_each_way_adds_what_it_says_and_nothing_else(transformer: WanVACETransformer3DModel, injection: str) -> None:
    """The projection in NumPy; two faces, and a batch of four that holds the video branch, then the guidance branch."""
    prior, faces = trained(injection), torch.randn(2, 8)
    s = faces.double().numpy()
    normed = (s - s.mean(1, keepdims=True)) / np.sqrt(s.var(1, keepdims=True) + 1e-5)
    weight, bias = (p.detach().double().numpy() for p in (prior.projection.weight, prior.projection.bias))
    expected = torch.from_numpy(np.tile(normed @ weight.T + bias, (2, 1)) * 3.0).float()

    def seen() -> tuple[torch.Tensor, ...]:
        out: list[torch.Tensor] = []
        # the first three of what the condition embedder gives: of the timestep, of its six terms, of the text
        keep = [
            lambda _, __, made: out.append(made.clone()),
            lambda _, __, made: out.extend(t.clone() for t in made[:3]),
        ]
        places = (transformer.patch_embedding, transformer.condition_embedder)
        hooks = [place.register_forward_hook(hook) for place, hook in zip(places, keep, strict=True)]
        run(transformer, 4)
        for hook in hooks:
            hook.remove()
        return tuple(out)

    plain = seen()
    with torch.no_grad(), prior.attached(transformer, faces, scale=3.0):
        changed = seen()
    video, temb, modulation, text = (b - a for a, b in zip(plain, changed, strict=True))
    if injection == "add":
        wanted = expected[:, :, None, None, None].expand_as(video)
        torch.testing.assert_close(video, wanted, rtol=1e-4, atol=1e-5)
    elif injection == "token":
        torch.testing.assert_close(text[:, -1], expected, rtol=1e-4, atol=1e-5)
        assert not text[:, :-1].any()
    else:
        torch.testing.assert_close(modulation, expected, rtol=1e-4, atol=1e-5)
    others = {"add": (temb, modulation, text), "token": (video, temb, modulation), "modulation": (video, temb, text)}
    assert not any(part.any() for part in others[injection])


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
