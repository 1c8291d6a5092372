"""What this machine can do for the benchmark, and the command that mends what it cannot."""

from __future__ import annotations

import importlib.metadata
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ffbench import offload, weights
from ffbench.errors import UserError
from ffbench.methods import METHODS, card
from ffbench.protocols import Protocol, get_protocol

NEEDED_GIB = 2.0
"""Free disk below which a run is likely to end early."""
_SMALLER = "fewer pixels or frames (--set width=..., --set num_frames=...), a smaller variant, or a larger GPU"


@dataclass(frozen=True)
class Check:
    """One line of the doctor's report."""

    name: str
    status: Literal["ok", "note", "problem"]
    detail: str
    fix: str = ""


def examine(protocol: Protocol | None, out: Path, device: str = "cpu") -> list[Check]:
    """Check packages, GPU, ONNX Runtime, weights and the disk of `out`.

    Args:
        protocol: whose weights must be here. With None those of `mini` must; those of `standard` are told as a note,
            for the embedded suite does not need them.
        out: where runs are kept.
        device: a PyTorch device.
    """
    wanted = [_weights(protocol, "problem")] if protocol else [_mini, _weights(get_protocol("standard"), "note")]
    checks: list[Callable[[], list[Check]]] = [
        _packages,
        _gpu,
        _offload,
        lambda: _onnx(device),
        *wanted,
        lambda: _disk(out),
    ]
    return [check for run in checks for check in run()]


def _packages() -> list[Check]:
    names = ("torch", "onnxruntime", "insightface", "facenet-pytorch", "open_clip_torch", "diffusers", "transformers")
    detail = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    return [Check("packages", "ok", detail)]


def _gpu() -> list[Check]:
    import torch

    if not torch.cuda.is_available():
        return [Check("gpu", "note", "none: everything runs on the CPU", "")]
    found = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        memory = properties.total_memory / 2**30
        found.append(Check(f"gpu {index}", "ok", f"{properties.name}, {memory:.0f} GiB, CUDA {torch.version.cuda}"))
    return found


def _offload() -> list[Check]:
    """How the networks of each method that may need it would go onto each GPU."""
    import torch

    cards = [card(name) for name in METHODS]
    cards = [one for one in cards if one.parts]
    try:
        wished = offload.wish()
    except UserError as error:
        return [Check("offload", "problem", error.what, error.fix)]
    if wished:
        how = "in turns" if wished == "always" else "together"
        return [Check("offload", "note", f"{offload.VARIABLE}={wished}: networks go onto a GPU {how}, whatever fits")]
    if not torch.cuda.is_available():
        together, turns = (sorted(fold(one.parts.values()) + offload.ROOM_GIB for one in cards) for fold in (sum, max))
        detail = (
            f"published sizes want a GPU of {together[0]:.0f} to {together[-1]:.0f} GiB, in turns {turns[0]:.0f} to"
        )
        return [Check("offload", "note", f"{detail} {turns[-1]:.0f}: ffbench show METHOD")]
    found = []
    for index in range(torch.cuda.device_count()):
        memory = torch.cuda.get_device_properties(index).total_memory / 2**30
        levels: dict[str, list[str]] = {}
        for one in cards:
            levels.setdefault(offload.level(one.parts.values(), memory), []).append(one.name)
        found += [
            Check(f"gpu {index}", "note" if level == "too small" else "ok", f"{level}: {', '.join(names)}", fix)
            for level, names in levels.items()
            for fix in (_SMALLER if level == "too small" else "",)
        ]
    return found


def _onnx(device: str) -> list[Check]:
    import onnxruntime

    providers = onnxruntime.get_available_providers()
    wanted = device.startswith("cuda")
    if wanted and "CUDAExecutionProvider" not in providers:
        return [
            Check(
                "onnx",
                "problem",
                "ONNX Runtime has no CUDA provider",
                "pip uninstall onnxruntime && pip install onnxruntime-gpu",
            )
        ]
    return [Check("onnx", "ok", f"onnxruntime {onnxruntime.__version__}, {', '.join(providers)}")]


def _mini() -> list[Check]:
    """The embedded world, which a newcomer needs and nothing else."""
    lacking = [check for check in _weights(get_protocol("mini"), "problem")() if check.status != "ok"]
    whole = Check("mini", "ok", "the embedded suite, methods and measuring networks need nothing more")
    return lacking or [whole]


def _weights(protocol: Protocol, lacking: Literal["note", "problem"]) -> Callable[[], list[Check]]:
    def check() -> list[Check]:
        found = []
        for slot, network in sorted(protocol.networks.items()):
            if not network.weights:
                found.append(Check(slot, "ok", f"{network.kind}: needs no download"))
                continue
            try:
                resolved = weights.resolve(network.weights)
                found.append(Check(slot, "ok", f"{network.weights} ({resolved.sha256[:12]})"))
            except UserError as error:
                found.append(Check(slot, lacking, f"for protocol {protocol.name}: {error.what}", error.fix))
        return found

    return check


def _disk(out: Path) -> list[Check]:
    place = out.resolve()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free / 2**30
    if free < NEEDED_GIB:
        return [Check("disk", "problem", f"{free:.1f} GiB free at {place}", "free some space, or give --out elsewhere")]
    return [Check("disk", "ok", f"{free:.0f} GiB free")]
