"""ONNX Runtime against PyTorch for every large network of the protocols, and what each costs.

    python tests/benchmarks/networks.py [--batches 1,8,32] [--rounds N] [--json FILE]
    python tests/benchmarks/networks.py --compile --batches 8 --threads 1 [--networks NAME,...]

Architectures are the real ones with random weights; both runtimes get the same weights, the same pictures and all CPUs
of this process. Forms alternate within a round, and medians over rounds are given. `folded` is the PyTorch network with
each batch normalisation multiplied into the convolution before it.

With --compile only the form in use, channels-last and folded, stands beside the same network through torch.compile, for
the networks that run in PyTorch: what compiling takes, and from how many videos of 16 frames on that is paid back. With
one thread times are CPU seconds of this process (for compiling, with its compilers'), which others' work moves less.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from onnx_in_torch import OnnxInTorch
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils.flop_counter import FlopCounterMode

from ffbench.extract.curricular import CurricularBackbone
from ffbench.extract.sessions import onnx_session
from ffbench.extract.sixdrepnet import SixDRepNet

ASSETS = Path(os.environ.get("FFBENCH_TEST_ASSETS", Path(__file__).parents[3] / "shared" / "assets"))
PACK = ASSETS / "models" / "insightface" / "models" / "small_y1"
FRAMES = 16
"""Of a video, each with a face."""
Forms = dict[str, Callable[[torch.Tensor], Any]]


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", default="1,8,32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--networks", help="only these, with commas between")
    given = parser.parse_args()
    # the exporter that needs no further package is called old
    warnings.simplefilter("ignore")
    torch.set_num_threads(given.threads)
    batches = [int(size) for size in given.batches.split(",")]
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = f"{folder}/inductor"  # what an earlier run compiled is no measure
        for name, (net, side) in _networks().items():
            if name not in (given.networks or name).split(",") or (given.compile and isinstance(net, OnnxInTorch)):
                continue
            print(name, file=sys.stderr, flush=True)
            net = net.eval().requires_grad_(False)
            if given.compile:
                rows += [_compiled(name, net, side, size, given.rounds) for size in batches]
            else:
                rows += _measure(name, net, side, batches, given.rounds, Path(folder))
    for row in rows:
        print(json.dumps(row))
    if given.json:
        facts = {"threads": torch.get_num_threads(), "rounds": given.rounds, "torch": torch.__version__, "rows": rows}
        given.json.write_text(json.dumps(facts, indent=2) + "\n")


def _networks() -> dict[str, tuple[torch.nn.Module, int]]:
    """Name -> network and the side of its input; those of the shared assets where they are."""
    import open_clip
    from facenet_pytorch import InceptionResnetV1
    from torchvision.models import Inception3

    torch.manual_seed(0)
    inception = Inception3(aux_logits=True, transform_input=True, init_weights=False)
    inception.fc = torch.nn.Identity()
    # attention's fused form cannot be exported, and differs from the exported one
    torch.backends.mha.set_fastpath_enabled(False)
    small = {}
    if PACK.is_dir():
        small = {
            "scrfd-2.5g": (OnnxInTorch(PACK / "det_scrfd_2.5g.onnx"), 320),
            "mobilefacenet": (OnnxInTorch(PACK / "rec_mobilefacenet_y1.onnx"), 112),
        }
    return {
        **small,
        "curricular-ir101": (CurricularBackbone("ir101"), 112),
        "curricular-ir18": (CurricularBackbone("ir18"), 112),
        "inception-torchvision": (inception, 299),
        "facenet": (InceptionResnetV1(pretrained=None), 160),
        "sixdrepnet": (SixDRepNet(), 224),
        "clip-vit-b-32": (open_clip.create_model("ViT-B-32", pretrained=None).visual, 224),
    }


@torch.inference_mode()
def _measure(
    name: str, net: torch.nn.Module, side: int, batches: list[int], rounds: int, folder: Path
) -> list[dict[str, Any]]:
    example = torch.rand(1, 3, side, side)
    forms = _forms(net, example, folder / f"{name}.onnx")
    # the small detector's file is exported for one picture a call
    batches = [1] if name.startswith("scrfd") else batches
    with FlopCounterMode(display=False) as counter:
        net(example)
    facts = {
        "network": name,
        "side": side,
        "gflop": round(counter.get_total_flops() / 1e9, 2),
        "parameter_mib": round(sum(p.numel() for p in net.parameters()) * 4 / 2**20, 1),
    }
    rows = []
    for size in batches:
        x = torch.rand(size, 3, side, side)
        want = np.asarray(net(x))
        apart = {
            form: float(np.abs(np.asarray(run(x)) - want).max() / np.abs(want).max()) for form, run in forms.items()
        }
        spent: dict[str, list[float]] = {form: [] for form in forms}
        for _ in range(rounds):
            for form, run in forms.items():
                begun = time.perf_counter()
                run(x)
                spent[form].append((time.perf_counter() - begun) * 1000)
        medians = {form: round(statistics.median(times), 1) for form, times in spent.items()}
        least = {form: round(min(times), 1) for form, times in spent.items()}
        rows.append({**facts, "batch": size, "median_ms": medians, "least_ms": least, "relative_difference": apart})
    return rows


def _compiled(name: str, net: torch.nn.Module, side: int, size: int, rounds: int) -> dict[str, Any]:
    """The form in use and the compiled one in turns, and what compiling costs."""
    last = torch.channels_last
    plain = _folded(net).to(memory_format=last)
    torch._dynamo.reset()
    fast = torch.compile(plain, dynamic=False)
    x = torch.rand(size, 3, side, side).contiguous(memory_format=last)
    with torch.inference_mode():
        want = plain(x)
        begun, clock = _seconds(), time.perf_counter()
        got = fast(x)
        first, clock = _seconds() - begun, time.perf_counter() - clock
        spent: dict[str, list[float]] = {"plain": [], "compiled": []}
        for _ in range(rounds):
            for form, run in (("plain", plain), ("compiled", fast)):
                begun = _seconds()
                run(x)
                spent[form].append(_seconds() - begun)
    ms = {form: round(1000 * statistics.median(times), 1) for form, times in spent.items()}
    gain = (ms["plain"] - ms["compiled"]) / 1000 / size * FRAMES
    compiling = first - statistics.median(spent["compiled"])
    return {
        "network": name,
        "batch": size,
        "median_ms": ms,
        "least_ms": {form: round(1000 * min(times), 1) for form, times in spent.items()},
        "times_faster": round(ms["plain"] / ms["compiled"], 3),
        "relative_difference": float((got - want).abs().max() / want.abs().max()),
        "compile_seconds": round(compiling, 1),
        "compile_clock_seconds": round(clock, 1),
        "paid_back_after_videos": round(compiling / gain) if gain > 0 else None,
    }


def _seconds() -> float:
    """CPU seconds of this process and of those that it waited for; with several threads the clock's."""
    return sum(os.times()[:4]) if torch.get_num_threads() == 1 else time.perf_counter()


def _forms(net: torch.nn.Module, example: torch.Tensor, file: Path) -> Forms:
    if isinstance(net, OnnxInTorch):
        original = onnx_session(net.file, "cpu")
        return {
            "torch": net,
            "torch channels-last": lambda x: net(x.contiguous(memory_format=torch.channels_last)),
            "onnxruntime": lambda x: original.run([net.last], {net.first: x.numpy()})[0],
        }
    last = torch.channels_last
    fast = copy.deepcopy(net).to(memory_format=last)
    with torch.inference_mode(False):
        folded = _folded(net).to(memory_format=last)
        torch.onnx.export(
            net,
            (example.clone(),),
            str(file),
            dynamo=False,
            input_names=["x"],
            output_names=["y"],
            dynamic_axes={"x": {0: "n"}, "y": {0: "n"}},
            opset_version=17,
        )
    session = onnx_session(file, "cpu")
    return {
        "torch": net,
        "torch channels-last": lambda x: fast(x.contiguous(memory_format=last)),
        "torch channels-last folded": lambda x: folded(x.contiguous(memory_format=last)),
        "onnxruntime": lambda x: session.run(None, {"x": x.numpy()})[0],
    }


def _folded(net: torch.nn.Module) -> torch.nn.Module:
    """A copy in which a convolution that stands right before a batch normalisation among its siblings absorbs it."""
    net = copy.deepcopy(net)
    for parent in list(net.modules()):
        children = list(parent.named_children())
        for (one, conv), (two, norm) in itertools.pairwise(children):
            if isinstance(conv, torch.nn.Conv2d) and isinstance(norm, torch.nn.BatchNorm2d):
                setattr(parent, one, fuse_conv_bn_eval(conv, norm))
                setattr(parent, two, torch.nn.Identity())
    return net


if __name__ == "__main__":
    main()
