"""Lines that are put from several files into one, with a kill at any moment between."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ffbench import durable

FIRST, SECOND, OLD = b"a 1\nb 2\nc 3\n", b"d 4\na 1\ne 5\n", b"x 0\nb 2\ny 9\n"
TOGETHER = OLD + b"b 2\nc 3\nd 4\na 1\ne 5\n"
"""Of two equal lines the later one is kept; that the target has one already is no reason to leave out a newer one."""


def files(folder: Path, target: bytes = OLD) -> tuple[list[Path], Path]:
    folder.mkdir(exist_ok=True)
    parts = [folder / "part-1", folder / "part-2"]
    parts[0].write_bytes(FIRST)
    parts[1].write_bytes(SECOND)
    (folder / "target").write_bytes(target)
    return parts, folder / "target"


def test_lines_come_behind_the_others_in_order_and_the_files_go(tmp_path: Path) -> None:
    parts, target = files(tmp_path)
    durable.move_lines(parts, target)
    assert target.read_bytes() == TOGETHER and [path.name for path in tmp_path.iterdir()] == ["target"]
    parts, target = files(tmp_path)
    target.unlink()
    durable.move_lines(parts, target)
    assert target.read_bytes() == TOGETHER.removeprefix(OLD)


def test_torn_lines_stay_out(tmp_path: Path) -> None:
    parts, target = files(tmp_path, OLD + b"half")
    for part in parts:
        part.write_bytes(part.read_bytes() + b"a 1")
    durable.move_lines(parts, target)
    assert target.read_bytes() == TOGETHER


@pytest.mark.parametrize("written", range(len(TOGETHER) - len(OLD) + 1))
def test_a_kill_after_any_byte_doubles_and_loses_nothing(tmp_path: Path, written: int) -> None:
    parts, target = files(tmp_path, TOGETHER[: len(OLD) + written])
    durable.move_lines(parts, target)
    assert target.read_bytes() == TOGETHER
    assert not any(part.exists() for part in parts)


def test_a_kill_between_two_removals_doubles_nothing(tmp_path: Path) -> None:
    parts, target = files(tmp_path, TOGETHER)
    parts[0].unlink()
    durable.move_lines(parts[1:], target)
    assert target.read_bytes() == TOGETHER


def test_a_full_disk_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts, target = files(tmp_path)
    sync: Callable[[int], None] = os.fsync

    def full(file: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        durable.move_lines(parts, target)
    assert target.read_bytes() == OLD and [part.read_bytes() for part in parts] == [FIRST, SECOND]
    monkeypatch.setattr(os, "fsync", sync)
    durable.move_lines(parts, target)
    assert target.read_bytes() == TOGETHER
