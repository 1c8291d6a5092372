from __future__ import annotations

import numpy as np
import pytest
import torch

from faithfulfaces.euler import NUM_FREQUENCIES, EulerEmbedding, sinusoids


def test_sinusoids_against_float64() -> None:
    degrees = torch.tensor([[-90.0, 0.0, 12.5], [180.0, 37.0, -3.0]])
    got = sinusoids(degrees, 30.0, 720.0).numpy()
    periods = np.geomspace(30.0, 720.0, NUM_FREQUENCIES)
    phase = 2 * np.pi * degrees.double().numpy()[..., None] / periods
    np.testing.assert_allclose(got, np.concatenate([np.cos(phase), np.sin(phase)], -1), atol=2e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_sinusoids_are_computed_in_float32_whatever_the_angles_are(dtype: torch.dtype) -> None:
    degrees = torch.tensor([-77.5, 3.25, 41.0], dtype=dtype)  # exact in bfloat16
    got = sinusoids(degrees, 30.0, 720.0)
    assert got.dtype == torch.float32
    assert torch.equal(got, sinusoids(degrees.float(), 30.0, 720.0))


def test_the_embedding_is_a_sum_of_three_small_networks() -> None:
    """In NumPy: Linear, x * sigmoid(x), Linear, of the sinusoids of one angle each."""
    torch.manual_seed(1)
    embed = EulerEmbedding(16, 30.0, 720.0)
    angles = torch.tensor([[10.0, -40.0, 3.0], [0.0, 75.0, -20.0]])
    want = np.zeros((2, 16))
    for i, mlp in enumerate(embed.angles):
        torch.nn.init.normal_(mlp[2].weight)
        torch.nn.init.normal_(mlp[2].bias)
        w1, b1, w2, b2 = (p.detach().double().numpy() for p in mlp.parameters())
        hidden = sinusoids(angles[:, i], 30.0, 720.0).double().numpy() @ w1.T + b1
        want += hidden / (1 + np.exp(-hidden)) @ w2.T + b2
    np.testing.assert_allclose(embed(angles).detach().numpy(), want, atol=1e-4)
    assert embed.bfloat16()(angles).dtype == torch.bfloat16


def test_small_angle_errors_move_the_encoding_little() -> None:
    a, b, far = (sinusoids(torch.tensor([x]), 30.0, 720.0) for x in (20.0, 22.0, 60.0))
    assert (a - b).norm() < 0.35 * (a - far).norm()


def test_starts_at_zero_and_learns_every_angle() -> None:
    torch.manual_seed(0)
    embed = EulerEmbedding(16, 30.0, 720.0)
    angles = torch.tensor([[10.0, -40.0, 3.0]])
    assert embed(angles).abs().max() == 0
    embed(angles).sum().backward()
    for mlp in embed.angles:
        assert mlp[2].weight.grad is not None
        assert mlp[2].weight.grad.abs().sum() > 0


def test_the_three_angles_are_told_apart() -> None:
    torch.manual_seed(0)
    embed = EulerEmbedding(16, 30.0, 720.0)
    for mlp in embed.angles:
        torch.nn.init.normal_(mlp[2].weight)
    pitch, yaw, roll = (embed(30.0 * torch.eye(3)[i : i + 1]) for i in range(3))
    assert not torch.allclose(pitch, yaw)
    assert not torch.allclose(yaw, roll)


def test_shape_is_checked() -> None:
    with pytest.raises(ValueError, match=r"\[B,3\]"):
        EulerEmbedding(4, 30.0, 720.0)(torch.zeros(2, 2))
