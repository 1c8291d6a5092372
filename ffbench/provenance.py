"""Where and with what a number was made: versions, commit and GPU; no user names and no paths."""

from __future__ import annotations

import functools
import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import Any

import ffbench

PACKAGES = (
    "torch",
    "torchvision",
    "diffusers",
    "transformers",
    "onnxruntime",
    "onnxruntime-gpu",
    "insightface",
    "facenet-pytorch",
    "open_clip_torch",
    "torch-fidelity",
    "numpy",
    "opencv-python",
    "av",
)
_ROOT = Path(ffbench.__file__).parents[1]
_OURS = ("ffbench", "baselines", "faithfulfaces", "prompts", "pyproject.toml")


@functools.cache
def _facts(device: str) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "ffbench": ffbench.__version__,
        **_checkout(_ROOT),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "packages": _versions(),
        "device": device,
    }
    if device.startswith("cuda"):
        facts["gpu"] = _gpus()
    return facts


def provenance(device: str = "cpu") -> dict[str, Any]:
    """The tool, the machine and the packages, as plain JSON values; imports no torch.

    `commit` and `dirty` are there only where ffbench runs from a git checkout of its own; `gpu` lists every GPU that
    the driver shows, and is empty where it cannot be asked.
    """
    return dict(_facts(device))


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _checkout(root: Path) -> dict[str, Any]:
    # an installed ffbench may lie inside somebody else's repository, so git is not left to search upwards
    if not (root / ".git").exists():
        return {}
    commit = _ask("git", "-C", str(root), "rev-parse", "HEAD")
    changes = _ask("git", "-C", str(root), "status", "--porcelain", "--", *_OURS)
    return {} if commit is None or changes is None else {"commit": commit, "dirty": bool(changes)}


def _gpus() -> list[str]:
    told = _ask("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader")
    return told.splitlines() if told else []


def _ask(*argv: str) -> str | None:
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
