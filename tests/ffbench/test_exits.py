"""Every way a command can end."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import pytest
import typer

from ffbench.errors import UserError
from ffbench.exits import run_app


def ended(error: BaseException, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    def app(**_: object) -> None:
        raise error

    with pytest.raises(SystemExit) as left:
        run_app(app, "the same command goes on")
    printed = capsys.readouterr()
    assert printed.out == ""
    return int(left.value.code or 0), printed.err


def test_what_the_user_can_mend_is_two_lines_and_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(UserError("no --out", "give one"), capsys) == (2, "error: no --out\nfix:   give one\n")


def test_ctrl_c_says_how_to_go_on_and_is_130(capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(KeyboardInterrupt(), capsys) == (130, "stopped; the same command goes on\n")


def test_a_bug_keeps_its_traceback_and_is_3(capsys: pytest.CaptureFixture[str]) -> None:
    code, text = ended(ZeroDivisionError("oops"), capsys)
    assert code == 3
    assert "Traceback" in text and "ZeroDivisionError: oops" in text
    report = text.strip().splitlines()[-1].partition("report it with: ")[2]
    assert "packages" in json.loads(report) or json.loads(report)


def test_a_disk_that_is_full_or_not_ours_is_no_bug(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, text = ended(OSError(errno.ENOSPC, "No space left on device", "runs/x"), capsys)
    assert code == 2
    assert text.splitlines() == [
        "error: runs/x cannot be written: No space left on device",
        "fix:   choose a folder that you may write to and that has room (df -h); the same command goes on",
    ]
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError) as met:
        (tmp_path / "file" / "runs").mkdir()
    assert ended(met.value, capsys)[0] == 2
    with pytest.raises(FileExistsError) as there:
        (tmp_path / "file").mkdir(exist_ok=True)
    assert ended(there.value, capsys)[0] == 2
    assert ended(FileNotFoundError(errno.ENOENT, "no such file", "x"), capsys)[0] == 3


def test_the_applications_own_code_is_kept() -> None:
    with pytest.raises(SystemExit) as left:
        run_app(lambda **_: sys.exit(1), "")
    assert left.value.code == 1


def typed(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """A real application with one command, called with words."""
    app = typer.Typer(no_args_is_help=False)

    @app.command()
    def wait(seconds: Annotated[int, typer.Option(min=0)] = 0, stop: bool = False) -> None:
        if stop:
            raise KeyboardInterrupt
        raise typer.Exit(seconds)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as left:
        patch.setattr(sys, "argv", ["wait", *words])
        run_app(app, "the same command goes on")
    return int(left.value.code or 0), capsys.readouterr().err


def test_wrong_words_are_two_lines_and_2(capsys: pytest.CaptureFixture[str]) -> None:
    for words, said in (
        (["--second", "3"], "No such option: --second"),
        (["--seconds", "three"], "Invalid value for '--seconds': "),
        (["--seconds", "-1"], "Invalid value for '--seconds': "),
        (["there"], "Got unexpected extra argument"),
    ):
        code, text = typed(words, capsys)
        error, fix = text.splitlines()
        assert code == 2
        assert error.startswith(f"error: {said}")
        assert fix == "fix:   wait --help lists what it takes"


def test_codes_and_ctrl_c_of_a_real_application(capsys: pytest.CaptureFixture[str]) -> None:
    assert typed([], capsys) == (0, "")
    assert typed(["--seconds", "1"], capsys) == (1, "")
    assert typed(["--stop"], capsys) == (130, "stopped; the same command goes on\n")


def test_a_closed_pipe_is_no_error() -> None:
    code = (
        "from ffbench.exits import run_app\n"
        "def app(**_):\n    for i in range(100000): print(i)\n    raise SystemExit(0)\n"
        "run_app(app, '')\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert child.stdout is not None and child.stderr is not None
    child.stdout.readline()
    child.stdout.close()
    assert child.stderr.read() == b""
    child.stderr.close()
    assert child.wait() == 0
