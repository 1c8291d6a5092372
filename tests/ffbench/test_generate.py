"""Generate with real methods in real processes, on tiny real photographs."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from ffbench import methods
from ffbench.engine import Engine
from ffbench.errors import UserError
from ffbench.generate import GenerateOptions, GenerateSummary, generate, generate_all, plan
from ffbench.records import Case, Generation, Reference, derive_seed, to_json
from ffbench.shard import Shard
from ffbench.store import Run, run_folder
from ffbench.suites import Suite

PROMPTS = ("a person boxes", 'it\'s "quoted"\nnew line $(touch pwned) ../ 😀 ' + "long " * 600)
SMALL = ("num_frames=3", "width=64", "height=48")


def make_suite(folder: Path, people: Sequence[str] = ("ann", "bob"), prompts: Sequence[str] = PROMPTS) -> Suite:
    folder.mkdir(parents=True, exist_ok=True)
    cases = []
    for number, person in enumerate(people):
        path = folder / f"{person}.png"
        if not path.exists():
            pixels = np.random.default_rng(number).integers(0, 256, (5, 4, 3), np.uint8)
            Image.fromarray(cv2.resize(pixels, (40, 50), interpolation=cv2.INTER_CUBIC)).save(path)
        reference = Reference(str(path), hashlib.sha256(path.read_bytes()).hexdigest())
        for index, prompt in enumerate(prompts):
            cases.append(Case("mine", "1", f"{person}-p{index}", person, (reference,), f"p{index}", prompt))
    return Suite("mine", "1", "for tests", tuple(cases))


def options(*settings: str, **values: Any) -> GenerateOptions:
    return GenerateOptions(settings=settings or SMALL, **values)


def counts(summary: GenerateSummary) -> tuple[int, int, int, int]:
    return summary.done_before, summary.ok, summary.failed, summary.refused


def comparable(record: Generation) -> Generation:
    """A record without what is measured anew each time."""
    return replace(record, seconds=0.0, peak_gib=0.0, utc="", provenance={})


def frames_of(path: Path) -> list[np.ndarray]:
    capture = cv2.VideoCapture(str(path))
    frames = []
    while True:
        more, frame = capture.read()
        if not more:
            return frames
        frames.append(frame[..., ::-1])


def leftovers(root: Path) -> list[Path]:
    return list(root.rglob(".part-*"))


# --- the plain way


def test_every_case_becomes_a_video_and_a_record(tmp_path: Path) -> None:
    suite = make_suite(tmp_path / "photos")
    summary = generate(suite, "still", tmp_path / "runs", options(takes=2))
    assert counts(summary) == (0, 8, 0, 0)
    run = summary.run
    assert run.root == tmp_path / "runs" / "mine@1" / "still"
    records = list(run.generations().values())
    by_prompt = sorted(suite.cases, key=lambda case: case.prompt_id)
    assert {(r.case_id, r.take) for r in records} == {(c.case_id, t) for t in (0, 1) for c in suite.cases}
    assert [r.case_id.partition("-")[2] for r in records] == [c.prompt_id for c in by_prompt for _ in (0, 1)]
    for record in records:
        assert record.seed == derive_seed("mine", record.case_id, record.take)
        path = run.video(record)
        assert hashlib.sha256(path.read_bytes()).hexdigest() == record.video_sha256
        assert path == run.new_video(record.key) and len(frames_of(path)) == 3
        assert record.settings == {"width": 64, "height": 48, "num_frames": 3, "fps": 16.0}
        assert record.seconds >= 0 and record.error == "" and record.provenance["worker"]["packages"]["numpy"]
    assert list(run.cases().values()) == list(suite.cases)
    meta = run.meta()
    assert meta["card"]["kind"] == "control" and meta["method"] == "still" and meta["settings"]["width"] == 64
    assert meta["provenance"]["python"] == sys.version.split()[0]
    assert leftovers(run.root) == []
    known = {"run.json", "cases.jsonl", "generations.jsonl", "videos", "logs", ".lock"}
    assert {path.name for path in run.root.iterdir()} <= known


def test_the_video_shows_the_right_person(tmp_path: Path) -> None:
    suite = make_suite(tmp_path / "photos", prompts=PROMPTS[:1])
    videos = {}
    for method in ("still", "impostor"):
        run = generate(suite, method, tmp_path / "runs", options(*SMALL)).run
        videos[method] = [frames_of(run.video(record))[0].astype(float) for record in run.generations().values()]
        notes = [record.provenance["notes"].get("shown_identity") for record in run.generations().values()]
        assert notes == ([None, None] if method == "still" else ["bob", "ann"])
    with Image.open(tmp_path / "photos" / "ann.png") as image:
        ann = np.asarray(image.resize((38, 48)), float)

    def distance(frame: np.ndarray) -> float:
        return float(np.abs(frame[:, 13:51] - ann).mean())

    assert distance(videos["still"][0]) < 15 < distance(videos["still"][1])
    assert distance(videos["impostor"][1]) < 30 < distance(videos["impostor"][0])


def test_the_same_command_goes_on_where_it_stopped(tmp_path: Path) -> None:
    suite = make_suite(tmp_path / "photos")
    first = generate(suite, "still", tmp_path / "runs", options(limit=1))
    assert counts(first) == (0, 1, 0, 0)
    before = (first.run.root / "generations.jsonl").read_text()
    again = generate(suite, "still", tmp_path / "runs", options())
    assert counts(again) == (1, 4, 0, 0)
    assert (first.run.root / "generations.jsonl").read_text().startswith(before)
    log = (first.run.root / "logs" / "worker.log").read_text()
    third = generate(suite, "still", tmp_path / "runs", options())
    assert counts(third) == (4, 4, 0, 0)
    # nothing to do starts no worker
    assert (first.run.root / "logs" / "worker.log").read_text() == log
    straight = generate(suite, "still", tmp_path / "other", options())
    mine = {key: comparable(record) for key, record in again.run.generations().items()}
    assert mine == {key: comparable(record) for key, record in straight.run.generations().items()}


def test_plan_makes_nothing(tmp_path: Path) -> None:
    suite = make_suite(tmp_path / "photos")
    todo = plan(suite, "still", tmp_path / "runs", options(takes=3, limit=7))
    assert len(todo.todo) == 7 and todo.done == () and not (tmp_path / "runs").exists()


@pytest.mark.parametrize("harm", ["gone", "changed"])
def test_a_video_that_is_gone_or_changed_is_made_again(tmp_path: Path, harm: str) -> None:
    suite = make_suite(tmp_path / "photos")
    run = generate(suite, "still", tmp_path / "runs", options()).run
    victim = list(run.generations().values())[1]
    path = run.video(victim)
    path.unlink() if harm == "gone" else path.write_bytes(path.read_bytes()[:-100])
    assert counts(generate(suite, "still", tmp_path / "runs", options())) == (3, 4, 0, 0)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == victim.video_sha256


def test_redo_all_makes_everything_again(tmp_path: Path) -> None:
    suite = make_suite(tmp_path / "photos")
    run = generate(suite, "still", tmp_path / "runs", options()).run
    before = [comparable(record) for record in run.generations().values()]
    files = {path: path.stat().st_mtime_ns for path in map(run.video, run.generations().values())}
    assert counts(generate(suite, "still", tmp_path / "runs", options(redo="all"))) == (0, 4, 0, 0)
    assert [comparable(record) for record in run.generations().values()] == before
    assert len(files) == 4
    assert all(path.stat().st_mtime_ns > made for path, made in files.items())


def test_scores_of_a_run_survive_in_its_meta(tmp_path: Path) -> None:
    suite = make_suite(tmp_path / "photos")
    run = generate(suite, "still", tmp_path / "runs", options(limit=1)).run
    run.write_meta({**run.meta(), "scoring": {"standard@1": {"metrics": {}}}})
    generate(suite, "still", tmp_path / "runs", options())
    assert run.meta()["scoring"] == {"standard@1": {"metrics": {}}}


# --- one folder, one set of settings


def test_other_settings_or_another_revision_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    suite = make_suite(tmp_path / "photos")
    out = tmp_path / "runs"
    run = generate(suite, "still", out, options(limit=1)).run
    before = (run.root / "generations.jsonl").read_bytes()
    with pytest.raises(UserError) as caught:
        generate(suite, "still", out, options("num_frames=4", "width=64", "height=48", redo="all"))
    assert "made with num_frames=3; this command has num_frames=4" in caught.value.what
    card = methods.card("still")
    monkeypatch.setattr("ffbench.generate.find", lambda name: replace(card, revision="2"))
    with pytest.raises(UserError, match="made with revision='1'; this command has revision='2'"):
        generate(suite, "still", out, options())
    assert (run.root / "generations.jsonl").read_bytes() == before


def test_a_suite_that_changed_under_its_version_is_refused(tmp_path: Path) -> None:
    suite = make_suite(tmp_path / "photos")
    generate(suite, "still", tmp_path / "runs", options(limit=1))
    changed = Suite("mine", "1", "for tests", (replace(suite.cases[0], prompt="another"), *suite.cases[1:]))
    with pytest.raises(UserError, match="case ann-p0 of mine@1 differs"):
        generate(changed, "still", tmp_path / "runs", options())
    moved = replace(suite.cases[0].references[0], path=str(tmp_path / "photos" / "." / "ann.png"))
    same = Suite("mine", "1", "for tests", (replace(suite.cases[0], references=(moved,)), *suite.cases[1:]))
    assert counts(generate(same, "still", tmp_path / "runs", options())) == (1, 4, 0, 0)


def test_a_variant_has_a_folder_of_its_own(tmp_path: Path) -> None:
    suite = make_suite(tmp_path / "photos")
    run = generate(suite, "still@small", tmp_path / "runs", GenerateOptions(limit=1)).run
    (record,) = run.generations().values()
    assert run.root.name == "still@small" and record.method == "still@small" and record.settings["width"] == 128


def test_bad_settings_leave_no_folder(tmp_path: Path) -> None:
    suite = make_suite(tmp_path / "photos")
    for method, setting in (("stil", "fps=8"), ("still", "fsp=8"), ("still", "fps=x")):
        with pytest.raises(UserError):
            generate(suite, method, tmp_path / "runs", options(setting))
    assert not (tmp_path / "runs").exists()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    suite = make_suite(tmp_path / "photos")
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(UserError, match="cannot write to"):
        generate(suite, "still", tmp_path / "runs", options())


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    suite = make_suite(tmp_path / "photos")
    code = (
        "import sys; from pathlib import Path; from ffbench.store import Run\n"
        "with Run(Path(sys.argv[1])).lock(): print('held', flush=True); sys.stdin.read()"
    )
    root = run_folder(tmp_path / "runs", "mine", "1", "still").root
    cwd = Path(methods.__file__).parents[1]
    with subprocess.Popen(
        [sys.executable, "-c", code, str(root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=cwd
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == b"held\n"
        with pytest.raises(UserError, match="another ffbench is writing"):
            generate(suite, "still", tmp_path / "runs", options())
        other.communicate(b"")
    assert counts(generate(suite, "still", tmp_path / "runs", options())) == (0, 4, 0, 0)


# --- bad references


@pytest.mark.parametrize("harm", ["gone", "empty", "text", "truncated"])
def test_an_unreadable_reference_costs_its_cases_alone(tmp_path: Path, harm: str) -> None:
    suite = make_suite(tmp_path / "photos")
    path = tmp_path / "photos" / "ann.png"
    data = path.read_bytes()
    if harm == "gone":
        path.unlink()
    else:
        path.write_bytes({"empty": b"", "text": b"hello", "truncated": data[: len(data) // 2]}[harm])
    summary = generate(suite, "still", tmp_path / "runs", options())
    assert counts(summary) == (0, 2, 2, 0)
    for record in summary.run.generations().values():
        assert record.status == ("failed" if record.case_id.startswith("ann") else "ok")
        assert (record.error == "") == (record.status == "ok")
        assert str(tmp_path) not in record.error
        assert "ann.png" in record.error or record.status == "ok"
    path.write_bytes(data)
    assert counts(generate(suite, "still", tmp_path / "runs", options())) == (4, 2, 2, 0)
    assert counts(generate(suite, "still", tmp_path / "runs", options(redo="failed"))) == (2, 4, 0, 0)


def test_impostor_skips_people_whose_photograph_cannot_be_read(tmp_path: Path) -> None:
    suite = make_suite(tmp_path / "photos", ("ann", "bob", "cy"), PROMPTS[:1])
    (tmp_path / "photos" / "bob.png").write_bytes(b"")
    run = generate(suite, "impostor", tmp_path / "runs", options()).run
    shown = {r.case_id: r.provenance.get("notes", {}).get("shown_identity") for r in run.generations().values()}
    assert shown == {"ann-p0": "cy", "bob-p0": None, "cy-p0": "ann"}


def test_impostor_alone_is_the_users_to_mend(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="impostor needs at least 2 identities"):
        generate(make_suite(tmp_path / "photos", ("ann",)), "impostor", tmp_path / "runs", options())
    assert leftovers(tmp_path / "runs") == []


# --- videos of other tools

TOOL = """
import shutil, sys, time
from pathlib import Path
how, clip, output = sys.argv[1], sys.argv[2], Path(sys.argv[3])
if how == "copy": shutil.copy(clip, output)
elif how == "link": output.symlink_to(clip)
elif how == "empty": output.touch()
elif how == "text": output.write_text("no video")
elif how == "half": output.write_bytes(Path(clip).read_bytes()[:-300])
elif how == "folder": output.mkdir()
elif how == "fail": print("CUDA out of memory"); sys.exit(4)
elif how == "hang": time.sleep(600)
"""


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    suite = make_suite(folder / "photos", ("ann",), PROMPTS[:1])
    run = generate(suite, "sway", folder / "runs", options()).run
    return run.video(next(iter(run.generations().values())))


def with_tool(tmp_path: Path, clip: Path, how: str, **values: Any) -> GenerateSummary:
    argv = [sys.executable, "-c", TOOL, how, str(clip), "{output}", "{prompt}"]
    suite = make_suite(tmp_path / "photos", ("ann",))
    return generate(suite, "command@tool", tmp_path / "runs", options(f"argv={json.dumps(argv)}", **values))


def test_a_tools_video_is_kept_as_it_was_written(tmp_path: Path, clip: Path) -> None:
    summary = with_tool(tmp_path, clip, "copy")
    assert counts(summary) == (0, 2, 0, 0) and summary.run.root.name == "command@tool"
    for record in summary.run.generations().values():
        assert summary.run.video(record).read_bytes() == clip.read_bytes()
    assert not (Path.cwd() / "pwned").exists() and leftovers(summary.run.root) == []


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("link", "is a link"),
        ("empty", "the method's video: the file is empty"),
        ("text", "the method's video: this is no video"),
        ("half", "the method's video: "),
        ("folder", "no file, or lies outside"),
        ("nothing", "does not exist"),
        ("fail", "exit code 4; its last words:\nCUDA out of memory"),
    ],
)
def test_a_tools_failure_is_a_record_with_its_reason(tmp_path: Path, clip: Path, how: str, reason: str) -> None:
    summary = with_tool(tmp_path, clip, how)
    assert counts(summary) == (0, 0, 2, 0)
    for record in summary.run.generations().values():
        assert reason in record.error and record.video == "" and str(tmp_path) not in record.error
    assert not list((summary.run.root / "videos").glob("*")) and leftovers(summary.run.root) == []


def test_a_tool_that_hangs_is_killed_and_recorded(tmp_path: Path, clip: Path) -> None:
    summary = with_tool(tmp_path, clip, "hang", timeout=1.0, limit=1)
    (record,) = summary.run.generations().values()
    assert record.status == "failed" and "timed out: no answer after 1 s" in record.error
    still_there = [
        entry
        for entry in Path("/proc").glob("[0-9]*/cmdline")
        if entry.exists() and str(clip).encode() in _read(entry) and int(entry.parent.name) != os.getpid()
    ]
    assert still_there == []


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_a_path_outside_the_folder_is_refused(tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "site" / "outsider"
    package.mkdir(parents=True)
    (package / "adapter.py").write_text(
        "from ffbench.contract import Output, RefusedError\n"
        "class Outsider:\n"
        "    def __init__(self, settings): self.video = settings['video']\n"
        "    def load(self, runtime): pass\n"
        "    def generate(self, requests):\n"
        "        for request in requests:\n"
        "            if request.case.prompt_id == 'p1': raise RefusedError('not this one')\n"
        "            yield Output(video=self.video)\n"
    )
    (package / "card.toml").write_text('summary="s"\nkind="tool"\nrevision="1"\nlicence="none"\n[settings]\nvideo=""\n')
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setattr(methods, "METHODS", {"outsider": "outsider.adapter:Outsider"})
    suite = make_suite(tmp_path / "photos", ("ann",))
    copy = tmp_path / "copy.mp4"
    copy.write_bytes(clip.read_bytes())
    summary = generate(suite, "outsider", tmp_path / "runs", options(f"video={copy}"))
    assert counts(summary) == (0, 0, 1, 1) and copy.exists()
    failed, refused = summary.run.generations().values()
    assert "lies outside" in failed.error and refused.error == "not this one"
    # a refusal is an answer: only --redo all asks again
    assert counts(generate(suite, "outsider", tmp_path / "runs", options(f"video={copy}", redo="failed"))) == (
        1, 0, 1, 1,
    )  # fmt: skip


def test_importing_generate_imports_no_torch() -> None:
    code = "import sys, ffbench.generate; sys.exit('torch' in sys.modules)"
    cwd = Path(methods.__file__).parents[1]
    assert subprocess.run([sys.executable, "-c", code], cwd=cwd, check=False).returncode == 0


def made_by(run: Run) -> list[Generation]:
    return sorted((comparable(record) for record in run.generations().values()), key=lambda record: record.key)


def test_processes_and_shards_make_the_same_records(tmp_path: Path) -> None:
    suite = make_suite(tmp_path / "photos")
    here = generate(suite, "impostor", tmp_path / "here", options()).run
    apart = generate_all(suite, ["impostor", "still"], tmp_path / "apart", options(engine=Engine("local", 2)))
    assert [counts(one) for one in apart] == [(0, 4, 0, 0)] * 2
    assert made_by(apart[0].run) == made_by(here)
    for part in (2, 1, 2):
        done = generate(suite, "impostor", tmp_path / "parts", options(shard=Shard(part, 2)))
    assert counts(done) == (2, 2, 0, 0), "a part knows what it has made"
    assert made_by(done.run) == made_by(here)
    assert not list(done.run.root.rglob(".part-*")) and not list(apart[0].run.root.rglob(".part-*"))
    files = {path.relative_to(done.run.root) for path in done.run.root.rglob("*.mp4")}
    assert files == {path.relative_to(here.root) for path in here.root.rglob("*.mp4")}


def test_a_case_that_kills_its_engine_worker_twice_is_a_failed_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "deadly.py").write_text(
        "import os, signal\nfrom ffbench.making import Maker\n"
        "class Deadly(Maker):\n"
        "    def each(self, pairs):\n"
        "        if any(blank.case_id == 'bob-p0' for blank, _ in pairs):\n"
        "            os.kill(os.getpid(), signal.SIGKILL)\n"
        "        return super().each(pairs)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("ffbench.generate.MAKER", "deadly:Deadly")
    suite = make_suite(tmp_path / "photos")
    summary = generate(suite, "still", tmp_path / "runs", options(engine=Engine("local", 1)))
    assert counts(summary) == (0, 3, 1, 0)
    (failed,) = [record for record in summary.run.generations().values() if record.status == "failed"]
    assert failed.case_id == "bob-p0" and failed.error == "the worker was killed by SIGKILL"
    assert len((summary.run.root / "generations.jsonl").read_text().splitlines()) == 4


def test_a_worker_that_dies_behind_its_record_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It could not say that the video is made; nobody makes it again, and no line stands twice."""
    (tmp_path / "mute.py").write_text(
        "import os, signal\nfrom pathlib import Path\nfrom ffbench.making import Maker\n"
        "class Mute(Maker):\n"
        "    def each(self, pairs):\n"
        "        for (blank, _), record in zip(pairs, super().each(pairs)):\n"
        "            with Path(__file__).with_name('log').open('a') as log:\n"
        "                log.write(blank.case_id + '\\n')\n"
        "            if blank.case_id != 'ann-p0':\n"
        "                os.kill(os.getpid(), signal.SIGKILL)\n"
        "            yield record\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("ffbench.generate.MAKER", "mute:Mute")
    suite = make_suite(tmp_path / "photos")
    summary = generate(suite, "still", tmp_path / "runs", options(engine=Engine("local", 1)))
    assert counts(summary) == (0, 4, 0, 0)
    assert sorted((tmp_path / "log").read_text().split()) == sorted(case.case_id for case in suite.cases)
    lines = (summary.run.root / "generations.jsonl").read_text().splitlines()
    assert len(lines) == len({json.loads(line)["case_id"] for line in lines}) == 4
    monkeypatch.undo()
    assert made_by(summary.run) == made_by(generate(suite, "still", tmp_path / "here", options()).run)


CALLER = """
import sys
from pathlib import Path
from ffbench.engine import Engine
from ffbench.generate import GenerateOptions, generate
from ffbench.records import Case, from_json
from ffbench.suites import Suite
cases = tuple(from_json(Case, line) for line in Path(sys.argv[1]).read_text("utf-8").splitlines())
generate(Suite("mine", "1", "for tests", cases), "still", Path(sys.argv[2]),
         GenerateOptions(settings=("num_frames=3", "width=64", "height=48"), engine=Engine("local", 2)))
"""


def test_records_do_not_wait_for_the_caller(tmp_path: Path) -> None:
    """The command is stopped, its workers finish what they have; then it is killed, and nothing of that is lost."""
    suite = make_suite(tmp_path / "photos", ("ann", "bob", "cyd", "dan"), ("p", "q", "r"))
    (tmp_path / "cases.jsonl").write_text("".join(to_json(case) + "\n" for case in suite.cases), "utf-8")
    run = run_folder(tmp_path / "runs", "mine", "1", "still")
    caller = subprocess.Popen([sys.executable, "-c", CALLER, str(tmp_path / "cases.jsonl"), str(tmp_path / "runs")])

    def until(condition: Callable[[], Any]) -> None:
        end = time.monotonic() + 120
        while not condition():
            assert time.monotonic() < end and caller.poll() is None, "waited in vain"
            time.sleep(0.002)

    def videos() -> set[str]:
        return {path.stem for path in (run.root / "videos").glob("*.mp4")}

    until(run.generations)
    caller.send_signal(signal.SIGSTOP)
    # no folder of a video in work, and each video has its record without the caller
    until(lambda: not list(run.root.glob(".part-*/request-*")) and videos() == set(run.generations()))
    assert len(videos()) < len(suite.cases)
    assert not (run.root / "generations.jsonl").exists(), "the caller, which writes to this file, has written nothing"
    caller.kill()
    caller.wait()
    before = {key: run.new_video(key).stat().st_mtime_ns for key in videos()}
    assert generate(suite, "still", tmp_path / "runs", options()).done_before == len(before)
    assert {key: run.new_video(key).stat().st_mtime_ns for key in before} == before, "made again"
    assert (run.root / "generations.jsonl").read_bytes().count(b"\n") == len(suite.cases)
