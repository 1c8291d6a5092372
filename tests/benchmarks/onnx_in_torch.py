"""An ONNX network run by PyTorch, operator by operator: the other side of the comparison where a file is ONNX.

Only the operators of InsightFace's SCRFD and MobileFaceNet files, with the options that those use.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from onnx.helper import get_attribute_value
from torch import Tensor


class OnnxInTorch(torch.nn.Module):
    """The graph of a file; [N,3,H,W] float in, the first output out.

    Raises:
        KeyError: an operator that is not in `OPERATORS`.
    """

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.file = file
        graph = onnx.load_model(str(file)).graph
        self.constants = {t.name: torch.from_numpy(numpy_helper.to_array(t).copy()) for t in graph.initializer}
        self.steps = [
            (
                OPERATORS[n.op_type],
                list(n.input),
                n.output[0],
                {a.name: get_attribute_value(a) for a in n.attribute},
            )
            for n in graph.node
            if n.op_type != "Constant"
        ]
        for n in graph.node:
            if n.op_type == "Constant":
                self.constants[n.output[0]] = torch.from_numpy(numpy_helper.to_array(n.attribute[0].t).copy())
        self.first, self.last = next(i.name for i in graph.input if i.name not in self.constants), graph.output[0].name

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return self.values(x)[self.last]

    def values(self, x: Tensor) -> dict[str, Any]:
        """Everything in the graph by name: constants, the input, and each operator's output."""
        known: dict[str, Any] = {"": None, **self.constants, self.first: x}
        for operator, inputs, output, options in self.steps:
            known[output] = operator(options, *(known[name] for name in inputs))
        return known


def _padded(options: dict[str, Any]) -> list[int]:
    top, left, bottom, right = options.get("pads", [0, 0, 0, 0])
    assert (top, left) == (bottom, right)
    return [top, left]


def _conv(options: dict[str, Any], x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    strides, dilations = options.get("strides", 1), options.get("dilations", 1)
    return F.conv2d(x, weight, bias, strides, _padded(options), dilations, options.get("group", 1))


def _norm(options: dict[str, Any], x: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, var: Tensor) -> Tensor:
    return F.batch_norm(x, mean, var, scale, shift, False, 0.0, options["epsilon"])


def _pool(options: dict[str, Any], x: Tensor) -> Tensor:
    mode, kernel, strides = bool(options.get("ceil_mode", 0)), options["kernel_shape"], options["strides"]
    return F.avg_pool2d(x, kernel, strides, _padded(options), mode, bool(options.get("count_include_pad", 0)))


def _max_pool(options: dict[str, Any], x: Tensor) -> Tensor:
    return F.max_pool2d(x, options["kernel_shape"], options["strides"], _padded(options))


def _gemm(options: dict[str, Any], a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    return F.linear(a, b if options.get("transB") else b.T, c)


def _slice(_: dict[str, Any], x: Tensor, begin: Tensor, end: Tensor, axes: Tensor, *__: Tensor) -> Tensor:
    ((start,), (stop,), (axis,)) = begin.tolist(), end.tolist(), axes.tolist()
    return x[(slice(None),) * axis + (slice(start, min(stop, x.shape[axis])),)]


def _resize(options: dict[str, Any], x: Tensor, *sizes: Tensor | None) -> Tensor:
    assert options["mode"] == b"nearest"
    return F.interpolate(x, [int(side) for side in sizes[-1][2:]], mode="nearest")  # type: ignore[index]


OPERATORS: dict[str, Callable[..., Any]] = {
    "Conv": _conv,
    "BatchNormalization": _norm,
    "AveragePool": _pool,
    "MaxPool": _max_pool,
    "Gemm": _gemm,
    "Slice": _slice,
    "Resize": _resize,
    "Relu": lambda _, x: x.relu(),
    "PRelu": lambda _, x, slope: F.prelu(x, slope.flatten()),
    "Sigmoid": lambda _, x: x.sigmoid(),
    "Add": lambda _, a, b: a + b,
    "Sub": lambda _, a, b: a - b,
    "Mul": lambda _, a, b: a * b,
    "Flatten": lambda _, x: x.flatten(1),
    "Transpose": lambda o, x: x.permute(o["perm"]),
    "Reshape": lambda _, x, shape: x.reshape(shape.tolist()),
    "Shape": lambda _, x: torch.tensor(x.shape),
    "Gather": lambda o, x, index: x[index] if index.ndim == 0 else x.index_select(o.get("axis", 0), index),
    "Unsqueeze": lambda o, x, *axes: x.reshape([1, *x.shape]),
    "Concat": lambda o, *parts: torch.cat(parts, o["axis"]),
}
