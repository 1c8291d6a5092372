from __future__ import annotations

import dataclasses
import math
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from ffbench.engine import Engine
from ffbench.errors import UserError
from ffbench.extract.track import FaceTrack
from ffbench.image import write_png
from ffbench.measure import NEEDS, is_video_metric
from ffbench.protocols import Protocol, get_protocol, with_networks
from ffbench.records import Case
from ffbench.score import ScoreOptions, given_run, score
from ffbench.shard import Shard
from ffbench.store import Run
from ffbench.suites.cases import reference
from ffbench.video import write_mp4
from tests.ffbench import small_networks

pytestmark = pytest.mark.usefixtures("no_weights")
KILLS = 22


@dataclasses.dataclass(frozen=True)
class Material:
    protocol: Protocol
    cases: list[Case]
    videos: dict[str, Path]


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    """Three people, two videos each: their own photograph moving, the second with faceless frames."""
    folder = tmp_path_factory.mktemp("material")
    cases, videos = [], {}
    for number, photo in enumerate(small_networks.people()[:3]):
        height, width = (side // 2 * 2 for side in photo.shape[:2])
        photo = photo[:height, :width]
        write_png(folder / f"id{number}.png", photo)
        moving = np.stack([np.roll(photo, shift, axis=1) for shift in range(6)])
        for prompt, frames in (("p0", moving), ("p1", np.concatenate([moving[:3], np.full_like(moving[:3], 90)]))):
            case_id = f"id{number}-{prompt}"
            videos[case_id] = folder / f"{case_id}.mp4"
            write_mp4(videos[case_id], frames, 8)
            photograph = reference(folder / f"id{number}.png")
            cases.append(Case("mine", "1", case_id, f"id{number}", (photograph,), prompt, "A person turns."))
    protocol = with_networks(get_protocol("basic"), small_networks.write_networks(folder))
    return Material(protocol, cases, videos)


def run_of(material: Material, folder: Path) -> Run:
    return given_run(Run(folder), material.cases, material.videos, "given")


def values(run: Run) -> list[tuple[object, ...]]:
    """Every line of the file in its order, as a comparable row."""
    rows = []
    for s in run.scores().values():
        frames = tuple(None if math.isnan(v) else v for v in s.per_frame)
        rows.append((*s.key, s.track, None if s.reason else s.value, s.reason, s.num_frames, s.num_scored, frames))
    return rows


@pytest.fixture(scope="module")
def undisturbed(material: Material, tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = run_of(material, tmp_path_factory.mktemp("undisturbed"))
    done = score(run, ScoreOptions(material.protocol))
    assert (done.scored, done.done_before, done.damaged) == (6, 0, 0)
    assert set(done.missing) == {"facenet", "fid_inception", "clip"}
    return run


def test_every_video_metric_has_a_record(material: Material, undisturbed: Run) -> None:
    scores = undisturbed.scores(material.protocol.id)
    wanted = [name for name in material.protocol.metrics if is_video_metric(name)]
    assert len(scores) == 6 * len(wanted)
    by_metric = {(undisturbed.generations()[s.generation].case_id, s.metric): s for s in scores.values()}
    own, half = by_metric["id0-p0", "facesim_arc"], by_metric["id0-p1", "facesim_arc"]
    assert own.value > 0.9, "a photograph moved by a few pixels is nearly itself"
    assert (own.num_frames, own.num_scored) == (16, 16)
    assert 0 < half.num_scored < half.num_frames == 16
    assert [math.isnan(v) for v in half.per_frame].count(True) == 16 - half.num_scored
    rate = by_metric["id0-p1", "face_rate"]
    assert rate.value == half.num_scored / 16
    assert by_metric["id0-p1", "facesim_arc_missing_as_zero"].value < half.value
    missing = by_metric["id0-p0", "clip_score"]
    assert math.isnan(missing.value)
    assert missing.reason.startswith(NEEDS)
    assert "ffbench weights pull clip-vit-b-32" in missing.reason


def test_facesim_is_what_the_track_says(material: Material, undisturbed: Run) -> None:
    for s in undisturbed.scores().values():
        if s.metric != "facesim_arc":
            continue
        case = undisturbed.cases()[undisturbed.generations()[s.generation].case_id]
        meta = undisturbed.meta()["scoring"][material.protocol.id]
        photo = FaceTrack.load(undisturbed.track(meta["references"][case.references[0].sha256]))
        track = FaceTrack.load(undisturbed.track(s.track))
        cosines = track.embeddings["arc"].astype(float) @ photo.embeddings["arc"][0].astype(float)
        assert s.value == pytest.approx(float(np.nanmean(cosines)), abs=1e-6)


def test_a_second_call_does_nothing(material: Material, undisturbed: Run) -> None:
    before = (undisturbed.root / "scores.jsonl").read_bytes()
    again = score(undisturbed, ScoreOptions(material.protocol))
    # six videos still wait for weights, so they are looked at again; nothing that has a value moves
    assert again.damaged == 0
    assert (undisturbed.root / "scores.jsonl").read_bytes() == before


def lines(run: Run) -> set[bytes]:
    """The records of a run as they stand on disk, in whatever files."""
    return {line for path in run.root.glob("scores*.jsonl") for line in path.read_bytes().splitlines()}


def test_processes_and_shards_give_the_same_bytes(
    material: Material, undisturbed: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    apart = run_of(material, tmp_path / "apart")
    assert score(apart, ScoreOptions(material.protocol, engine=Engine("local", 2))).scored == 6
    assert lines(apart) == lines(undisturbed)
    parts = run_of(material, tmp_path / "parts")
    counts = [score(parts, ScoreOptions(material.protocol, shard=Shard(part, 3))).scored for part in (3, 1, 2)]
    assert counts == [2, 2, 2] and not (parts.root / "scores.jsonl").exists()
    assert len(list(parts.root.glob("scores.*-of-3.jsonl"))) == 3
    assert lines(parts) == lines(undisturbed)
    assert sorted(values(parts), key=str) == sorted(values(undisturbed), key=str)


@pytest.mark.slow
def test_four_workers_give_the_same_bytes(
    material: Material, undisturbed: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    run = run_of(material, tmp_path)
    score(run, ScoreOptions(material.protocol, engine=Engine("local", 4)))
    assert lines(run) == lines(undisturbed)


def test_a_video_that_kills_its_worker_twice_is_a_failed_record(
    material: Material, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "deadly.py").write_text(
        "import os, signal\n"
        "from ffbench import scoring\n"
        "class Deadly(scoring.Scorer):\n"
        "    def do(self, task):\n"
        "        if isinstance(task, scoring.Video) and task.case.case_id == 'id1-p1':\n"
        "            os.kill(os.getpid(), signal.SIGSEGV)\n"
        "        return super().do(task)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("ffbench.score.SCORER", "deadly:Deadly")
    run = run_of(material, tmp_path / "run")
    done = score(run, ScoreOptions(material.protocol, engine=Engine("local", 1)))
    assert (done.scored, done.damaged) == (5, 1)
    (failed,) = [g for g in run.generations().values() if g.status == "failed"]
    assert failed.case_id == "id1-p1" and failed.error == "measuring it failed twice: the worker was killed by SIGSEGV"


@pytest.mark.parametrize("lines_written", [2, 100])
def test_a_worker_that_dies_over_or_behind_its_records_costs_nothing(
    material: Material, undisturbed: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines_written: int
) -> None:
    """Whether all scores of a video were written or a few: in the end each is there once."""
    (tmp_path / "mute.py").write_text(
        "import os, signal\nfrom pathlib import Path\nfrom ffbench import scoring\nfrom ffbench.store import Run\n"
        "class Mute(scoring.Scorer):\n"
        "    def do(self, task):\n"
        "        mark = Path(__file__).with_name('died')\n"
        "        if isinstance(task, scoring.Video) and task.case.case_id == 'id1-p1':\n"
        "            with mark.open('a') as log: log.write('begun ')\n"
        "            if mark.read_text() == 'begun ':\n"
        "                append = Run.append_scores\n"
        "                def some(run, records):\n"
        f"                    append(run, list(records)[:{lines_written}])\n"
        "                    os.kill(os.getpid(), signal.SIGKILL)\n"
        "                Run.append_scores = some\n"
        "        return super().do(task)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("ffbench.score.SCORER", "mute:Mute")
    run = run_of(material, tmp_path / "run")
    done = score(run, ScoreOptions(material.protocol, engine=Engine("local", 1)))
    assert (done.scored, done.damaged) == (6, 0)
    assert (tmp_path / "died").read_text().split() == ["begun"] * (1 if lines_written == 100 else 2)
    written = (run.root / "scores.jsonl").read_bytes().splitlines()
    assert len(written) == len(set(written)) and set(written) == lines(undisturbed)


def test_scores_that_stand_are_not_written_again(material: Material, undisturbed: Run, tmp_path: Path) -> None:
    """As after a kill in the middle of a video's lines; and where everything is measured anew."""
    run = run_of(material, tmp_path)
    whole = (undisturbed.root / "scores.jsonl").read_bytes().splitlines(keepends=True)
    (run.root / "scores.jsonl").write_bytes(b"".join(whole[3:10]) + whole[10][:40])
    score(run, ScoreOptions(material.protocol))
    written = (run.root / "scores.jsonl").read_bytes().splitlines(keepends=True)
    assert sorted(written) == sorted(whole)
    score(run, ScoreOptions(material.protocol, redo="all"))
    assert (run.root / "scores.jsonl").read_bytes().splitlines(keepends=True) == written


def test_limit_and_redo(material: Material, tmp_path: Path) -> None:
    run = run_of(material, tmp_path)
    assert score(run, ScoreOptions(material.protocol, limit=2)).scored == 2
    assert len({s.generation for s in run.scores().values()}) == 2
    assert score(run, ScoreOptions(material.protocol, limit=2, redo="all")).scored == 2
    assert score(run, ScoreOptions(material.protocol, redo="failed")).scored == 6


def test_a_damaged_video_is_a_failed_record_with_its_reason(material: Material, tmp_path: Path) -> None:
    videos = dict(material.videos)
    cut, gone, changed = tmp_path / "cut.mp4", tmp_path / "gone.mp4", tmp_path / "changed.mp4"
    cut.write_bytes(videos["id0-p0"].read_bytes()[:-400])
    gone.write_bytes(videos["id1-p0"].read_bytes())
    changed.write_bytes(videos["id2-p0"].read_bytes())
    videos |= {"id0-p0": cut, "id1-p0": gone, "id2-p0": changed}
    run = given_run(Run(tmp_path / "run"), material.cases, videos, "given")
    gone.unlink()
    changed.write_bytes(videos["id2-p1"].read_bytes())
    done = score(run, ScoreOptions(material.protocol))
    assert (done.scored, done.damaged) == (3, 3)
    failed = {g.case_id: g.error for g in run.generations().values() if g.status == "failed"}
    assert set(failed) == {"id0-p0", "id1-p0", "id2-p0"}
    assert "gone" in failed["id1-p0"]
    assert "sha256" in failed["id2-p0"]
    assert failed["id0-p0"]
    assert {run.generations()[s.generation].case_id for s in run.scores().values()}.isdisjoint(failed)


def test_a_reference_without_a_face_stops_before_any_work(material: Material, tmp_path: Path) -> None:
    write_png(tmp_path / "wall.png", np.full((80, 80, 3), 120, np.uint8))
    case = dataclasses.replace(material.cases[0], references=(reference(tmp_path / "wall.png"),))
    run = given_run(Run(tmp_path / "run"), [case], {case.case_id: material.videos[case.case_id]}, "given")
    with pytest.raises(UserError, match=r"wall\.png holds no face \(tried full, pad25\)"):
        score(run, ScoreOptions(material.protocol))
    assert run.scores() == {}


def test_a_reference_that_changed_or_broke_is_named(material: Material, tmp_path: Path) -> None:
    photo = tmp_path / "a.png"
    photo.write_bytes(Path(material.cases[0].references[0].path).read_bytes())
    case = dataclasses.replace(material.cases[0], references=(reference(photo),))
    run = given_run(Run(tmp_path / "run"), [case], {case.case_id: material.videos[case.case_id]}, "given")
    photo.write_bytes(photo.read_bytes() + b" ")
    with pytest.raises(UserError, match="has changed"):
        score(run, ScoreOptions(material.protocol))
    photo.unlink()
    with pytest.raises(UserError, match=r"a\.png"):
        score(run, ScoreOptions(material.protocol))


def test_one_identity_has_no_strangers_to_calibrate_on(material: Material, tmp_path: Path) -> None:
    run = given_run(Run(tmp_path), material.cases[:1], material.videos, "given")
    score(run, ScoreOptions(material.protocol))
    rates = [s for s in run.scores().values() if s.metric == "same_identity_rate"]
    assert [s.reason for s in rates] == ["one identity has no strangers to calibrate on"]


def test_an_empty_run_says_what_makes_videos(material: Material, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no videos"):
        score(Run(tmp_path), ScoreOptions(material.protocol))


def test_a_spoilt_cache_is_made_anew(material: Material, undisturbed: Run, tmp_path: Path) -> None:
    run = run_of(material, tmp_path)
    score(run, ScoreOptions(material.protocol))
    for path in (run.root / "tracks").iterdir():
        path.write_bytes(b"spoilt")
    (run.root / "scores.jsonl").unlink()
    score(run, ScoreOptions(material.protocol))
    assert sorted(values(run), key=str) == sorted(values(undisturbed), key=str)


def test_videos_given_again_are_not_registered_twice(material: Material, tmp_path: Path) -> None:
    run = run_of(material, tmp_path)
    before = (tmp_path / "generations.jsonl").read_bytes()
    run_of(material, tmp_path)
    assert (tmp_path / "generations.jsonl").read_bytes() == before
    assert len(run.generations()) == 6


@pytest.mark.slow
def test_kill_9_at_random_moments(material: Material, undisturbed: Run, tmp_path: Path) -> None:
    run = run_of(material, tmp_path)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["ffbench.score", "ffbench.extract.networks"])
    draw = random.Random(4)

    def start() -> multiprocessing.process.BaseProcess:
        process = context.Process(target=score, args=(Run(tmp_path), ScoreOptions(material.protocol)))
        process.start()
        return process

    began = time.monotonic()
    first = start()
    while not run.scores() and first.is_alive():
        time.sleep(0.02)
    to_first = time.monotonic() - began
    killed = 0
    process = first
    while killed < KILLS:
        time.sleep(draw.uniform(0, 1.3 * to_first))
        if process.is_alive() and process.pid is not None:
            os.kill(process.pid, signal.SIGKILL)
            killed += 1
        process.join()
        for s in run.scores().values():  # whatever stands is whole
            assert FaceTrack.load(run.track(s.track)) is not None
        process = start()
    process.join()
    assert process.exitcode == 0
    assert sorted(values(run), key=str) == sorted(values(undisturbed), key=str)
    assert not list(run.root.rglob(".part-*"))
