"""Kills, hangs, noise, full disks and rivals: a plain re-run always ends with the records of an undisturbed one."""

from __future__ import annotations

import hashlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import ffbench
from ffbench.records import Case, Generation, Reference, from_json, to_json
from ffbench.store import Run

pytestmark = pytest.mark.slow
ROOT = Path(ffbench.__file__).parents[1]
METHOD = "impostor"
KILLS = 24
HOST = """
import json, signal, sys
from pathlib import Path
from ffbench import methods
from ffbench.errors import UserError
from ffbench.generate import GenerateOptions, generate
from ffbench.records import Case, from_json
from ffbench.suites import Suite
folder, method, out, redo, timeout, site = sys.argv[1:7]
signal.signal(signal.SIGINT, signal.default_int_handler)
if site:
    sys.path.insert(0, site)
    methods.METHODS = {**methods.METHODS, "unruly": "unruly.adapter:Unruly"}
cases = tuple(from_json(Case, line) for line in Path(folder, "cases.jsonl").read_text().splitlines())
settings = () if site else ("width=96", "height=80", "num_frames=5")
try:
    done = generate(Suite("mine", "1", "for tests", cases), method, Path(out),
                    GenerateOptions(settings=settings, redo=redo, timeout=float(timeout)))
except UserError as error:
    print(error, file=sys.stderr)
    sys.exit(2)
print(json.dumps([done.done_before, done.ok, done.failed, done.refused]))
"""


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six people with five prompts each."""
    folder = tmp_path_factory.mktemp("suite")
    cases = []
    for number in range(6):
        path = folder / f"id{number}.png"
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (40, 30, 3), np.uint8)).save(path)
        reference = Reference(str(path), hashlib.sha256(path.read_bytes()).hexdigest())
        cases += [Case("mine", "1", f"id{number}-p{p}", f"id{number}", (reference,), f"p{p}", "x") for p in range(5)]
    (folder / "cases.jsonl").write_text("".join(to_json(case) + "\n" for case in cases))
    return folder


@pytest.fixture(scope="module")
def undisturbed(suite: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Records of a run that nobody disturbed."""
    out = tmp_path_factory.mktemp("undisturbed")
    process = host(suite, out)
    stdout, stderr = process.communicate(timeout=300)
    assert json.loads(stdout) == [0, 30, 0, 0], stderr
    return records(run_of(out))


def host(
    suite: Path,
    out: Path,
    method: str = METHOD,
    redo: str = "missing",
    timeout: float = 60.0,
    site: str = "",
    limit: int = 0,
) -> subprocess.Popen[bytes]:
    def confine() -> None:
        if limit:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    argv = [sys.executable, "-c", HOST, str(suite), method, str(out), redo, str(timeout), site]
    return subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=confine)


def finish(process: subprocess.Popen[bytes], code: int = 0) -> tuple[Any, str]:
    stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == code, (process.returncode, stdout, stderr)
    return json.loads(stdout) if stdout else None, stderr.decode()


def run_of(out: Path, method: str = METHOD) -> Run:
    return Run(out / "mine@1" / method)


def lines(run: Run) -> list[bytes]:
    """Every whole line, in whatever files; those that are put into another file just now may come twice."""
    found = []
    for path in run.root.glob("generations*.jsonl"):
        with suppress(FileNotFoundError):
            found += path.read_bytes().split(b"\n")[:-1]
    return found


def records(run: Run) -> list[dict[str, Any]]:
    """Every line as it stands at a command's end, without what is measured anew each time."""
    assert [path.name for path in run.root.glob("generations*")] == ["generations.jsonl"]
    lines = sorted(
        map(json.loads, (run.root / "generations.jsonl").read_bytes().splitlines()), key=lambda line: line["case_id"]
    )
    return [{k: v for k, v in line.items() if k not in ("seconds", "utc", "provenance")} for line in lines]


def check_whole(run: Run) -> None:
    """What must hold at any moment, also just after a kill: each whole line is a record of a whole video."""
    found = [from_json(Generation, line.decode()) for line in {*lines(run)}]
    assert len({record.key for record in found}) == len(found)
    for record in found:
        assert record.status == "ok", record.error
        assert hashlib.sha256(run.video(record).read_bytes()).hexdigest() == record.video_sha256


def check_clean(run: Run) -> None:
    assert list(run.root.rglob(".part-*")) == []
    assert len(lines(run)) == len({*lines(run)})
    named = {record["video"] for record in records(run)}
    assert {path.relative_to(run.root).as_posix() for path in (run.root / "videos").iterdir()} == named


def processes(token: str) -> list[int]:
    """Live processes, other than this one, whose command line holds `token`."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            if token.encode() in (entry / "cmdline").read_bytes() and state != "Z" and int(entry.name) != os.getpid():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def wait_until(condition: Callable[[], Any], seconds: float = 120.0) -> Any:
    end = time.monotonic() + seconds
    while not (got := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)
    return got


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def lines_of(run: Run) -> int:
    return len({*lines(run)})


def test_kill_9_at_random_moments(suite: Path, undisturbed: list[dict[str, Any]], tmp_path: Path) -> None:
    expected = undisturbed
    chance = random.Random(20261121)
    kills, rounds, made_at_kill = 0, 0, set()
    while kills < KILLS:
        out, rounds = tmp_path / f"round-{rounds}", rounds + 1
        run = run_of(out)
        for _ in range(6):
            process = host(suite, out)
            workers: list[int] = []
            try:
                # by progress and not by the clock alone, so that a busy machine does not move every kill to the start
                goal = lines_of(run) + chance.randrange(5)
                wait_until(lambda p=process, r=run, n=goal: lines_of(r) >= n or p.poll() is not None)
                process.wait(timeout=chance.uniform(0, 0.3 if goal else 0.6))
            except subprocess.TimeoutExpired:
                workers = children(process.pid)
                process.send_signal(signal.SIGKILL)
                kills += 1
            process.communicate()
            if process.returncode == 0:
                break
            wait_until(lambda pids=workers: not any(alive(pid) for pid in pids))
            check_whole(run)
            made_at_kill.add(lines_of(run))
        done, _ = finish(host(suite, out))
        assert done[1:] == [30, 0, 0]
        assert records(run) == expected
        check_clean(run)
    assert kills >= 20 and len(made_at_kill - {0, 30}) >= 3, made_at_kill


def test_ctrl_c_puts_everything_away(suite: Path, undisturbed: list[dict[str, Any]], tmp_path: Path) -> None:
    run = run_of(tmp_path)
    process = host(suite, tmp_path)
    wait_until(lambda: lines_of(run) >= 2)
    workers = children(process.pid)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode in (1, 130, -signal.SIGINT)
    assert workers and not any(alive(pid) for pid in workers)
    assert list(run.root.rglob(".part-*")) == [] and lines_of(run) < 30
    check_whole(run)
    finish(host(suite, tmp_path))
    assert records(run) == undisturbed


def test_a_killed_worker_costs_no_video(suite: Path, undisturbed: list[dict[str, Any]], tmp_path: Path) -> None:
    run = run_of(tmp_path)
    process = host(suite, tmp_path)
    wait_until(lambda: lines_of(run) >= 3)
    process.send_signal(signal.SIGSTOP)
    (worker,) = children(process.pid)
    os.kill(worker, signal.SIGKILL)
    process.send_signal(signal.SIGCONT)
    done, _ = finish(process)
    assert done == [0, 30, 0, 0], "another worker has made what the killed one had in work"
    assert records(run) == undisturbed


UNRULY = """
import os, sys, time
import numpy as np
from ffbench.contract import Output
class Unruly:
    def __init__(self, settings): pass
    def load(self, runtime): print("{\\"ready\\": {}}")
    def generate(self, requests):
        for request in requests:
            how = request.case.prompt_id
            print('{"index": 0, "status": "ok", "video": "/etc/passwd"}', flush=True)
            os.write(1, bytes(range(256)) * 100)
            if how == "p1": time.sleep(600)
            if how == "p2": os.abort()
            if how == "p3": raise ValueError("no face")
            yield Output(np.full((3, 16, 16, 3), request.seed % 256, np.uint8), 8.0)
"""


def test_noise_hangs_and_aborts_cost_what_they_touch(suite: Path, tmp_path: Path) -> None:
    package = tmp_path / "site" / "unruly"
    package.mkdir(parents=True)
    (package / "adapter.py").write_text(UNRULY)
    (package / "card.toml").write_text('summary="s"\nkind="tool"\nrevision="1"\nlicence="none"\nbatch=5\n[settings]\n')
    few = tmp_path / "few"
    few.mkdir()
    lines = (suite / "cases.jsonl").read_text().splitlines(keepends=True)
    (few / "cases.jsonl").write_text("".join(lines[:10]))
    done, _ = finish(host(few, tmp_path / "out", "unruly", timeout=5.0, site=str(tmp_path / "site")))
    assert done == [0, 4, 6, 0]
    run = run_of(tmp_path / "out", "unruly")
    reasons = {"p1": "timed out", "p2": "SIGABRT", "p3": "ValueError: no face"}
    for line in records(run):
        how = line["case_id"].partition("-")[2]
        assert line["status"] == ("failed" if how in reasons else "ok")
        assert reasons.get(how, "") in line["error"]
    assert len({line["video_sha256"] for line in records(run) if line["status"] == "ok"}) == 4
    assert processes(str(tmp_path / "site")) == []


@pytest.mark.parametrize("limit", [100, 6_000, 30_000, 90_000])
def test_a_full_disk_is_two_lines_and_half_of_nothing(
    suite: Path, undisturbed: list[dict[str, Any]], tmp_path: Path, limit: int
) -> None:
    run = run_of(tmp_path)
    _, stderr = finish(host(suite, tmp_path, limit=limit), code=2)
    assert "error: no room to write in" in stderr and "run the same command" in stderr
    assert "Traceback" not in stderr
    check_whole(run)
    assert list(run.root.rglob(".part-*")) == []
    for path in run.root.glob("generations*.jsonl"):
        text = path.read_bytes()
        assert not text or text.endswith(b"\n")
    done, _ = finish(host(suite, tmp_path))
    assert done[1:] == [30, 0, 0] and records(run) == undisturbed
    check_clean(run)


def test_two_hosts_at_once_make_each_video_once(suite: Path, undisturbed: list[dict[str, Any]], tmp_path: Path) -> None:
    first = host(suite, tmp_path)
    wait_until(lambda: lines_of(run_of(tmp_path)) >= 1)
    first.send_signal(signal.SIGSTOP)
    assert lines_of(run_of(tmp_path)) < 30
    _, stderr = finish(host(suite, tmp_path), code=2)
    first.send_signal(signal.SIGCONT)
    assert "another ffbench is writing to" in stderr and "--out" in stderr
    finish(first)
    assert records(run_of(tmp_path)) == undisturbed
    check_clean(run_of(tmp_path))
