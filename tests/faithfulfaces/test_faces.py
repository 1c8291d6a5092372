"""Faces of real photographs: crop, angles, and what is refused."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from faithfulfaces.config import WEIGHTLESS_FACES, Faces
from faithfulfaces.faces import LADDERS, FaceReader, as_rgb, open_faces, resized
from ffbench.errors import UserError
from ffbench.extract.detect import Detections, Detector, Mtcnn
from ffbench.extract.pose import FivePoint
from tests.faithfulfaces import tiny_vace


@pytest.fixture(scope="module")
def reader() -> FaceReader:
    return open_faces(WEIGHTLESS_FACES)


def test_a_face_is_found_cropped_by_half_more_and_posed(reader: FaceReader) -> None:
    picture = np.asarray(tiny_vace.portrait())
    face = reader.read(picture)
    x1, y1, x2, y2 = face.box
    assert 40 < x1 < 80 and 40 < y1 < 70 and 90 < x2 - x1 < 120 and 120 < y2 - y1 < 150
    assert face.crop.shape[0] == pytest.approx(1.5 * (y2 - y1), abs=2)
    assert face.crop.shape[1] == pytest.approx(1.5 * (x2 - x1), abs=2)
    top, left = round((y1 + y2) / 2 - 0.75 * (y2 - y1)), round((x1 + x2) / 2 - 0.75 * (x2 - x1))
    assert np.array_equal(face.crop, picture[top : top + face.crop.shape[0], left : left + face.crop.shape[1]])
    # she looks to the image's left; the mirror image looks to the right
    mirrored = reader.read(np.ascontiguousarray(picture[:, ::-1]))
    assert face.euler[1] > 30 and mirrored.euler[1] < -30
    assert face.euler[1] == pytest.approx(-mirrored.euler[1], abs=6)


class Reversed:
    """MTCNN names the largest face first; here it comes last."""

    id = "reversed"

    def detect(self, image: np.ndarray, rung: str) -> Detections:
        return Detections(*(field[::-1] for field in Mtcnn().detect(image, rung)))


@pytest.mark.parametrize("detector", [Mtcnn(), Reversed()])
def test_the_largest_face_counts_wherever_the_detector_puts_it(detector: Detector) -> None:
    large = tiny_vace.portrait()
    both = Image.new("RGB", (400, 250))
    both.paste(large.resize((110, 125)), (0, 0))
    both.paste(large, (180, 0))
    assert len(detector.detect(np.asarray(both), "full").scores) == 2
    assert FaceReader(detector, LADDERS["mtcnn"], FivePoint()).read(np.asarray(both)).box[0] > 180


def test_a_crop_ends_at_the_photographs_edge(reader: FaceReader) -> None:
    close = np.asarray(tiny_vace.portrait().crop((50, 45, 170, 195)))
    face = reader.read(close)
    assert face.crop.shape[0] <= 150 and face.crop.shape[1] <= 120


def test_a_photograph_without_a_face_is_refused(reader: FaceReader) -> None:
    with pytest.raises(UserError, match=r"a\.png holds no face \(tried full, pad25\)") as caught:
        reader.read(np.asarray(tiny_vace.landscape()), "a.png")
    assert "another photograph" in caught.value.fix


class NoPose:
    id = "none"

    def angles(self, images: object, boxes: np.ndarray, points: object) -> np.ndarray:
        return np.full((len(boxes), 3), np.nan, np.float32)


def test_a_face_without_a_pose_is_refused() -> None:
    reader = FaceReader(Mtcnn(), LADDERS["mtcnn"], NoPose())
    with pytest.raises(UserError, match="pose cannot be told"):
        reader.read(np.asarray(tiny_vace.portrait()))


def test_the_papers_reader_runs_on_real_networks(assets: Path, tmp_path: Path) -> None:
    """SCRFD of InsightFace on a real file; 6DRepNet's published weights cannot be had here, so five points pose."""
    detector = assets / "models/insightface/models/small_y1/det_scrfd_2.5g.onnx"
    found = list((assets / "models").rglob("det_scrfd*.onnx")) or [detector]
    file = tmp_path / "det.onnx"
    shutil.copy(found[0], file)
    config = Faces(detector="scrfd", detector_weights=str(file), pose="five-point", pose_weights="")
    ours, free = (open_faces(c).read(np.asarray(tiny_vace.portrait())) for c in (config, WEIGHTLESS_FACES))
    assert np.abs(ours.box - free.box).max() < 25
    assert np.abs(ours.euler - free.euler).max() < 15


def test_missing_weights_say_how_to_get_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FFBENCH_WEIGHTS", str(tmp_path))
    with pytest.raises(UserError, match=r"antelopev2/scrfd_10g_bnkps\.onnx are not on this machine"):
        open_faces(Faces())
    with pytest.raises(UserError, match="6drepnet are not on this machine") as caught:
        open_faces(replace(Faces(), detector="mtcnn", detector_weights=""))
    assert "ffbench weights pull 6drepnet" in caught.value.fix


def test_6drepnet_gets_the_enlarged_box(tmp_path: Path) -> None:
    import torch

    from ffbench.extract.sixdrepnet import SixDRepNet

    torch.manual_seed(0)
    torch.save(SixDRepNet().state_dict(), tmp_path / "net.pth")
    config = replace(WEIGHTLESS_FACES, pose="sixdrepnet", pose_weights=str(tmp_path / "net.pth"))
    reader = open_faces(config)
    assert "sixdrepnet:net.pth@" in reader.id and ",box=1.5 box=1.5" in reader.id
    assert np.isfinite(reader.read(np.asarray(tiny_vace.portrait())).euler).all()


@pytest.mark.parametrize("wrong", [{"detector": "yunet"}, {"pose": "guess"}, {"box": 0.5}])
def test_a_wrong_configuration_names_its_field(wrong: dict) -> None:
    with pytest.raises(ValueError, match=f"Faces.{next(iter(wrong))}"):
        Faces(**wrong)


def test_every_kind_of_picture_becomes_rgb() -> None:
    rgba = Image.new("RGBA", (4, 3), (9, 8, 7, 0))
    assert np.array_equal(as_rgb(rgba), np.full((3, 4, 3), (9, 8, 7), np.uint8))
    assert as_rgb(Image.new("L", (4, 3), 5)).shape == (3, 4, 3)
    turned = Image.new("RGB", (4, 3))
    turned.putpixel((3, 0), (255, 0, 0))
    turned.getexif()[0x0112] = 6  # shown after a quarter turn clockwise
    assert as_rgb(turned).shape == (4, 3, 3) and as_rgb(turned)[3, 2].tolist() == [255, 0, 0]
    for wrong in (np.zeros((3, 4), np.uint8), np.zeros((3, 4, 3)), "face.png"):
        with pytest.raises(UserError, match="the reference is"):
            as_rgb(wrong)  # type: ignore[arg-type]


def test_the_aligner_reads_the_whole_crop_without_aliasing() -> None:
    lines = np.zeros((90, 60, 3), np.uint8)
    lines[::2] = 255
    small = resized(lines, 30)
    assert small.shape == (30, 30, 3) and small.dtype == np.uint8
    # every other row is white: anything but grey is aliasing
    assert abs(int(small[5:-5].min()) - 127) < 15 and abs(int(small[5:-5].max()) - 127) < 15
