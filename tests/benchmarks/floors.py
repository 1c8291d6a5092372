"""What each measuring network must cost: operations and bytes a frame, and the floor on this CPU and on an H200.

    python tests/benchmarks/floors.py [--write] [--rate-only]

Operations (2 a multiply-add) are PyTorch's own count of one forward pass; bytes are float32 weights, shared by a batch
of 32, and every leaf module's output (of a network that comes as an ONNX file: every operator's) written once and read
once. The CPU's rate is measured here on one core: the best of many products and 3x3 convolutions of a millisecond,
which fit between two other processes. The H200's rates are NVIDIA's data sheet. A floor is the larger of operations
over the rate and bytes over the bandwidth. The counts are kept in results/bench/floors_cpu.json; `--write` puts the
table into docs/performance.md.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from networks import _networks as large_networks
from onnx_in_torch import OnnxInTorch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ffbench.extract.crops import SIDES
from ffbench.extract.networks import open_networks
from ffbench.protocols import get_protocol

ROOT = Path(__file__).parents[2]
PAGE, RESULTS = ROOT / "docs" / "performance.md", ROOT / "results" / "bench" / "floors_cpu.json"
BEGIN, END = "<!-- floors: tests/benchmarks/floors.py --write -->", "<!-- end of floors -->"
BATCH = 32
H200 = {"float32": 67e12, "tf32": 495e12, "bytes": 4.8e12}
"""Dense operations and bytes a second by NVIDIA's data sheet (SXM)."""
ONNX = ("scrfd-2.5g", "mobilefacenet")
MEASURED = {"scrfd-2.5g": 1}
"""Batch of results/bench/networks_cpu.json that is compared; 8 for the others."""
TWO_CORES = 202e9
"""Operations a second of the two cores on which that file was measured, in that session."""


def main() -> None:
    """Count, measure, print or write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--rate-only", action="store_true", help="take the counts from the results file")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rates = {"product": rate_of_product(), "convolution": rate_of_convolution()}
    rows = json.loads(RESULTS.read_text())["rows"] if given.rate_only else [*small(), *large()]
    facts = {"one_core_flops": rates, "load_average": list(os.getloadavg()), "rows": rows}
    RESULTS.write_text(json.dumps(facts, indent=1) + "\n")
    text = table(rows, max(rates.values()), rates)
    if given.write:
        page = PAGE.read_text("utf-8")
        start, end = page.index(BEGIN) + len(BEGIN), page.index(END)
        PAGE.write_text(f"{page[:start]}\n{text}\n{page[end:]}", "utf-8")
    else:
        print(text)


def table(rows: list[dict[str, Any]], core: float, rates: dict[str, float]) -> str:
    """Markdown of the floors, with what was measured on two cores where that was done."""
    heads = [
        "network",
        "GFLOP",
        "MB moved",
        "one core, ms",
        "H200 float32, us",
        "H200 TF32, us",
        "two cores measured, ms",
    ]
    lines = ["| " + " | ".join([*heads, "share of floor"]) + " |", "|" + "---|" * (len(heads) + 1)]
    measured = _measured()
    for row in rows:
        work, moved = row["flop"], row["weight_bytes"] / BATCH + row["activation_bytes"]
        floors = [1e6 * max(work / H200[kind], moved / H200["bytes"]) for kind in ("float32", "tf32")]
        cells = [row["network"], f"{work / 1e9:.3g}", f"{moved / 1e6:.3g}", f"{1e3 * work / core:.3g}"]
        cells += [f"{floor:.3g}" for floor in floors]
        took = measured.get(row["network"])
        share = f"{work / TWO_CORES / took:.0%}" if took else "-"
        lines.append("| " + " | ".join([*cells, f"{1e3 * took:.3g}" if took else "-", share]) + " |")
    said = ", ".join(f"{name} {rate / 1e9:.0f}" for name, rate in rates.items())
    lines += [
        "",
        f"A frame with one face; weights count for a batch of {BATCH}. One core was measured in this run: {said}",
        "GFLOP/s, best of many beside other work. The H200's columns are the data sheet's rates (67 TFLOP/s float32,",
        "495 TF32, 4.8 TB/s), not measurements. Two cores: the better form in results/bench/networks_cpu.json at",
        f"batch 8, a frame, against {TWO_CORES / 1e9:.0f} GFLOP/s, the best product of that session.",
    ]
    return "\n".join(lines)


def rate_of_product(side: int = 384, rounds: int = 400) -> float:
    """Operations a second of a float32 matrix product on the threads that are set."""
    a = torch.randn(side, side)
    return 2 * side**3 / _least(lambda: a @ a, rounds)


def rate_of_convolution(channels: int = 64, side: int = 28, rounds: int = 400) -> float:
    """Operations a second of a 3x3 convolution of 2 maps in channels-last order."""
    net = nn.Conv2d(channels, channels, 3, padding=1, bias=False).to(memory_format=torch.channels_last)
    x = torch.randn(2, channels, side, side).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        return 2 * 9 * channels**2 * 2 * side**2 / _least(lambda: net(x), rounds)


def _least(work: Callable[[], Any], rounds: int) -> float:
    times = []
    for _ in range(rounds):
        begun = time.perf_counter()
        work()
        times.append(time.perf_counter() - begun)
    return min(times)


def small() -> list[dict[str, Any]]:
    """The networks of the mini world, run as the product runs them on one frame of 64x64 pixels with one face."""
    networks = open_networks(get_protocol("mini"), "cpu")
    frame = np.full((1, 64, 64, 3), 128, np.uint8)
    box, points = np.float32([[16, 12, 48, 56]]), np.float32([[[24, 28], [40, 28], [32, 38], [26, 46], [38, 46]]])
    calls: dict[str, tuple[Any, Callable[[], Any]]] = {
        "mtcnn, 64x64": (networks.detector, lambda: networks.detector.detect(frame[0], "full")),
    }
    for slot, embedder in networks.embedders.items():
        side = SIDES[embedder.source]
        calls[f"mini-{slot}"] = (embedder, lambda e=embedder, s=side: e(np.zeros((1, s, s, 3), np.uint8)))
    for slot, net in networks.feature_nets.items():
        calls[f"mini-{slot}"] = (net, lambda n=net: n(np.zeros((1, 224, 224, 3), np.uint8)))
    if networks.pose is not None:
        pose = networks.pose
        calls["mini-pose"] = (pose, lambda: pose.angles([frame[0]], box, points))
    if networks.clip is not None:
        clip = networks.clip
        calls["mini-clip, picture"] = (clip, lambda: clip.images(frame))
    return [_counted(name, _modules(owner), call) for name, (owner, call) in calls.items()]


def large() -> list[dict[str, Any]]:
    """The real architectures with random weights, one picture each."""
    found = []
    for name, (net, side) in large_networks().items():
        net.eval()
        found.append(_counted(name, [net], lambda n=net, s=side: n(torch.zeros(1, 3, s, s))))
        if isinstance(net, OnnxInTorch):
            found[-1] |= _bytes_of_file(net, torch.zeros(1, 3, side, side))
    return found


def _bytes_of_file(net: OnnxInTorch, x: torch.Tensor) -> dict[str, int]:
    """As `_counted`, for a network whose leaves are no modules."""
    made = {name: value for name, value in net.values(x).items() if isinstance(value, torch.Tensor)}
    sizes = {name: value.numel() * 4 for name, value in made.items() if value.is_floating_point() and name != net.first}
    weights = sum(size for name, size in sizes.items() if name in net.constants)
    return {"weight_bytes": weights, "activation_bytes": 2 * (sum(sizes.values()) - weights)}


def _counted(name: str, modules: list[nn.Module], call: Callable[[], Any]) -> dict[str, Any]:
    weights = sum(p.numel() for module in modules for p in module.parameters()) * 4
    with torch.no_grad(), FlopCounterMode(display=False) as counter, _outputs(modules) as sizes:
        call()
    return {
        "network": name,
        "flop": counter.get_total_flops(),
        "weight_bytes": weights,
        "activation_bytes": 2 * sum(sizes),
    }


@contextmanager
def _outputs(modules: list[nn.Module]) -> Iterator[list[int]]:
    """Bytes of every leaf module's output while the block runs."""
    sizes: list[int] = []

    def note(_: nn.Module, __: Any, out: Any) -> None:
        if isinstance(out, torch.Tensor):
            sizes.append(out.numel() * out.element_size())

    leaves = [leaf for module in modules for leaf in module.modules() if not list(leaf.children())]
    handles = [leaf.register_forward_hook(note) for leaf in leaves]
    try:
        yield sizes
    finally:
        for handle in handles:
            handle.remove()


def _modules(owner: Any) -> list[nn.Module]:
    """Networks that an instrument holds."""
    return [value for value in vars(owner).values() if isinstance(value, nn.Module)]


def _measured() -> dict[str, float]:
    """Network -> seconds a frame of the form that the product uses, as measured on two cores."""
    found = {}
    for row in json.loads((ROOT / "results" / "bench" / "networks_cpu.json").read_text())["rows"]:
        name, batch = row["network"], row["batch"]
        if batch == MEASURED.get(name, 8):
            forms = [ms for form, ms in row["median_ms"].items() if (form == "onnxruntime") == (name in ONNX)]
            found[name] = min(forms) / 1e3 / batch
    return found


if __name__ == "__main__":
    main()
