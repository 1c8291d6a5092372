"""A set of runs as large as the paper's: real records and tracks, and one small real video under many names."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ffbench.metrics.catalog import METRICS
from ffbench.protocols import PROTOCOLS
from ffbench.records import Case, Generation, Score, derive_seed, digest
from ffbench.store import Run, run_folder
from ffbench.video import write_mp4
from tests.ffbench.scored_runs import FRAMES, MISSING, NETWORKS, cases, track

METHODS = (
    "faithfulfaces", "vace", "phantom", "hunyuancustom", "consisid", "concat_id", "standin", "skyreels_a2", "magref",
    "still", "oracle",
)  # fmt: skip
CONTROLS = ("still", "oracle")


def make_runs(root: Path, people: int = 30, prompts: int = 20) -> list[Run]:
    """A run of every method over people x prompts; every tenth video has no face, every fiftieth failed."""
    texts = [(f"scene{i:02}", f'turns the head in scene {i}, <b>bold</b> & "quoted"') for i in range(prompts)]
    suite = cases(root / "photos", people, texts)
    video = root / "one.mp4"
    y, x = np.mgrid[0:64, 0:112]
    disc = [((x - 56 - 2 * t) ** 2 + (y - 32) ** 2 < 400)[..., None] for t in range(FRAMES)]
    write_mp4(
        video,
        np.stack([np.where(one, (210, 170, 140), (40, 60, 4 * t)) for t, one in enumerate(disc)]).astype(np.uint8),
        8.0,
    )
    return [_make_run(root, method, suite, video) for method in METHODS]


def _make_run(root: Path, method: str, suite: Sequence[Case], video: Path) -> Run:
    recipe = PROTOCOLS["standard"]
    run = run_folder(root / "runs", suite[0].suite, suite[0].suite_version, method)
    references = {case.references[0].sha256: case.references[0].sha256[:16] for case in suite}
    sha256 = hashlib.sha256(video.read_bytes()).hexdigest()
    generations, scores = [], []
    random = np.random.default_rng(METHODS.index(method))
    # tracks differ by twenty; that they are shared between videos changes nothing for the page
    tracks = []
    for i in range(20):
        yaw = np.linspace(-5 - 4 * i, 5 + 4 * i, FRAMES) * (0 if method == "still" else 1)
        cosines = (
            np.full(FRAMES, np.nan) if i % 10 == 9 else np.clip(0.7 - 0.02 * i + random.normal(0, 0.05, FRAMES), -1, 1)
        )
        key = digest([method, i])
        (run.root / "tracks").mkdir(parents=True, exist_ok=True)
        track(cosines, yaw, seed=i).save(run.track(key))
        tracks.append((key, cosines, 2 * float(yaw[-1])))
    with run.lock():
        run.write_cases(suite)
        for sha in references.values():
            track(np.ones(1), np.zeros(1)).save(run.track(sha))
        for i, case in enumerate(suite):
            failed = i % 50 == 49
            one = Generation(
                case.case_id, case.suite, case.suite_version, method, "r1", {"steps": 4},
                derive_seed(case.suite, case.case_id, 0), 0, "failed" if failed else "ok",
                error="CUDA out of memory" if failed else "", utc="2026-01-01T00:00:00+00:00", seconds=1.0,
                provenance={"ffbench": "0.1.0", "packages": {"torch": "2.8"}},
            )  # fmt: skip
            if not failed:
                path = run.new_video(one.key)
                os.link(video, path)
                one = dataclasses.replace(one, video=f"videos/{path.name}", video_sha256=sha256)
                scores += _scores(one, recipe.id, tracks[i % 20])
            generations.append(one)
        run.append_generations(generations)
        run.append_scores(scores)
    kind = "control" if method in CONTROLS else "open"
    run.write_meta(
        {
            "method": method,
            "card": {"name": method, "kind": kind, "summary": f"what {method} is"},
            "scoring": {
                recipe.id: {
                    "metrics": {name: METRICS[name].version for name in recipe.metrics},
                    "networks": NETWORKS, "missing": MISSING, "references": references, "notes": list(recipe.notes),
                }
            },
        }
    )  # fmt: skip
    return run


def _scores(one: Generation, protocol: str, facts: tuple[str, np.ndarray, float]) -> list[Score]:
    key, cosines, turn = facts
    found = ~np.isnan(cosines)
    values = {
        "facesim_arc": float(np.nanmean(cosines)) if found.any() else np.nan,
        "face_rate": float(found.mean()),
        "pose_range": turn,
    }
    return [
        Score(
            one.key, key, protocol, metric, METRICS[metric].version, value,
            "no face in any of 16 frames" if np.isnan(value) else "", FRAMES, int(found.sum()),
            tuple(cosines.tolist()) if metric == "facesim_arc" else (),
        )
        for metric, value in values.items()
    ]  # fmt: skip
