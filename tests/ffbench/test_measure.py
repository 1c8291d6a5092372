"""Each metric reads its own part of the track: every part here has a value of its own."""

from __future__ import annotations

import numpy as np
import pytest

from ffbench.extract.track import FaceTrack
from ffbench.measure import Scene, measure
from ffbench.protocols import get_protocol

COSINE = {"arc": 0.9, "cur": 0.5, "facenet": 0.2}


def track(frames: int, turned: bool) -> FaceTrack:
    unit = {slot: (c, np.sqrt(1 - c * c)) if turned else (1.0, 0.0) for slot, c in COSINE.items()}
    angles = np.zeros((frames, 3), np.float32)
    if turned:
        angles[:, 0], angles[-1, 1] = 60, 50  # every frame looks up, the last alone is turned
    return FaceTrack(
        number=np.arange(frames), time=np.arange(frames) / 8, box=np.ones((frames, 4), np.float32),
        points=np.ones((frames, 5, 2), np.float32), det_score=np.ones(frames, np.float32),
        num_faces=np.ones(frames, np.int64), step=("full",) * frames, angles=angles,
        embeddings={slot: np.tile(np.float32(pair), (frames, 1)) for slot, pair in unit.items()}, features={},
        clip_number=np.arange(0), clip=np.zeros((0, 0), np.float32), size=(64, 64),
    )  # fmt: skip


@pytest.fixture
def scene() -> Scene:
    return Scene(get_protocol("standard"), track(4, True), track(1, False), None, None, "none", (0.7, ""))


@pytest.mark.parametrize("slot", COSINE)
def test_facesim_reads_its_own_encoder(scene: Scene, slot: str) -> None:
    assert measure(f"facesim_{slot}", scene).value == pytest.approx(COSINE[slot], abs=1e-6)


@pytest.mark.parametrize("slot", ["arc", "cur"])
def test_the_other_forms_too_and_turned_means_yaw(scene: Scene, slot: str) -> None:
    assert measure(f"facesim_{slot}_missing_as_zero", scene).value == pytest.approx(COSINE[slot], abs=1e-6)
    turned = measure(f"facesim_{slot}_yaw45", scene)
    assert (turned.value, turned.num_scored) == (pytest.approx(COSINE[slot], abs=1e-6), 1)
