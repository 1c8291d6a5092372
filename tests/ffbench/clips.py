"""Videos made on the spot in many containers, each frame showing its own number in its picture."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from numpy.typing import NDArray

_BITS = 7
_CELL = 12


class Recipe(NamedTuple):
    suffix: str
    codec: str
    options: dict[str, str]
    container: dict[str, str] = {}  # noqa: RUF012  (a NamedTuple's default, never written to)
    pixels: str = "yuv420p"


# the same bytes in every run, so that damage hits the same places
_X264 = {"g": "12", "bf": "3", "threads": "1", "x264-params": "cpu-independent=1"}
_VPX = {"g": "12", "deadline": "realtime", "cpu-used": "8"}
RECIPES = {
    "mp4": Recipe("mp4", "libx264", _X264),
    "mp4-moov-first": Recipe("mp4", "libx264", _X264, {"movflags": "+faststart"}),
    "mp4-fragments": Recipe("mp4", "libx264", _X264, {"movflags": "frag_keyframe+empty_moov"}),
    "mov-mpeg4": Recipe("mov", "mpeg4", {"g": "12", "bf": "2"}),
    "mkv": Recipe("mkv", "libx264", _X264),
    "mkv-live": Recipe("mkv", "libx264", _X264, {"live": "1"}),
    "webm-vp9": Recipe("webm", "libvpx-vp9", _VPX),
    "webm-vp8": Recipe("webm", "libvpx", {"g": "12", "auto-alt-ref": "1", "lag-in-frames": "12", "cpu-used": "8"}),
    "avi": Recipe("avi", "mpeg4", {"g": "12"}),
    "avi-mjpeg": Recipe("avi", "mjpeg", {}, {}, "yuvj420p"),
    "gif": Recipe("gif", "gif", {}, {}, "rgb8"),
    "ts": Recipe("ts", "libx264", _X264),
}


def numbered(count: int, height: int = 32, width: int = 96) -> NDArray[np.uint8]:
    """Frames uint8 [count,H,W,3] of a moving pattern, frame i showing i in seven black or white cells at its top."""
    pattern = np.random.default_rng(0).integers(60, 200, (height // 4 + count, width // 4 + count, 3), np.uint8)
    pattern = pattern.repeat(4, axis=0).repeat(4, axis=1)
    frames = np.stack([pattern[2 * i : 2 * i + height, 2 * i : 2 * i + width] for i in range(count)])
    for i in range(count):
        for bit in range(_BITS):
            frames[i, :_CELL, bit * _CELL : (bit + 1) * _CELL] = 255 * (i >> bit & 1)
    return frames


def numbers(frames: NDArray[np.uint8]) -> list[int]:
    """The number that each frame shows."""
    cells = frames[:, 3 : _CELL - 3, : _BITS * _CELL].reshape(len(frames), _CELL - 6, _BITS, _CELL, 3)
    bits = cells[:, :, :, 3:-3].mean(axis=(1, 3, 4)) > 128
    return [int(number) for number in bits @ (1 << np.arange(_BITS))]


def encode(
    path: Path, recipe: Recipe, frames: NDArray[np.uint8], *, stamps: list[int] | None = None, setup: Any = None
) -> Path:
    """Write frames by PyAV alone, 25 a second or at `stamps` in milliseconds; `setup` gets the stream."""
    path = path.with_suffix("." + recipe.suffix)
    with av.open(str(path), "w", options={"fflags": "+bitexact", **recipe.container}) as container:
        stream = container.add_stream(recipe.codec, rate=1000 if stamps else 25, options=recipe.options)
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], recipe.pixels
        if setup:
            setup(stream)
        for i, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame = frame.reformat(format=recipe.pixels)
            if stamps:
                frame.pts, frame.time_base = stamps[i], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def add_sound(path: Path, seconds: float, codec: str, frames: NDArray[np.uint8] | None = None) -> Path:
    """A file with a sine of so many seconds, and where frames are given, pictures beside it."""
    rate = 8000
    with av.open(str(path), "w") as container:
        video = None
        if frames is not None:
            video = container.add_stream("libx264", rate=25, options=_X264)
            video.width, video.height, video.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        audio = container.add_stream(codec, rate=rate, layout="mono")
        for pixels in frames if frames is not None else ():
            assert video is not None
            container.mux(video.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")))
        if video is not None:
            container.mux(video.encode(None))
        wave = (8000 * np.sin(np.arange(int(seconds * rate)) / 4)).astype(np.int16)[None]
        sound = av.AudioFrame.from_ndarray(wave, format="s16", layout="mono")
        sound.sample_rate, sound.pts = rate, 0
        resampler = av.AudioResampler(format=audio.format.name, layout="mono", rate=rate, frame_size=1024)
        for part in [*resampler.resample(sound), *resampler.resample(None)]:
            container.mux(audio.encode(part))
        container.mux(audio.encode(None))
    return path
