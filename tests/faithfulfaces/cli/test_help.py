"""Help texts: light, and true where they name a default that the program finds elsewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import typer

from faithfulfaces.cli import app
from faithfulfaces.mini import build
from faithfulfaces.mini.phantom.build import STEPS
from faithfulfaces.pipeline import NEGATIVE_PROMPT, Sampling


def shown(*words: str) -> dict[str, str]:
    """Option -> what its help shows in place of a default."""
    command: Any = typer.main.get_command(app)
    for word in words:
        command = command.commands[word]
    return {one.name: one.show_default for one in command.params if isinstance(one.show_default, str)}


def test_help_is_light() -> None:
    code = (
        "import sys\nfrom faithfulfaces.cli import main\nsys.argv = ['faithfulfaces', 'sample', '--help']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'numpy', 'matplotlib', 'diffusers', 'PIL'} & set(sys.modules)\n"
        "print(heavy or '{}', file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stderr.strip() == "{}"
    assert "--no-euler" in done.stdout


def test_the_defaults_that_sample_shows_are_the_pipelines() -> None:
    plain = Sampling()
    assert plain.negative_prompt == NEGATIVE_PROMPT
    told = {name: re.fullmatch("the checkpoint's, else (.*)", text) for name, text in shown("sample").items()}
    numbers = {name: float(found[1]) for name, found in told.items() if found and found[1] != "Wan's"}
    assert numbers == {name: getattr(plain, name) for name in numbers}
    assert numbers.keys() == vars(plain).keys() - {"negative_prompt", "text_tokens", "aligner", "euler"}


def test_the_steps_that_mini_shows_are_those_it_trains() -> None:
    assert shown("mini", "variants")["steps"] == f"{build.Sizes().faithful_steps}"
    assert shown("mini", "phantom")["steps"] == f"{STEPS}"


def test_every_option_says_what_it_is_and_what_holds_without_it() -> None:
    def told(command: Any, path: str) -> None:
        assert command.help, path
        for one in getattr(command, "commands", {}).items():
            told(one[1], f"{path} {one[0]}")
        for one in command.params:
            assert one.help, f"{path}: {one.name}"
            free = one.required or one.name in PLAIN or (one.default is not None and one.default != "")
            assert free or isinstance(one.show_default, str), f"{path}: nothing tells what holds without {one.name}"

    told(typer.main.get_command(app), "faithfulfaces")


PLAIN = {"help", "out", "shards", "picture", "videos", "clips"}
"""Options that are left out where what they name is not wanted."""
