"""Are the rendered people people? Networks that never saw them judge: two ArcFace networks, MTCNN and 3DDFA_V2.

    python tests/benchmarks/renderer.py [--people 100] [--size 160] [--threads 1]

Renders people of the split `test` at yaw -50, -25, 0, 25 and 50 degrees, over varied backdrops, clothes and light, and
prints as JSON: verification AUC over all pairs of frames (same person at another yaw against different people), the
mean cosines, MTCNN's recall, 3DDFA's yaw against the exact yaw, and SCRFD's points against the exact ones. Nothing of
the renderer was trained on these networks. A frame without a face counts as missed and leaves the other figures.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from faithfulfaces.synthetic.people import SPLITS, person
from faithfulfaces.synthetic.render import Rendered, render
from faithfulfaces.synthetic.scene import BACKDROPS, Frame, Setting
from ffbench.extract.extractor import Extractor
from ffbench.extract.track import FaceTrack
from ffbench.protocols import get_protocol, with_networks

ASSETS = Path(os.environ.get("FFBENCH_TEST_ASSETS", Path(__file__).parents[3] / "shared" / "assets"))
ENCODERS = {"y1": ("small_y1", "y1"), "foamliu": ("small_apache", "foamliu")}
YAWS = (-50.0, -25.0, 0.0, 25.0, 50.0)


def main() -> None:
    """Render, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=100)
    parser.add_argument("--first", type=int, default=0, help="how many test people to pass over")
    parser.add_argument("--size", type=int, default=160)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    seeds = SPLITS["test"][args.first : args.first + args.people]
    start = time.perf_counter()
    frames = [Frame(yaw=yaw, body_yaw=0.4 * yaw) for _ in seeds for yaw in YAWS]
    who = [seed for seed in seeds for _ in YAWS]
    made = render([person(s) for s in who], frames, [setting(i) for i in range(len(who))], args.size)
    facts: dict[str, object] = {"people": len(seeds), "frames": len(who), "size": args.size, "yaws": YAWS}
    facts["render_ms_per_frame"] = 1000 * (time.perf_counter() - start) / len(who)
    yaw = made.labels.angles[:, 1]
    for name, (pack, file) in ENCODERS.items():
        tracks = measure(
            made, f'[arc]\nkind = "arcface-onnx"\nfile = "{recogniser(pack, file)}"\n' + POSE, SCRFD, ("320", "640")
        )
        facts[name] = verification(tracks, np.array(who), yaw)
        facts.setdefault("scrfd", geometry(tracks, made))
    facts["mtcnn"] = geometry(measure(made, POSE, '[detector]\nkind = "mtcnn"\n', ("full",)), made)
    print(json.dumps(facts, indent=2))


def setting(number: int) -> Setting:
    """Backdrop, clothes and light of a frame: each its own."""
    rng = np.random.default_rng([5, number])
    cloth, trim = (tuple(float(v) for v in rng.uniform(0.02, 0.6, 3)) for _ in range(2))
    light = float(rng.uniform(-0.6, 0.6))
    return Setting(str(rng.choice(list(BACKDROPS))), cloth, trim, float(rng.uniform(0, 0.3)), light, number)  # type: ignore[arg-type]


def recogniser(pack: str, file: str) -> Path:
    return ASSETS / "models" / "insightface" / "models" / pack / f"rec_mobilefacenet_{file}.onnx"


SCRFD = (
    f'[detector]\nkind = "scrfd"\nthreshold = 0.5\n'
    f'file = "{ASSETS}/models/insightface/models/small_y1/det_scrfd_2.5g.onnx"\n'
)
POSE = (
    f'[pose]\nkind = "3ddfa"\nfile = "{ASSETS}/models/pose/3ddfa_v2_mb05_120x120.onnx"\n'
    f'aux = "{ASSETS}/models/pose/3ddfa_v2_param_mean_std.npz"\n'
)


def measure(made: Rendered, networks: str, detector: str, ladder: tuple[str, ...]) -> list[FaceTrack]:
    """The product's extractor over every frame."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "networks.toml"
        file.write_text(detector + networks)
        protocol = dataclasses.replace(get_protocol("standard"), ladder=ladder)
        extractor = Extractor(with_networks(protocol, file))
    return [extractor.reference(image) for image in made.pixels]


def verification(tracks: list[FaceTrack], who: np.ndarray, yaw: np.ndarray) -> dict[str, object]:
    """AUC and mean cosines over all pairs of found frames."""
    found = np.array([bool(t.found[0]) for t in tracks])
    unit = np.stack([t.embeddings["arc"][0] for t, ok in zip(tracks, found, strict=True) if ok]).astype(np.float64)
    who, yaw = who[found], yaw[found]
    cosine = unit @ unit.T
    upper = np.triu(np.ones_like(cosine, bool), 1)
    same_person = who[:, None] == who[None]
    same, other = cosine[upper & same_person], cosine[upper & ~same_person]
    apart = np.abs(yaw[:, None] - yaw[None])
    far = cosine[upper & same_person & (apart == 100)]
    return {
        "found": int(found.sum()),
        "auc": auc(same, other),
        "auc_yaw_100_apart": auc(far, other),
        "cosine_same": float(same.mean()),
        "cosine_different": float(other.mean()),
        "pairs": [len(same), len(other)],
    }


def auc(same: np.ndarray, other: np.ndarray) -> float:
    """Probability that a same-person cosine exceeds a different-person one (Mann-Whitney, ties by half)."""
    ordered = np.sort(other)
    below = np.searchsorted(ordered, same, "left") + np.searchsorted(ordered, same, "right")
    return float(below.mean() / 2 / len(other))


def geometry(tracks: list[FaceTrack], made: Rendered) -> dict[str, object]:
    """Recall by yaw, 3DDFA's yaw against the truth, points against the truth in box heights."""
    found = np.array([bool(t.found[0]) for t in tracks])
    truth = made.labels
    yaw = truth.angles[:, 1]
    angles = np.stack([t.angles[0] for t in tracks])
    ok = found & np.isfinite(angles[:, 1])
    points = np.stack([t.points[0] for t in tracks])
    boxes = np.stack([t.box[0] for t in tracks])
    height = truth.box[:, 3] - truth.box[:, 1]
    error = np.linalg.norm(points - truth.points, axis=2) / height[:, None]
    return {
        "recall": float(found.mean()),
        "recall_by_yaw": {f"{y:g}": float(found[yaw == y].mean()) for y in YAWS},
        "yaw_r": float(np.corrcoef(angles[ok, 1], yaw[ok])[0, 1]),
        "yaw_error_median": float(np.median(np.abs(angles[ok, 1] - yaw[ok]))),
        "pitch_bias": float(np.median(angles[ok, 0])),
        "point_error_median": [round(float(v), 4) for v in np.median(error[found], axis=0)],
        "box_offset_median": [
            round(float(v), 3) for v in np.median((boxes - truth.box)[found] / height[found, None], 0)
        ],
    }


if __name__ == "__main__":
    main()
