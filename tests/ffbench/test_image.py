from __future__ import annotations

import os
import resource
import signal
import struct
import subprocess
import sys
import tracemalloc
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from skimage import data

import ffbench.image
from ffbench.image import MAX_PIXELS, ImageError, png_bytes, read_image, write_png


@pytest.fixture(scope="module")
def face() -> NDArray[np.uint8]:
    """A real photograph, uint8 [96,80,3] RGB, no symmetry in it."""
    return np.ascontiguousarray(data.astronaut()[:192:2, 120:280:2])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_exif_orientation_is_undone(tmp_path: Path, face: NDArray[np.uint8], orientation: int, suffix: str) -> None:
    # what a camera stores so that a viewer, following EXIF 2.3's table, shows `face`
    stored = {
        1: face,
        2: face[:, ::-1],
        3: face[::-1, ::-1],
        4: face[::-1],
        5: face.swapaxes(0, 1),
        6: np.rot90(face),
        7: face[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(face, -1),
    }[orientation]
    path = tmp_path / f"a.{suffix}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif, quality=95, lossless=True)
    read = read_image(path)
    assert (read.shape, read.dtype) == (face.shape, np.uint8)
    assert np.abs(read.astype(int) - face).mean() < (4 if suffix == "jpg" else 1e-9)
    if suffix == "jpg":  # OpenCV obeys the tag too
        assert np.abs(read.astype(int) - cv2.imread(str(path))[:, :, ::-1]).mean() < 1


def test_a_broken_exif_block_does_not_hide_the_picture(tmp_path: Path, face: NDArray[np.uint8]) -> None:
    for number, exif in enumerate((b"Exif\0\0" + b"\xff" * 40, b"Exif\0\0II*\0\x08\0\0\0\xff\xff", b"Exif\0\0")):
        path = tmp_path / f"{number}.jpg"
        Image.fromarray(face).save(path, exif=exif, quality=95)
        assert read_image(path).shape == face.shape


@pytest.mark.parametrize("mode", ["L", "P", "1", "CMYK", "YCbCr", "LAB", "RGBX"])
def test_every_mode_becomes_rgb(tmp_path: Path, face: NDArray[np.uint8], mode: str) -> None:
    suffix = {"CMYK": "jpg", "YCbCr": "jpg", "LAB": "tif", "RGBX": "tif"}.get(mode, "png")
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(face).convert(mode).save(path, quality=95)
    read = read_image(path)
    assert (read.shape, read.dtype) == (face.shape, np.uint8)
    grey = face.astype(int).mean(axis=2, keepdims=True) if mode in ("L", "1") else face.astype(int)
    assert np.abs(read.mean(axis=(0, 1)) - grey.mean(axis=(0, 1))).max() < (25 if mode == "1" else 8)
    assert np.corrcoef(read.ravel(), np.broadcast_to(grey, read.shape).ravel())[0, 1] > (0.5 if mode == "1" else 0.96)


def test_grey_keeps_its_values(tmp_path: Path) -> None:
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    Image.fromarray(ramp).save(tmp_path / "a.png")
    assert np.array_equal(read_image(tmp_path / "a.png"), np.repeat(ramp[:, :, None], 3, axis=2))


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_are_scaled(tmp_path: Path, suffix: str) -> None:
    wide = np.linspace(0, 65535, 64 * 48).astype(np.uint16).reshape(48, 64)
    path = tmp_path / f"a.{suffix}"
    cv2.imwrite(str(path), wide)
    read = read_image(path)
    assert np.array_equal(read[:, :, 0], np.round(wide / 65535 * 255).astype(np.uint8))
    assert np.array_equal(read[:, :, 0], read[:, :, 2])
    cv2.imwrite(str(path), np.full((4, 4), 65535, np.uint16))
    assert read_image(path).min() == 255


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("top", [1, 90, 255, 256, 300, 4095])
def test_a_dark_sixteen_bit_picture_stays_dark(tmp_path: Path, top: int, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    cv2.imwrite(str(path), np.linspace(0, top, 64).astype(np.uint16).reshape(8, 8))
    assert read_image(path).max() == round(top / 65535 * 255)


def test_sixteen_bit_colour_is_scaled(tmp_path: Path) -> None:
    wide = np.random.default_rng(0).integers(0, 65536, (20, 30, 3), np.uint16)
    cv2.imwrite(str(tmp_path / "a.png"), wide[:, :, ::-1])
    read = read_image(tmp_path / "a.png")
    assert np.abs(read - wide / 65535 * 255).max() <= 1  # Pillow keeps the upper byte


def test_floats_and_wide_integers_of_a_tiff_are_scaled(tmp_path: Path) -> None:
    ramp = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    Image.fromarray(ramp).save(tmp_path / "a.tif")
    assert np.array_equal(read_image(tmp_path / "a.tif")[:, :, 1], np.round(ramp * 255).astype(np.uint8))
    for kind in (np.float32, np.int32):
        for white in (255, 65535, 1_000_000):
            Image.fromarray((np.linspace(0, 1, 64).reshape(8, 8) * white).astype(kind)).save(tmp_path / "a.tif")
            assert np.abs(read_image(tmp_path / "a.tif")[:, :, 1] - ramp * 255).max() <= 1
    Image.fromarray(np.full((8, 8), np.nan, np.float32)).save(tmp_path / "b.tif")
    with pytest.raises(ImageError, match="finite"):
        read_image(tmp_path / "b.tif")


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_parts_show_grey(tmp_path: Path, mode: str) -> None:
    colours = np.full((8, 12, 4), (200, 200, 200, 255), np.uint8)
    colours[:, 4:8, 3] = 0
    colours[:, 8:, 3] = 128
    path = tmp_path / "a.png"
    if mode == "P":
        palette = Image.new("P", (12, 8), 1)
        palette.putpalette([0, 0, 0, 200, 200, 200])
        palette.paste(0, (4, 0, 12, 8))
        palette.save(path, transparency=0)
    else:
        Image.fromarray(colours).convert(mode).save(path)
    read = read_image(path)
    assert np.all(read[:, :4] == 200)
    assert np.all(read[:, 4:8] == 128)
    if mode != "P":
        assert np.abs(read[:, 8:].astype(int) - (200 * 128 + 128 * 127) // 255).max() <= 1


def test_of_an_animation_the_first_frame_counts(tmp_path: Path) -> None:
    pictures = [Image.new("RGB", (20, 10), (60 * i, 10, 200)) for i in range(4)]
    for name, tolerance in (("a.gif", 3), ("a.webp", 0), ("a.png", 0)):
        pictures[0].save(tmp_path / name, save_all=True, append_images=pictures[1:], duration=100, lossless=True)
        read = read_image(tmp_path / name)
        assert read.shape == (10, 20, 3)
        assert np.abs(read.astype(int) - (0, 10, 200)).max() <= tolerance


def test_one_pixel_and_eight_thousand(tmp_path: Path) -> None:
    write_png(tmp_path / "dot.png", np.full((1, 1, 3), (9, 8, 7), np.uint8))
    assert read_image(tmp_path / "dot.png").tolist() == [[[9, 8, 7]]]
    Image.new("RGB", (8000, 6000), (10, 90, 200)).save(tmp_path / "large.jpg", quality=50)
    large = read_image(tmp_path / "large.jpg")
    assert large.shape == (6000, 8000, 3)
    assert np.abs(large[::500, ::500].astype(int) - (10, 90, 200)).max() <= 3


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


@pytest.mark.parametrize("size", [(10_001, 10_000), (60_000, 60_000), (2**31 - 1, 2**31 - 1)])
def test_a_picture_bomb_is_refused_undecoded(tmp_path: Path, size: tuple[int, int]) -> None:
    assert size[0] * size[1] > MAX_PIXELS
    packed = zlib.compress(bytes(3 * 10_000 * 1000), 9)
    path = tmp_path / "bomb.png"
    head = struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", packed) + chunk(b"IEND", b""))
    tracemalloc.start()
    with pytest.raises(ImageError, match=r"limit|exceeds"):
        read_image(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_000_000


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "gif", "tif", "bmp"])
def test_a_picture_cut_anywhere_is_whole_or_refused(tmp_path: Path, face: NDArray[np.uint8], suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(face).save(path)
    whole, picture = path.read_bytes(), read_image(path)
    refused = 0
    cuts = {*np.linspace(0, len(whole) - 1, 40).astype(int).tolist(), *range(len(whole) - 8, len(whole))}
    for cut in sorted(cuts):
        path.write_bytes(whole[:cut])
        try:
            read = read_image(path)
        except ImageError as error:
            assert str(tmp_path) not in str(error)
            refused += 1
        else:
            assert np.array_equal(read, picture), cut
    assert refused >= 38


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "gif", "tif", "avif", "bmp"])
def test_changed_bytes_raise_nothing_else(tmp_path: Path, face: NDArray[np.uint8], suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    Image.fromarray(face).save(path, **({} if suffix in ("gif", "bmp") else {"exif": exif}))
    whole = path.read_bytes()
    rng = np.random.default_rng(5)
    refused = 0
    for turn in range(120):
        hurt = np.frombuffer(whole, np.uint8).copy()
        reach = min(len(hurt), 300) if turn % 2 else len(hurt)
        hurt[rng.integers(0, reach, 4)] = rng.integers(0, 256, 4)
        path.write_bytes(hurt.tobytes())
        try:
            read = read_image(path)
        except ImageError:
            refused += 1
        else:
            assert (read.dtype, read.ndim, read.shape[2]) == (np.uint8, 3, 3)
    assert 0 < refused <= 120


def test_what_is_no_picture(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_image(tmp_path / "none.jpg")
    with pytest.raises(FileNotFoundError):
        read_image(tmp_path)
    for name, content in (("empty.jpg", b""), ("text.png", b"no picture\n" * 30), ("noise.jpg", os.urandom(3000))):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ImageError, match="no whole picture") as caught:
            read_image(tmp_path / name)
        assert str(tmp_path) not in str(caught.value)
        assert "\n" not in str(caught.value)


def test_written_pictures_read_back_exactly(tmp_path: Path, face: NDArray[np.uint8]) -> None:
    write_png(tmp_path / "a.png", face)
    assert np.array_equal(read_image(tmp_path / "a.png"), face)
    assert np.array_equal(cv2.imread(str(tmp_path / "a.png"))[:, :, ::-1], face)
    assert (tmp_path / "a.png").read_bytes() == png_bytes(face) == png_bytes(face.copy())
    assert (tmp_path / "a.png").stat().st_mode & 0o777 == 0o644
    assert np.array_equal(read_image(tmp_path / "a.png"), read_image(tmp_path / "a.png"))
    write_png(tmp_path / "a.png", face[::-1, ::2])  # views and overwriting
    assert np.array_equal(read_image(tmp_path / "a.png"), face[::-1, ::2])
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    good = np.zeros((4, 4, 3), np.uint8)
    for picture in (good.astype(float), good[0], good[..., :1], np.zeros((4, 4, 4), np.uint8), good[:0]):
        with pytest.raises(ValueError, match="a picture must be uint8"):
            write_png(tmp_path / "a.png", picture)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(FileNotFoundError):
        write_png(tmp_path / "no folder" / "a.png", good)


def test_a_full_disk_leaves_the_old_picture(tmp_path: Path, face: NDArray[np.uint8]) -> None:
    write_png(tmp_path / "a.png", face)
    code = (
        "import sys, numpy as np\nfrom pathlib import Path\nfrom ffbench.image import write_png\n"
        "try:\n    write_png(Path(sys.argv[1]), np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))\n"
        "except OSError as error:\n    sys.exit(40 + (error.errno == 27))\n"
    )

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # then the write fails with EFBIG, as with a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (2048, 2048))

    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.png")], preexec_fn=limit, check=False)
    assert done.returncode == 41
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]
    assert np.array_equal(read_image(tmp_path / "a.png"), face)


def test_files_are_closed_again(tmp_path: Path, face: NDArray[np.uint8]) -> None:
    write_png(tmp_path / "a.png", face)
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:2000])
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for _ in range(4):
        read_image(tmp_path / "a.png")
        with pytest.raises(ImageError):
            read_image(tmp_path / "b.png")
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_real_photographs_read_as_opencv_reads_them(assets: Path) -> None:
    photos = sorted((assets / "images").rglob("*.*"))[::12]
    assert len(photos) > 10
    for path in photos:
        theirs = cv2.imread(str(path))
        if theirs is not None:
            assert np.abs(read_image(path).astype(int) - theirs[:, :, ::-1]).mean() < 2, path
    assert ffbench.image.MAX_PIXELS > 8000 * 8000
