from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from faithfulfaces import maxpool
from faithfulfaces.maxpool import correlation_max_pool

SHAPES = [(1, 1, 1, 1), (3, 7, 5, 11), (2, 196, 130, 65), (4, 64, 128, 64), (0, 3, 4, 5), (2, 3, 0, 5)]


def naive(tokens: torch.Tensor, dictionary: torch.Tensor) -> torch.Tensor:
    return torch.einsum("bld,cd->blc", tokens, dictionary).amax(1)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("chunk", [64, 4096, maxpool.CHUNK_BYTES])
def test_forward_and_gradient_equal_the_naive_form(
    shape: tuple[int, int, int, int], chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maxpool, "CHUNK_BYTES", chunk)
    B, L, C, D = shape
    g = torch.Generator().manual_seed(0)
    e = torch.randn(B, L, D, generator=g, dtype=torch.float64, requires_grad=True)
    d = torch.randn(C, D, generator=g, dtype=torch.float64, requires_grad=True)
    up = torch.randn(B, C, generator=g, dtype=torch.float64)
    got, want = correlation_max_pool(e, d), naive(e, d)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
    for mine, theirs in zip(torch.autograd.grad(got, (e, d), up), torch.autograd.grad(want, (e, d), up), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


def test_gradcheck() -> None:
    g = torch.Generator().manual_seed(1)
    e = torch.randn(2, 5, 3, generator=g, dtype=torch.float64, requires_grad=True)
    d = torch.randn(4, 3, generator=g, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(correlation_max_pool, (e, d))


def test_ties_go_to_the_first_token_and_gradient_is_not_split() -> None:
    e = torch.ones(1, 3, 2, requires_grad=True)
    d = torch.ones(1, 2)
    correlation_max_pool(e, d).sum().backward()
    assert e.grad is not None
    assert e.grad[0].tolist() == [[1, 1], [0, 0], [0, 0]]


def test_nan_and_infinity_come_through() -> None:
    e = torch.zeros(2, 3, 2)
    e[0, 1, 0] = torch.nan
    e[1, 2, 1] = torch.inf
    out = correlation_max_pool(e, torch.ones(2, 2))
    assert out[0].isnan().all()
    assert out[1].isposinf().all()


def test_bfloat16_is_close_to_float32_of_the_same_inputs() -> None:
    g = torch.Generator().manual_seed(2)
    e = torch.randn(3, 20, 64, generator=g).bfloat16()
    d = torch.randn(50, 64, generator=g).bfloat16()
    torch.testing.assert_close(correlation_max_pool(e, d).float(), naive(e.float(), d.float()), rtol=2**-7, atol=2**-4)


def test_frozen_dictionary_or_tokens_get_no_gradient() -> None:
    e, d = torch.randn(2, 3, 4, requires_grad=True), torch.randn(5, 4)
    correlation_max_pool(e, d).sum().backward()
    assert e.grad is not None
    e, d = torch.randn(2, 3, 4), torch.randn(5, 4, requires_grad=True)
    correlation_max_pool(e, d).sum().backward()
    assert d.grad is not None


@pytest.mark.parametrize(
    ("e", "d", "word"),
    [
        (torch.zeros(2, 3), torch.zeros(4, 3), "must be"),
        (torch.zeros(2, 3, 5), torch.zeros(4, 3), "must be"),
        (torch.zeros(2, 0, 3), torch.zeros(4, 3), "L is 0"),
        (torch.zeros(2, 2, 3), torch.zeros(4, 3).double(), "must agree"),
    ],
)
def test_unfit_arguments_are_refused(e: torch.Tensor, d: torch.Tensor, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        correlation_max_pool(e, d)


PEAK = """
import resource, torch
from faithfulfaces.maxpool import correlation_max_pool
torch.manual_seed(0); torch.set_num_threads(2)
e = torch.randn(256, 196, 64, requires_grad=True); d = torch.randn(4096, 64, requires_grad=True)
(e.detach() @ d.detach()[:1].T).sum()
w = torch.randn(8, 196, 64) @ d.detach()[:64].T; del w
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
correlation_max_pool(e, d).sum().backward()
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.slow
def test_peak_memory_stays_far_below_the_product() -> None:
    # the product [256,196,4096] alone is 784 MiB; gradients and results are 28 MiB
    done = subprocess.run([sys.executable, "-c", PEAK], check=True, capture_output=True, text=True)
    assert float(done.stdout) < 250


def test_triton_kernel_equals_the_naive_form_in_the_interpreter() -> None:
    pytest.importorskip("triton")
    code = (Path(__file__).parent / "triton_interpreted.py").read_text("utf-8")
    env = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=env, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == ["checked", "7"]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from Linux's /proc")
def test_peak_memory_stays_under_a_hundred_megabytes() -> None:
    """Crops and elements of the paper's size, on which the extra memory depends; few tokens of few values."""
    script = Path(__file__).parents[1] / "benchmarks" / "pool_memory.py"
    command = [sys.executable, str(script), "2048", "8", "4096", "8"]
    environment = os.environ | {"PYTHONPATH": str(script.parents[2])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["naive_mib"] == 256
    assert 0 < found["forward_extra_mib"] < 95
    assert 0 < found["backward_extra_mib"] < 95
