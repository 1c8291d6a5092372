"""Peak extra memory of the fused correlation-max-pool on a CPU: `python tests/benchmarks/pool_memory.py B L C D`.

Extra is what the process holds at its peak beyond the inputs, the pooled values with their winners, and the two
gradients. Prints one JSON object; needs Linux.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from faithfulfaces.maxpool import correlation_max_pool

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def kib(field: str) -> int:
    """A field of this process's memory, KiB."""
    return next(int(line.split()[1]) for line in STATUS.read_text("utf-8").splitlines() if line.startswith(field))


def measure(shape: tuple[int, int, int, int]) -> dict[str, float]:
    """Peak MiB of forward and backward beyond what they return, at [B,L,D] x [C,D] in float32."""
    B, L, C, D = shape
    g = torch.Generator().manual_seed(0)
    tokens = torch.randn(B, L, D, generator=g).requires_grad_()
    dictionary = torch.randn(C, D, generator=g).requires_grad_()
    weights = torch.randn(B, C, generator=g)
    correlation_max_pool(tokens[:1], dictionary).sum().backward()
    tokens.grad = dictionary.grad = None
    returned = {"forward": B * C * (4 + 8), "backward": 4 * (B * L * D + C * D)}
    found: dict[str, float] = {"naive_mib": B * L * C * 4 / 2**20}

    def step(name: str, work: Callable[[], Any]) -> Any:
        CLEAR.write_text("5")  # the peak starts anew from what is held now
        before, began = kib("VmRSS"), time.perf_counter()
        made = work()
        found[f"{name}_seconds"] = time.perf_counter() - began
        found[f"{name}_extra_mib"] = (kib("VmHWM") - before) / 1024 - returned[name] / 2**20
        return made

    pooled = step("forward", lambda: correlation_max_pool(tokens, dictionary))
    step("backward", lambda: pooled.backward(weights))
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    B, L, C, D = (int(text) for text in sys.argv[1:5])
    print(json.dumps({"shape": [B, L, C, D], **measure((B, L, C, D))}))
