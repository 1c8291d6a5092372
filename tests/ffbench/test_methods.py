"""Methods by name, cards, settings, and the process they run in, with tiny real methods in real processes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import venv
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from ffbench import methods
from ffbench.cards import UNKNOWN, Card, Memory, Weight, override, read_card, with_variant
from ffbench.contract import Request, Runtime
from ffbench.errors import UserError
from ffbench.methods import METHODS, Answer, MethodProcess, card, card_gaps, find, interpreter, names
from ffbench.records import Case, Reference

TINY = '''
"""Does what the prompt says."""
import os, signal, sys, threading, time
from pathlib import Path
import numpy as np
from ffbench.contract import Output
from ffbench.errors import UserError

class Tiny:
    def __init__(self, settings):
        self.settings = settings
    def load(self, runtime):
        print("loading", os.getpid())
        if self.settings["load"] == "exit":
            os._exit(7)
        if self.settings["load"] == "bug":
            raise KeyError("weights")
        if self.settings["load"] == "user":
            raise UserError("no weights", "pull them")
    def generate(self, requests):
        for request in requests:
            what = request.case.prompt
            if what == "segfault":
                os.kill(os.getpid(), signal.SIGSEGV)
            elif what == "kill":
                print("about to be killed", flush=True)
                os.kill(os.getpid(), signal.SIGKILL)
            elif what == "exit":
                os._exit(5)
            elif what == "hang":
                time.sleep(600)
            elif what == "lost":
                raise RuntimeError("CUDA error: an illegal memory access was encountered")
            elif what == "user":
                raise UserError("no credit", "pay")
            elif what == "full":
                raise OSError(28, "No space left on device")
            elif what == "liar":
                os.write(PROTOCOL, b"not json\\n")
                time.sleep(600)
            elif what == "skip":
                os.write(PROTOCOL, b'{"index": 99, "status": "ok"}\\n')
                time.sleep(600)
            elif what == "die later":
                threading.Timer(0.3, os._exit, [0]).start()
            assert not os.listdir(request.folder)
            yield Output(np.full((1, 2, 2, 3), request.seed, np.uint8), 1.0, notes={"pid": os.getpid()})

# the worker's own descriptor of the real stdout, which no decent method would look for
PROTOCOL = next((fd for fd in range(3, 16) if os.path.exists(f"/proc/self/fd/{fd}") and
                 os.readlink(f"/proc/self/fd/{fd}").startswith("pipe:") and os.get_inheritable(fd) is False
                 and (int([x for x in open(f"/proc/self/fdinfo/{fd}").read().splitlines()
                           if x.startswith("flags")][0].split()[1], 8) & 3) == 1), -1)
'''
CARD = """
summary = "for tests"
kind = "tool"
revision = "3"
licence = "none"
batch = {batch}
deviations = ["all"]
environment = "{environment}"
python = "3.11"

[settings]
load = "well"
width = 32
guidance = 5.0
fast = false
steps = 4

[variants.quick]
steps = 1
fast = true
"""


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Card:
    """A method of a third party's, that lies in a package on the path."""
    return make_tiny(tmp_path, monkeypatch)


def make_tiny(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int = 1, environment: str = "embedded", source: str = TINY
) -> Card:
    package = tmp_path / "site" / "thirdparty" / "tiny"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").write_text("")
    (package / "__init__.py").write_text("")
    (package / "adapter.py").write_text(source)
    (package / "card.toml").write_text(CARD.format(batch=batch, environment=environment))
    (package / "requirements.txt").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setattr(methods, "METHODS", {**METHODS, "tiny": "thirdparty.tiny.adapter:Tiny"})
    return find("tiny")


def requests(tmp_path: Path, prompts: Sequence[str]) -> list[Request]:
    made = []
    for index, prompt in enumerate(prompts):
        folder = tmp_path / f"request-{index}"
        folder.mkdir()
        case = Case("s", "1", f"c{index}", "id", (Reference("/nowhere.png", "0" * 64),), "p", prompt)
        made.append(Request(case, index, str(folder)))
    return made


def run(tmp_path: Path, card: Card, *prompts: str, timeout: float = 60.0, load: str = "well") -> list[Answer]:
    settings = override(card, [f"load={load}"])
    with MethodProcess(card, settings, Runtime("cpu", ""), tmp_path, tmp_path / "log", timeout) as process:
        return list(process.run(requests(tmp_path, prompts)))


# --- names, cards, settings


def test_the_table_is_found_without_importing_a_method() -> None:
    code = (
        "import sys; from ffbench.methods import METHODS, card\n"
        "for name in METHODS: assert card(name).settings\n"
        "bad = [m for m in sys.modules if m.startswith('baselines.') or m in ('torch', 'cv2', 'numpy')]\n"
        "sys.exit(repr(bad) if bad else 0)"
    )
    root = Path(methods.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", METHODS)
def test_every_card_is_complete(name: str) -> None:
    assert card_gaps(card(name)) == []


def test_a_wrong_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'still'"):
        find("stil")
    with pytest.raises(UserError, match="no variant 'smal'; did you mean 'small'"):
        find("still@smal")


def test_third_parties_offer_methods_by_entry_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = tmp_path / "site"
    package = site / "theirs"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('must not be imported')")
    (package / "card.toml").write_text(CARD.format(batch=1, environment="embedded"))
    (site / "theirs-1.dist-info").mkdir()
    (site / "theirs-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1\n")
    (site / "theirs-1.dist-info" / "entry_points.txt").write_text("[ffbench.methods]\ntheirs = theirs.adapter:T\n")
    monkeypatch.syspath_prepend(str(site))
    assert names()["theirs"] == "theirs.adapter:T"
    assert card("theirs").summary == "for tests"


def test_a_method_whose_package_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(methods, "METHODS", {"ghost": "no_such_package_xyz.adapter:Ghost"})
    with pytest.raises(UserError, match="no package 'no_such_package_xyz'"):
        card("ghost")


def test_a_variant_overrides_settings_and_names_the_run(tiny: Card) -> None:
    quick = find("tiny@quick")
    assert quick.name == "tiny@quick"
    assert dict(quick.settings) == {**tiny.settings, "steps": 1, "fast": True}
    labelled = find("command@mytool")
    assert labelled.name == "command@mytool" and labelled.settings == find("command").settings


@pytest.mark.parametrize(
    ("pair", "value"),
    [("width=64", 64), ("guidance=7", 7.0), ("guidance=7.5", 7.5), ("fast=true", True), ("load=a=b ", "a=b ")],
)
def test_an_override_is_read_as_the_type_of_the_default(tiny: Card, pair: str, value: object) -> None:
    key = pair.partition("=")[0]
    got = override(tiny, [pair])[key]
    assert got == value and type(got) is type(value)


@pytest.mark.parametrize(
    ("pair", "reason"),
    [
        ("widht=64", "did you mean 'width'"),
        ("width", "is no key=value"),
        ("width=6.5", "is not a whole number"),
        ("width=true", "is not a whole number"),
        ("width=wide", "is not a whole number"),
        ("width=0", "is not above zero"),
        ("steps=-1", "is not above zero"),
        ("guidance=NaN", "is not a number"),
        ("guidance=Infinity", "is not a number"),
        ("guidance=false", "is not a number"),
        ("fast=1", "is not true or false"),
        ("fast=yes", "is not true or false"),
    ],
)
def test_a_bad_override_is_named(tiny: Card, pair: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        override(tiny, [pair])


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("summary", "sumary", "unknown field 'sumary'; did you mean 'summary'"),
        ('revision = "3"', "", "'revision' is missing"),
        ('revision = "3"', "revision = 3", "revision must be str"),
        ('kind = "tool"', 'kind = "toy"', "kind is 'toy'"),
        ("batch = 1", "batch = 0", "batch must be at least 1"),
        ("width = 32", "width = [32]", "setting width"),
        ("steps = 1\n", "stepps = 1\n", "variant quick: stepps"),
        ("steps = 1\n", "steps = 1.5\n", "variant quick: steps"),
        ("[settings]", "[settings", "card.toml"),
        ("[settings]", '[[weights]]\nnam = "x"\n[settings]', "nam"),
    ],
)
def test_a_wrong_card_is_named_with_its_field(tiny: Card, old: str, new: str, reason: str) -> None:
    path = tiny.folder / "card.toml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(UserError) as caught:
        card("tiny")
    assert reason in str(caught.value) and "card.toml" in str(caught.value)


def test_gaps_of_an_open_methods_card(tmp_path: Path) -> None:
    def gaps(**values: object) -> list[str]:
        facts = {
            "paper": "arXiv:0",
            "repository": "https://example.org/x",
            "commit": "0" * 40,
            "weights": (Weight("w", "r1", UNKNOWN, "MIT"),),
            "memory": (Memory("832x480x81", 44.0, "stated by the authors"),),
            "preprocessing": "None.",
            "dropped": "None.",
            "deviations": ("None.",),
            **values,
        }
        return card_gaps(Card("x", "x.adapter:X", tmp_path, "s", "open", "1", "MIT", {"steps": 1}, **facts))  # type: ignore[arg-type]

    assert gaps() == []
    for field in ("paper", "preprocessing", "dropped"):
        assert gaps(**{field: ""}) == [f"{field} is empty"]
    assert gaps(commit="main") == ["commit 'main' is no git commit"]
    assert gaps(weights=(Weight("w", "", "f" * 64, "MIT"),)) == ["weights 'w' lack a revision or a licence"]
    assert len(gaps(weights=(Weight("w", "r", "abc", "MIT"),))) == 1
    assert gaps(memory=(Memory("c", 1.0, ""),)) == ["memory 'c' names no source"]
    assert len(gaps(environment="requirements.txt")) == 2


def test_read_card_says_where_a_card_should_be(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        read_card(tmp_path / "card.toml", "x", "x:X")


def test_a_variant_that_no_card_has(tiny: Card) -> None:
    with pytest.raises(UserError) as caught:
        with_variant(tiny, "slow")
    assert caught.value.fix == "its variants are: quick"


# --- the process


def test_requests_are_answered_in_order_by_one_process(tmp_path: Path, tiny: Card) -> None:
    answers = run(tmp_path, tiny, "a", "b", "c")
    assert [(a.index, a.status, a.shape) for a in answers] == [(i, "ok", (1, 2, 2, 3)) for i in range(3)]
    assert len({a.notes["pid"] for a in answers}) == 1
    assert [(tmp_path / f"request-{i}" / a.frames).read_bytes() for i, a in enumerate(answers)] == [
        bytes([i] * 12) for i in range(3)
    ]
    assert "loading" in (tmp_path / "log").read_text()


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [("segfault", "SIGSEGV"), ("kill", "killed by SIGKILL; out of memory?"), ("exit", "exit code 5")],
)
def test_a_crash_costs_one_request(tmp_path: Path, tiny: Card, prompt: str, reason: str) -> None:
    before, crashed, after = run(tmp_path, tiny, "a", prompt, "b")
    assert crashed.status == "failed" and reason in crashed.error
    assert ("about to be killed" in crashed.error) == (prompt == "kill")
    assert before.status == after.status == "ok" and before.notes["pid"] != after.notes["pid"]


def test_a_hang_is_cut_off_and_costs_one_request(tmp_path: Path, tiny: Card) -> None:
    start = time.monotonic()
    hung, after = run(tmp_path, tiny, "hang", "a", timeout=1.0)
    assert hung.status == "failed" and "timed out: no answer after 1 s" in hung.error and after.status == "ok"
    assert time.monotonic() - start < 20


@pytest.mark.parametrize(("prompt", "reason"), [("liar", "no JSON"), ("skip", "answered request 99 instead of 0")])
def test_a_broken_protocol_is_a_failed_request(tmp_path: Path, tiny: Card, prompt: str, reason: str) -> None:
    broken, after = run(tmp_path, tiny, prompt, "a")
    assert broken.status == "failed" and reason in broken.error and after.status == "ok"


def test_in_a_batch_only_the_guilty_one_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = make_tiny(tmp_path, monkeypatch, batch=4)
    answers = run(tmp_path, tiny, "a", "b", "kill", "c", "d", "lost", "e")
    assert [a.status for a in answers] == ["ok", "ok", "failed", "ok", "ok", "failed", "ok"]
    assert answers[-1].notes["pid"] != answers[-3].notes["pid"]


def test_a_worker_that_died_idle_is_replaced_without_blame(tmp_path: Path, tiny: Card) -> None:
    with MethodProcess(tiny, tiny.settings, Runtime("cpu", ""), tmp_path, tmp_path / "log", 60.0) as process:
        made = requests(tmp_path, ["die later", "a"])
        (first,) = process.run(made[:1])
        time.sleep(0.8)
        (second,) = process.run(made[1:])
    assert first.status == second.status == "ok" and first.notes["pid"] != second.notes["pid"]


def test_a_worker_that_always_dies_stops_the_command(tmp_path: Path, tiny: Card) -> None:
    settings = tiny.settings
    got = []
    with (
        pytest.raises(UserError, match="died 5 times without a video"),
        MethodProcess(tiny, settings, Runtime("cpu", ""), tmp_path, tmp_path / "log", 60.0) as process,
    ):
        for answer in process.run(requests(tmp_path, ["exit"] * 7)):
            got.append(answer)
    assert [a.status for a in got] == ["failed"] * 5, "each after two workers"


@pytest.mark.parametrize(
    ("load", "reason"),
    [("exit", "could not start: the worker ended with exit code 7"), ("bug", "could not load: KeyError: 'weights'")],
)
def test_a_method_that_cannot_load_is_the_users_to_mend(tmp_path: Path, tiny: Card, load: str, reason: str) -> None:
    with pytest.raises(UserError) as caught:
        run(tmp_path, tiny, "a", load=load)
    assert reason in caught.value.what and str(tmp_path / "log") in caught.value.fix


def test_user_errors_and_full_disks_come_through_whole(tmp_path: Path, tiny: Card) -> None:
    with pytest.raises(UserError) as caught:
        run(tmp_path, tiny, "a", load="user")
    assert (caught.value.what, caught.value.fix) == ("no weights", "pull them")
    for number, prompt in enumerate(("user", "full")):
        folder = tmp_path / str(number)
        folder.mkdir()
        with pytest.raises((UserError, OSError)) as met:
            run(folder, tiny, prompt)
        assert isinstance(met.value, UserError) if prompt == "user" else met.value.errno == 28  # type: ignore[attr-defined]


# --- an interpreter of its own

FOREIGN = """
import sys
from pathlib import Path
from ffbench.contract import Output
from thirdparty.tiny.names import NAME

class Tiny:
    def __init__(self, settings): pass
    def load(self, runtime): pass
    def generate(self, requests):
        for request in requests:
            Path(request.folder, NAME).write_text(request.case.prompt, encoding="utf-8")
            yield Output(video=NAME, notes={"prefix": sys.prefix, "path": repr(sys.path)})
"""


def test_a_foreign_interpreter_needs_no_ffbench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FFBENCH_ENVIRONMENTS", str(tmp_path / "environments"))
    tiny = make_tiny(tmp_path, monkeypatch, environment="requirements.txt", source=FOREIGN)
    (tiny.folder / "names.py").write_text("NAME = 'made.txt'\n")
    with pytest.raises(UserError) as caught:
        interpreter(tiny)
    assert caught.value.what == "tiny needs its own environment, and none is set up"
    assert caught.value.fix == "ffbench methods setup tiny --python python3.11"
    monkeypatch.setenv("FFBENCH_PYTHON_TINY", str(tmp_path / "absent"))
    with pytest.raises(UserError, match="cannot be run"):
        interpreter(tiny)
    foreign = tmp_path / "env"
    venv.EnvBuilder(with_pip=False, symlinks=True).create(foreign)
    monkeypatch.setenv("FFBENCH_PYTHON_TINY", str(foreign / "bin" / "python"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    prompt = 'quotes " and \n newlines, 😀 $(touch pwned)'
    (answer,) = run(tmp_path, tiny, prompt)
    assert answer.status == "ok", answer.error
    assert (tmp_path / "request-0" / answer.video).read_text("utf-8") == prompt
    assert answer.notes["prefix"] == str(foreign) and "site'" not in str(answer.notes["path"]).replace("site-p", "")


def test_the_zip_holds_the_worker_and_the_method_alone(tmp_path: Path, tiny: Card) -> None:
    (tiny.folder / "__pycache__").mkdir(exist_ok=True)
    (tiny.folder / "__pycache__" / "x.pyc").write_bytes(b"")
    path = methods.pack_worker(tiny, tmp_path)
    with zipfile.ZipFile(path) as archive:
        held = set(archive.namelist())
    assert held == {
        "__main__.py",
        *(f"ffbench/{name}.py" for name in ("__init__", "errors", "records", "contract", "offload", "worker")),
        "thirdparty/__init__.py",
        *(f"thirdparty/tiny/{name}" for name in ("__init__.py", "adapter.py", "card.toml", "requirements.txt")),
    }


@pytest.mark.skipif(not os.environ.get("FFBENCH_TEST_PYTHON310"), reason="names an interpreter of Python 3.10")
def test_the_worker_runs_on_python_3_10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FFBENCH_ENVIRONMENTS", str(tmp_path / "environments"))
    tiny = make_tiny(tmp_path, monkeypatch, environment="requirements.txt", source=FOREIGN)
    (tiny.folder / "names.py").write_text("NAME = 'made.txt'\n")
    monkeypatch.setenv("FFBENCH_PYTHON_TINY", os.environ["FFBENCH_TEST_PYTHON310"])
    (answer,) = run(tmp_path, tiny, "hello")
    assert answer.status == "ok"
