"""How many videos a second a GPU scores, with networks of the real architectures and random weights.

    python tests/benchmarks/gpu_score.py --out DIR [--videos 64] [--rounds 3]
    python tests/benchmarks/gpu_score.py --out DIR --tiny     two videos and small networks on any machine

`run`: `ffbench.score` as a user calls it, from mp4 files of 81 frames 832x480 (16 sampled) to records on disk, opening
included and apart: MTCNN (its own weights), CurricularFace IR-101, FaceNet, InceptionV3, 6DRepNet, CLIP ViT-B/32. The
recogniser comes as ONNX and is left out: ONNX Runtime for CUDA is another package. `network`: each large one alone in
strict float32, with TF32, and in bfloat16 by autocast, with the largest cosine distance that this makes. The floor is
counted operations over the data sheet's dense TF32 rate. DIR/gpu_score.json is written after every row.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ffbench.extract.curricular import CurricularBackbone
from ffbench.protocols import Protocol, get_protocol, with_networks
from ffbench.records import Case, Reference
from ffbench.score import ScoreOptions, given_run, score
from ffbench.store import Run
from ffbench.video import write_mp4

Row = dict[str, Any]
PEAK_TF32 = {"A100": 156e12, "H100": 495e12, "H200": 495e12}
METRICS = ("facesim_cur", "facesim_facenet", "face_feature_distance", "clip_score", "face_rate", "pose_range")


def main() -> None:
    """Measure, and write after each row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--videos", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tiny", action="store_true")
    given = parser.parse_args()
    if not given.tiny and not torch.cuda.is_available():
        sys.exit("no GPU here\nrun it with --tiny, which measures nothing, or on a machine with a GPU")
    device = "cpu" if given.tiny else "cuda"
    name = platform.machine() if given.tiny else torch.cuda.get_device_name()
    given.out.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {"device": name, "torch": torch.__version__, "tiny": given.tiny, "rows": []}

    def keep(row: Row) -> None:
        found["rows"].append(row)
        (given.out / "gpu_score.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")
        print(json.dumps(row), flush=True)

    nets = networks(given.tiny)
    work = {slot: _flop(net, side) for slot, (net, side) in nets.items()}
    for slot, (net, side) in nets.items():
        for row in forms(slot, net, side, device, 2 if given.tiny else 64):
            keep(row | {"share_of_floor": _share(row["batch"] * work[slot], row["seconds"], name)})
    with tempfile.TemporaryDirectory() as folder:
        for row in runs(Path(folder), nets, (2, 1) if given.tiny else (given.videos, given.rounds), device):
            floor = 16 * sum(work.values()) * row["videos"]
            keep(row | {"gflop_a_video": 16 * sum(work.values()) / 1e9})
            found["rows"][-1]["share_of_floor"] = _share(floor, row["seconds"] - row["opening_seconds"], name)


def networks(tiny: bool) -> dict[str, tuple[nn.Module, int]]:
    """Slot -> network with random weights, and the side of its input."""
    import open_clip
    from facenet_pytorch import InceptionResnetV1
    from torchvision.models import Inception3

    from ffbench.extract.sixdrepnet import SixDRepNet

    torch.manual_seed(0)
    small = {"cur": (CurricularBackbone("ir18" if tiny else "ir101"), 112)}
    large = {
        "facenet": (InceptionResnetV1(pretrained=None), 160),
        "inception": (Inception3(aux_logits=True, transform_input=True, init_weights=False), 299),
        "pose": (SixDRepNet(), 224),
        "clip": (open_clip.create_model("ViT-B-32-quickgelu", pretrained=None), 224),
    }
    found: dict[str, tuple[nn.Module, int]] = small if tiny else {**small, **large}
    return {slot: (net.eval(), side) for slot, (net, side) in found.items()}


@torch.no_grad()
def forms(slot: str, net: nn.Module, side: int, device: str, batch: int) -> Iterator[Row]:
    """Seconds of a batch in each precision, and how far its features turn from strict float32."""
    seen = (net.visual if slot == "clip" else net).to(device, memory_format=torch.channels_last)
    x = torch.rand(batch, 3, side, side, generator=torch.Generator().manual_seed(0)).to(device)
    x = x.contiguous(memory_format=torch.channels_last)
    want: torch.Tensor | None = None
    for precision in ("float32", "tf32", "bfloat16"):
        allowed = precision == "tf32"
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed
        autocast = torch.autocast(torch.device(device).type, torch.bfloat16, enabled=precision == "bfloat16")
        with autocast:
            made = seen(x).float().flatten(1)
            want = made if want is None else want
            spent = [_seconds(lambda: seen(x), device) for _ in range(2 if device == "cpu" else 20)]
        distance = 1 - torch.nn.functional.cosine_similarity(made.double(), want.double()).min()
        yield {
            "row": "network",
            "slot": slot,
            "precision": precision,
            "batch": batch,
            "seconds": statistics.median(spent),
            "largest_cosine_distance": float(distance.clamp(min=0)),
        }
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = False, True
    net.cpu()


def runs(folder: Path, nets: dict[str, tuple[nn.Module, int]], counts: tuple[int, int], device: str) -> Iterator[Row]:
    """Seconds of whole scoring runs."""
    count, rounds = counts
    protocol = _protocol(folder, nets)
    reference, videos = _material(folder, count, tiny=device == "cpu")
    _score(folder / "warm", protocol, reference, videos[:1], device)
    for number in range(rounds):
        begun = time.perf_counter()
        done = _score(folder / f"run{number}", protocol, reference, videos, device)
        seconds = time.perf_counter() - begun
        opening = done.timings.get("open", 0.0)
        yield {
            "row": "run",
            "videos": count,
            "scored": done.scored,
            "seconds": seconds,
            "opening_seconds": opening,
            "videos_per_second": count / (seconds - opening),
            "parts": dict(done.timings),
        }


def _protocol(folder: Path, nets: dict[str, tuple[nn.Module, int]]) -> Protocol:
    kinds = {
        "cur": "curricular-ir101" if "clip" in nets else "curricular-ir18",
        "facenet": "facenet",
        "inception": "inception-torchvision",
        "pose": "sixdrepnet",
        "clip": "open-clip",
    }
    tables = ['[detector]\nkind = "mtcnn"\n']
    for slot, (net, _) in nets.items():
        torch.save(net.state_dict(), folder / f"{slot}.pt")
        tables.append(f'[{slot}]\nkind = "{kinds[slot]}"\nfile = "{slot}.pt"\n')
    (folder / "networks.toml").write_text("".join(tables))
    base = get_protocol("consisid")
    slots = {"detector", *nets}
    bare = dataclasses.replace(base, networks={}, metrics=METRICS if "clip" in nets else ("facesim_cur", "face_rate"))
    made = with_networks(dataclasses.replace(bare, ladder=("full",)), folder / "networks.toml")
    assert set(made.networks) == slots
    return made


def _material(folder: Path, count: int, tiny: bool) -> tuple[Path, list[Path]]:
    """Videos of a photograph with a face that drifts; the photograph of a group comes with insightface."""
    import insightface

    from ffbench.extract.detect import Mtcnn

    photo = cv2.imread(str(Path(insightface.__file__).parent / "data" / "images" / "t1.jpg"))
    x, y, u, v = Mtcnn().detect(np.ascontiguousarray(photo[..., ::-1]), "full").boxes[0].astype(int)
    head = photo[max(0, y - 100) : v + 100, max(0, x - 180) : u + 180, ::-1]
    width, height, frames = (320, 192, 17) if tiny else (832, 480, 81)
    wide = cv2.resize(head, (width + 2 * frames, height))
    cv2.imwrite(str(folder / "reference.png"), np.ascontiguousarray(head[..., ::-1]))
    videos = []
    for number in range(count):
        shift = (np.arange(frames) + number) % (2 * frames)
        videos.append(folder / f"v{number}.mp4")
        write_mp4(videos[-1], np.stack([wide[:, s : s + width] for s in shift]), 16)
    return folder / "reference.png", videos


def _score(folder: Path, protocol: Protocol, reference: Path, videos: list[Path], device: str) -> Any:
    photo = Reference(str(reference), hashlib.sha256(reference.read_bytes()).hexdigest())
    prompt = "The person turns their head from side to side."
    cases = [Case("bench", "1", f"v{i}", "one", (photo,), "p", prompt) for i in range(len(videos))]
    run = given_run(Run(folder), cases, {f"v{i}": video for i, video in enumerate(videos)}, "given")
    return score(run, ScoreOptions(protocol, device))


def _flop(net: nn.Module, side: int) -> int:
    seen = getattr(net, "visual", net)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        seen(torch.zeros(1, 3, side, side))
    return int(counter.get_total_flops())


def _share(work: float, seconds: float, name: str) -> float | None:
    peaks = [rate for gpu, rate in PEAK_TF32.items() if gpu in name]
    return work / seconds / peaks[0] if peaks else None


def _seconds(work: Any, device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    begun = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
