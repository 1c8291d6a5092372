"""The labelled set of `ffbench truth`, cut from footage of the split `test`, whom no network has seen.

Which people are taken is decided by pose labels and order alone, never by what a network makes of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from faithfulfaces.mini.footage import FPS, Footage
from faithfulfaces.synthetic.people import SPLITS
from ffbench.durable import write_atomic
from ffbench.truth.labelled import Labelled, TruthSet

PEOPLE, CLIPS = 40, 24
TURNED = 45.0
"""Degrees of |yaw|; people of loose frames are those who are turned further most often, since such frames are rare."""


def truth_set(loose: Sequence[Footage], clips: Footage, people: int = PEOPLE, count: int = CLIPS) -> TruthSet:
    """The set: of all loose footage the people with most frames beyond `TURNED`, of the clips the first `count`.

    Args:
        loose: blocks of `footage.loose("test", b)`.
        clips: a block of `footage.clips("test", b)` of other people; see `clip_block`.
        people: how many of the loose ones; fewer where there are fewer.
        count: how many clips; fewer where there are fewer.

    Raises:
        ValueError: a person of the clips is among the loose ones.
    """
    every = Footage.joined(list(loose))
    if shared := set(every.seeds.tolist()) & set(clips.seeds.tolist()):
        raise ValueError(f"person {min(shared)} is in the loose frames and in the clips")
    turned = (np.abs(every.angles[..., 1]) > TURNED).sum(1)
    chosen = np.sort(np.argsort(-turned, kind="stable")[:people])
    first = np.arange(min(count, len(clips.seeds)))
    return TruthSet(_rows(every, chosen), _rows(clips, first), clips.portraits[first, 0], float(FPS))


def clip_block(loose: Sequence[Footage], count: int = CLIPS) -> int:
    """The first block b for `footage.clips("test", b, device, count)` whose people are not in the loose footage."""
    last = max(int(block.seeds.max()) for block in loose)
    return -(-(last + 1 - SPLITS["test"].start) // count)


def write_truth(path: Path, loose: Sequence[Footage], clips: Footage) -> None:
    """Write `truth_set` as ffbench reads it; a killed run leaves no half file under the name."""
    write_atomic(path, truth_set(loose, clips).to_bytes())


def _rows(footage: Footage, chosen: NDArray[np.intp]) -> Labelled:
    return Labelled(*(getattr(footage, field.name)[chosen] for field in fields(Labelled)))
