"""Real run folders for the tests of reports: records, photographs, videos and tracks with known cosines and angles."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from ffbench.extract.track import FaceTrack
from ffbench.measure import Scene, is_video_metric, measure
from ffbench.metrics.catalog import METRICS
from ffbench.protocols import PROTOCOLS, Protocol
from ffbench.records import Case, Generation, Reference, Score, derive_seed, digest
from ffbench.store import Run, run_folder

FRAMES = 16
WIDTH = 8
MISSING = {
    "cur": "curricularface-ir101 is not here: ffbench weights pull curricularface-ir101",
    "facenet": "facenet-vggface2 is not here: ffbench weights pull facenet-vggface2",
    "clip": "clip-vit-b-32 is not here: ffbench weights pull clip-vit-b-32",
}
NETWORKS = {"detector": "mtcnn#aaaaaaaaaaaa", "arc": "w600k_r50#bbbbbbbbbbbb", "pose": "6drepnet#cccccccccccc"}


@dataclass(frozen=True)
class Made:
    """One method to make a run of."""

    method: str
    cosine: float
    turn: float = 60.0
    kind: str = "open"
    failed: tuple[str, ...] = ()
    faceless: tuple[str, ...] = ()


def cases(
    folder: Path, people: int = 3, prompts: Sequence[tuple[str, str]] = (("gym", "boxes in a gym"),)
) -> list[Case]:
    """Cases with photographs of their own."""
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for person in range(people):
        path = folder / f"id{person:02}.png"
        y, x = np.mgrid[0:48, 0:48]
        shade = np.stack([x * 5, y * 5, np.full_like(x, 40 * person)], axis=-1).astype(np.uint8)
        Image.fromarray(shade).save(path)
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        for prompt_id, prompt in prompts:
            tags = ("large-pose",) if prompt_id == "gym" else ("occlusion",)
            photo = Reference(str(path), sha256, "frontal")
            case_id = f"id{person:02}-{prompt_id}"
            found.append(Case("tiny", "1", case_id, f"id{person:02}", (photo,), prompt_id, prompt, tags=tags))
    return found


def track(cosines: np.ndarray, yaw: np.ndarray, missing: Mapping[str, str] = MISSING, seed: int = 0) -> FaceTrack:
    """A track whose ArcFace cosine to the first axis is `cosines` [T], NaN without a face, at `yaw` [T] degrees."""
    total = len(cosines)
    lost = np.isnan(cosines)
    random = np.random.default_rng(seed)
    embedding = np.zeros((total, WIDTH), np.float32)
    embedding[:, 0], embedding[:, 1] = cosines, np.sqrt(np.maximum(1 - cosines**2, 0))
    box = np.tile(np.float32([16, 8, 40, 38]), (total, 1))
    points = np.tile(np.float32([[22, 18], [34, 18], [28, 24], [23, 31], [33, 31]]), (total, 1, 1))
    angles = np.stack([np.full(total, 5.0), yaw, np.zeros(total)], axis=1).astype(np.float32)
    features = random.normal(size=(total, 16)).astype(np.float32)
    score = np.full(total, 0.99, np.float32)
    for array in (embedding, box, points, angles, features, score):
        array[lost] = np.nan
    return FaceTrack(
        number=np.arange(total),
        time=np.arange(total) / 8.0,
        box=box,
        points=points,
        det_score=score,
        num_faces=(~lost).astype(np.int64),
        step=tuple("" if one else "full" for one in lost),
        angles=angles,
        embeddings={"arc": embedding},
        features={"fid_inception": features},
        clip_number=np.arange(total),
        clip=np.zeros((0, 0), np.float32),
        size=(56, 48),
        networks=NETWORKS,
        missing=missing,
    )


def make_run(
    out: Path,
    made: Made,
    suite: Sequence[Case],
    protocol: Protocol | None = None,
    with_videos: bool = False,
) -> Run:
    """Generate and score a run: every record is what the stages write."""
    recipe = protocol or PROTOCOLS["standard"]
    run = run_folder(out, suite[0].suite, suite[0].suite_version, made.method)
    references = {case.references[0].sha256: case.references[0].sha256[:16] for case in suite}
    with run.lock():
        run.write_cases(suite)
        for index, key in enumerate(references.values()):
            track(np.ones(1), np.zeros(1), seed=index).save(run.track(key))
        for index, case in enumerate(suite):
            _make_video(run, made, case, recipe, index if with_videos else -1)
    meta = run.meta()
    meta |= {"method": made.method, "card": {"name": made.method, "kind": made.kind}}
    meta.setdefault("scoring", {})[recipe.id] = {
        "metrics": {name: METRICS[name].version for name in recipe.metrics},
        "networks": NETWORKS,
        "missing": MISSING,
        "references": references,
        "notes": list(recipe.notes),
    }
    run.write_meta(meta)
    return run


def _make_video(run: Run, made: Made, case: Case, recipe: Protocol, index: int) -> None:
    number = sum(ord(char) for char in case.case_id + made.method)
    generation = Generation(
        case_id=case.case_id,
        suite=case.suite,
        suite_version=case.suite_version,
        method=made.method,
        revision="r1",
        settings={"steps": 4},
        seed=derive_seed(case.suite, case.case_id, 0),
        take=0,
        status="failed" if case.case_id in made.failed else "ok",
        error="CUDA out of memory" if case.case_id in made.failed else "",
        seconds=1.5,
        utc="2026-01-01T00:00:00+00:00",
    )
    if generation.status == "failed":
        run.append_generations([generation])
        return
    path = run.new_video(generation.key)
    if index >= 0:
        from ffbench.video import write_mp4

        write_mp4(path, _frames(number), 8.0)
    sha256 = hashlib.sha256(path.read_bytes() if path.is_file() else generation.key.encode()).hexdigest()
    generation = replace(generation, video=f"videos/{path.name}", video_sha256=sha256)
    run.append_generations([generation])
    random = np.random.default_rng(number)
    yaw = np.linspace(-made.turn, made.turn, FRAMES)
    cosines = np.clip(made.cosine - 0.3 * np.abs(yaw) / 90 + random.normal(0, 0.02, FRAMES), -1, 1)
    if case.case_id in made.faceless:
        cosines[:] = np.nan
    else:
        cosines[5] = np.nan
    one = track(cosines, yaw, seed=number)
    key = digest([sha256, recipe.track_recipe])
    one.save(run.track(key))
    reference = track(np.ones(1), np.zeros(1))
    scene = Scene(recipe, one, reference, None, None, "the case has no prompt", (0.3, ""))
    run.append_scores(
        Score(
            generation=generation.key,
            track=key,
            protocol=recipe.id,
            metric=metric,
            version=METRICS[metric].version,
            value=found.value,
            reason=found.reason,
            num_frames=FRAMES,
            num_scored=found.num_scored,
            per_frame=found.per_frame,
        )
        for metric in recipe.metrics
        if is_video_metric(metric)
        for found in [measure(metric, scene)]
    )


def _frames(number: int) -> np.ndarray:
    """[T,48,56,3] a head-like disc that moves."""
    y, x = np.mgrid[0:48, 0:56]
    frames = np.empty((FRAMES, 48, 56, 3), np.uint8)
    for t in range(FRAMES):
        inside = (x - 28 - 6 * np.sin(t / 2)) ** 2 / 100 + (y - 23) ** 2 / 200 < 1
        frames[t] = np.where(inside[..., None], (210, 170, 140), (40 + number % 120, 60, 90 + 4 * t))
    return frames
