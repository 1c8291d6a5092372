"""Videos of different rate and length are measured at the same moments, and the records say which."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from ffbench.generate import GenerateOptions, generate
from ffbench.protocols import PROTOCOLS
from ffbench.show import show
from ffbench.video import read_clip, write_mp4
from tests.ffbench.test_generate import make_suite


def hand(seconds: float, fps: float) -> NDArray[np.uint8]:
    """A white bar that crosses the picture once in exactly `seconds`, at any rate."""
    count = round(seconds * fps) + 1
    frames = np.zeros((count, 32, 256, 3), np.uint8)
    for index in range(count):
        at = round(index / (count - 1) * 240)
        frames[index, :, at : at + 16] = 255
    return frames


def places(frames: NDArray[np.uint8]) -> NDArray[np.float64]:
    weight = frames[..., 0].astype(float).sum(axis=1)
    return (weight * np.arange(256)).sum(axis=1) / weight.sum(axis=1) - 7.5


@pytest.mark.parametrize("name", [name for name, p in PROTOCOLS.items() if p.face_sampler.startswith("time")])
@pytest.mark.parametrize(("seconds", "fps"), [(4.0, 8.0), (4.0, 25.0), (5.0, 24.0), (5.0, 30.0), (6.0, 16.0)])
def test_the_same_motion_at_any_rate_is_seen_at_the_same_places(
    name: str, seconds: float, fps: float, tmp_path: Path
) -> None:
    protocol = PROTOCOLS[name]
    write_mp4(tmp_path / "v.mp4", hand(seconds, fps), fps)
    clip = read_clip(tmp_path / "v.mp4", [protocol.face_sampler, protocol.text_sampler])
    for sampler in (protocol.face_sampler, protocol.text_sampler):
        taken = clip.frames[sampler]
        steps = np.arange(16) / 15
        assert np.abs(taken.time - steps * seconds).max() <= 0.5 / fps + 1e-6
        assert np.abs(places(taken.pixels) - steps * 240).max() <= 0.5 * 240 / (seconds * fps) + 2


def test_a_record_holds_what_the_file_really_is(tmp_path: Path) -> None:
    # a tool that makes another rate, size and length than any setting says, as the paid methods do
    code = "import shutil, sys; shutil.copy(sys.argv[1], sys.argv[2])"
    write_mp4(tmp_path / "made.mp4", hand(2.0, 24.0), 24.0)
    argv = json.dumps([sys.executable, "-c", code, str(tmp_path / "made.mp4"), "{output}"])
    suite = make_suite(tmp_path / "photos", ("ann",), ("turns",))
    run = generate(suite, "command@tool", tmp_path / "runs", GenerateOptions((f"argv={argv}",))).run
    (record,) = run.generations().values()
    assert record.provenance["video"] == {"frames": 49, "height": 32, "width": 256, "fps": 24.0}
    capture = cv2.VideoCapture(str(run.video(record)))
    assert capture.get(cv2.CAP_PROP_FPS) == 24.0 and capture.get(cv2.CAP_PROP_FRAME_COUNT) == 49
    assert "video.frames 49" in show(record.handle, tmp_path / "runs")

    still = generate(suite, "still@small", tmp_path / "runs", GenerateOptions()).run
    (record,) = still.generations().values()
    fps = record.settings["fps"]
    assert record.provenance["video"] == {"frames": 9, "height": 128, "width": 128, "fps": fps}
    assert cv2.VideoCapture(str(still.video(record))).get(cv2.CAP_PROP_FPS) == fps
