"""A tiny base, a folder encoded with it, and a protocol that measures without downloads."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import numpy as np
from PIL import Image

from faithfulfaces.config import Probe, Train
from faithfulfaces.encode import encode
from faithfulfaces.recipes import debug
from faithfulfaces.shards import Sample, write_shard
from ffbench.protocols import Network, Protocol
from ffbench.video import write_mp4
from tests.faithfulfaces import tiny_vace
from tests.ffbench import small_networks

WIDTH, HEIGHT, FRAMES = 32, 16, 5


def recipe(base: Path, shards: Path | str = "") -> Train:
    """`debug` on the tiny base; prompts as long as the pipeline pads them."""
    data = dataclasses.replace(
        debug().data, shards=str(shards), width=WIDTH, height=HEIGHT, num_frames=FRAMES, text_tokens=512,
        video_batch=2, pair_batch=2,
    )  # fmt: skip
    return dataclasses.replace(debug(), data=data, base=dataclasses.replace(debug().base, folder=str(base), arch={}))


def portrait() -> np.ndarray:
    return np.asarray(tiny_vace.portrait())


def write_clips(folder: Path, people: list[Image.Image]) -> None:
    """One shard; a clip a person, whose three crops are the person's picture and two halves of its size."""
    rng = np.random.default_rng(0)
    samples = []
    for index, person in enumerate(people):
        film = folder / "film.mp4"
        write_mp4(film, rng.integers(0, 256, (FRAMES, HEIGHT, WIDTH, 3), np.uint8), 16)
        crops = []
        for scale in (1.0, 0.5, 0.6):
            buffer = io.BytesIO()
            size = (int(person.width * scale), int(person.height * scale))
            person.resize(size).save(buffer, "JPEG", quality=95)
            crops.append(buffer.getvalue())
        euler = [(3.0 * index, -20.0, 5.0), (0.0, 10.0, 0.0), (1.0, 2.0, 3.0)]
        prompt = "a person boxes" if index % 2 else "a person turns the head"
        files = {"mp4": film.read_bytes()}
        samples.append(
            Sample(key=f"clip{index}", identity=f"person{index}", prompt=prompt, crops=crops, euler=euler, files=files)
        )
        film.unlink()
    write_shard(folder / "0.tar", samples)


def encoded(folder: Path, base: Path, people: list[Image.Image]) -> Path:
    (folder / "raw").mkdir(parents=True)
    write_clips(folder / "raw", people)
    encode(recipe(base), folder / "raw", base, folder / "encoded")
    return folder / "encoded"


def protocol(folder: Path) -> Protocol:
    """MTCNN with its real weights, and a recogniser of random ones."""
    path = folder / "arc.onnx"
    small_networks.write_recogniser(path, 0)
    networks = {"detector": Network("mtcnn"), "arc": Network("arcface-onnx", str(path))}
    return Protocol("tiny", 1, "Small networks.", networks, (), face_sampler="time16", ladder=("full", "pad25"))


def probe(shards: Path) -> Probe:
    return Probe(shards=str(shards), every=2, cases=2, steps=2, guidance=3.0, flow_shift=3.0, protocol="tiny")
