"""Filters: anything that gives a number for a clip's frames, built in or the user's own.

A check of one's own is written `module:function<=number` or `module:function>=number`. The function takes uint8
[T,H,W,3] RGB and returns a number; a clip that misses the bound is rejected for the reason of the function's name.
"""

from __future__ import annotations

import functools
import importlib
import math
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ffbench.errors import UserError

Measure = Callable[[NDArray[np.uint8]], float]
FORM = re.compile(r"([A-Za-z_][\w.]*):([A-Za-z_]\w*)(<=|>=)(-?\d+(?:\.\d+)?)")


class Check(NamedTuple):
    """One bound on one measure."""

    name: str
    measure: Measure
    at_most: bool
    bound: float

    def holds(self, value: float) -> bool:
        """Whether a value keeps the bound; NaN does not."""
        return value <= self.bound if self.at_most else value >= self.bound


def form(text: str) -> re.Match[str]:
    """The parts of a check as it is written.

    Raises:
        UserError: for another form.
    """
    found = FORM.fullmatch(text)
    if found is None:
        raise UserError(
            f"quality.checks: {text!r} is no check", "write module:function<=number or module:function>=number"
        )
    return found


@functools.cache
def check(text: str) -> Check:
    """The check that a text names.

    Raises:
        UserError: for another form, or a function that cannot be imported.
    """
    module, name, sign, bound = form(text).groups()
    try:
        measure: Measure = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"quality.checks: {text}: {error}", "is the module installed, or its folder in PYTHONPATH?"
        ) from error
    return Check(name, measure, sign == "<=", float(bound))


def run(all_checks: Sequence[Check], frames_THW3: NDArray[np.uint8]) -> tuple[dict[str, float], str, str]:
    """(values, reason, detail): the checks in their order up to the first that a clip misses."""
    values: dict[str, float] = {}
    for one in all_checks:
        value = float(one.measure(frames_THW3))
        values[one.name] = round(value, 4) if math.isfinite(value) else math.nan
        if not one.holds(value):
            word = "at most" if one.at_most else "at least"
            return values, one.name, f"{one.name} {value:.4g}, {word} {one.bound:g} is asked for"
    return values, "", ""
