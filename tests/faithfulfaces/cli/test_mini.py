"""`faithfulfaces mini` refuses what it cannot do before it begins."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faithfulfaces.commands import Command, refused


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("build", "--device", "tpu"), "there is no device 'tpu'"),
        (("build", "--budget", "-1"), "--budget"),
        (("variants",), "holds no base"),
        (("variants", "--only", "none"), "there is no variant 'none'"),
        (("phantom", "--base", "none"), "the base none holds no transformer"),
        (("phantom", "--footage", "none"), "none holds no train_0000.npz"),
    ],
)
def test_bad_input_is_two_lines(command: Command, tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    refused(command("mini", *arguments, "--out", tmp_path / "out"), words)
    assert not list(tmp_path.rglob("*.npz"))


def test_a_budget_that_is_spent_ends_with_one(command: Command, tmp_path: Path) -> None:
    result = command("mini", "build", "--trial", "--budget", 0, "--out", tmp_path / "out")
    assert result.code == 1 and "the budget of 0 min is spent; the same command goes on" in result.err
