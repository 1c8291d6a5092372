"""Frames of a long video one by one are those of `read_clip`, scaled without a shift."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from skimage import data

from ffbench.video import VideoError, frame_times, read_clip, stream_frames, write_mp4


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    write_mp4(path, np.stack([np.roll(data.astronaut()[:240, :320], 7 * i, axis=1) for i in range(12)]), 25)
    return path


def test_streamed_frames_are_those_of_the_clip(film: Path) -> None:
    times = frame_times(film)
    whole = read_clip(film, ("all",)).frames["all"]
    np.testing.assert_array_equal(times, whole.time)
    some = list(stream_frames(film, [0, 5, 11], 12, lambda w, h: (w, h)))
    np.testing.assert_array_equal(np.stack(some), whole.pixels[[0, 5, 11]])


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_scaled_frames_lie_where_they_lay(film: Path, scale: float) -> None:
    whole = read_clip(film, ("linspace1",)).frames["linspace1"].pixels[0]
    found = next(stream_frames(film, [0], 12, lambda w, h: (int(w * scale), int(h * scale))))
    wanted = cv2.resize(whole, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    assert found.shape == wanted.shape
    apart = np.abs(found.astype(float) - wanted)
    moved = np.abs(np.roll(found, 1, axis=1).astype(float) - wanted)
    assert apart.mean() < 3
    assert apart.mean() < 0.5 * moved.mean()


def test_another_number_of_frames_is_told_at_the_end(film: Path) -> None:
    frames = stream_frames(film, range(12), 13, lambda w, h: (w, h))
    with pytest.raises(VideoError, match="12 frames decode of 13"):
        list(frames)
    with pytest.raises(FileNotFoundError):
        frame_times(film.with_name("none.mp4"))
