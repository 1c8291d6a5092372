"""6DRepNet: published keys, the rotation head, and the whole network against a float64 form."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from ffbench.errors import UserError
from ffbench.extract.loading import load_strict
from ffbench.extract.sixdrepnet import SixDRepNet, rotation_from_six

KEYS = Path(__file__).parent / "sixdrepnet_keys.txt"


def published() -> dict[str, tuple[int, ...]]:
    rows = [line.split() for line in KEYS.read_text("utf-8").splitlines() if not line.startswith("#")]
    return {key: tuple(int(n) for n in shape.split("x")) for key, shape in rows}


@pytest.fixture(scope="module")
def net() -> SixDRepNet:
    torch.manual_seed(0)
    return SixDRepNet().eval()


def test_keys_and_shapes_are_the_published_ones(net: SixDRepNet) -> None:
    assert [(k, tuple(v.shape)) for k, v in net.state_dict().items()] == list(published().items())


def test_network_against_a_float64_walk_over_the_published_list(net: SixDRepNet) -> None:
    """Strides and groups come from the shapes alone: where channels change, and weights of half the depth."""
    state = {k: v.double() for k, v in net.state_dict().items()}
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    inputs = x.float()
    stages = set()
    for key, shape in published().items():
        if not key.endswith("reparam.weight"):
            continue
        stage = key.split(".")[0]
        stride = 1 if stage in stages else 2
        stages.add(stage)
        bias = state[key.replace("weight", "bias")]
        groups = x.shape[1] // shape[1]
        x = functional.conv2d(x, state[key], bias, stride, 1, 1, groups).clamp(min=0)
    six = x.mean((2, 3)) @ state["linear_reg.weight"].T + state["linear_reg.bias"]
    with torch.inference_mode():
        rotation = net(inputs)
    assert rotation.shape == (2, 3, 3)
    np.testing.assert_allclose(rotation.numpy(), rotation_from_six(six).numpy(), atol=1e-4)


def test_rotation_head_against_qr() -> None:
    """Gram-Schmidt is a QR decomposition with a positive diagonal."""
    six = torch.randn(64, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    rotation = rotation_from_six(six).numpy()
    q, r = np.linalg.qr(six.numpy().reshape(-1, 2, 3).transpose(0, 2, 1))
    expected = q * np.sign(np.diagonal(r, axis1=1, axis2=2))[:, None]
    np.testing.assert_allclose(rotation[:, :, :2], expected, atol=1e-9)
    np.testing.assert_allclose(np.linalg.det(rotation), 1, atol=1e-9)


def test_degenerate_six_numbers_stay_finite() -> None:
    assert torch.isfinite(rotation_from_six(torch.zeros(1, 6))).all()
    assert torch.isfinite(rotation_from_six(torch.ones(1, 6))).all()


def test_files_of_other_networks_are_refused(net: SixDRepNet) -> None:
    state = net.state_dict()
    for change, words in (
        ({"linear_reg.bias": torch.zeros(3)}, "has another shape for linear_reg.bias"),
        ({"surplus": torch.zeros(1)}, "has the unknown surplus"),
    ):
        with pytest.raises(UserError, match=words):
            load_strict(SixDRepNet(), {**state, **change}, KEYS, "6DRepNet")
