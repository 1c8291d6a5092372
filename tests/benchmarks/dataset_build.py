"""What docs/dataset.md says of the dataset pipeline, measured anew: real videos, rendered clips, speed, damage.

python tests/benchmarks/dataset_build.py real ASSETS OUT [VIDEOS]   the table of real videos
python tests/benchmarks/dataset_build.py rendered ASSETS OUT FOOTAGE   Var against exact angles
python tests/benchmarks/dataset_build.py speed ASSETS OUT     against a loop over frames with FaceAnalysis
python tests/benchmarks/dataset_build.py thousand OUT         1000 small clips, 5% damaged, ten kills
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import types
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from insightface.app import FaceAnalysis

from faithfulfaces.dataset import calibrate, manifest, pose
from faithfulfaces.dataset.build import build, settings_of
from faithfulfaces.dataset.card import write_card
from faithfulfaces.dataset.clip import Analyst
from faithfulfaces.dataset.combine import combine
from faithfulfaces.dataset.folder import Folder
from faithfulfaces.dataset.instruments import open_instruments
from faithfulfaces.dataset.records import ClipRecord
from faithfulfaces.dataset.settings import Networks, Settings, Subject, Video
from faithfulfaces.dataset.sources import Source, find
from faithfulfaces.dataset.workers import Plan
from ffbench.engine import Engine, Job, Task, open_pool
from ffbench.extract.pose import Ddfa
from ffbench.video import frame_times, stream_frames, write_mp4

# some installed packages bring a `tests` of their own
sys.modules["tests"] = types.ModuleType("tests")
sys.modules["tests"].__path__ = [str(Path(__file__).parents[1])]  # type: ignore[attr-defined]
from tests.faithfulfaces.dataset import red  # noqa: E402

STRIDE = int(os.environ.get("STRIDE", "1"))


def networks(assets: Path) -> Networks:
    pack = assets / "models" / "insightface" / "models" / "small_y1"
    return Networks(
        detector="scrfd",
        detector_weights=str(pack / "det_scrfd_2.5g.onnx"),
        ladder=("640",),
        pose="3ddfa",
        pose_weights=str(assets / "models" / "pose" / "3ddfa_v2_mb05_120x120.onnx"),
        pose_aux=str(assets / "models" / "pose" / "3ddfa_v2_param_mean_std.npz"),
        embedder="arcface-onnx",
        embedder_weights=str(pack / "rec_mobilefacenet_y1.onnx"),
    )


def rows_of(videos: Path, out: Path, settings: Settings) -> list[dict[str, Any]]:
    engine = Engine("local", workers=int(os.environ.get("WORKERS", "1")))
    build(Plan(settings=settings, root=out, engine=engine), find(videos))
    write_card(Folder(out), combine(Folder(out), settings).rows)
    return manifest.read(Folder(out).manifest)


def real(assets: Path, out: Path, videos: Path | None = None) -> None:
    """At the paper's threshold; samples of 73 frames at 16 a second, so that a generated clip of 4.6 s counts."""
    settings = Settings(
        video=Video(frames=73, min_fps=8, max_upscale=4),
        subject=Subject(stride=STRIDE),
        networks=dataclasses.replace(networks(assets), ladder=("fit640",)),
    )
    rows = rows_of(videos or assets / "videos", out, settings)
    print("| clip | frames | faces | yaw | range | robust | steady | verdict |")
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        values = f"{row['variation']:.1f} | {row['variation_robust']:.1f} | {row['variation_steady']:.1f}"
        yaw = f"{row['yaw_least']:.0f}..{row['yaw_greatest']:.0f}"
        print(
            f"| {row['source']}, {row['start']:.1f} s | {row['frames']} | {row['most_faces']} | {yaw} | {values} | "
            f"{row['reason'] or row['verdict']} |"
        )
    curves(Folder(out), rows, ("intel_demo/demo.mp4", "liveportrait/d12.mp4"))


def curves(folder: Folder, rows: list[dict[str, Any]], wanted: tuple[str, ...]) -> None:
    """Pitch, yaw and roll of a clip that qualified and of one that did not, the sample in grey: OUT/curves.svg."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.2), layout="constrained")
    panels = figure.subplots(1, len(wanted), sharey=True)
    for panel, name in zip(panels, wanted, strict=True):
        row = next(row for row in rows if row["source"] == name and folder.track(row["key"]).is_file())
        rate = row["frames"] / row["seconds"]
        with np.load(folder.track(row["key"])) as track:
            angles, seconds = track["angles"], track["number"] / rate
        first = row["first"] / rate
        panel.axvspan(first, first + settings_of(folder).video.frames / rate, color="0.92", zorder=0)
        for axis, (label, colour) in enumerate((("pitch", "#2e7d32"), ("yaw", "#1f4e79"), ("roll", "#c0392b"))):
            panel.plot(seconds, angles[:, axis], label=label, color=colour)
        title = f"{name.split('/')[1]}: variation {row['variation']:.0f}\N{DEGREE SIGN}, {row['verdict']}"
        panel.set(xlabel="seconds", title=title, ylim=(-90, 90))
    panels[0].set(ylabel="degrees")
    panels[0].legend(loc="lower left", ncols=3)
    figure.savefig(folder.root / "curves.svg", metadata={"Date": None})


def rendered(assets: Path, out: Path, footage: Path) -> None:
    """Clips of `faithfulfaces mini build` (footage/train_*.npz: 9 frames of 64 px, exact angles), enlarged fourfold.

    The truth is the variation of the exact angles over the frames whose face is shown and at most 85 degrees away.
    """
    videos = out / "videos"
    videos.mkdir(parents=True, exist_ok=True)
    truth = {}
    with np.load(footage, allow_pickle=False) as file:
        pixels, angles, seen = file["pixels"], file["angles"], file["seen"]
    for index, small in enumerate(pixels[: int(os.environ.get("CLIPS", "50"))]):
        name = f"clip{index:03d}.mp4"
        big = [cv2.resize(frame, (256, 256), interpolation=cv2.INTER_CUBIC) for frame in small]
        write_mp4(videos / name, np.stack(big), 16)
        shown = (seen[index] >= 0.25) & (np.abs(angles[index, :, 1]) <= 85)
        exact = angles[index][shown]
        truth[name] = {
            "variation": pose.variation(exact),
            "variation_robust": pose.robust_variation(exact),
            "variation_steady": pose.variation(exact),
            "shown": int(shown.sum()),
        }
    settings = Settings(
        video=Video(width=256, height=256, fps=0, frames=9, shots="none"),
        subject=Subject(max_faces=9, threshold=1000),
        networks=dataclasses.replace(networks(assets), ladder=("128",), embedder=""),
    )
    judge({row["source"]: row for row in rows_of(videos, out / "build", settings)}, truth)


def judge(rows: dict[str, dict[str, Any]], truth: dict[str, dict[str, Any]]) -> None:
    kept = [n for n in sorted(truth) if n in rows and np.isfinite(rows[n]["variation"]) and truth[n]["shown"] > 1]
    print(f"{len(truth)} clips, {len(kept)} in which a face was found and is truly shown")
    rng = np.random.default_rng(0)
    for column in ("variation", "variation_robust", "variation_steady"):
        exact = np.array([truth[n][column] for n in kept])
        found = np.array([rows[n][column] for n in kept])
        error = found - exact
        print(
            f"{column}: exact {exact.min():.0f} to {exact.max():.0f}; error median {np.median(error):+.1f}, "
            f"median absolute {np.median(abs(error)):.1f}, worst {abs(error).max():.1f} degrees, "
            f"r = {np.corrcoef(exact, found)[0, 1]:.3f}"
        )
        for bound in (60.0, 120.0):
            wanted = exact > bound
            if not wanted.any() or wanted.all():
                print(f"  {int(wanted.sum())} of {len(kept)} truly above {bound:g}: nothing to part")
                continue
            print(f"  {int(wanted.sum())} of {len(kept)} truly above {bound:g}: {calibrate.at(found, wanted, bound)}")
            labels = wanted ^ (rng.uniform(size=len(kept)) < 0.1)
            print(f"  calibrated, 10% of the labels flipped: {calibrate.calibrate(found, labels, kept)}")


def speed(assets: Path, out: Path) -> None:
    """Decoding, detection and pose of three clips: a plain loop with FaceAnalysis, then our steps, in turn.

    The loop is what its documentation shows, with the pose network called on the largest face; ONNX Runtime's own
    thread counts. First CPU seconds, both in this process; then wall-clock seconds, ours on two workers.
    """
    video = Video(fps=0, min_fps=5, frames=16, max_upscale=4, max_seconds=60, shots="none")
    chosen = dataclasses.replace(networks(assets), embedder="", ladder=("fit640",))
    settings = Settings(video=video, subject=Subject(threshold=1000), networks=chosen)
    sources = [
        excerpt(assets / "videos" / name, out / "videos")
        for name in ("opens2v/faceobj_14.mp4", "intel_demo/demo.mp4", "liveportrait/d12.mp4")
    ]
    analyst = Analyst(settings, open_instruments(settings, "cpu"), Folder(out))
    pose_net = Ddfa(Path(chosen.pose_weights), Path(chosen.pose_aux), "0" * 64, "cpu")
    root = str(assets / "models" / "insightface")
    loops: dict[str, Any] = {}
    found: dict[str, list[Any]] = {}
    for label, modules in (("detection", ["detection"]), ("whole pack", None)):
        loops[label] = FaceAnalysis(
            name="small_y1", root=root, allowed_modules=modules, providers=["CPUExecutionProvider"]
        )
        loops[label].prepare(ctx_id=-1, det_size=(640, 640))
    for label, app in loops.items():
        for source in sources:
            start = time.process_time()
            found[source.name] = loop(source, app, pose_net)
            print(f"loop, {label}: {source.name} CPU {time.process_time() - start:.2f}", flush=True)
    for source in sources:
        start = time.process_time()
        record = analyst.outcome(source).clips[0]
        spent = time.process_time() - start
        said = apart(record, found[source.name], Folder(out))
        print(f"ours: {source.name} {record.frames_seen} frames, CPU {spent:.2f}; {said}", flush=True)
    plan = Plan(settings=settings, root=out, engine=Engine("local", workers=2))
    job = Job("faithfulfaces.dataset.workers:ClipWorker", plan, [Task(source) for source in sources])
    with open_pool(plan.engine) as pool:
        list(pool.run([dataclasses.replace(job, tasks=[*job.tasks, *job.tasks])]))  # both workers are open then
        for _ in range(int(os.environ.get("ROUNDS", "2"))):
            start = time.perf_counter()
            for source in sources:
                loop(source, loops["whole pack"], pose_net)
            middle = time.perf_counter()
            list(pool.run([job]))
            print(f"loop {middle - start:.2f} s, two workers {time.perf_counter() - middle:.2f} s", flush=True)


def excerpt(path: Path, folder: Path) -> Source:
    """The first frames of a video as a file."""
    folder.mkdir(parents=True, exist_ok=True)
    times = frame_times(path)
    numbers = list(range(min(int(os.environ.get("FRAMES", "72")), len(times))))
    found = itertools.islice(stream_frames(path, numbers, len(times), lambda w, h: (w, h)), len(numbers))
    write_mp4(folder / path.name, np.stack(list(found)), 24)
    return Source(path.name, folder / path.name)


def loop(source: Source, app: Any, pose_net: Any) -> list[Any]:
    """Boxes [4] of the largest face of every frame, None without one; the pose is formed too."""
    boxes: list[Any] = []
    capture = cv2.VideoCapture(str(source.path))
    while (read := capture.read())[0]:
        faces = app.get(read[1])
        best = max(faces, key=lambda f: np.prod(f.bbox[2:] - f.bbox[:2]), default=None)
        boxes.append(None if best is None else best.bbox)
        if best is not None:
            pose_net.angles([np.ascontiguousarray(read[1][..., ::-1])], best.bbox[None], best.kps[None])
    return boxes


def apart(record: ClipRecord, boxes: list[Any], folder: Folder) -> str:
    """How far the loop's boxes lie from ours, px of the standard frame."""
    width, height = record.source_size
    scale = max(832 / width, 480 / height)
    with np.load(folder.track(record.key)) as track:
        ours = track["box"]
    off = [np.abs(b * scale - o).max() for b, o in zip(boxes, ours, strict=True) if b is not None]
    alone = sum((b is None) != bool(np.isnan(o).any()) for b, o in zip(boxes, ours, strict=True))
    return f"boxes differ by at most {max(off):.3f} px, median {np.median(off):.4f}; {alone} frames on one side only"


def thousand(out: Path, count: int = int(os.environ.get("CLIPS", "1000"))) -> None:
    """Small clips of the exact red world; 5% damaged in five ways; killed ten times, then compared."""
    videos = out / "videos"
    videos.mkdir(parents=True, exist_ok=True)
    draw = random.Random(0)
    for index in range(count):
        path = videos / f"clip{index:04d}.mp4"
        red.film(path, red.TURN if index % 3 else red.STILL, texture=index)
        if index % 20 == 7:
            damage(path, index // 20 % 5)
    settings = red.settings(out)
    table = out / "settings.json"
    table.write_text(json.dumps(settings.to_json()))
    words = [sys.executable, "-m", "faithfulfaces.cli", "data", "build", "--videos", str(videos)]
    words += ["--settings", str(table), "--workers", os.environ.get("WORKERS", "2"), "--out"]
    shutil.rmtree(out / "undisturbed", ignore_errors=True)
    shutil.rmtree(out / "killed", ignore_errors=True)
    start = time.monotonic()
    subprocess.run([*words, str(out / "undisturbed")], check=True)
    whole = time.monotonic() - start
    # nine at random clips, a moment later, and one while shards are written
    for lines in [*sorted(draw.sample(range(count), 9)), count]:
        print(killed([*words, str(out / "killed")], Folder(out / "killed"), (lines, count), draw), flush=True)
    subprocess.run([*words, str(out / "killed")], check=True)
    found, wanted = contents(out / "killed"), contents(out / "undisturbed")
    differ = sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
    rows = manifest.read(Folder(out / "killed").manifest)
    verdicts = Counter(f"{row['verdict']} {row['reason']}" for row in rows)
    print(f"undisturbed {whole:.0f} s; {len(rows)} clips of {count} files: {dict(sorted(verdicts.items()))}")
    print(f"{len(wanted)} files, {len(differ)} differ or are there on one side only: {differ[:9]}")


def killed(words: list[str], folder: Folder, moment: tuple[int, int], draw: random.Random) -> str:
    """Start the command and kill it at once after the given clip of all, or among the shards after the last."""
    lines, count = moment
    process = subprocess.Popen(words, stderr=subprocess.DEVNULL)
    shards = draw.randrange(1, 100)
    while process.poll() is None:
        done = folder.journal.read_bytes().count(b"\n") if folder.journal.is_file() else 0
        written = len(list(folder.root.glob("shards/*/*.tar")))
        if done >= lines and (lines < count or written >= shards):
            time.sleep(draw.uniform(0, 0.5) if lines < count else 0)
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.005)
    if process.wait() != -signal.SIGKILL:
        raise RuntimeError(f"it had ended before it could be killed (exit code {process.returncode})")
    torn = folder.journal.is_file() and not folder.journal.read_bytes().endswith(b"\n")
    return f"killed with {done} clips done{', a torn line' if torn else ''}, {written} shards"


def contents(root: Path) -> dict[str, str]:
    """Digest of every file that does not tell of time or order of work."""
    told = {"journal.jsonl", "log.jsonl"}
    paths = [p for p in root.rglob("*") if p.is_file() and p.name not in told and p.suffix != ".lock"]
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in paths}


def damage(path: Path, kind: int) -> None:
    if kind == 0:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif kind == 1:
        path.write_bytes(b"")
    elif kind == 2:
        red.sound(path)
    elif kind == 3:
        path.write_text("no film " * 99)
    else:
        write_mp4(path, np.zeros((16, 10, 10_000, 3), np.uint8), 16)


if __name__ == "__main__":
    task, *paths = sys.argv[1:]
    {"real": real, "rendered": rendered, "speed": speed, "thousand": thousand}[task](*(Path(p) for p in paths))
