"""Speed of a whole scoring run of the `consisid` protocol, and where the time goes.

    python tests/benchmarks/score.py [--videos N] [--size 832x480] [--frames 81] [--json FILE]

Three things are timed in one process, one after the other, on the same videos with the same networks:

    reference  a straightforward form of ConsisID's published algorithm (models loaded before the clock starts): a seek
               for each frame, one face at a time, the "FID" by eigen-decomposition of two 2048x2048 covariances
    ours       `ffbench.score` as a user calls it, from mp4 files to records on disk
    floor      the networks' floating-point operations at this machine's measured rate of float32 matrix products

CurricularFace IR-101 and InceptionV3 have their real architectures with random weights (speed does not depend on
values); detector and recogniser are the small pack of the shared assets. The values of both forms are compared.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from ffbench.extract.curricular import CurricularBackbone
from ffbench.protocols import Protocol, get_protocol, with_networks
from ffbench.records import Case, Reference
from ffbench.score import ScoreOptions, given_run, score
from ffbench.store import Run
from ffbench.video import read_clip, write_mp4

ASSETS = Path(os.environ.get("FFBENCH_TEST_ASSETS", Path(__file__).parents[3] / "shared" / "assets"))
PACK = ASSETS / "models" / "insightface" / "models" / "small_y1"
PROMPT = "The person turns their head from side to side in a bright room."


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=4)
    parser.add_argument("--size", default="832x480")
    parser.add_argument("--frames", type=int, default=81)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if not PACK.is_dir():
        sys.exit("the small InsightFace pack of the shared assets is not on this machine (FFBENCH_TEST_ASSETS)")
    with tempfile.TemporaryDirectory() as folder:
        facts = measure(Path(folder), given.videos, tuple(int(n) for n in given.size.split("x")), given.frames)
    print(json.dumps(facts, indent=2))
    if given.json:
        given.json.write_text(json.dumps(facts, indent=2) + "\n")


def measure(folder: Path, count: int, size: tuple[int, int], frames: int) -> dict[str, Any]:
    """Make the videos and the weights, time the three forms, compare the values."""
    reference, videos = _material(folder, count, size, frames)
    protocol = _protocol(folder)
    rate = _matrix_rate()
    judge = _Reference(folder)
    judge.video(reference, videos[0])  # warm up: allocations and code paths
    started = time.perf_counter()
    want = [judge.video(reference, video) for video in videos]
    reference_s = time.perf_counter() - started

    def ours(name: str) -> tuple[float, dict[str, list[float]], dict[str, float]]:
        run = _run(folder / name, reference, videos)
        begun = time.perf_counter()
        done = score(run, ScoreOptions(protocol))
        spent = time.perf_counter() - begun
        values: dict[str, list[float]] = {}
        for record in run.scores().values():
            values.setdefault(record.metric, []).append(record.value)
        return spent, values, dict(done.timings)

    ours("warm")
    ours_s, got, parts = ours("timed")
    flops = _flops()
    scored = sum(flops.values()) * 16
    differences = {
        metric: max(abs(a - b[metric]) for a, b in zip(got[metric], want, strict=True))
        for metric in ("facesim_arc", "facesim_cur", "face_feature_distance")
    }
    return {
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}",
        "videos": count,
        "size": size,
        "frames": frames,
        "reference_seconds_per_video": reference_s / count,
        "ours_seconds_per_video": ours_s / count,
        "ratio": reference_s / ours_s,
        "floor_seconds_per_video": scored / rate,
        "share_of_floor": scored / rate / (ours_s / count),
        "matrix_gflops": rate / 1e9,
        "gflop_per_face": {name: value / 1e9 for name, value in flops.items()},
        "parts_seconds_per_video": {name: seconds / count for name, seconds in parts.items()},
        "largest_difference": differences,
    }


def _material(folder: Path, count: int, size: tuple[int, int], frames: int) -> tuple[Path, list[Path]]:
    """A real turning head, resampled to the asked size and length, cut into `count` different videos."""
    source = ASSETS / "videos" / "opens2v" / "faceobj_14.mp4"
    pixels = read_clip(source, ["all"]).frames["all"].pixels
    videos = []
    for number in range(count):
        order = np.abs((np.arange(frames) + 5 * number) % (2 * len(pixels) - 2) - (len(pixels) - 1))
        made = np.stack([cv2.resize(pixels[i], size) for i in order])
        videos.append(folder / f"v{number}.mp4")
        write_mp4(videos[-1], made, 16)
    cv2.imwrite(str(folder / "reference.png"), pixels[0][..., ::-1])
    return folder / "reference.png", videos


def _weights(folder: Path) -> tuple[Path, Path]:
    from torchvision.models import Inception3

    torch.manual_seed(0)
    cur, inception = folder / "ir101.pt", folder / "inception.pt"
    if not cur.exists():
        torch.save(CurricularBackbone("ir101").state_dict(), cur)
        torch.save(Inception3(aux_logits=True, transform_input=True, init_weights=False).state_dict(), inception)
    return cur, inception


def _protocol(folder: Path) -> Protocol:
    cur, inception = _weights(folder)
    file = folder / "networks.toml"
    file.write_text(
        f'[detector]\nkind = "scrfd"\nfile = "{PACK}/det_scrfd_2.5g.onnx"\nthreshold = 0.5\n'
        f'[arc]\nkind = "arcface-onnx"\nfile = "{PACK}/rec_mobilefacenet_y1.onnx"\n'
        f'[cur]\nkind = "curricular-ir101"\nfile = "{cur}"\n'
        f'[inception]\nkind = "inception-torchvision"\nfile = "{inception}"\n'
    )
    return with_networks(get_protocol("consisid"), file)


def _run(folder: Path, reference: Path, videos: list[Path]) -> Run:
    photo = Reference(str(reference), hashlib.sha256(reference.read_bytes()).hexdigest())
    cases = [Case("bench", "1", f"v{i}", "one", (photo,), "p", PROMPT) for i in range(len(videos))]
    return given_run(Run(folder), cases, {f"v{i}": video for i, video in enumerate(videos)}, "given")


class _Reference:
    """ConsisID's published evaluation in its straightforward form, one face and one frame at a time."""

    def __init__(self, folder: Path) -> None:
        from insightface.app import FaceAnalysis
        from torchvision.models import Inception3
        from torchvision.transforms import Compose, Resize, ToTensor

        cur, inception = _weights(folder)
        self.faces = FaceAnalysis(name=str(PACK), allowed_modules=["detection", "recognition"])
        self.faces.prepare(ctx_id=-1, det_size=(320, 320))
        self.cur = CurricularBackbone("ir101").eval()
        self.cur.load_state_dict(torch.load(cur, weights_only=True))
        self.inception = Inception3(aux_logits=True, transform_input=True, init_weights=False).eval()
        self.inception.load_state_dict(torch.load(inception, weights_only=True))
        self.inception.fc = torch.nn.Identity()
        self.resize = Compose([Resize((299, 299)), ToTensor()])

    @torch.no_grad()
    def face(self, bgr: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        from insightface.utils.face_align import estimate_norm
        from PIL import Image

        found = self.faces.get(bgr)
        if not found:
            return None
        face = max(found, key=lambda f: (f.bbox[2] - f.bbox[0]) * (f.bbox[3] - f.bbox[1]))
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            crop = cv2.warpAffine(bgr, estimate_norm(face.kps, 224), (224, 224), borderValue=0.0)[..., ::-1]
        small = cv2.resize(np.ascontiguousarray(crop), (112, 112))
        tensor = torch.from_numpy(small).permute(2, 0, 1)[None].float().div(255).sub(0.5).div(0.5)
        cur = self.cur(tensor)[0].numpy()
        activation = self.inception(self.resize(Image.fromarray(np.ascontiguousarray(crop)))[None])[0].numpy()
        return face.embedding, cur, activation

    def video(self, reference: Path, path: Path) -> dict[str, float]:
        first = self.face(cv2.imread(str(reference)))
        assert first is not None
        capture = cv2.VideoCapture(str(path))
        total = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        values: dict[str, list[float]] = {"facesim_arc": [], "facesim_cur": [], "face_feature_distance": []}
        for index in np.linspace(0, total - 1, 16, dtype=int):
            capture.set(cv2.CAP_PROP_POS_FRAMES, int(index))
            frame = self.face(capture.read()[1])
            if frame is None:
                continue
            for metric, a, b in (("facesim_arc", first[0], frame[0]), ("facesim_cur", first[1], frame[1])):
                cosine = float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
                values[metric].append(max(0.0, cosine))
            values["face_feature_distance"].append(_pseudo_fid(first[2], frame[2]))
        capture.release()
        return {metric: float(np.mean(found)) for metric, found in values.items()}


def _pseudo_fid(a: np.ndarray, b: np.ndarray) -> float:
    """What ConsisID calls FID: each activation twice, so both covariances are zero, decomposed all the same."""
    one, two = np.repeat(a[None], 2, 0), np.repeat(b[None], 2, 0)
    s1, s2 = np.cov(one, rowvar=False), np.cov(two, rowvar=False)
    eigenvalues = np.linalg.eigh(s1 @ s2)[0]
    trace = np.trace(s1 + s2 - 2 * np.diag(np.sqrt(np.maximum(eigenvalues, 0))))
    return float(np.sum((one.mean(0) - two.mean(0)) ** 2) + trace)


def _matrix_rate() -> float:
    """Float32 multiply-adds of a large square product, in operations (2 a multiply-add) per second: best of 9."""
    a = torch.randn(2048, 2048)
    best = min(_timed(lambda: a @ a) for _ in range(9))
    return 2 * 2048**3 / best


def _timed(call: Callable[[], Any]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def _flops() -> dict[str, float]:
    """Operations (2 a multiply-add) of one face through each PyTorch network."""
    from torch.utils.flop_counter import FlopCounterMode
    from torchvision.models import Inception3

    found = {}
    nets = {
        "cur": (CurricularBackbone("ir101").eval(), torch.zeros(1, 3, 112, 112)),
        "inception": (Inception3(aux_logits=True, init_weights=False).eval(), torch.zeros(1, 3, 299, 299)),
    }
    for name, (net, example) in nets.items():
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            net(example)
        found[name] = float(counter.get_total_flops())
    return found


if __name__ == "__main__":
    main()
