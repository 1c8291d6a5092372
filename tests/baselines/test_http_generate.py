"""Kling and Vidu through `ffbench generate`: workers, records, logs, the limit of cost, and a kill of everything."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ffbench import methods
from ffbench.cards import Card
from ffbench.errors import UserError
from ffbench.generate import GenerateOptions, generate
from ffbench.records import Case, Reference
from ffbench.store import Run, run_folder
from ffbench.suites import Suite
from ffbench.video import write_mp4
from tests.baselines.vendors import API_KEY, VIDU_KEY, Vendor, certificate, once, playing

ADAPTER = """
import ssl
from baselines.http.client import Network
from baselines.http.jobs import Pace
from baselines.{name}.adapter import {cls}

class Local({cls}):
    def __init__(self, settings):
        network = Network(frozenset({{{port}}}), ssl.create_default_context(cafile={ca!r}))
        super().__init__(settings, {url!r}, network, Pace(poll=0.02, first=0.02, longest=0.1, settle=0.1, faults=3))
"""
DRIVER = """
import sys
from pathlib import Path
sys.path[:0] = {path!r}
from ffbench import methods
methods.METHODS = {{**methods.METHODS, {name!r}: "localvendors.{name}.adapter:Local"}}
from ffbench.generate import GenerateOptions, generate
from ffbench.records import Case, Reference
from ffbench.suites import Suite
cases = tuple(Case("mine", "1", f"c{{i}}", "ann", (Reference({photo!r}, {sha!r}),), "p", "turns") for i in range(6))
generate(Suite("mine", "1", "for tests", cases), {name!r}, Path({out!r}), GenerateOptions())
"""


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def vendor(ca: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Vendor]:
    monkeypatch.setenv("KLING_API_KEY", API_KEY)
    monkeypatch.setenv("VIDU_API_KEY", VIDU_KEY)
    write_mp4(tmp_path / "v.mp4", np.zeros((5, 32, 48, 3), np.uint8), 24.0)
    with playing(ca, (tmp_path / "v.mp4").read_bytes()) as running:
        site = tmp_path / "site"
        table = dict(methods.METHODS)
        for name, cls in (("kling", "Kling"), ("vidu", "Vidu")):
            folder = site / "localvendors" / name
            folder.mkdir(parents=True)
            for init in (folder, folder.parent):
                (init / "__init__.py").write_text("")
            source = ADAPTER.format(name=name, cls=cls, port=running.port, ca=str(ca), url=running.url)
            (folder / "adapter.py").write_text(source)
            shutil.copy(methods.card(name).folder / "card.toml", folder)
            table[name] = f"localvendors.{name}.adapter:Local"
        monkeypatch.syspath_prepend(str(site))
        monkeypatch.setattr(methods, "METHODS", table)
        yield running


def photograph(folder: Path) -> tuple[str, str]:
    path = folder / "ann.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (320, 300, 3), np.uint8)).save(path)
    return str(path), hashlib.sha256(path.read_bytes()).hexdigest()


def suite(folder: Path, count: int = 6) -> Suite:
    reference = Reference(*photograph(folder))
    cases = tuple(Case("mine", "1", f"c{i}", "ann", (reference,), "p", "turns") for i in range(count))
    return Suite("mine", "1", "for tests", cases)


def no_key_anywhere(folder: Path, *texts: str) -> None:
    written = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    for sentinel in (API_KEY, VIDU_KEY, "sentinel-signature"):
        assert not any(sentinel.encode() in data for data in (*written, *(text.encode() for text in texts)))


@pytest.mark.parametrize("name", ["kling", "vidu"])
def test_refusals_and_failures_are_records_and_the_rest_goes_on(
    name: str, vendor: Vendor, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    policy = {"kling": "risk control", "vidu": "CreationPolicyViolation"}[name]
    vendor.fail = {1: policy, 3: f"broken, your header was Bearer {API_KEY} Token {VIDU_KEY}"}
    cases = suite(tmp_path)
    done = generate(cases, name, tmp_path / "runs", GenerateOptions(price=0.5, max_cost=3.0))
    assert (done.ok, done.failed, done.refused) == (4, 1, 1)
    assert len(vendor.tasks) == 6 and 1 < vendor.most <= 5  # the card's batch
    records = list(done.run.generations().values())
    assert [record.status for record in records] == ["ok", "refused", "ok", "failed", "ok", "ok"]
    assert policy in records[1].error and "[key]" in records[3].error
    assert records[0].provenance["notes"]["task"] in vendor.tasks
    said = capfd.readouterr().err
    assert f"{name}: 6 videos x $0.5 = $3.00 at most (price: as given)" in said
    no_key_anywhere(done.run.root, said)

    # what failed is ordered anew on request, refusals with --redo all; videos that stand are not paid for again
    again = generate(cases, name, tmp_path / "runs", GenerateOptions(redo="failed"))
    assert (again.done_before, again.ok, again.refused) == (5, 5, 1) and len(vendor.tasks) == 7
    every = generate(cases, name, tmp_path / "runs", GenerateOptions(redo="all"))
    assert every.ok == 6 and len(vendor.tasks) == 8


def test_a_limit_of_cost_refuses_before_anything_is_sent(vendor: Vendor, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"\$3\.00 at most"):
        generate(suite(tmp_path), "vidu", tmp_path / "runs", GenerateOptions(price=0.5, max_cost=2.9))
    with pytest.raises(UserError, match="price of a vidu video is unknown"):
        generate(suite(tmp_path), "vidu", tmp_path / "runs", GenerateOptions(max_cost=2.9))
    assert vendor.log == []


def test_a_refused_key_leaves_no_trace_of_itself(
    vendor: Vendor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VIDU_API_KEY", VIDU_KEY + "-mistyped")
    with pytest.raises(UserError, match="does not accept the key") as caught:
        generate(suite(tmp_path), "vidu", tmp_path / "runs", GenerateOptions())
    no_key_anywhere(tmp_path / "runs", str(caught.value), *capfd.readouterr())


def test_faults_of_the_vendor_cost_one_video(vendor: Vendor, tmp_path: Path) -> None:
    vendor.file.kind = "text/html"
    done = generate(suite(tmp_path, 1), "kling", tmp_path / "runs", GenerateOptions())
    (record,) = done.run.generations().values()
    assert done.failed == 1 and "no video" in record.error
    vendor.file.kind = "video/mp4"
    vendor.faults = once("GET", 500, {"code": 5000}, 2)
    done = generate(suite(tmp_path, 1), "kling", tmp_path / "runs", GenerateOptions(redo="failed"))
    assert done.ok == 1 and len(vendor.posts) == 1  # the task that was paid for is gone on with


@pytest.mark.parametrize("name", ["kling", "vidu"])
def test_a_kill_of_everything_between_order_and_download_pays_nothing_twice(
    name: str, vendor: Vendor, tmp_path: Path
) -> None:
    vendor.polls = 10**6  # nothing is finished before the kill
    photo, sha = photograph(tmp_path)
    code = DRIVER.format(name=name, path=[str(tmp_path / "site")], photo=photo, sha=sha, out=str(tmp_path / "runs"))
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=Path(methods.__file__).parents[1], stderr=subprocess.PIPE, text=True
    )
    until = time.monotonic() + 60
    while len(vendor.tasks) < 5 and process.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    process.kill()
    _, err = process.communicate()
    assert len(vendor.tasks) == 5, err
    before = list(vendor.tasks)
    vendor.polls = 1
    for task in vendor.tasks.values():
        task.left = 0
    done = generate(suite(tmp_path), name, tmp_path / "runs", GenerateOptions())
    assert done.ok == 6 and len(vendor.tasks) == len(vendor.posts) == 6
    tasks = [record.provenance["notes"]["task"] for record in done.run.generations().values()]
    assert tasks[:5] == before

    # a video that is lost later comes from the journal's copy, without the vendor
    asked = len(vendor.log)
    (run,) = [Run(path.parent) for path in (tmp_path / "runs").rglob("generations.jsonl")]
    shutil.rmtree(run.root / "videos")
    assert generate(suite(tmp_path), name, tmp_path / "runs", GenerateOptions()).ok == 6 and len(vendor.log) == asked
    no_key_anywhere(run.root, err)


def test_the_loopback_cannot_be_opened_from_outside(tmp_path: Path) -> None:
    # neither settings nor environment name a host: the tests' way in is an argument that the worker never passes
    for name in ("kling", "vidu"):
        made: Card = methods.card(name)
        assert not [key for key in made.settings if "host" in key or "url" in key or "port" in key]
    assert run_folder(tmp_path, "s", "1", "kling").state() == tmp_path / "s@1" / "kling" / "state"
