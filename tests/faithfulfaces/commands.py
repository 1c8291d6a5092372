"""A command line as a user types it, and what it says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple


class Result(NamedTuple):
    code: int
    out: str
    err: str


Command = Callable[..., Result]


def refused(result: Result, *words: str) -> None:
    assert result.code == 2, result
    lines = result.err.strip().splitlines()
    assert len(lines) == 2 and lines[0].startswith("error: ") and lines[1].startswith("fix:   "), result.err
    assert result.out == ""
    for word in words:
        assert word in result.err


def sampled(command: Command, world: Path, out: Path, *more: object) -> Result:
    return command(
        "sample", "--checkpoint", world / "checkpoint", "--image", world / "face.png", "--prompt", "a person boxes",
        "--out", out, "--steps", 2, "--dtype", "float32", *more,
    )  # fmt: skip
