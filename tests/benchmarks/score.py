"""Speed of a whole scoring run of the `consisid` protocol, and where the time goes.

    python tests/benchmarks/score.py [--videos N] [--rounds N] [--size 832x480] [--frames 81] [--json FILE]

A round times, in this one process and one after the other, on videos of the same making with the same networks:

    reference  one video by a straightforward form of ConsisID's published algorithm (models loaded before the clock
               starts): a seek for each frame, one face at a time, the "FID" by eigen-decomposition of 2048x2048 zeros
    ours       N videos by `ffbench.score` as a user calls it, from mp4 files to records on disk, opening included
    rate       the machine's float32 matrix products, before and after each: best of several

The floor is the operations of the four networks over the best rate of the whole run, so a busy machine shows as a
smaller share; beside it stands the floor of the two large ones alone. Ratios are taken round by round and their median
is given, with every round beside it.

CurricularFace IR-101 and InceptionV3 have their real architectures with random weights and batch statistics taken from
real pictures, so that activations have a natural scale; detector and recogniser are the small pack of the shared
assets. CLIP is left out of both. The values of both forms are compared.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from onnx_in_torch import OnnxInTorch

from ffbench.extract.curricular import CurricularBackbone
from ffbench.protocols import Protocol, get_protocol, with_networks
from ffbench.records import Case, Reference
from ffbench.score import ScoreOptions, given_run, score
from ffbench.store import Run
from ffbench.video import read_clip, write_mp4

ASSETS = Path(os.environ.get("FFBENCH_TEST_ASSETS", Path(__file__).parents[3] / "shared" / "assets"))
PACK = ASSETS / "models" / "insightface" / "models" / "small_y1"
METRICS = ("facesim_arc", "facesim_cur", "face_feature_distance")
PROMPT = "The person turns their head from side to side in a bright room."


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=8, help="videos of a timed run of ours")
    parser.add_argument("--rounds", type=int, default=3, help="rounds, each with one video of the reference form")
    parser.add_argument("--size", default="832x480")
    parser.add_argument("--frames", type=int, default=81)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if not PACK.is_dir():
        sys.exit("the small InsightFace pack of the shared assets is not on this machine (FFBENCH_TEST_ASSETS)")
    size = tuple(int(side) for side in given.size.split("x"))
    with tempfile.TemporaryDirectory() as folder:
        facts = measure(Path(folder), given.videos, given.rounds, size, given.frames)
    print(json.dumps(facts, indent=2))
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(facts, indent=2) + "\n")


def measure(folder: Path, count: int, rounds: int, size: tuple[int, ...], frames: int) -> dict[str, Any]:
    """Make the videos and the weights, time the rounds, compare the values."""
    _say("making videos and weights")
    reference, videos = _material(folder, max(count, rounds), size, frames)
    protocol = _protocol(folder)
    judge = _Reference(folder)
    _say("warming up")
    judge.face(cv2.imread(str(reference)))
    _pseudo_fid(np.zeros(2048, np.float32), np.ones(2048, np.float32))
    _ours(folder / "warm", protocol, reference, videos[:1])
    rates, theirs, own = [_matrix_rate()], [], []
    for number in range(rounds):
        theirs.append(_clocked(lambda number=number: judge.video(reference, videos[number])))
        rates.append(_matrix_rate())
        runs = folder / f"timed{number}"
        own.append(_clocked(lambda runs=runs: _ours(runs, protocol, reference, videos[:count])))
        rates.append(_matrix_rate())
        _say(f"round {number}: reference {theirs[-1].wall:.1f} s, ours {own[-1].wall / count:.2f} s a video")
    return {
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}",
        "load_average": list(os.getloadavg()),
        "videos_per_round": {"reference": 1, "ours": count},
        "rounds": rounds,
        "size": size,
        "frames": frames,
        **_speeds(theirs, own, count, rates),
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        **_differences([run.result for run in theirs], own[0].result.values),
    }


def _speeds(theirs: list[_Clocked], own: list[_Clocked], count: int, rates: list[float]) -> dict[str, Any]:
    flops = _flops()
    floor = sum(flops.values()) * 16 / max(rates)
    large = (flops["cur"] + flops["inception"]) * 16 / max(rates)
    ours = [run.wall / count for run in own]
    opened = [run.result.parts.pop("open") for run in own]
    further = [(run.wall - spent) / count for run, spent in zip(own, opened, strict=True)]
    ratios = [reference.wall / mine for reference, mine in zip(theirs, ours, strict=True)]
    return {
        "reference_seconds_per_video": [run.wall for run in theirs],
        "ours_seconds_per_video": ours,
        "ours_seconds_per_video_without_opening": further,
        "opening_seconds": opened,
        "cpu_seconds_per_video": {"reference": [r.cpu for r in theirs], "ours": [r.cpu / count for r in own]},
        "matrix_gflops": [rate / 1e9 for rate in rates],
        "gflop_per_frame": {name: value / 1e9 for name, value in flops.items()},
        "floor_seconds_per_video": floor,
        "times_faster_by_round": ratios,
        "times_faster": statistics.median(ratios),
        "share_of_floor_by_round": [floor / mine for mine in ours],
        "share_of_floor": floor / statistics.median(ours),
        "share_of_floor_of_large_networks": large / statistics.median(ours),
        "share_of_floor_without_opening": floor / statistics.median(further),
        "parts_seconds_per_video": {
            part: statistics.median(run.result.parts[part] / count for run in own) for part in own[0].result.parts
        },
    }


def _differences(want: list[dict[str, float]], got: list[dict[str, float]]) -> dict[str, Any]:
    """Largest difference of each metric between the two forms, and the values themselves."""
    pairs = list(zip(want, got, strict=False))
    return {
        "compared_videos": len(pairs),
        "values": {metric: [a[metric] for a, _ in pairs] for metric in METRICS},
        "largest_difference": {metric: max(abs(a[metric] - b[metric]) for a, b in pairs) for metric in METRICS},
    }


class _Clocked(NamedTuple):
    wall: float
    cpu: float
    result: Any


class _Scored(NamedTuple):
    values: list[dict[str, float]]
    """Metric -> value, for each video in order."""
    parts: dict[str, float]


def _clocked(call: Callable[[], Any]) -> _Clocked:
    wall, cpu = time.perf_counter(), time.process_time()
    result = call()
    return _Clocked(time.perf_counter() - wall, time.process_time() - cpu, result)


def _ours(folder: Path, protocol: Protocol, reference: Path, videos: list[Path]) -> _Scored:
    run = _run(folder, reference, videos)
    done = score(run, ScoreOptions(protocol))
    places = {key: int(generation.case_id[1:]) for key, generation in run.generations().items()}
    values: list[dict[str, float]] = [{} for _ in videos]
    for record in run.scores().values():
        values[places[record.generation]][record.metric] = record.value
    return _Scored(values, dict(done.timings))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _material(folder: Path, count: int, size: tuple[int, ...], frames: int) -> tuple[Path, list[Path]]:
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

    cur, inception = folder / "ir101.pt", folder / "inception.pt"
    if not cur.exists():
        torch.manual_seed(0)
        nets = (CurricularBackbone("ir101"), Inception3(aux_logits=True, transform_input=True, init_weights=False))
        for net, side, file in zip(nets, (112, 299), (cur, inception), strict=True):
            _calibrate(net, side)
            torch.save(net.state_dict(), file)
    return cur, inception


@torch.no_grad()
def _calibrate(net: torch.nn.Module, side: int) -> None:
    """Give every batch normalisation the statistics of real pictures; with those of its birth all activations fade."""
    photos = sorted((ASSETS / "images" / "consisid").rglob("*.png"))[:8]
    pixels = np.stack([cv2.resize(cv2.imread(str(photo)), (side, side))[..., ::-1] for photo in photos])
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d | torch.nn.BatchNorm1d):
            module.momentum = None
    net.train()(torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div(127.5).sub(1))


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
    """Operations (2 a multiply-add) per second of a large square float32 product: best of 7."""
    a = torch.randn(2048, 2048)
    return 2 * 2048**3 / min(_clocked(lambda: a @ a).wall for _ in range(7))


def _flops() -> dict[str, float]:
    """Operations (2 a multiply-add) of one frame with one face through each network."""
    from torch.utils.flop_counter import FlopCounterMode
    from torchvision.models import Inception3

    found = {}
    nets: dict[str, tuple[torch.nn.Module, torch.Tensor]] = {
        "detector": (OnnxInTorch(PACK / "det_scrfd_2.5g.onnx"), torch.zeros(1, 3, 320, 320)),
        "arc": (OnnxInTorch(PACK / "rec_mobilefacenet_y1.onnx"), torch.zeros(1, 3, 112, 112)),
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
