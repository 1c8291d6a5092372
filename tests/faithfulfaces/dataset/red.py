"""A world in which everything is exact: a face is a red square, and its yaw is the blue of the picture around it."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from faithfulfaces.dataset.settings import Networks, Samples, Settings, Subject, Video
from ffbench.video import write_mp4
from tests.ffbench.extract.test_detect import red_finder

SIDE, FRAMES, FPS = 128, 16, 16.0
TURN = np.linspace(-75, 75, 24)
STILL = np.full(24, 10.0)


def blue(yaw: float) -> int:
    return round(127.5 + 128 * yaw / 90)


def pixels(yaws: Sequence[float], faces: int = 1, texture: int = 0, side: int = SIDE) -> np.ndarray:
    """[T,side,side,3]; a texture of its own in green tells films apart, away from the faces."""
    out = np.zeros((len(yaws), side, side, 3), np.uint8)
    out[..., 2] = np.array([blue(yaw) for yaw in yaws])[:, None, None]
    rng = np.random.default_rng(texture)
    out[:, :24, :, 1] = np.kron(rng.integers(0, 2, (3, 16)), np.ones((8, 8), int))[:, :side] * 200
    for i in range(faces):
        left = 64 if faces == 1 else 24 + 64 * i
        out[:, 72:80, left : left + 8] = (255, 0, 0)
    return out


def film(path: Path, yaws: Sequence[float] = TURN, faces: int = 1, texture: int = 0) -> Path:
    write_mp4(path, pixels(yaws, faces, texture), FPS)
    return path


def sound(path: Path) -> Path:
    """An MP4 without pictures."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    path.write_bytes(buffer.getvalue())
    return path


def yaw_reader(path: Path) -> Path:
    """An FSA-Net by form: yaw is 90 degrees times the mean of the blue channel, -1..1."""
    weight = np.zeros((3, 3), np.float32)
    weight[0, 0] = 90
    graph = helper.make_graph(
        [
            helper.make_node("GlobalAveragePool", ["x"], ["mean"]),
            helper.make_node("Flatten", ["mean"], ["flat"]),
            helper.make_node("MatMul", ["flat", "weight"], ["y"]),
        ],
        "yaw",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 64, 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3])],
        [numpy_helper.from_array(weight, "weight")],
    )
    onnx.save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), str(path))
    return path


def settings(folder: Path, **samples: float) -> Settings:
    """Networks in `folder`, made where they are missing."""
    red, yaw = folder / "red.onnx", folder / "yaw.onnx"
    if not red.is_file():
        red_finder(red)
        yaw_reader(yaw)
    networks = Networks(
        detector="scrfd", detector_weights=str(red), ladder=("128",), pose="fsanet", pose_weights=str(yaw)
    )
    return Settings(
        video=Video(width=SIDE, height=SIDE, fps=FPS, frames=FRAMES, max_seconds=3),
        subject=Subject(threshold=60),
        networks=networks,
        samples=dataclasses.replace(Samples(per_shard=2, val=0.0), **samples),
    )
