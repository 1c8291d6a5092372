from __future__ import annotations

import contextlib
import math
import os
import resource
import shutil
import signal
import struct
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from skimage import data
from skimage.metrics import peak_signal_noise_ratio

from ffbench.containers import repeats
from ffbench.video import VideoError, probe, read_clip, sample_indices, write_mp4
from tests.ffbench.clips import RECIPES, Recipe, add_sound, encode, numbered, numbers

COUNT = 40
SAMPLERS = ("linspace16", "stride16", "time16", "linspace7", "stride64", "all")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One whole video of 40 numbered frames for each recipe."""
    folder = tmp_path_factory.mktemp("made")
    return {name: encode(folder / name, recipe, numbered(COUNT)) for name, recipe in RECIPES.items()}


def opencv(path: Path) -> NDArray[np.uint8]:
    """Every frame by OpenCV, the outside reader: uint8 [T,H,W,3] RGB."""
    capture = cv2.VideoCapture(str(path))
    frames = []
    while (got := capture.read())[0]:
        frames.append(got[1][:, :, ::-1])
    capture.release()
    return np.stack(frames)


def moving_astronaut(count: int) -> NDArray[np.uint8]:
    face = data.astronaut()
    return np.stack([face[3 * i : 3 * i + 256, 120 + 5 * i : 376 + 5 * i] for i in range(count)])


# samplers


def test_samplers_are_the_protocols_formulas() -> None:
    for count in (1, 2, 3, 15, 16, 17, 49, 81, 595):
        times = np.arange(count) / 16
        assert sample_indices("linspace16", times).tolist() == [int(i * (count - 1) / 15) for i in range(16)]
        assert sample_indices("stride16", times).tolist() == [int(i * count / 16) for i in range(16)]
        assert sample_indices("all", times).tolist() == list(range(count))
        naive = [min(range(count), key=lambda j, t=i * times[-1] / 15: abs(times[j] - t)) for i in range(16)]  # type: ignore[misc]
        off = np.abs(times[sample_indices("time16", times)] - np.linspace(0, times[-1], 16))
        assert off == pytest.approx(np.abs(times[naive] - np.linspace(0, times[-1], 16)), abs=1e-12)
    assert sample_indices("linspace1", np.arange(9.0)).tolist() == [0]
    assert sample_indices("time1", np.arange(9.0)).tolist() == [0]
    assert sample_indices("stride16", np.arange(81.0)).max() < 80  # the last frame is never taken


@pytest.mark.parametrize(
    "sampler", ["", "linspace", "linspace0", "linspace-3", "every2", "ALL", "linspace16 ", "time1.5"]
)
def test_an_unknown_sampler_is_refused(sampler: str) -> None:
    with pytest.raises(ValueError, match="unknown sampler"):
        sample_indices(sampler, np.arange(4.0))


def test_no_frames_cannot_be_sampled() -> None:
    with pytest.raises(ValueError, match="no frames"):
        sample_indices("all", np.zeros(0))


# reading what is whole


@pytest.mark.parametrize("name", RECIPES)
def test_every_sampler_gets_the_very_frames_it_names(made: dict[str, Path], name: str) -> None:
    clip = read_clip(made[name], SAMPLERS)
    assert (clip.num_frames, clip.size) == (COUNT, (96, 32))
    assert clip.fps == pytest.approx(25, rel=1e-6)
    assert clip.duration == pytest.approx(COUNT / 25, abs=0.002)
    for sampler in SAMPLERS:
        frames = clip.frames[sampler]
        assert frames.number.tolist() == sample_indices(sampler, np.arange(COUNT) / 25).tolist()
        assert numbers(frames.pixels) == frames.number.tolist()
        # Matroska keeps milliseconds
        assert frames.time - clip.frames["all"].time[0] == pytest.approx(frames.number / 25, abs=0.001)
        assert (frames.pixels.dtype, frames.pixels.shape) == (np.uint8, (len(frames.number), 32, 96, 3))


@pytest.mark.parametrize("name", [name for name in RECIPES if name != "ts"])
def test_pixels_and_count_are_opencvs(made: dict[str, Path], name: str) -> None:
    ours, theirs = read_clip(made[name], ["all"]).frames["all"].pixels, opencv(made[name])
    assert ours.shape == theirs.shape
    # chroma of MJPEG is sited elsewhere
    assert np.abs(ours.astype(int) - theirs).max() <= (2 if name == "avi-mjpeg" else 0)


def test_files_that_opencv_writes_are_whole(tmp_path: Path) -> None:
    for suffix, code in (("mp4", "mp4v"), ("avi", "MJPG"), ("avi", "XVID"), ("mkv", "MJPG")):
        path = tmp_path / f"{code}.{suffix}"
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*code), 16, (96, 32))
        for frame in numbered(20):
            writer.write(np.ascontiguousarray(frame[:, :, ::-1]))
        writer.release()
        clip = read_clip(path, ["all"])
        assert numbers(clip.frames["all"].pixels) == list(range(20)), path
        assert clip.fps == pytest.approx(16, rel=0.01)


def test_gifs_that_pillow_writes_are_whole(tmp_path: Path) -> None:
    from PIL import Image

    pictures = [Image.fromarray(frame) for frame in numbered(12)]
    for options in ({"disposal": 2}, {"optimize": True}, {"comment": b"x" * 600}, {"loop": 0}):
        path = tmp_path / "a.gif"
        pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=120, **options)
        clip = read_clip(path, ["all"])
        assert numbers(clip.frames["all"].pixels) == list(range(12)), options
        assert clip.fps == pytest.approx(1 / 0.12)


@pytest.mark.parametrize("name", ["mp4", "mkv", "webm-vp9"])
def test_variable_rate_is_sampled_by_time(tmp_path: Path, name: str) -> None:
    stamps = np.cumsum([0, *np.random.default_rng(3).integers(20, 400, 29)]).tolist()
    path = encode(tmp_path / "uneven", RECIPES[name], numbered(30), stamps=stamps)
    clip = read_clip(path, ["all", "time8", "linspace8"])
    assert clip.num_frames == 30
    assert clip.frames["all"].time == pytest.approx(np.asarray(stamps) / 1000, abs=0.0006)
    wanted = np.linspace(0, stamps[-1], 8)
    nearest = [int(np.abs(np.asarray(stamps) - t).argmin()) for t in wanted]
    assert numbers(clip.frames["time8"].pixels) == nearest != clip.frames["linspace8"].number.tolist()
    assert numbers(clip.frames["linspace8"].pixels) == [int(i * 29 / 7) for i in range(8)]
    assert clip.fps == pytest.approx(29 / (stamps[-1] / 1000), rel=1e-3)
    assert clip.duration == pytest.approx(stamps[-1] / 1000 * 30 / 29, rel=1e-3)


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_phone_videos_stand_upright(tmp_path: Path, degrees: int, mirrored: bool, suffix: str) -> None:
    picture = np.zeros((2, 32, 64, 3), np.uint8)
    picture[:, :16, :32] = (250, 20, 20)
    picture[:, 16:, 32:] = (20, 20, 250)
    path = encode(
        tmp_path / "phone",
        RECIPES[suffix],
        picture,
        setup=lambda stream: stream.set_display_rotation(degrees, hflip=mirrored),
    )
    clip = read_clip(path, ["all"])
    pixels = clip.frames["all"].pixels
    assert clip.size == (pixels.shape[2], pixels.shape[1]) == probe(path)[:2]
    # rotation is counted against the clock; the mirror comes after it
    upright = np.rot90(picture[0], degrees // 90)
    upright = upright[:, ::-1] if mirrored else upright
    assert pixels[0].shape == upright.shape
    assert np.abs(pixels[0].astype(int) - upright)[2:-2, 2:-2].mean() < 6
    if not mirrored:  # OpenCV turns by the angle alone, so a mirrored video stands on its head there
        assert np.array_equal(pixels, opencv(path))


def test_tags_of_colour_are_obeyed(tmp_path: Path) -> None:
    green = np.full((2, 32, 64, 3), (40, 200, 60), np.uint8)
    clips = {}
    for space in (1, 6):  # BT.709, BT.601: the same bytes, other tags

        def tag(stream: object, space: int = space) -> None:
            stream.codec_context.colorspace = space  # type: ignore[attr-defined]

        path = encode(tmp_path / str(space), RECIPES["mp4"], green, setup=tag)
        clips[space] = read_clip(path, ["all"]).frames["all"].pixels
        assert np.array_equal(clips[space], opencv(path))
    assert np.abs(clips[6].astype(int) - green).max() <= 3
    assert np.abs(clips[1].astype(int) - green).max() > 10


def test_one_frame_is_a_video(tmp_path: Path) -> None:
    for name in ("mp4", "mkv", "gif", "avi"):
        clip = read_clip(
            encode(tmp_path / name, RECIPES[name], numbered(1)), ["linspace16", "time3", "stride16", "all"]
        )
        assert (clip.num_frames, clip.fps) == (1, 0.0)
        assert clip.duration == pytest.approx(0.1 if name == "gif" else 0.04, abs=0.07)
        assert [len(clip.frames[s].pixels) for s in clip.frames] == [16, 3, 16, 1]
        assert set(clip.frames["linspace16"].number.tolist()) == {0}


def test_no_sampler_still_decodes_and_counts(made: dict[str, Path]) -> None:
    clip = read_clip(made["mp4"], [])
    assert (clip.num_frames, clip.size, dict(clip.frames)) == (COUNT, (96, 32), {})


def test_sound_may_run_on_after_the_pictures(tmp_path: Path) -> None:
    for name, codec in (("a.mkv", "libmp3lame"), ("a.mp4", "aac"), ("a.avi", "libmp3lame")):
        path = add_sound(tmp_path / name, 4.0, codec, numbered(30))
        assert read_clip(path, []).num_frames == 30
        assert probe(path).duration > 3.5


@pytest.mark.parametrize("bframes", ["0", "3"])
def test_a_trimmed_video_shows_what_its_edit_list_leaves(tmp_path: Path, bframes: str) -> None:
    recipe = RECIPES["mp4"]._replace(options={"g": "12", "bf": bframes, "threads": "1"})
    path = encode(tmp_path / "a", recipe, numbered(COUNT))
    whole = path.read_bytes()
    place, head = whole.index(b"elst") + 12, whole.index(b"tkhd") + 24
    duration, start, rate = struct.unpack(">IiI", whole[place : place + 12])
    assert duration == COUNT * 40 == int.from_bytes(whole[head : head + 4], "big")
    for first, count in ((0, 12), (0, 30), (12, 18), (15, 10), (17, COUNT - 17)):
        trimmed = bytearray(whole)
        trimmed[place : place + 12] = struct.pack(">IiI", count * 40, start + first * 512, rate)  # 512 ticks a frame
        path.write_bytes(trimmed)
        if count + first % 12 < COUNT - 12:  # an edit list that its track's header does not know is damage
            assert frames_or_none(path) is None
        trimmed[head : head + 4] = struct.pack(">I", count * 40)
        path.write_bytes(trimmed)
        clip = read_clip(path, ["all"])
        assert numbers(clip.frames["all"].pixels) == list(range(first, first + count))
        assert np.array_equal(clip.frames["all"].pixels, opencv(path))


def test_a_vp8_reference_that_is_never_shown_is_no_frame(made: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "a.webm"
    hidden = (7, 20)
    with av.open(str(made["webm-vp8"])) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(p for p in source.demux(video=0) if p.size):
            content = bytearray(bytes(packet))
            if number in hidden:
                content[0] &= ~0x10  # RFC 6386, 9.1: show_frame
            changed = av.Packet(bytes(content))
            changed.pts, changed.dts, changed.time_base = packet.pts, packet.dts, packet.time_base
            changed.is_keyframe, changed.stream = packet.is_keyframe, stream
            target.mux(changed)
    clip = read_clip(path, ["all"])
    assert numbers(clip.frames["all"].pixels) == [i for i in range(COUNT) if i not in hidden]
    assert clip.frames["all"].time == pytest.approx(np.delete(np.arange(COUNT) / 25, hidden), abs=0.001)
    assert np.array_equal(clip.frames["all"].pixels, opencv(path))


def test_metadata_that_is_no_utf8_does_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "latin.mp4"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "QQQQQQQQ"
        stream = container.add_stream("libx264", rate=25, options={"threads": "1"})
        stream.width, stream.height, stream.pix_fmt = 96, 32, "yuv420p"
        for frame in numbered(5):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    raw = path.read_bytes()
    assert raw.count(b"QQQQQQQQ") == 1
    path.write_bytes(raw.replace(b"QQQQQQQQ", b"\xff\xfe\xe9\xc3\x28\x80\x81\xfc"))
    with pytest.raises(UnicodeDecodeError):
        av.open(str(path))  # what a reader meets that does not care
    assert (read_clip(path, []).num_frames, probe(path).frames) == (5, 5)


def test_probe_says_what_the_file_says(made: dict[str, Path]) -> None:
    for name, codec in (("mp4", "h264"), ("webm-vp9", "libvpx-vp9"), ("avi", "mpeg4"), ("gif", "gif")):
        info = probe(made[name])
        assert (info.width, info.height) == (96, 32)
        assert info.codec in (codec, codec.removeprefix("libvpx-"))
        assert info.frames in (COUNT, None)
        assert (info.fps, info.duration) == (pytest.approx(25), pytest.approx(COUNT / 25, abs=0.05))
    assert math.isnan(probe(made["mkv-live"]).duration)


def test_real_videos_have_opencvs_counts(assets: Path) -> None:
    videos = [
        p for p in sorted((assets / "videos").rglob("*.*")) if p.stat().st_size < 3_300_000 and "demo" not in p.name
    ]
    assert len(videos) >= 10
    for path in videos:
        capture = cv2.VideoCapture(str(path))
        count = 0
        while capture.grab():
            count += 1
        capture.release()
        assert read_clip(path, ["linspace16"]).num_frames == count, path


# reading what is damaged


def test_no_file_and_no_video(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_clip(tmp_path / "none.mp4", [])
    with pytest.raises(FileNotFoundError):
        probe(tmp_path)
    cases = {
        "empty.mp4": (b"", "0 bytes"),
        "text.mp4": (b"this is a shopping list\n" * 40, "no video"),
        "noise.mp4": (np.random.default_rng(0).bytes(5000), "no video"),
        "zeros.mkv": (bytes(5000), "no video"),
        "page.mp4": (b"<!DOCTYPE html><html>404 Not Found</html>", "no video"),
    }
    for name, (content, words) in cases.items():
        (tmp_path / name).write_bytes(content)
        for read in (lambda path: read_clip(path, []), probe):
            with pytest.raises(VideoError, match=words) as caught:
                read(tmp_path / name)
            assert "\n" not in str(caught.value)
            assert str(tmp_path) not in str(caught.value)


def test_scripts_and_pictures_are_no_films(made: dict[str, Path], tmp_path: Path) -> None:
    video = tmp_path / "inner.ts"
    video.write_bytes(made["ts"].read_bytes())
    image = cv2.imencode(".png", np.zeros((32, 32, 3), np.uint8))[1].tobytes()
    photo = cv2.imencode(".jpg", np.zeros((32, 32, 3), np.uint8))[1].tobytes()
    playlist = b"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:1.6,\ninner.ts\n#EXT-X-ENDLIST\n"
    cases = {
        "script.mp4": b"ffconcat version 1.0\nfile inner.ts\n",
        "list.m3u8": playlist,
        "list.mp4": playlist,
        "picture.png": image,
        "picture.mp4": image,
        "photo.mp4": photo,
        "letter.txt": b"hello\n" * 200,
    }
    opened = 0
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
        with contextlib.suppress(av.error.FFmpegError), av.open(str(tmp_path / name)) as container:
            opened += next(container.decode(video=0)) is not None  # what FFmpeg does when nobody forbids it
        for read in (lambda path: read_clip(path, []), probe):
            with pytest.raises(VideoError, match="no video"):
                read(tmp_path / name)
    assert opened >= 5


def test_a_name_with_a_colon_is_a_file(made: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path("concat:a|b.mp4")
    path.write_bytes(made["mp4"].read_bytes())
    assert (read_clip(path, []).num_frames, probe(path).frames) == (COUNT, COUNT)


_NOISY = """
import logging, sys
from pathlib import Path
import av
import numpy as np
from ffbench.video import VideoError, read_clip
av.logging.set_level(av.logging.ERROR)  # as torchvision.io does when it is imported
logging.disable()
whole, path = Path(sys.argv[1]).read_bytes(), Path(sys.argv[2])
rng = np.random.default_rng(2)
refused = 0
for start in rng.integers(1000, len(whole) - 1500, 80):
    path.write_bytes(whole[:start] + bytes(200) + whole[start + 200 :])
    try:
        read_clip(path, [])
    except VideoError:
        refused += 1
sys.exit(0 if refused > 40 else 1)
"""


def test_damage_does_not_hang_when_somebody_turned_on_logging(made: dict[str, Path], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _NOISY, str(made["mp4"]), str(tmp_path / "a.mp4")],
        cwd=Path(__file__).parents[2],
        timeout=60,
        check=False,
    )
    assert done.returncode == 0


def test_sound_alone_is_no_video(tmp_path: Path) -> None:
    sounds = (("a.mp4", "aac", "stream"), ("a.mkv", "libmp3lame", "stream"), ("a.wav", "pcm_s16le", "MP4"))
    for name, codec, words in sounds:
        path = add_sound(tmp_path / name, 0.5, codec)
        for read in (lambda p: read_clip(p, []), probe):
            with pytest.raises(VideoError, match=f"no video.*{words}"):
                read(path)


def frames_or_none(path: Path) -> int | None:
    try:
        return read_clip(path, []).num_frames
    except VideoError:
        return None


@pytest.mark.parametrize("name", [name for name in RECIPES if name not in ("ts", "mkv-live", "mp4-fragments")])
def test_a_file_cut_anywhere_never_gives_fewer_frames(made: dict[str, Path], tmp_path: Path, name: str) -> None:
    whole = made[name].read_bytes()
    rng = np.random.default_rng(len(whole))
    path = tmp_path / made[name].name
    cuts = {*rng.integers(0, len(whole), 40), *rng.integers(len(whole) * 4 // 5, len(whole), 25)}
    cuts |= {*range(len(whole) - 12, len(whole))}
    found = {}
    for cut in sorted(int(cut) for cut in cuts):
        path.write_bytes(whole[:cut])
        found[cut] = frames_or_none(path)
    assert {cut: count for cut, count in found.items() if count not in (None, COUNT)} == {}
    assert sum(count is None for count in found.values()) >= 40  # a cut in the picture data never passes
    path.write_bytes(whole)
    assert frames_or_none(path) == COUNT


def test_a_cut_streamed_file_goes_unseen_at_a_seam_alone(made: dict[str, Path], tmp_path: Path) -> None:
    for name, most in (("mp4-fragments", COUNT // 12 + 1), ("mkv-live", COUNT + 12)):  # its fragments, its elements
        whole = made[name].read_bytes()
        path = tmp_path / made[name].name
        found = []
        for cut in range(len(whole) * 2 // 5, len(whole) * 3 // 5, 7):
            path.write_bytes(whole[:cut])
            found.append(frames_or_none(path))
        assert sum(count is not None for count in found) <= most
        assert found.count(None) > 100


def test_a_trimmed_video_cut_anywhere_never_gives_fewer_frames(made: dict[str, Path], tmp_path: Path) -> None:
    whole = bytearray(made["mp4-moov-first"].read_bytes())
    place, head = whole.index(b"elst") + 12, whole.index(b"tkhd") + 24
    start = int.from_bytes(whole[place + 4 : place + 8], "big") + 13 * 512
    whole[place : place + 8] = struct.pack(">II", 26 * 40, start)
    whole[head : head + 4] = struct.pack(">I", 26 * 40)
    path = tmp_path / "a.mp4"
    with av.open(str(made["mp4-moov-first"])) as container:
        seams = [packet.pos for packet in container.demux(video=0) if packet.size][1:]
    # at a seam no broken packet tells of the cut, and the last frames shown are not the last stored
    for cut in [*seams, *range(len(whole) // 2, len(whole), 17), len(whole)]:
        path.write_bytes(whole[:cut])
        assert frames_or_none(path) in (None, 26), cut
    assert frames_or_none(path) == 26


def test_an_avi_with_dropped_frames_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.avi"
    ticks = [0, 1, 2, 3, 4, 15, 18, 21, 24, 27]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 32, "yuv420p"
        for tick, pixels in zip(ticks, numbered(10), strict=True):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = tick, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    clip = read_clip(path, ["all", "time4"])
    assert probe(path).frames == 28
    assert numbers(clip.frames["all"].pixels) == list(range(10))
    assert clip.frames["all"].time == pytest.approx(np.asarray(ticks) / 25)
    assert numbers(clip.frames["time4"].pixels) == [0, 4, 6, 9]
    whole = path.read_bytes()
    assert repeats(path) == 28 - 10
    gap = whole.index(b"movi") + 1300  # over the header of the second chunk
    path.write_bytes(whole[:gap] + bytes(900) + whole[gap + 900 :])
    assert repeats(path) == 0
    for cut in range(0, len(whole), 31):
        path.write_bytes(whole[:cut])
        assert frames_or_none(path) in (None, 10)
    for start in range(500, len(whole) - 2000, 197):
        path.write_bytes(whole[:start] + bytes(300) + whole[start + 300 :])
        assert frames_or_none(path) in (None, 10)


# Refused of 180 random places in 40 frames of 96x64, 16 / 400 / 3000 zeroed bytes: H.264 in mp4 96 / 169 / 180, in mkv
# 99 / 159 / 180; MPEG-4 in mov 173 / 180 / 180; VP9 in webm 13 / 101 / 180, VP8 6 / 106 / 180; GIF 16 / 179 / 180. The
# others had all their frames, some with wrong pixels.
@pytest.mark.parametrize("name", [name for name in RECIPES if name not in ("ts", "mp4-fragments")])
def test_zeroed_bytes_never_give_fewer_frames(made: dict[str, Path], tmp_path: Path, name: str) -> None:
    whole = made[name].read_bytes()
    rng = np.random.default_rng(7)
    path = tmp_path / made[name].name
    # the middle: where the pictures are; a few zeros in an mp4's tables can rewrite which frames an edit list shows
    first, last = len(whole) // 4, len(whole) * 3 // 4
    refused = []
    for length in (16, 300, 2000):
        # an AVI opens with kilobytes of padding that is zero already
        places = [start for start in rng.integers(first, last - length, 200) if any(whole[start : start + length])]
        for start in places[:15]:
            hurt = bytearray(whole)
            hurt[start : start + length] = bytes(length)
            path.write_bytes(hurt)
            count = frames_or_none(path)
            assert count in (None, COUNT), (name, length, start)
            refused.append(count is None)
    # codecs without checks cannot notice damage inside one picture, but lost pictures must be noticed
    assert np.mean(refused[30:]) >= 0.8
    if name.startswith(("m", "avi", "gif")):
        assert np.mean(refused[15:30]) >= 0.7


def test_damaged_jpegs_are_noticed(made: dict[str, Path], tmp_path: Path) -> None:
    whole = made["avi-mjpeg"].read_bytes()
    path = tmp_path / "a.avi"
    found = []
    for start in np.random.default_rng(2).integers(10_000, len(whole) - 2000, 60):
        path.write_bytes(whole[:start] + bytes(400) + whole[start + 400 :])
        found.append(frames_or_none(path))
    assert found.count(None) >= 50  # measured 60 of 60; FFmpeg without "explode" lets nearly half of them pass


def test_a_lost_block_or_fragment_is_noticed(made: dict[str, Path], tmp_path: Path) -> None:
    whole = made["mkv"].read_bytes()
    with av.open(str(made["mkv"])) as container:
        payload = next(bytes(packet) for i, packet in enumerate(container.demux(video=0)) if i == 20)
    track = whole.index(payload[:40]) - 4  # before it lie the block's track, two bytes of time, flags
    assert whole[track] == 0x81
    (tmp_path / "a.mkv").write_bytes(whole[:track] + b"\0" + whole[track + 1 :])
    whole = made["mp4-fragments"].read_bytes()
    (tmp_path / "a.mp4").write_bytes(whole[: whole.rindex(b"mdat") - 4])
    run = whole.index(b"trun") + 8  # past its flags
    assert int.from_bytes(whole[run : run + 4], "big") == 12
    (tmp_path / "b.mp4").write_bytes(whole[:run] + bytes(4) + whole[run + 4 :])
    whole = made["ts"].read_bytes()
    (tmp_path / "a.ts").write_bytes(whole[: 188 * 60] + whole[188 * 61 :])
    for name in ("a.mkv", "a.mp4", "b.mp4", "a.ts"):
        assert frames_or_none(tmp_path / name) is None, name


def test_a_declared_duration_is_held_to(tmp_path: Path) -> None:
    path = encode(tmp_path / "a", Recipe("flv", "flv", {}), numbered(40))
    whole = path.read_bytes()
    assert frames_or_none(path) == 40
    with av.open(str(path)) as container:
        seam = next(packet.pos for i, packet in enumerate(container.demux(video=0)) if i == 20)
    path.write_bytes(whole[:seam])
    with pytest.raises(VideoError, match=r"cut off: it declares 1.60 s and holds 0.76 s"):
        read_clip(path, [])


def test_a_size_that_changes_midway_is_refused(tmp_path: Path) -> None:
    parts = [encode(tmp_path / str(width), RECIPES["ts"], numbered(6, 32, width)) for width in (96, 128)]
    path = tmp_path / "both.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    with pytest.raises(VideoError, match="size changes"):
        read_clip(path, [])


def test_frames_cut_away_by_an_edit_list_do_not_count(made: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "trimmed.mp4"
    with av.open(str(made["mp4"])) as source, av.open(str(path), "w", options={"avoid_negative_ts": "disabled"}) as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                shift = round(0.2 / packet.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, stream
                out.mux(packet)
    clip = read_clip(path, ["all"])
    assert numbers(clip.frames["all"].pixels) == list(range(5, COUNT))
    assert probe(path).frames == COUNT
    assert len(opencv(path)) == COUNT - 5


def test_an_unknown_codec_is_named(made: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    whole = made["mp4"].read_bytes()
    assert whole.count(b"avc1") >= 2  # brand and sample entry
    path.write_bytes(whole.replace(b"avc1", b"zzz1"))
    for read in (lambda p: read_clip(p, []), probe):
        with pytest.raises(VideoError, match="codec"):
            read(path)


@pytest.mark.parametrize("name", RECIPES)
def test_changed_bytes_raise_nothing_else(made: dict[str, Path], tmp_path: Path, name: str) -> None:
    whole = np.frombuffer(made[name].read_bytes(), np.uint8)
    rng = np.random.default_rng(11)
    path = tmp_path / made[name].name
    counts = []
    for turn in range(40):
        hurt = whole.copy()
        hurt[rng.integers(0, 1200 if turn % 2 else len(hurt), 4)] = rng.integers(0, 256, 4)
        path.write_bytes(hurt.tobytes())
        counts.append(frames_or_none(path))
        with contextlib.suppress(VideoError):
            probe(path)
    assert None in counts


def test_a_gap_in_the_middle_is_named(made: dict[str, Path], tmp_path: Path) -> None:
    for name, words in (("mkv", "damaged|cut off"), ("gif", "damaged"), ("mp4", "decod|corrupt|reading")):
        whole = bytearray(made[name].read_bytes())
        whole[len(whole) // 2 : len(whole) // 2 + 2000] = bytes(2000)
        path = tmp_path / made[name].name
        path.write_bytes(whole)
        with pytest.raises(VideoError, match=words):
            read_clip(path, ["linspace16"])


def test_files_are_closed_again(made: dict[str, Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(made["mp4-moov-first"].read_bytes()[:-900])
    gap = tmp_path / "gap.gif"
    gap.write_bytes(made["gif"].read_bytes()[:-900])
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for _ in range(4):
        for path in (made["mp4"], made["gif"], made["mkv"], broken, gap):
            frames_or_none(path)
            probe(path)
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


# writing


def test_a_red_clip_reads_red(tmp_path: Path) -> None:
    for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255), (128, 128, 128), (200, 120, 90)):
        write_mp4(tmp_path / "a.mp4", np.full((5, 48, 64, 3), colour, np.uint8), 8)
        pixels = read_clip(tmp_path / "a.mp4", ["all"]).frames["all"].pixels.astype(int)
        assert np.abs(pixels - colour).max() <= 3, colour
        assert np.array_equal(opencv(tmp_path / "a.mp4"), pixels)


def test_what_is_written_reads_back_frame_by_frame(tmp_path: Path) -> None:
    for count, fps in ((1, 8.0), (2, 24.0), (49, 16.0), (81, 23.976), (17, 29.97), (9, np.float32(12.5))):
        write_mp4(tmp_path / "a.mp4", numbered(count), fps)
        clip = read_clip(tmp_path / "a.mp4", ["all"])
        assert numbers(clip.frames["all"].pixels) == list(range(count))
        assert clip.fps == pytest.approx(fps if count > 1 else 0, rel=1e-4)
        info = probe(tmp_path / "a.mp4")
        assert (info.frames, info.codec, info.fps) == (count, "h264", pytest.approx(fps, rel=1e-4))
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]
    assert (tmp_path / "a.mp4").stat().st_mode & 0o777 == 0o644


def test_odd_sizes_repeat_their_last_line(tmp_path: Path) -> None:
    frames = moving_astronaut(3)
    for height, width in ((255, 256), (256, 251), (17, 33), (1, 1)):
        write_mp4(tmp_path / "a.mp4", frames[:, :height, :width], 8)
        clip = read_clip(tmp_path / "a.mp4", ["all"])
        assert clip.size == (width + width % 2, height + height % 2)
        pixels = clip.frames["all"].pixels.astype(int)
        assert np.abs(pixels[:, :height, :width] - frames[:, :height, :width]).mean() < 6
        assert np.abs(pixels[:, -1, :width] - frames[:, height - 1, :width]).mean() < 8
        assert np.abs(pixels[:, :height, -1] - frames[:, :height, width - 1]).mean() < 8


def test_a_natural_picture_keeps_its_looks(tmp_path: Path) -> None:
    frames = moving_astronaut(16)
    write_mp4(tmp_path / "a.mp4", frames, 16)
    pixels = read_clip(tmp_path / "a.mp4", ["all"]).frames["all"].pixels
    # measured 39.2 dB over RGB and 43.8 dB over luma; what is lost is mostly chroma at half resolution
    assert peak_signal_noise_ratio(frames, pixels) > 38
    luma = np.asarray([0.299, 0.587, 0.114])
    assert peak_signal_noise_ratio(frames @ luma, pixels @ luma, data_range=255) > 43


_WRITE = """
import sys
from fractions import Fraction
from pathlib import Path
import numpy as np
from ffbench.video import write_mp4
write_mp4(Path(sys.argv[1]), np.load(sys.argv[2]), 16)
"""


def test_the_same_frames_give_the_same_bytes_on_any_number_of_cores(tmp_path: Path) -> None:
    np.save(tmp_path / "frames.npy", moving_astronaut(8))
    write_mp4(tmp_path / "here.mp4", moving_astronaut(8), 16)
    write_mp4(tmp_path / "again.mp4", moving_astronaut(8), 16)
    assert (tmp_path / "here.mp4").read_bytes() == (tmp_path / "again.mp4").read_bytes()
    one_core = ["taskset", "-c", str(min(os.sched_getaffinity(0)))] if shutil.which("taskset") else []
    subprocess.run(
        [*one_core, sys.executable, "-c", _WRITE, str(tmp_path / "there.mp4"), str(tmp_path / "frames.npy")],
        env={**os.environ, "OMP_NUM_THREADS": "7"},
        cwd=Path(__file__).parents[2],
        check=True,
    )
    assert (tmp_path / "here.mp4").read_bytes() == (tmp_path / "there.mp4").read_bytes()


def test_what_cannot_be_encoded_is_refused(tmp_path: Path) -> None:
    good = np.zeros((2, 8, 8, 3), np.uint8)
    for frames in (
        good.astype(np.float32),
        good[0],
        good[..., :1],
        good[:0],
        good[:, :0],
        np.zeros((2, 3, 8, 8), np.uint8),
    ):
        with pytest.raises(ValueError, match="frames must be uint8"):
            write_mp4(tmp_path / "a.mp4", frames, 8)
    for fps in (0, -1, math.nan, math.inf, 1001, 1e-9):
        with pytest.raises(ValueError, match="fps"):
            write_mp4(tmp_path / "a.mp4", good, fps)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"the older film")
    code = (
        "import sys, numpy as np\nfrom pathlib import Path\nfrom ffbench.video import write_mp4\n"
        "frames = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3), np.uint8)\n"
        "try:\n    write_mp4(Path(sys.argv[1]), frames, 8)\n"
        "except OSError as error:\n    sys.exit(40 + (error.errno == 27))\n"
    )

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # then the write fails with EFBIG, as with a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.mp4")], preexec_fn=limit, check=False)
    assert done.returncode == 41
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]
    assert (tmp_path / "a.mp4").read_bytes() == b"the older film"
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(IsADirectoryError):
        write_mp4(tmp_path / "folder.mp4", np.zeros((1, 8, 8, 3), np.uint8), 8)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.mp4", "folder.mp4"]
    with pytest.raises(FileNotFoundError):
        write_mp4(tmp_path / "no folder" / "a.mp4", np.zeros((1, 8, 8, 3), np.uint8), 8)
