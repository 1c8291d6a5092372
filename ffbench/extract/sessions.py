"""ONNX Runtime sessions: one place decides threads, provider and which files are safe to open."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ffbench.errors import UserError
from ffbench.processes import cpus

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

Piece = TypeVar("Piece")
Result = TypeVar("Result")

EXTERNAL = 1  # onnx.TensorProto.EXTERNAL
SIDE_BY_SIDE = 4
"""Most calls of one network at a time: each holds its own activations."""


def onnx_session(path: Path, device: str, threads: int | None = None) -> InferenceSession:
    """A session on exactly the device asked for.

    Args:
        path: an ONNX file that holds all its weights.
        device: `cpu`, `cuda` or `cuda:N`.
        threads: intra-op threads; default the CPUs this process may use.

    Raises:
        UserError: the file is missing, no ONNX network, or keeps weights in other files, which its sha256 would not
            cover; or CUDA was asked for and ONNX Runtime cannot give it.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime as ort
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    _check_file(path)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or cpus()
    options.inter_op_num_threads = 1
    # a pool that spins between calls takes the cores from PyTorch's pool in the same process
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.log_severity_level = 3
    providers = _providers(device, ort)
    try:
        session = ort.InferenceSession(str(path), sess_options=options, providers=providers)
    except (
        state.Fail,
        state.InvalidArgument,
        state.InvalidGraph,
        state.InvalidProtobuf,
        state.NotImplemented,
        state.RuntimeException,
    ) as error:
        reason = str(error).splitlines()[0][:200]
        raise UserError(f"{path}: ONNX Runtime cannot run it: {reason}", "check the file, or export it anew") from error
    wanted = providers[0][0]
    if session.get_providers()[0] != wanted:
        raise _no_cuda(device, f"it fell back to {session.get_providers()[0]}")
    return session


def callers(device: str) -> int:
    """How many calls of one ONNX network should run side by side on a device.

    On a CPU several: small networks keep its cores busier that way than by the threads inside a call, and what is done
    in Python and OpenCV between the calls overlaps (docs/performance.md).
    """
    return min(SIDE_BY_SIDE, cpus()) if device == "cpu" else 1


def side_by_side(run: Callable[[Piece], Result], pieces: Sequence[Piece], callers: int) -> list[Result]:
    """`run` of every piece in their order, up to `callers` at a time; the first error is raised."""
    if min(callers, len(pieces)) < 2:
        return [run(piece) for piece in pieces]
    with ThreadPoolExecutor(callers) as pool:
        return list(pool.map(run, pieces))


def _providers(device: str, ort: Any) -> list[tuple[str, dict[str, str]]]:
    kind, _, number = device.partition(":")
    cpu: tuple[str, dict[str, str]] = ("CPUExecutionProvider", {})
    if device == "cpu":
        return [cpu]
    if kind != "cuda" or not (number.isdigit() or device == "cuda"):
        raise UserError(f"ONNX networks have no device {device!r}", "use cpu, cuda or cuda:N")
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        raise _no_cuda(device, "the installed onnxruntime is built for the CPU")
    # finds the CUDA libraries that PyTorch's wheels brought
    ort.preload_dlls()
    # an exhaustive search picks algorithms by the clock, so two runs could differ in the last bits
    return [("CUDAExecutionProvider", {"device_id": number or "0", "cudnn_conv_algo_search": "HEURISTIC"}), cpu]


def _no_cuda(device: str, reason: str) -> UserError:
    return UserError(
        f"ONNX Runtime cannot use {device}: {reason}",
        "replace onnxruntime by onnxruntime-gpu in this environment, or choose --device cpu",
    )


def _check_file(path: Path) -> None:
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    if not path.is_file():
        raise UserError(f"{path} is no file", "give the path of an ONNX network")
    try:
        model = onnx.load_model(str(path), load_external_data=False)
    except DecodeError as error:
        raise UserError(f"{path} is no ONNX network", "check the file, or pull it again") from error
    if not model.graph.node:
        raise UserError(f"{path} is no ONNX network: its graph is empty", "check the file, or pull it again")
    for tensor in _tensors(model):
        if tensor.data_location == EXTERNAL:
            place = next((e.value for e in tensor.external_data if e.key == "location"), "?")
            raise UserError(
                f"{path} keeps weights in another file ({place}), which its sha256 does not cover",
                "save it as one file: onnx.save_model(..., save_as_external_data=False)",
            )


def _tensors(model: Any) -> Iterator[Any]:
    """Every TensorProto of a ModelProto, those of sub-graphs, node attributes and functions included."""
    graphs, nodes = [model.graph], [n for f in model.functions for n in f.node]
    while graphs or nodes:
        if graphs:
            graph = graphs.pop()
            yield from graph.initializer
            for sparse in graph.sparse_initializer:
                yield from (sparse.values, sparse.indices)
            nodes.extend(graph.node)
            continue
        for attribute in nodes.pop().attribute:
            yield from (attribute.t, *attribute.tensors)
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)
            graphs.extend(g for g in (attribute.g, *attribute.graphs) if g.node or g.initializer)
