from __future__ import annotations

import pytest

from ffbench.cli.options import EngineKind, engine_of
from ffbench.engine import Engine
from ffbench.engine.devices import gpus
from ffbench.errors import UserError


@pytest.mark.parametrize(
    ("visible", "kind", "workers", "device", "expected"),
    [
        ("", None, 0, "cpu", Engine("here", 0)),
        ("", None, 1, "cpu", Engine("here", 1)),
        ("", None, 3, "cpu", Engine("local", 3)),
        ("", EngineKind.local, 1, "cpu", Engine("local", 1)),
        ("0", None, 0, "cuda", Engine("here", 0, device="cuda")),
        ("0,1", None, 0, "cuda", Engine("local", 0, device="cuda")),
        ("0,1", None, 1, "cuda", Engine("here", 1, device="cuda")),
        ("0,1", None, 0, "cuda:1", Engine("here", 0, device="cuda:1")),
    ],
)
def test_one_worker_stays_here_and_several_are_processes(
    visible: str, kind: EngineKind | None, workers: int, device: str, expected: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert engine_of(kind, workers, "", device) == expected


def test_an_address_is_of_a_ray_cluster() -> None:
    assert engine_of(EngineKind.ray, 2, "auto", "cpu") == Engine("ray", 2, "auto")
    for kind in (None, EngineKind.local):
        with pytest.raises(UserError, match="--address is the address of a Ray cluster"):
            engine_of(kind, 0, "auto", "cpu")


def test_visible_gpus_are_those_that_the_user_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,GPU-5ab")
    assert gpus() == ["2", "GPU-5ab"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert gpus() == []
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setenv("PATH", "")
    assert gpus() == []
