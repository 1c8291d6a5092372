"""Trained checkpoints as rows of an ablation: what each says of itself, found by folder.

Most are of the reference model; the small Phantom of the mini world is trained as well, and found by a file of its own.
"""

from __future__ import annotations

import collections
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ffbench.errors import UserError

CONFIG = "config.json"
"""Of a checkpoint: its `aligner` says what was trained, its `seed` with which one."""
WEIGHTS = "*.safetensors"
VARIANTS = "variants"
"""Where `faithfulfaces mini variants` keeps them."""
ABOUT = "phantom.json"
"""In a folder that `faithfulfaces mini phantom` made: method, seed and steps."""
OURS, PHANTOM = "faithfulfaces", "phantom"
Kind = tuple[tuple[str, Any], ...]
"""How a checkpoint's aligner differs from the whole one: () for the whole one, (("aligner", None),) without any."""
WITHOUT: Kind = (("aligner", None),)
ANOTHER: Kind = (("method", PHANTOM),)
"""Of a small Phantom."""
WHOLE: Mapping[str, Any] = {"euler": True, "pooling": "max"}


@dataclass(frozen=True)
class Checkpoint:
    """One training."""

    folder: Path
    aligner: Mapping[str, Any] | None
    seed: int | None
    method: str = OURS
    """Whose it is."""

    @property
    def settings(self) -> tuple[str, ...]:
        """What its method is told of it; a small Phantom's folder holds its base too."""
        names = ("base", "checkpoint") if self.method == PHANTOM else ("checkpoint",)
        return tuple(f"{name}={self.folder}" for name in names)

    def kind(self, elements: int) -> Kind:
        """What sets it apart from a whole aligner of so many dictionary elements."""
        if self.method == PHANTOM:
            return ANOTHER
        if self.aligner is None:
            return WITHOUT
        whole = {**WHOLE, "elements": elements}
        return tuple((part, self.aligner.get(part)) for part in sorted(whole) if self.aligner.get(part) != whole[part])

    def content(self) -> str:
        """Hex digits over its weights: a checkpoint trained anew is another one."""
        found = hashlib.sha256()
        for path in sorted(self.folder.rglob(WEIGHTS)):
            found.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
        return found.hexdigest()[:12]


def read_checkpoint(folder: Path) -> Checkpoint:
    """The checkpoint in a folder.

    Raises:
        UserError: where it holds none.
    """
    if (folder / ABOUT).is_file():
        return _read_phantom(folder)
    path = folder / CONFIG
    try:
        data = json.loads(path.read_text("utf-8"))
        aligner = data["aligner"]
        return Checkpoint(folder.resolve(), None if aligner is None else dict(aligner), data.get("seed"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is no checkpoint's: {type(error).__name__} {error}", "give a folder that faithfulfaces train wrote"
        ) from error


def find_checkpoints(place: Path) -> list[Checkpoint]:
    """Every checkpoint below a folder, or below its `variants` and `phantom`, sorted by path.

    Raises:
        UserError: where there is none.
    """
    root = place / VARIANTS if (place / VARIANTS).is_dir() else place
    folders = [path.parent for path in sorted(root.rglob(CONFIG)) if path.parent.suffix != ".part"]
    found = [read_checkpoint(folder) for folder in folders if any(folder.glob(WEIGHTS)) and _is_model(folder)]
    others = place / PHANTOM if (place / PHANTOM).is_dir() else root
    found += [_read_phantom(path.parent) for path in sorted(others.rglob(ABOUT)) if path.parent.suffix != ".part"]
    if not found:
        raise UserError(f"no checkpoint below {root}", "faithfulfaces mini variants --out FOLDER trains them")
    return found


def elements_of(checkpoints: Sequence[Checkpoint]) -> int | None:
    """Dictionary elements of the whole aligner: what most have; None where no checkpoint has an aligner."""
    sizes = [one.aligner.get("elements") for one in checkpoints if one.aligner is not None]
    counted = collections.Counter(size for size in sizes if isinstance(size, int))
    return min(counted, key=lambda size: (-counted[size], size)) if counted else None


def _read_phantom(folder: Path) -> Checkpoint:
    path = folder / ABOUT
    try:
        data = json.loads(path.read_text("utf-8"))
        if data["method"] != PHANTOM or type(data["seed"]) is not int:
            raise ValueError(f"method {data['method']!r}, seed {data['seed']!r}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is not what `faithfulfaces mini phantom` writes: {type(error).__name__} {error}",
            "build it again: faithfulfaces mini phantom --out FOLDER",
        ) from error
    return Checkpoint(folder.resolve(), None, data["seed"], PHANTOM)


def _is_model(folder: Path) -> bool:
    """Whether its config.json is that of a checkpoint, not of a training run or a base."""
    try:
        keys: set[str] = set(json.loads((folder / CONFIG).read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return False
    return {"aligner", "injection", "format"} <= keys
