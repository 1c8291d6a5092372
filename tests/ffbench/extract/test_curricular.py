from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ffbench.extract.curricular import CurricularBackbone

KEYS = Path(__file__).with_name("curricular_ir101_keys.txt")
"""From the definition that loads the published file: ConsisID 60429e4, util/on_going_module/curricularface."""


def randomise(net: torch.nn.Module, seed: int) -> None:
    """Statistics that make every batch norm count."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in net.state_dict().items():
        if name.endswith(("running_var", "weight")) and value.ndim == 1:
            value.uniform_(0.5, 1.5, generator=generator)
        elif name.endswith(("running_mean", "bias")):
            value.normal_(0, 0.2, generator=generator)


def test_ir101_has_the_published_keys_and_shapes() -> None:
    with torch.device("meta"):
        state = CurricularBackbone("ir101").state_dict()
    ours = {f"{key} {'x'.join(map(str, value.shape)) or 'scalar'}" for key, value in state.items()}
    published = set(KEYS.read_text("utf-8").split("\n")) - {""}
    assert len(published) == 917
    assert ours == published


@pytest.mark.parametrize(("arch", "parameters", "gflop"), [("ir101", 65_150_912, 24.2), ("ir18", 24_020_352, 5.2)])
def test_parameters_and_work(arch: str, parameters: int, gflop: float) -> None:
    with torch.device("meta"):
        net = CurricularBackbone(arch).eval()  # type: ignore[arg-type]
        assert sum(p.numel() for p in net.parameters()) == parameters
        with FlopCounterMode(display=False) as counter:
            assert net(torch.zeros(1, 3, 112, 112)).shape == (1, 512)
    assert counter.get_total_flops() / 1e9 == pytest.approx(gflop, abs=0.05)


def naive(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """The published definition written out in float64: im2col and matrix products, no torch layer."""

    def norm(x: Tensor, at: str) -> Tensor:
        shape = (1, -1, *[1] * (x.ndim - 2))
        mean, var = state[f"{at}.running_mean"].view(shape), state[f"{at}.running_var"].view(shape)
        y = (x - mean) / torch.sqrt(var + 1e-5)
        return y * state[f"{at}.weight"].view(shape) + state[f"{at}.bias"].view(shape) if f"{at}.weight" in state else y

    def conv(x: Tensor, at: str, stride: int) -> Tensor:
        weight = state[f"{at}.weight"]
        side = weight.shape[-1]
        columns = torch.nn.functional.unfold(x, side, padding=side // 2, stride=stride)
        out = weight.reshape(len(weight), -1) @ columns
        return out.view(len(x), len(weight), -(-x.shape[2] // stride), -(-x.shape[3] // stride))

    def prelu(x: Tensor, at: str) -> Tensor:
        return torch.where(x > 0, x, x * state[f"{at}.weight"].view(1, -1, 1, 1))

    x = prelu(norm(conv(x, "input_layer.0", 1), "input_layer.1"), "input_layer.2")
    blocks = 1 + max(int(key.split(".")[1]) for key in state if key.startswith("body."))
    # the first block of each of the four stages halves the image: IR-101 has 3, 13, 30, 3 blocks, IR-18 two each
    halving = {49: (0, 3, 16, 46), 8: (0, 2, 4, 6)}[blocks]
    for block in range(blocks):
        at, stride = f"body.{block}", 2 if block in halving else 1
        y = conv(norm(x, f"{at}.res_layer.0"), f"{at}.res_layer.1", 1)
        y = conv(prelu(norm(y, f"{at}.res_layer.2"), f"{at}.res_layer.3"), f"{at}.res_layer.4", stride)
        y = norm(y, f"{at}.res_layer.5")
        if f"{at}.shortcut_layer.0.weight" in state:
            x = norm(conv(x, f"{at}.shortcut_layer.0", stride), f"{at}.shortcut_layer.1")
        else:
            x = x[:, :, ::stride, ::stride]
        x = x + y
    flat = norm(x, "output_layer.0").flatten(1)
    return norm(flat @ state["output_layer.3.weight"].T + state["output_layer.3.bias"], "output_layer.4")


@pytest.mark.parametrize("arch", ["ir18", pytest.param("ir101", marks=pytest.mark.slow)])
def test_forward_is_the_definition_in_float64(arch: str) -> None:
    torch.manual_seed(0)
    net = CurricularBackbone(arch).eval()  # type: ignore[arg-type]
    randomise(net, 1)
    x = torch.rand(2, 3, 112, 112) * 2 - 1
    with torch.inference_mode():
        got = net(x).numpy()
        expected = naive({k: v.double() for k, v in net.state_dict().items()}, x.double()).numpy()
    np.testing.assert_allclose(got, expected, atol=2e-5 * np.abs(expected).max())
