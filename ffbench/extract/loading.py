"""PyTorch networks from files: strict keys, one place for devices and for the precision of inference."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ffbench.errors import UserError
from ffbench.extract.sessions import callers, side_by_side

if TYPE_CHECKING:
    from torch import Tensor, nn

Net = TypeVar("Net", bound="nn.Module")

CHUNK = 32
"""Crops a network sees at once on a GPU: enough to fill it, little enough for any memory."""
PIECE = 8
"""Crops a network sees at once on a CPU, where several calls run side by side."""


def load_strict(net: Net, state: Mapping[str, Tensor], path: Path, what: str) -> Net:
    """`net` with the tensors of `state` in float32, in evaluation mode and without gradients.

    Raises:
        UserError: keys or shapes that are not those of `net`; it names the file and the first difference.
    """
    own = net.state_dict()
    # old checkpoints of PyTorch lack these counters, which inference does not read
    absent = [k for k in own if k not in state and not k.endswith("num_batches_tracked")]
    unknown = [k for k in state if k not in own]
    unequal = [k for k in own if k in state and own[k].shape != state[k].shape]
    for fault, keys in (("lacks", absent), ("has the unknown", unknown), ("has another shape for", unequal)):
        if keys:
            raise UserError(
                f"{path} does not hold {what}: it {fault} {keys[0]} ({len(keys)} such keys)",
                "give the published weights, see ffbench weights ls",
            )
    net.load_state_dict({**own, **state})
    return net.float().eval().requires_grad_(False)


def fold_norms(net: Net) -> Net:
    """`net` in evaluation mode, each batch normalisation right after a convolution multiplied into it, in place.

    For networks that run such neighbours one after the other, as all in this folder do. The same function in exact
    arithmetic, y = (W s) x + (b - mean) s + shift with s = scale / sqrt(variance + eps); in float32 it rounds as much
    as the plain form does.
    """
    import torch

    for parent in list(net.modules()):
        children = list(parent.named_children())
        for (first, conv), (second, norm) in itertools.pairwise(children):
            if isinstance(conv, torch.nn.Conv2d) and isinstance(norm, torch.nn.BatchNorm2d):
                setattr(parent, first, torch.nn.utils.fuse_conv_bn_eval(conv, norm))
                setattr(parent, second, torch.nn.Identity())
    return net


def torch_device(device: str) -> str:
    """`device` itself, if PyTorch can use it.

    Raises:
        UserError: otherwise.
    """
    import torch

    kind, _, number = device.partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdigit()):
        raise UserError(f"there is no device {device!r}", "use cpu, cuda or cuda:N")
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise UserError(
            f"PyTorch finds no {device}: it sees {torch.cuda.device_count()} GPUs",
            "choose --device cpu; ffbench doctor tells why",
        )
    return device


@contextmanager
def inference() -> Iterator[None]:
    """Inference in full float32: TF32 would move a cosine in its third digit, and differ between machines."""
    import torch

    with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        yield


@contextmanager
def one_thread() -> Iterator[None]:
    """PyTorch on one thread of the CPU: with another number it adds up in another order, and so rounds differently.

    Calls side by side keep the cores busy instead, and waste less of them (docs/performance.md).
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def in_chunks(
    run: Callable[[NDArray[Any]], NDArray[np.float32]], rows: NDArray[Any], device: str
) -> NDArray[np.float32]:
    """`run` over the rows, results joined; `rows` is not empty.

    How they are cut depends on their number and the kind of device alone, so that every machine, thread count and
    number of workers rounds alike.
    """
    if device != "cpu":
        return np.concatenate([run(rows[start : start + CHUNK]) for start in range(0, len(rows), CHUNK)])

    def alone(piece: NDArray[Any]) -> NDArray[np.float32]:
        import torch

        torch.set_num_threads(1)  # what a new thread takes over from the others is left open by OpenMP
        return run(piece)

    pieces = [rows[start : start + PIECE] for start in range(0, len(rows), PIECE)]
    with one_thread():
        return np.concatenate(side_by_side(alone, pieces, callers(device)))


def check_crops(crops: NDArray[np.uint8], side: int, name: str) -> None:
    """Let only uint8 [N,side,side,3] pass.

    Raises:
        ValueError: otherwise, saying what was expected and what came.
    """
    if crops.dtype != np.uint8 or crops.ndim != 4 or crops.shape[1:] != (side, side, 3):
        raise ValueError(f"{name} takes uint8 [N,{side},{side},3] RGB, not {crops.dtype} {list(crops.shape)}")
