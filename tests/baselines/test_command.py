"""Any tool: arguments arrive as they are, failures say why."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from baselines.command.adapter import PLACEHOLDERS, Command, parse_argv, run, substitute
from ffbench.contract import Output, Request, Runtime
from ffbench.errors import UserError
from ffbench.records import Case, Reference

NASTY = 'it\'s "quoted"\nnew line\t$(touch pwned) `id` ; rm -rf * && {seed} {output} 😀 ../ %s --help \\'
ECHO = "import json, sys; open(sys.argv[1], 'w').write(json.dumps(sys.argv[2:]))"


def make(tmp_path: Path, argv: list[str], prompt: str = "p") -> list[Output]:
    command = Command({"argv": json.dumps(argv)})
    command.load(Runtime("cuda:1", ""))
    folder = tmp_path / "request"
    folder.mkdir()
    case = Case("s", "1", "c", "id", (Reference("/photos/a b.png", "0" * 64),), "p", prompt, "woman")
    return list(command.generate([Request(case, 42, str(folder))]))


@pytest.mark.parametrize("prompt", [NASTY, "", "x" * 3000, "-- -rf"])
def test_every_argument_arrives_literally(tmp_path: Path, prompt: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    given = [sys.executable, "-c", ECHO, "{output}", "{prompt}", "--p={prompt}", "{image}", "{seed}{seed}", "{device}"]
    (output,) = make(tmp_path, [*given, "{subject}", "{prompt_file}", '{"json": {"a": [1]}}', "{}"], prompt)
    folder = tmp_path / "request"
    assert output.video == str(folder / "output.mp4") and output.frames is None
    got = json.loads(Path(output.video).read_text())
    assert got[:6] == [prompt, f"--p={prompt}", "/photos/a b.png", "4242", "cuda:1", "woman"]
    assert got[6] == str(folder / "prompt.txt") and Path(got[6]).read_bytes().decode() == prompt
    assert got[7:] == ['{"json": {"a": [1]}}', "{}"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["request"]


def test_a_prompt_too_long_for_an_argument_goes_by_file(tmp_path: Path) -> None:
    code = "import sys; open(sys.argv[1], 'w').write(str(len(open(sys.argv[2]).read())))"
    (output,) = make(tmp_path, [sys.executable, "-c", code, "{output}", "{prompt_file}"], "x" * 300_000)
    assert Path(output.video).read_text() == "300000"


def test_a_failure_says_exit_code_and_last_words(tmp_path: Path) -> None:
    code = "import sys; print('x' * 5000); print('out of cheese', file=sys.stderr); sys.exit(3)"
    with pytest.raises(RuntimeError, match=r"exit code 3; its last words:\n(.|\n)*out of cheese") as caught:
        make(tmp_path, [sys.executable, "-c", code, "{output}"])
    assert len(str(caught.value)) < 1200


def test_a_signal_is_named(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="signal 9"):
        make(tmp_path, [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)", "{output}"])


def test_success_without_a_video_is_a_failure(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="does not exist"):
        make(tmp_path, [sys.executable, "-c", "", "{output}"])


def test_the_tools_output_goes_to_the_log(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    run([sys.executable, "-c", r"import sys; sys.stdout.buffer.write(b'\xff\x00raw')"])
    assert capfdbinary.readouterr().err == b"\xff\x00raw"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no JSON list"),
        ("mytool --out {output}", "no JSON list"),
        ('"mytool {output}"', "no JSON list"),
        ("[]", "no JSON list"),
        ('["mytool", 3, "{output}"]', "no JSON list"),
        ('["", "{output}"]', "no JSON list"),
        ('["mytool"]', "does not say where the video goes"),
        ('["mytool", "{output}", "{promt}"]', r"{promt}, which is no placeholder; did you mean {prompt}"),
    ],
)
def test_a_wrong_argv_is_named(text: str, reason: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_argv(text)
    assert reason in str(caught.value)


def test_a_missing_tool_is_named_before_any_work() -> None:
    command = Command({"argv": '["no-such-tool-xyz", "{output}"]'})
    with pytest.raises(UserError, match="no-such-tool-xyz"):
        command.load(Runtime("cpu", ""))


def test_what_fills_a_placeholder_is_not_looked_at_again() -> None:
    values = {**dict.fromkeys(PLACEHOLDERS, ""), "prompt": "{seed} {prompt}", "seed": "1"}
    assert substitute("<{prompt}|{seed}>", values) == "<{seed} {prompt}|1>"
