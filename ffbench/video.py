"""The only frame reader and the only encoder of the house: RGB uint8, sequential, counted."""

from __future__ import annotations

import io
import re
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from numpy.typing import NDArray

from ffbench.containers import damage, repeats, track_seconds

CRF = 12
"""Constant rate factor of libx264: visually lossless, so that measuring sees the method and not the encoder."""
_BT601 = 6
"""FFmpeg's number of SMPTE 170M: what swscale, OpenCV and the peers' readers assume."""
_VP8 = ("vp8", "libvpx")
_SHORT = 0.5
"""Seconds by which the last frame may miss the declared duration before the file counts as cut off."""
Size = Callable[[int, int], tuple[int, int]]
_CONTAINERS = "mov,matroska,avi,gif,mpegts,flv"
"""Demuxers that FFmpeg may try. Others read a photograph or plain text as a film, or open the files a script names."""


class VideoError(Exception):
    """A video that cannot be read whole; the message says what is wrong with it."""


class Frames(NamedTuple):
    """Sampled frames: `pixels` uint8 [T,H,W,3] RGB, `number` int64 [T] place in the video, `time` float64 [T] s."""

    pixels: NDArray[np.uint8]
    number: NDArray[np.int64]
    time: NDArray[np.float64]


class Clip(NamedTuple):
    """One decoded video: the frames of each asked sampler, and what the whole file is."""

    frames: Mapping[str, Frames]
    size: tuple[int, int]
    """Upright width and height, px."""
    fps: float
    """Mean frame rate; 0 for a single frame."""
    num_frames: int
    duration: float
    """Seconds from the first frame to the end of the last."""


class VideoInfo(NamedTuple):
    """What a file says of itself, without decoding more than one frame."""

    width: int
    height: int
    frames: int | None
    """Declared frame count; None where the container has none."""
    fps: float
    duration: float
    """Seconds; NaN where the container does not say."""
    codec: str


def sample_indices(sampler: str, times: NDArray[np.float64]) -> NDArray[np.int64]:
    """Which frames a sampler takes of a video whose frames are shown at `times` (float64 [N], ascending, s).

    `linspaceK`: N-1 split in K, truncated. `strideK`: int(i N / K), so the last frame is never taken. `timeK`: the
    frames nearest to K equally spaced times from the first frame to the last; with a constant rate the same as even
    spacing by time. `all`: every frame. Fewer frames than K repeat.

    Raises:
        ValueError: for an unknown sampler or no frames.
    """
    count = len(times)
    if count == 0:
        raise ValueError("there are no frames to sample")
    if sampler == "all":
        return np.arange(count)
    match = re.fullmatch(r"(linspace|stride|time)([1-9][0-9]*)", sampler)
    if match is None:
        raise ValueError(f"unknown sampler {sampler!r}: use linspaceK, strideK, timeK or all")
    number = int(match[2])
    if match[1] == "linspace":
        return np.linspace(0, count - 1, number, dtype=int).astype(np.int64)
    if match[1] == "stride":
        return np.arange(number) * count // number
    wanted = np.linspace(times[0], times[-1], number)
    after = np.clip(np.searchsorted(times, wanted), 1, max(count - 1, 1)) if count > 1 else np.zeros(number, int)
    before = np.maximum(after - 1, 0)
    return np.where(wanted - times[before] <= times[after] - wanted, before, after).astype(np.int64)


def read_clip(path: Path, samplers: Sequence[str]) -> Clip:
    """Decode a video once, in order, and keep the frames that the samplers want.

    Rotation and mirroring metadata is applied. The packets are counted first; a file that decodes to another number of
    frames, that declares more than it holds, that has a gap, or that has corrupt frames is refused: never fewer frames
    in silence. What nothing in a file betrays goes unseen: the missing end of MPEG-TS or of a streamed file, tables of
    an MP4 changed by a few bytes, and damage within a picture of a codec without checks (much of VP8, VP9 and GIF).

    Raises:
        VideoError: for anything that is no whole video.
        FileNotFoundError: where there is no file.
    """
    times = frame_times(path)
    wanted = {sampler: sample_indices(sampler, times) for sampler in samplers}
    keep = np.unique(np.concatenate([np.zeros(0, np.int64), *wanted.values()]))
    pixels = np.zeros((0, 0, 0, 3), np.uint8)
    kept = 0
    places = set(keep.tolist())
    decoded = _Decoded(path, len(times))
    for number, frame in enumerate(decoded):
        if number in places:
            if not kept:
                pixels = np.empty((len(keep), decoded.size[1], decoded.size[0], 3), np.uint8)
            pixels[kept] = _upright(frame)
            kept += 1
    rate, size, count = decoded.rate, decoded.size, len(times)
    frames = {
        # one copy of a long video is enough: where a sampler wants all that was kept, it gets just that
        sampler: Frames(
            pixels if np.array_equal(index, keep) else pixels[np.searchsorted(keep, index)], index, times[index]
        )
        for sampler, index in wanted.items()
    }
    duration = _duration(times, rate)
    fps = (count - 1) / (times[-1] - times[0]) if count > 1 and times[-1] > times[0] else 0.0
    return Clip(frames, size, float(fps), count, duration)


def frame_times(path: Path) -> NDArray[np.float64]:
    """When each frame is shown (float64 [N], ascending, s), from the packets alone, and the file's own checks.

    Raises:
        VideoError: for anything that is no whole video.
        FileNotFoundError: where there is no file.
    """
    with _opened(path) as container:
        times = _frame_times(path, container)
    if broken := damage(path):
        raise VideoError(broken)
    return times


def stream_frames(path: Path, wanted: Collection[int], count: int, size: Size) -> Iterator[NDArray[np.uint8]]:
    """Frames of a long video one by one, scaled while they are decoded; the whole file is checked as in `read_clip`.

    Args:
        path: of the video.
        wanted: numbers of the frames that are given.
        count: of all its frames, from `frame_times`.
        size: upright (width, height) of the video -> that of what is given, px.

    Yields:
        uint8 [H,W,3] RGB.

    Raises:
        VideoError: where decoding fails, or at the end for another number of frames.
        FileNotFoundError: where there is no file.
    """
    decoded = _Decoded(path, count)
    chosen = frozenset(wanted)
    for number, frame in enumerate(decoded):
        if number in chosen:
            yield _upright(frame, size(*decoded.size))


def probe(path: Path) -> VideoInfo:
    """What a video says of itself; decodes the first frame alone.

    Raises:
        VideoError: if it has no video stream or no first frame.
        FileNotFoundError: where there is no file.
    """
    with _opened(path) as container:
        stream = _stream(container)
        try:
            first = next(container.decode(stream), None)
        except av.error.FFmpegError as error:
            raise VideoError(f"the first frame does not decode ({_words(error)})") from error
        if first is None:
            raise VideoError("the video stream holds no frame")
        width, height = _upright_size(first)
        seconds = float(container.duration / av.time_base) if container.duration else float("nan")
        return VideoInfo(
            width, height, stream.frames or None, float(stream.average_rate or 0), seconds, stream.codec_context.name
        )


def write_mp4(path: Path, frames: NDArray[np.uint8], fps: float) -> None:
    """Encode frames as H.264 (yuv420p, BT.601, CRF 12); the same frames give the same bytes on any number of cores.

    An odd width or height repeats its last column or row, since yuv420p needs even ones. The file appears whole or not
    at all.

    Args:
        path: where the video belongs; its folder exists.
        frames: uint8 [T,H,W,3] RGB, T at least 1.
        fps: frames a second, 0.01 to 1000.

    Raises:
        ValueError: for frames of another dtype or shape, or a rate outside its range.
        OSError: when the disk is full or the folder cannot be written.
    """
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or 0 in frames.shape:
        raise ValueError(f"frames must be uint8 [T,H,W,3], got {frames.dtype} {list(frames.shape)}")
    if not 0.01 <= fps <= 1000:
        raise ValueError(f"fps must lie from 0.01 to 1000, got {fps}")
    if frames.shape[1] % 2 or frames.shape[2] % 2:
        frames = np.pad(frames, ((0, 0), (0, frames.shape[1] % 2), (0, frames.shape[2] % 2), (0, 0)), mode="edge")
    with tempfile.NamedTemporaryFile(prefix=".part-", suffix=".mp4", dir=path.parent, delete=False) as file:
        part = Path(file.name)
    try:
        # FFmpeg reports a failed write late or not at all: encode in memory, and let Python write
        part.write_bytes(_encoded(frames, fps))
        part.chmod(0o644)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _encoded(frames: NDArray[np.uint8], fps: float) -> bytes:
    buffer = io.BytesIO()
    options = {"fflags": "+bitexact"}
    with av.open(buffer, "w", format="mp4", options=options) as container:
        stream = container.add_stream("libx264", rate=Fraction(float(fps)).limit_denominator(1001))
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        # one thread: x264 spends bits otherwise with every number of threads; cpu-independent: its vectorised rate
        # control gave other bytes in a third of 400 runs on one machine, and gives others on another
        stream.options = {"crf": str(CRF), "preset": "fast", "threads": "1", "x264-params": "cpu-independent=1"}
        context = stream.codec_context
        context.colorspace = context.color_primaries = context.color_trc = _BT601
        context.color_range = 1
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def _opened(path: Path) -> Any:
    if not path.is_file():
        raise FileNotFoundError(path)
    if path.stat().st_size == 0:
        raise VideoError("the file is empty (0 bytes)")
    # with a level set, decoding threads log through Python: they wait for its lock, whose holder waits for them
    av.logging.set_level(None)
    try:
        return av.open(f"file:{path}", metadata_errors="ignore", options={"format_whitelist": _CONTAINERS})
    except (av.error.FFmpegError, ValueError) as error:
        raise VideoError(
            f"this is no video: MP4, MOV, MKV, WebM, AVI, GIF, MPEG-TS or FLV ({_words(error)})"
        ) from error


def _stream(container: Any) -> Any:
    streams = [stream for stream in container.streams.video if not stream.disposition & stream.disposition.attached_pic]
    if not streams:
        raise VideoError("the file holds no video stream")
    if streams[0].codec_context is None:
        raise VideoError("the video's codec is unknown")
    return streams[0]


def _frame_times(path: Path, container: Any) -> NDArray[np.float64]:
    """Times of every frame that will be shown, from the packets alone; checks them against what is declared."""
    stream = _stream(container)
    stamps: list[float] = []
    packets = 0
    end = 0.0
    try:
        for packet in container.demux(stream):
            if packet.size == 0:
                continue  # the flushing packet
            packets += 1
            if packet.is_corrupt:
                raise VideoError(f"packet {packets - 1} is corrupt")
            if packet.is_discard:
                continue  # cut away by an edit list
            if stream.codec_context.name in _VP8 and not bytes(packet)[0] & 0x10:
                continue  # decoded, not shown: an alternate reference
            stamp = packet.pts if packet.pts is not None else packet.dts
            base = float(packet.time_base or stream.time_base)
            stamps.append(stamp * base if stamp is not None else len(stamps) / float(stream.average_rate or 25))
            end = max(end, stamps[-1] + (packet.duration or 0) * base)
    except av.error.FFmpegError as error:
        raise VideoError(f"reading fails after {packets} packets ({_words(error)})") from error
    if not stamps:
        raise VideoError("the video stream holds no frame")
    if packets < stream.frames and packets + repeats(path) < stream.frames:
        # an edit list trims an MP4 and FFmpeg's index of it, and then the track's header says the shorter length
        seconds = track_seconds(path, stream.id)
        if not seconds or len(stream.index_entries) != packets or abs(seconds - end) > end / packets:
            raise VideoError(f"the file is cut off: it declares {stream.frames} frames and holds {packets}")
    # where sound runs on, the declared duration says nothing of the pictures
    if not stream.frames and container.duration and len(container.streams) == 1:
        declared = container.duration / av.time_base + min(stamps)
        if declared - end > _SHORT and declared - end > 0.05 * declared:
            raise VideoError(f"the file is cut off: it declares {declared:.2f} s and holds {end:.2f} s")
    return np.sort(np.asarray(stamps, np.float64))


class _Decoded:
    """The frames of a file in order; raises where they are not whole, or not `count`."""

    def __init__(self, path: Path, count: int) -> None:
        self._path, self._count = path, count
        self.size = (0, 0)
        self.rate: Fraction | None = None

    def __iter__(self) -> Iterator[Any]:
        count = 0
        with _opened(self._path) as container:
            stream = _stream(container)
            stream.thread_type = "AUTO"
            stream.codec_context.options = {"err_detect": "explode"}
            self.rate = stream.average_rate
            frames = container.decode(stream)
            while True:
                try:
                    frame = next(frames, None)
                except (av.error.FFmpegError, ValueError) as error:
                    raise VideoError(
                        f"decoding fails after {count} of {self._count} frames ({_words(error)})"
                    ) from error
                if frame is None:
                    break
                if frame.is_corrupt:
                    raise VideoError(f"frame {count} is corrupt")
                self.size = self.size if count else _upright_size(frame)
                if _upright_size(frame) != self.size:
                    raise VideoError(f"the frame size changes at frame {count}")
                yield frame
                count += 1
        if count != self._count:
            raise VideoError(f"{count} frames decode of {self._count} in the file")


def _orientation(frame: Any) -> tuple[bool, bool, bool]:
    """Whether to transpose, then mirror left-right, then top-bottom, by the display matrix [a b u; c d v; ..]."""
    side = frame.side_data.get("DISPLAYMATRIX")
    if side is None:
        return False, False, False
    a, b, _, c, d = np.frombuffer(side, np.int32)[:5].tolist()
    turned = abs(b) > abs(a)  # shown x = a x + c y, shown y = b x + d y
    return turned, (c if turned else a) < 0, (b if turned else d) < 0


def _upright(frame: Any, size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    turned, mirrored, flipped = _orientation(frame)
    try:
        if size is not None and size != _upright_size(frame):
            width, height = size[::-1] if turned else size
            # the mean of what a pixel covers when it shrinks; swscale's bicubic would alias
            smaller = width * height < frame.width * frame.height
            frame = frame.reformat(width, height, "rgb24", interpolation="AREA" if smaller else "BICUBIC")
        pixels: NDArray[np.uint8] = frame.to_ndarray(format="rgb24")
    except (av.error.FFmpegError, ValueError) as error:
        raise VideoError(f"a frame cannot be turned into RGB ({_words(error)})") from error
    pixels = pixels.swapaxes(0, 1) if turned else pixels
    return pixels[:: -1 if flipped else 1, :: -1 if mirrored else 1]


def _upright_size(frame: Any) -> tuple[int, int]:
    return (frame.height, frame.width) if _orientation(frame)[0] else (frame.width, frame.height)


def _duration(times: NDArray[np.float64], rate: Fraction | None) -> float:
    step = (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else (1 / float(rate) if rate else 0.0)
    return float(times[-1] - times[0] + step)


def _words(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error)
    return text.splitlines()[0] if text else type(error).__name__
