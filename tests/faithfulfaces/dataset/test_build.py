"""A build on films whose truth is exact: verdicts, manifest, shards, training, damage, kills."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from faithfulfaces.dataset import manifest
from faithfulfaces.dataset.build import build, read_settings
from faithfulfaces.dataset.card import write_card
from faithfulfaces.dataset.combine import Combined, combine
from faithfulfaces.dataset.folder import Folder
from faithfulfaces.dataset.settings import Settings
from faithfulfaces.dataset.sources import find
from faithfulfaces.dataset.verify import changed_sources, problems
from faithfulfaces.dataset.workers import Plan
from faithfulfaces.recipes import debug
from faithfulfaces.runs import run
from faithfulfaces.shards import ShardClips, read_shard
from ffbench.engine import Engine
from ffbench.errors import UserError
from ffbench.video import write_mp4
from tests.faithfulfaces.dataset import red

pytest.importorskip("pyarrow")
pytest.importorskip("scenedetect")

EXPECTED = {
    "a/turn.mp4": ("qualified", ""),
    "audio.mp4": ("failed", "unreadable"),
    "cut.mp4": ("failed", "unreadable"),
    "empty.mp4": ("failed", "unreadable"),
    "nobody.mp4": ("rejected", "no-face"),
    "nod.mp4": ("qualified", ""),
    "other.mp4": ("qualified", ""),
    "short.mp4": ("rejected", "short"),
    "sliver.mp4": ("rejected", "aspect"),
    "still.mp4": ("rejected", "still"),
    "text.mp4": ("failed", "unreadable"),
    "two.mp4": ("rejected", "faces"),
    "z-again.mp4": ("rejected", "duplicate"),
}


def films(folder: Path) -> Path:
    (folder / "a").mkdir(parents=True)
    turn = red.film(folder / "a" / "turn.mp4", texture=1)
    red.film(folder / "other.mp4", -red.TURN, texture=2)
    red.film(folder / "nod.mp4", np.concatenate([np.full(24, -60.0), red.TURN * 0.8]), texture=3)
    red.film(folder / "z-again.mp4", texture=1)
    red.film(folder / "still.mp4", red.STILL, texture=4)
    red.film(folder / "two.mp4", faces=2, texture=5)
    red.film(folder / "nobody.mp4", faces=0, texture=6)
    red.film(folder / "short.mp4", red.TURN[:8], texture=7)
    red.sound(folder / "audio.mp4")
    (folder / "cut.mp4").write_bytes(turn.read_bytes()[: turn.stat().st_size * 6 // 10])
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("no film " * 50)
    write_mp4(folder / "sliver.mp4", np.zeros((16, 10, 10_000, 3), np.uint8), 16)
    return folder


class Made:
    def __init__(self, root: Path) -> None:
        self.videos = films(root / "videos")
        self.settings = red.settings(root)
        self.folder = Folder(root / "out")
        self.done = build(
            Plan(settings=self.settings, root=self.folder.root, engine=Engine("local", 2)), find(self.videos)
        )
        self.combined: Combined = combine(self.folder, self.settings)
        self.card = write_card(self.folder, self.combined.rows)
        self.rows = {row["source"]: row for row in manifest.read(self.folder.manifest)}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tmp_path_factory.mktemp("build"))


def test_every_source_has_its_verdict_and_reason(made: Made) -> None:
    assert {name: (row["verdict"], row["reason"]) for name, row in made.rows.items()} == EXPECTED
    assert (made.done.sources, made.done.skipped, made.done.failed) == (13, 0, 4)
    assert made.rows["z-again.mp4"]["detail"].endswith(made.rows["a/turn.mp4"]["key"])
    assert made.rows["two.mp4"]["most_faces"] == 2
    assert all(row["detail"] for row in made.rows.values() if row["verdict"] != "qualified")


def test_the_variation_is_that_of_the_best_sixteen_frames(made: Made) -> None:
    """Blue is rounded to whole steps of 0.7 degrees and coded: two degrees."""
    step = red.TURN[1] - red.TURN[0]
    assert made.rows["a/turn.mp4"]["variation"] == pytest.approx(15 * step, abs=2)
    assert made.rows["still.mp4"]["variation"] < 2
    # it turns in its second half
    nod = made.rows["nod.mp4"]
    assert nod["first"] >= 24
    assert nod["variation"] == pytest.approx(15 * step * 0.8, abs=2)
    assert nod["yaw_greatest"] - nod["yaw_least"] == pytest.approx(nod["variation"], abs=1e-2)


def test_shards_hold_ten_crops_that_span_the_turn(made: Made) -> None:
    clips = ShardClips(made.folder.shards("train"), 16)
    assert clips.num_crops == [10, 10, 10]
    assert len(set(clips.identities)) == 3
    assert made.combined.written == 2
    yaws = [crop.euler[1] for crop in (clips.crop(2, i) for i in range(10))]
    whole = made.rows["a/turn.mp4"]
    assert abs(yaws[0]) == min(abs(yaw) for yaw in yaws)
    assert min(yaws) == pytest.approx(whole["yaw_least"], abs=7)
    assert max(yaws) == pytest.approx(whole["yaw_greatest"], abs=7)
    sample = next(read_shard(made.folder.shards("train") / "000000.tar"))
    assert json.loads(sample.files["provenance"])["source"] == "nod.mp4"
    assert sample.files["mp4"][4:8] == b"ftyp"


def test_the_trainer_learns_from_them(made: Made, tmp_path: Path) -> None:
    data = dataclasses.replace(debug().data, shards=str(made.folder.shards("train")), pair_batch=3)
    losses = []
    config = dataclasses.replace(debug(), base=None, lora=None, data=data, steps=3)
    run(config, tmp_path / "run", report=lambda _, values: losses.append(values["loss_pia"]))
    assert len(losses) == 3
    assert np.isfinite(losses).all()


def test_a_second_run_does_nothing(made: Made) -> None:
    before = {p: p.stat().st_mtime_ns for p in made.folder.root.rglob("*") if p.is_file() and p.suffix != ".parquet"}
    done = build(Plan(settings=made.settings, root=made.folder.root), find(made.videos))
    assert (done.sources, done.skipped) == (0, 13)
    assert combine(made.folder, made.settings).written == 0
    assert before == {p: p.stat().st_mtime_ns for p in before}


def test_what_killed_writers_left_is_cleared(made: Made) -> None:
    """A half-made clip, track and manifest, and a plan of shards that stands for none."""
    left = [made.folder.root / name for name in ("clips/.part-x-000", "tracks/.part-1", "shards/.part-2", ".part-3")]
    left[0].mkdir()
    for path in (left[0] / "video.mp4", *left[1:]):
        path.write_bytes(b"half")
    looked_at = made.folder.root / "previews" / ".part-y-000"
    looked_at.mkdir(parents=True)
    assert build(Plan(settings=made.settings, root=made.folder.root), find(made.videos)).sources == 0
    assert not any(path.exists() for path in left)
    # the review page makes previews while others build
    assert looked_at.is_dir()
    looked_at.rmdir()


@pytest.mark.slow
def test_a_cluster_makes_the_same_set(made: Made, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    folder = Folder(tmp_path / "out")
    done = build(Plan(settings=made.settings, root=folder.root, engine=Engine("ray", 2)), find(made.videos))
    assert (done.sources, done.failed) == (13, 4)
    assert json.loads(folder.log.read_text())["engine"] == "ray"
    combine(folder, made.settings)
    assert folder.manifest.read_bytes() == made.folder.manifest.read_bytes()
    for path in sorted(made.folder.root.glob("shards/**/*.tar")):
        assert (folder.root / path.relative_to(made.folder.root)).read_bytes() == path.read_bytes(), path


def test_other_settings_need_another_folder(made: Made) -> None:
    other = dataclasses.replace(made.settings, subject=dataclasses.replace(made.settings.subject, threshold=61.0))
    with pytest.raises(UserError, match=r"begun with subject.threshold = 60"):
        build(Plan(settings=other, root=made.folder.root), find(made.videos))


def test_the_card_counts(made: Made) -> None:
    assert made.card["qualified"] == made.card["clips_by_split"]["train"] == 3
    assert made.card["refused"]["unreadable"] == 4
    assert made.card["without_prompt"] == 3
    # three clips of ten crops; all yaws of frames of the four that turn and the one that does not
    assert sum(made.card["pose_crops"]["yaw"]) == 30
    assert sum(made.card["pose_before"]["yaw"]) == 24 * 4 + 48
    assert sum(made.card["pose_after"]["yaw"]) == 24 * 2 + 48


def test_verify_finds_what_is_wrong(made: Made) -> None:
    sections = read_settings(made.folder)
    assert list(problems(made.folder, sections)) == []
    assert list(changed_sources(made.folder, made.videos)) == []
    shard = made.folder.shards("train") / "000001.tar"
    whole = shard.read_bytes()
    try:
        # the film's table of contents loses its name
        shard.write_bytes(whole.replace(b"moov", b"xoov"))
        assert ["its video" in fault for fault in problems(made.folder, sections)] == [True]
        assert list(problems(made.folder, sections, videos=False)) == []
        shard.unlink()
        assert ["is in no shard" in fault for fault in problems(made.folder, sections)] == [True]
    finally:
        shard.write_bytes(whole)
    (made.videos / "still.mp4").rename(made.videos / "gone.mp4")
    assert list(changed_sources(made.folder, made.videos)) == ["still.mp4 is gone"]
    (made.videos / "gone.mp4").rename(made.videos / "still.mp4")


def test_prompts_and_reviews_enter_the_shards(made: Made) -> None:
    keys = [row["key"] for row in made.rows.values() if row["shard"]]
    made.folder.captions.write_text(json.dumps({"key": keys[0], "prompt": "A person turns."}) + "\n")
    said = {
        "id": "1",
        "reviewer": "ann",
        "key": keys[1],
        "question": "sample",
        "value": "reject",
        "blind": False,
        "utc": "",
    }
    made.folder.reviews.write_text(json.dumps(said) + "\n")
    try:
        rows = {row.record.key: row for row in combine(made.folder, made.settings).rows}
        assert rows[keys[1]].record.reason == "review"
        prompts = [s.prompt for p in sorted(made.folder.shards("train").glob("*.tar")) for s in read_shard(p)]
        assert sorted(prompts) == ["", "A person turns."]
        assert list(problems(made.folder, read_settings(made.folder))) == []
    finally:
        made.folder.captions.unlink()
        made.folder.reviews.unlink()
        assert combine(made.folder, made.settings).written == 2


def start(videos: Path, out: Path, table: Path) -> subprocess.Popen[bytes]:
    words = ["data", "build", "--videos", str(videos), "--out", str(out), "--settings", str(table), "--workers", "2"]
    return subprocess.Popen([sys.executable, "-m", "faithfulfaces.cli", *words], stderr=subprocess.PIPE)


def settings_file(path: Path, chosen: Settings) -> Path:
    path.write_text(json.dumps(chosen.to_json()))
    return path


def test_killed_and_damaged_it_ends_as_if_undisturbed(made: Made, tmp_path: Path) -> None:
    """Killed after 3 and after 8 sources, its last line torn; then the same command ends with the same manifest."""
    table = settings_file(tmp_path / "settings.json", made.settings)
    folder = Folder(tmp_path / "out")
    for lines in (3, 8):
        process = start(made.videos, folder.root, table)
        while process.poll() is None:
            if folder.journal.is_file() and folder.journal.read_bytes().count(b"\n") >= lines:
                os.kill(process.pid, signal.SIGKILL)
                break
            time.sleep(0.01)
        process.communicate()
        with folder.journal.open("ab") as file:
            file.write(b'{"source": "torn')
    process = start(made.videos, folder.root, table)
    _, said = process.communicate()
    assert process.returncode == 0, said.decode()
    assert folder.manifest.read_bytes() == made.folder.manifest.read_bytes()
    for path in sorted(made.folder.root.glob("shards/**/*.tar")):
        assert (folder.root / path.relative_to(made.folder.root)).read_bytes() == path.read_bytes(), path


def test_a_worker_that_dies_behind_its_line_costs_nothing(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It could not say that it is done; nobody looks at the source again."""
    (tmp_path / "mute.py").write_text(
        "import os, signal\nfrom pathlib import Path\nfrom faithfulfaces.dataset.workers import ClipWorker\n"
        "class Mute(ClipWorker):\n"
        "    def do(self, source):\n"
        "        with Path(__file__).with_name('log').open('a') as log:\n"
        "            log.write(source.name + '\\n')\n"
        "        done = super().do(source)\n"
        "        if source.name == 'dies.mp4': os.kill(os.getpid(), signal.SIGKILL)\n"
        "        return done\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("faithfulfaces.dataset.workers.WORKER", "mute:Mute")
    (tmp_path / "videos").mkdir()
    for name in ("dies", "lives"):
        red.film(tmp_path / "videos" / f"{name}.mp4", red.STILL)
    done = build(Plan(settings=made.settings, root=tmp_path / "out"), find(tmp_path / "videos"))
    assert (done.sources, done.failed) == (2, 0)
    assert sorted((tmp_path / "log").read_text().split()) == ["dies.mp4", "lives.mp4"]
    lines = Folder(tmp_path / "out").journal.read_text().splitlines()
    assert sorted(json.loads(line)["source"] for line in lines) == ["dies.mp4", "lives.mp4"]


BOMBS = ("bomb-1", "bomb-2", "bomb-3")


def mined(folder: Path, monkeypatch: pytest.MonkeyPatch, *names: str) -> Path:
    """Films; until PYTHONPATH is as before, processes crash or hang over those of certain names.

    Crash and hang are real; only their cause is made up.
    """
    videos = folder / "videos"
    videos.mkdir()
    for number, name in enumerate(names):
        red.film(videos / f"{name}.mp4", texture=100 + number)
    # spawned processes import this from the path
    (folder / "sitecustomize.py").write_text(
        "import sys\n"
        "def hook(event, args):\n"
        "    if event == 'open' and 'videos/bomb' in str(args[0]):\n"
        "        import os, signal; os.kill(os.getpid(), signal.SIGSEGV)\n"
        "    if event == 'open' and 'videos/hang' in str(args[0]):\n"
        "        import time; time.sleep(1000)\n"
        "sys.addaudithook(hook)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return videos


def test_a_process_that_crashes_or_hangs_costs_one_source(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when such sources follow one another."""
    videos = mined(tmp_path, monkeypatch, *BOMBS, "good", "hang")
    plan = Plan(settings=made.settings, root=tmp_path / "out", timeout=8)
    done = build(plan, find(videos))
    assert (done.sources, done.failed) == (5, 4)
    rows = {row.record.source: row.record for row in combine(Folder(plan.root), made.settings).rows}
    assert {name: row.reason for name, row in rows.items()} == dict.fromkeys(
        (f"{name}.mp4" for name in BOMBS), "crash"
    ) | {"good.mp4": "", "hang.mp4": "timeout"}
    assert rows["bomb-1.mp4"].detail == "two workers died over it; the last: the worker was killed by SIGSEGV"
    monkeypatch.delenv("PYTHONPATH")
    assert build(plan, find(videos)).sources == 0
    again = build(dataclasses.replace(plan, timeout=60), find(videos), retry=True)
    assert (again.sources, again.skipped, again.failed) == (4, 1, 0)


@pytest.mark.slow
def test_a_crash_on_a_cluster_costs_one_source(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    videos = mined(tmp_path, monkeypatch, *BOMBS, "good", "hang")
    plan = Plan(settings=made.settings, root=tmp_path / "out", timeout=8, engine=Engine("ray", 2))
    assert build(plan, find(videos)) == (5, 0, 4)
    reasons = {row.record.source: row.record.reason for row in combine(Folder(plan.root), made.settings).rows}
    # a cluster does not say by which signal an actor died
    assert reasons == dict.fromkeys((f"{name}.mp4" for name in (*BOMBS, "hang")), "crash") | {"good.mp4": ""}


@pytest.mark.slow
def test_a_machine_on_which_nothing_runs_stops_the_build(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as one whose processor lacks an instruction: networks load, and end the process when they run."""
    (tmp_path / "sitecustomize.py").write_text(
        "import onnxruntime, os, signal\n"
        "def run(*args, **options):\n"
        "    os.kill(os.getpid(), signal.SIGILL)\n"
        "onnxruntime.InferenceSession.run = run\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    folder = Folder(tmp_path / "out")
    with pytest.raises(UserError, match=r"5 workers died one after the other.*SIGILL"):
        build(Plan(settings=made.settings, root=folder.root), find(made.videos))
    assert not folder.journal.exists()
