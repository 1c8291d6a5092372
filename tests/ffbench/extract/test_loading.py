"""Folded batch normalisation: the same network, whatever statistics it was trained to."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch
from facenet_pytorch import InceptionResnetV1
from torch import nn
from torchvision.models import Inception3

from ffbench.extract.curricular import CurricularBackbone
from ffbench.extract.loading import fold_norms

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


def pictures(side: int) -> torch.Tensor:
    """Smooth and unlike each other, -1..1."""
    return nn.functional.interpolate(torch.rand(4, 3, 9, 9) * 2 - 1, (side, side), mode="bilinear")


@torch.no_grad()
def lived_in(net: nn.Module, seen: torch.Tensor) -> nn.Module:
    """With scales and shifts of its own and the statistics of what it has seen; those of its birth let signals fade."""
    for module in net.modules():
        if isinstance(module, NORMS):
            module.momentum = None
            if module.affine:
                module.weight.uniform_(0.6, 1.6)
                module.bias.normal_(0, 0.2)
    net.train()(seen)
    return net.eval().requires_grad_(False)


def networks() -> list[Any]:
    return [
        pytest.param(lambda: CurricularBackbone("ir18"), 112, id="curricular"),
        pytest.param(lambda: Inception3(init_weights=False, transform_input=True), 299, id="inception"),
        pytest.param(lambda: InceptionResnetV1(pretrained=None), 160, id="facenet"),
    ]


@pytest.mark.parametrize(("make", "side"), networks())
def test_a_folded_network_is_the_plain_one(make: Any, side: int) -> None:
    torch.manual_seed(0)
    x = pictures(side)
    net = lived_in(make(), x)
    folded = fold_norms(copy.deepcopy(net))
    left = [
        second
        for parent in folded.modules()
        for first, second in itertools.pairwise(parent.children())
        if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d)
    ]
    assert not left
    assert sum(isinstance(m, NORMS) for m in folded.modules()) < sum(isinstance(m, NORMS) for m in net.modules()) / 2
    with torch.inference_mode():
        plain_rows, rows = net(x), folded(x)
        wide = copy.deepcopy(net).double()
        exact = wide(x.double())
        assert (exact[0] - exact[1]).abs().max() > 0.01 * exact.abs().max()
        assert (fold_norms(wide)(x.double()) - exact).abs().max() < 1e-12 * exact.abs().max()
        # float32 rounds either form; folding adds no more than the plain form has
        plain_error, error = (plain_rows - exact).abs().max(), (rows - exact).abs().max()
        assert error < 2 * plain_error
        assert error < 1e-4 * exact.abs().max()


def test_only_neighbours_fold() -> None:
    """A normalisation before its convolution, or with something between, stays as it is."""
    x = pictures(12)
    net = lived_in(nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.BatchNorm2d(4)), x)
    folded = fold_norms(copy.deepcopy(net))
    assert torch.equal(folded(x), net(x))
    assert [type(m) for m in folded] == [type(m) for m in net]
