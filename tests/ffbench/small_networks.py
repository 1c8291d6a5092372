"""Real networks small enough for tests: MTCNN with its own weights, and a random recogniser in ONNX."""

from __future__ import annotations

from pathlib import Path

import cv2
import insightface
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper


def write_recogniser(path: Path, seed: int) -> None:
    """An ArcFace-like network [n,3,112,112] -> [n,16] with random weights."""
    rng = np.random.default_rng(seed)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "conv"], ["a"], strides=[8, 8], name="Conv_0"),
            helper.make_node("Relu", ["a"], ["b"], name="Relu_1"),
            helper.make_node("Flatten", ["b"], ["c"], name="Flatten_2"),
            helper.make_node("MatMul", ["c", "dense"], ["y"], name="MatMul_3"),
        ],
        "recogniser",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 112, 112])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 16])],
        [
            numpy_helper.from_array(rng.normal(size=(4, 3, 8, 8)).astype(np.float32), "conv"),
            numpy_helper.from_array(rng.normal(size=(784, 16)).astype(np.float32), "dense"),
        ],
    )
    onnx.save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), str(path))


def write_networks(folder: Path) -> Path:
    """A networks file for `--networks`: detector, arc, cur and pose."""
    write_recogniser(folder / "arc.onnx", 0)
    write_recogniser(folder / "cur.onnx", 1)
    file = folder / "networks.toml"
    file.write_text(
        '[detector]\nkind = "mtcnn"\n[pose]\nkind = "five-point"\n'
        '[arc]\nkind = "arcface-onnx"\nfile = "arc.onnx"\n[cur]\nkind = "arcface-onnx"\nfile = "cur.onnx"\n'
    )
    return file


def people() -> list[NDArray[np.uint8]]:
    """Six people of the photograph that ships with insightface: crops of about 150 px, RGB."""
    from ffbench.extract.detect import Mtcnn

    photo = cv2.imread(str(Path(insightface.__file__).parent / "data" / "images" / "t1.jpg"))
    photo = cv2.resize(photo, None, fx=0.4, fy=0.4, interpolation=cv2.INTER_AREA)[..., ::-1]
    boxes = Mtcnn().detect(np.ascontiguousarray(photo), "full").boxes.astype(int)
    return [np.ascontiguousarray(photo[max(0, y - 25) : v + 25, max(0, x - 30) : u + 30]) for x, y, u, v in boxes]
