from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from open_clip.loss import ClipLoss

from faithfulfaces import losses
from faithfulfaces.losses import Temperature, alignment_loss


def batch(n: int = 6, dim: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(3)
    return (
        torch.randn(n, dim, generator=g, requires_grad=True),
        torch.randn(n, dim, generator=g, requires_grad=True),
    )


def test_equation_5_is_twice_open_clip_s_loss_with_its_gradient() -> None:
    s1, s2 = batch()
    scale = torch.tensor([14.0], requires_grad=True)
    mine = alignment_loss(s1, s2, torch.arange(6), scale)
    unit = [torch.nn.functional.normalize(s, dim=-1) for s in (s1, s2)]
    theirs = 2 * ClipLoss()(unit[0], unit[1], scale)
    torch.testing.assert_close(mine.loss, theirs)
    for a, b in zip(
        torch.autograd.grad(mine.loss, (s1, s2, scale)), torch.autograd.grad(theirs, (s1, s2, scale)), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_equation_5_against_a_loop_in_float64() -> None:
    s1, s2 = (s.detach().double().numpy() for s in batch(4, 3))
    cos = (s1 @ s2.T) / np.linalg.norm(s1, axis=1)[:, None] / np.linalg.norm(s2, axis=1)[None]
    want = 0.0
    for i in range(4):
        want -= math.log(math.exp(cos[i, i] / 0.5) / sum(math.exp(cos[i, j] / 0.5) for j in range(4))) / 4
        want -= math.log(math.exp(cos[i, i] / 0.5) / sum(math.exp(cos[j, i] / 0.5) for j in range(4))) / 4
    got = alignment_loss(torch.tensor(s1), torch.tensor(s2), torch.arange(4), torch.tensor([2.0]))
    assert float(got.loss) == pytest.approx(want, rel=1e-5)
    assert float(got.information_bound) == pytest.approx(math.log(4) - want, rel=1e-5)


def test_two_clips_of_one_person_are_never_negatives() -> None:
    """In float64: a row's denominator holds its partner and strangers, in both directions; the gradient is that."""
    s1, s2 = batch(5, 4)
    people = [7, 2, 7, 3, 7]
    one, other = (s.double() / s.double().norm(dim=1, keepdim=True) for s in (s1, s2))
    cos = one @ other.T
    want = torch.zeros((), dtype=torch.float64)
    for i in range(5):
        rows = [cos[i, j] for j in range(5) if j == i or people[j] != people[i]]
        columns = [cos[j, i] for j in range(5) if j == i or people[j] != people[i]]
        for others in (rows, columns):
            want = want - (10 * cos[i, i] - torch.stack([10 * c for c in others]).exp().sum().log()) / 5
    got = alignment_loss(s1, s2, torch.tensor(people), torch.tensor([10.0])).loss
    torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=0)
    for mine, theirs in zip(torch.autograd.grad(got, (s1, s2)), torch.autograd.grad(want, (s1, s2)), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


def test_accuracy_counts_rows_and_columns() -> None:
    # both rows are nearest to column 0, and each column to its own row
    s1, s2 = torch.tensor([[1.0, 0.0], [1.0, 0.2]]), torch.eye(2)
    assert float(alignment_loss(s1, s2, torch.arange(2), torch.tensor([1.0])).accuracy) == pytest.approx(3 / 4)
    assert float(alignment_loss(s2, s1, torch.arange(2), torch.tensor([1.0])).accuracy) == pytest.approx(3 / 4)


def test_a_perfect_match_is_accurate_and_bounded_by_log_n() -> None:
    s = torch.eye(8)
    good = alignment_loss(s, s, torch.arange(8), torch.tensor([100.0]))
    assert float(good.accuracy) == 1
    assert float(good.information_bound) == pytest.approx(math.log(8), abs=1e-3)


def test_shapes_are_checked() -> None:
    with pytest.raises(ValueError, match="n,D"):
        alignment_loss(torch.zeros(3, 2), torch.zeros(4, 2), torch.arange(3), torch.tensor([1.0]))


def test_temperature_starts_as_clip_s_and_stays_in_bounds() -> None:
    temperature = Temperature()
    assert temperature.log_scale.shape == (1,)
    assert temperature().item() == pytest.approx(1 / 0.07)
    with torch.no_grad():
        temperature.log_scale.fill_(9.0)
    temperature.clamp()
    assert temperature().item() == pytest.approx(100.0)
    with torch.no_grad():
        temperature.log_scale.fill_(-2.0)
    temperature.clamp()
    assert temperature().item() == 1.0


def test_sigmas_are_diffusers_shift() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=5.0)
    u = torch.arange(1000, 0, -1) / 1000
    torch.testing.assert_close(losses.shifted_sigmas(u, 5.0), scheduler.sigmas, rtol=1e-5, atol=1e-6)


def test_noised_input_and_target_are_diffusers() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    x0, noise = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    t = scheduler.timesteps[[10, 700]]
    sigma = scheduler.sigmas[[10, 700]]
    xt, target = losses.noised(x0, noise, sigma)
    torch.testing.assert_close(xt, scheduler.scale_noise(x0, t, noise))
    # following the velocity from x_t to sigma 0 gives x0 back
    torch.testing.assert_close(xt - sigma.view(-1, 1, 1) * target, x0, rtol=1e-4, atol=1e-5)


def test_weight_is_a_bell_of_mean_one_and_zero_at_the_ends() -> None:
    sigma = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    weight = losses.flow_matching_weight(sigma)
    assert float(weight.mean()) == pytest.approx(1.0, abs=1e-6)
    assert float(losses.flow_matching_weight(torch.tensor([1.0]))) == pytest.approx(0.0, abs=1e-6)
    assert int(weight.argmax()) in (99_999, 100_000)


def test_flow_matching_loss_is_the_weighted_square_error() -> None:
    p, t = torch.randn(3, 2, 5), torch.randn(3, 2, 5)
    w = torch.tensor([0.5, 1.0, 4.0])  # no mean of one
    want = np.mean([w[i] * np.mean((p[i].double().numpy() - t[i].double().numpy()) ** 2) for i in range(3)])
    assert float(losses.flow_matching_loss(p, t, w)) == pytest.approx(float(want), rel=1e-5)
    # coarse inputs are subtracted and summed in float32
    coarse = [x.bfloat16() for x in (p, t)]
    square = (coarse[0].double() - coarse[1].double()).square().numpy()
    want = np.mean([w[i] * np.mean(square[i]) for i in range(3)])
    assert float(losses.flow_matching_loss(*coarse, w)) == pytest.approx(float(want), rel=1e-5)
    with pytest.raises(ValueError, match="differ"):
        losses.flow_matching_loss(p, t[:2], w)
