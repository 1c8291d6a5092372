"""Environments of methods: made, tried, remembered; real interpreters and real virtual environments."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import platform
import signal
import subprocess
import sys
import time
import venv
import zipfile
from pathlib import Path

import pytest

import ffbench
from ffbench import environments, methods
from ffbench.cards import Card
from ffbench.contract import Runtime
from ffbench.errors import UserError
from ffbench.methods import METHODS, MethodProcess, find, interpreter, set_up
from ffbench.processes import group_memory, kill_group
from tests.ffbench.test_methods import requests

VERSION = "{}.{}".format(*sys.version_info[:2])
CARD = """
summary = "for tests"
kind = "tool"
revision = "1"
licence = "none"
deviations = ["all"]
environment = "{environment}"
python = "{python}"

[settings]
what = "make"
"""
ADAPTER = """
import sys, time
from pathlib import Path
from ffbench.contract import Output
{imports}

class Away:
    def __init__(self, settings): pass
    def load(self, runtime): pass
    def generate(self, requests):
        for request in requests:
            if request.case.prompt == "memory":
                held = bytearray(300 << 20)
                for place in range(0, len(held), 4096):
                    held[place] = 1
                time.sleep(60)
            if request.case.prompt == "child":
                import subprocess
                code = "import time; b = bytearray(300 << 20); b[::4096] = bytes(len(b[::4096])); time.sleep(60)"
                subprocess.run([sys.executable, "-c", code])
            Path(request.folder, "v.txt").write_text(request.case.prompt)
            yield Output(video="v.txt", notes={{"prefix": sys.prefix}})
"""


@pytest.fixture(autouse=True)
def away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FFBENCH_ENVIRONMENTS", str(tmp_path / "environments"))


def make(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, needs: str = "", python: str = VERSION, embedded: bool = False
) -> Card:
    folder = tmp_path / "site" / "elsewhere" / "away"
    folder.mkdir(parents=True)
    for place in (folder, folder.parent):
        (place / "__init__.py").write_text("")
    environment = "embedded" if embedded else "requirements.txt"
    (folder / "card.toml").write_text(CARD.format(environment=environment, python=python))
    (folder / "requirements.txt").write_text(needs)
    (folder / "adapter.py").write_text(ADAPTER.format(imports="import needed_here" if ("needed" in needs) else ""))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setattr(methods, "METHODS", {**METHODS, "away": "elsewhere.away.adapter:Away"})
    return find("away")


def made_by(tmp_path: Path, card: Card, *prompts: str, memory: float = float("inf")) -> list[tuple[str, str, str]]:
    with MethodProcess(card, card.settings, Runtime("cpu", ""), tmp_path, tmp_path / "log", 60.0) as process:
        process.memory_gib = memory
        return [(a.status, a.error, str(a.notes.get("prefix"))) for a in process.run(requests(tmp_path, prompts))]


def test_setup_makes_an_environment_that_the_method_then_runs_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = make(tmp_path, monkeypatch, "# nothing\n\n")
    with pytest.raises(UserError) as caught:
        interpreter(card)
    assert str(caught.value) == (
        "error: away needs its own environment, and none is set up\n"
        f"fix:   ffbench methods setup away --python python{VERSION}"
    )
    with (tmp_path / "setup.log").open("wb") as log:
        python = set_up("away", sys.executable, False, log)
    assert python == str(tmp_path / "environments" / "away" / "bin" / "python") == interpreter(card)
    assert made_by(tmp_path, card, "hello") == [("ok", "", str(tmp_path / "environments" / "away"))]
    assert interpreter(find("still")) == sys.executable  # others are not concerned


def wheel(folder: Path) -> Path:
    """A wheel of one module, written by hand: no network and no build tool."""
    files = {
        "needed_here.py": b"VALUE = 1\n",
        "needed_here-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: needed-here\nVersion: 1.0\n",
        "needed_here-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nGenerator: hand\nRoot-Is-Purelib: true\n"
        b"Tag: py3-none-any\n",
    }
    record = io.StringIO()
    for name, data in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        record.write(f"{name},sha256={digest},{len(data)}\n")
    record.write("needed_here-1.0.dist-info/RECORD,,\n")
    path = folder / "needed_here-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in {**files, "needed_here-1.0.dist-info/RECORD": record.getvalue().encode()}.items():
            archive.writestr(name, data)
    return path


@pytest.mark.slow
def test_requirements_are_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = make(tmp_path, monkeypatch, f"{wheel(tmp_path)}\n")
    with (tmp_path / "setup.log").open("wb") as log:
        set_up("away", sys.executable, False, log)
    assert "needed_here" in (tmp_path / "setup.log").read_text().replace("-", "_")
    ((status, error, prefix),) = made_by(tmp_path, card, "hello")
    assert (status, error) == ("ok", "") and prefix.endswith("environments/away")


def test_an_installation_that_fails_is_not_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = make(tmp_path, monkeypatch, "needed-here\n")
    environments.root().mkdir()
    (environments.root() / "away").write_text("in the way of the virtual environment")
    with (tmp_path / "setup.log").open("wb") as log, pytest.raises(UserError, match=r"-m venv .* exit code 1"):
        set_up("away", sys.executable, False, log)
    assert (tmp_path / "setup.log").read_text()
    with pytest.raises(UserError, match="none is set up"):
        interpreter(card)


def test_a_ready_environment_is_tried_before_it_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = make(tmp_path, monkeypatch, "needed-here\n")
    ready = tmp_path / "mine"
    venv.EnvBuilder(with_pip=False, symlinks=True).create(ready)
    python = str(ready / "bin" / "python")
    with (tmp_path / "log").open("wb") as log:
        with pytest.raises(UserError, match="No module named 'needed_here'"):
            set_up("away", python, True, log)
        with zipfile.ZipFile(wheel(tmp_path)) as archive:
            archive.extractall(ready / "lib" / f"python{VERSION}" / "site-packages")
        assert set_up("away", python, True, log) == python
    assert made_by(tmp_path, card, "hello") == [("ok", "", str(ready))]
    assert not (tmp_path / "environments" / "away").exists()  # nothing was made


def test_an_interpreter_of_another_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, monkeypatch, python="3.99")
    with (tmp_path / "log").open("wb") as log:
        with pytest.raises(UserError) as caught:
            set_up("away", sys.executable, False, log)
        assert f"needs Python 3.99, and {sys.executable} is {VERSION}" in caught.value.what
        assert caught.value.fix == "ffbench methods setup away --python python3.99"
        with pytest.raises(UserError, match="is no program"):
            set_up("away", "python-that-is-nowhere", False, log)
        with pytest.raises(UserError, match="is no Python"):
            set_up("away", "/bin/echo", False, log)


@pytest.mark.parametrize("text", ["[]", "{torn", '{"away": "/gone/python"}'])
def test_a_damaged_memory_is_named(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = make(tmp_path, monkeypatch)
    environments.root().mkdir(parents=True)
    (environments.root() / "pythons.json").write_text(text)
    with pytest.raises(UserError, match=r"pythons\.json"):
        interpreter(card)


def test_the_variable_goes_before_what_was_set_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = make(tmp_path, monkeypatch)
    with (tmp_path / "log").open("wb") as log:
        set_up("away", sys.executable, True, log)
    assert interpreter(card) == sys.executable
    monkeypatch.setenv("FFBENCH_PYTHON_AWAY", "/bin/sh")
    assert interpreter(card) == "/bin/sh"


def test_any_method_can_have_an_interpreter_that_holds_ffbench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = make(tmp_path, monkeypatch, embedded=True, python="")
    other = tmp_path / "other"
    venv.EnvBuilder(with_pip=False, symlinks=True).create(other)
    python = str(other / "bin" / "python")
    with (tmp_path / "log").open("wb") as log:
        with pytest.raises(UserError) as caught:
            set_up("away", python, False, log)
        assert f"-m pip install ffbench=={ffbench.__version__}" in caught.value.fix
        # what an installation does: ffbench and the method's package can be imported there
        site = other / "lib" / f"python{VERSION}" / "site-packages"
        (site / "here.pth").write_text(f"{Path(ffbench.__file__).parents[1]}\n{tmp_path / 'site'}\n")
        assert set_up("away", python, False, log) == python
    assert made_by(tmp_path, card, "hello") == [("ok", "", str(other))]


# --- memory


@pytest.mark.skipif(platform.system() != "Linux", reason="memory is read from /proc")
@pytest.mark.parametrize("prompt", ["memory", "child"])
def test_a_worker_that_takes_too_much_memory_is_a_failed_record_and_the_next_goes_on(
    prompt: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = make(tmp_path, monkeypatch)
    monkeypatch.setenv("FFBENCH_PYTHON_AWAY", sys.executable)
    start = time.monotonic()
    (first, error, _), (second, *_) = made_by(tmp_path, card, prompt, "hello", memory=0.25)
    assert first == "failed" and "GiB of memory, " in error and "0.25" in error
    assert second == "ok" and time.monotonic() - start < 30


@pytest.mark.skipif(platform.system() != "Linux", reason="memory is read from /proc")
def test_the_memory_of_a_group_is_that_of_all_its_processes(tmp_path: Path) -> None:
    code = (
        "import subprocess, sys, time\n"
        "held = bytearray(100 << 20); held[::4096] = bytes(len(held[::4096]))\n"
        "if len(sys.argv) < 2: subprocess.Popen([sys.executable, __import__('os').environ['ME'], 'child'])\n"
        "print('ready', flush=True); time.sleep(60)\n"
    )
    path = tmp_path / "hold.py"
    path.write_text(code)
    process = subprocess.Popen(
        [sys.executable, str(path)], stdout=subprocess.PIPE, start_new_session=True, env={**os.environ, "ME": str(path)}
    )
    try:
        assert process.stdout is not None
        assert [process.stdout.readline(), process.stdout.readline()] == [b"ready\n"] * 2
        taken = group_memory(process.pid)
    finally:
        kill_group(process)
    process.stdout.close()
    assert 200 < taken * 1024 < 300  # two of 100 MiB, and two interpreters
    assert group_memory(process.pid) == 0.0 and process.returncode == -signal.SIGKILL
