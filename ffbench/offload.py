"""Whether a method's networks stay on a GPU together or take turns: one rule, for adapters and for the doctor.

Standard library only. It changes no video, so it is no setting and in no key.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from typing import Literal

from ffbench.errors import UserError

Level = Literal["together", "turns", "too small"]
VARIABLE = "FFBENCH_OFFLOAD"
"""`always` or `never`; by default what the GPU's memory asks for."""
ROOM_GIB = 24.0
"""For activations beside the weights: an estimate for 81 frames of 832x480, not measured."""


def wish() -> str:
    """What the user asks for: `always`, `never`, or nothing.

    Raises:
        UserError: the environment variable says something else.
    """
    said = os.environ.get(VARIABLE, "")
    if said not in ("", "always", "never"):
        raise UserError(f"{VARIABLE}={said} is neither always nor never", f"unset {VARIABLE}, or give one of the two")
    return said


def level(weights_gib: Collection[float], gpu_gib: float) -> Level:
    """How networks of these sizes go onto a GPU of that memory, unless the user wishes otherwise.

    `too small` is an expectation: the largest network and the room for activations exceed the memory. The networks
    take turns then too.
    """
    if gpu_gib >= sum(weights_gib) + ROOM_GIB:
        return "together"
    return "turns" if gpu_gib >= max(weights_gib) + ROOM_GIB else "too small"


def plan(parts_gib: Mapping[str, float]) -> str:
    """One line for people: the networks' sizes, and from which memory they stay together or take turns."""
    sizes = ", ".join(f"{name} {gib:g}" for name, gib in parts_gib.items())
    together, turns = sum(parts_gib.values()) + ROOM_GIB, max(parts_gib.values()) + ROOM_GIB
    return f"{sizes} GiB; with {ROOM_GIB:g} to work in together from {together:.0f} GiB, in turns from {turns:.0f}"
