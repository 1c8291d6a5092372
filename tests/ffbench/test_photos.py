from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ffbench.download import sha256_of
from ffbench.errors import UserError
from ffbench.image import read_image
from ffbench.suites import load_suite
from ffbench.suites import photos as module
from ffbench.suites.cases import embedded_data


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FFBENCH_CACHE", str(tmp_path))


def test_seven_people_times_twenty_prompts_need_no_download(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FFBENCH_OFFLINE", "1")
    suite = load_suite("photos")
    assert (suite.name, suite.version, len(suite.cases)) == ("photos", "1", 140)
    people = {case.identity_id: case.references[0] for case in suite.cases}
    assert len(people) == len({one.sha256 for one in people.values()}) == 7
    for one in people.values():
        assert read_image(Path(one.path)).shape == (256, 256, 3)
        assert sha256_of(Path(one.path)) == one.sha256


def test_the_recorded_boxes_hold_one_face_where_recorded() -> None:
    from ffbench.extract.detect import Mtcnn

    detector = Mtcnn()
    for identity, person in zip(module.photo_identities(), embedded_data("photos.toml")["person"], strict=True):
        found = detector.detect(read_image(Path(identity.references[0].path)), "full")
        assert len(found.scores) == 1, identity.identity_id
        x, y = person["box"][:2]
        # the smaller image is scanned at other scales, so the box moves by some px
        assert np.abs(found.boxes[0] + [x, y, x, y] - person["face"]).max() < 16
        assert (person["view"] == "frontal") == (abs(person["yaw"]) < 30)


def test_a_damaged_cut_is_made_again() -> None:
    first = module.photo_identities()
    path = Path(first[0].references[0].path)
    path.write_bytes(b"other")
    assert module.photo_identities() == first
    assert sha256_of(path) == first[0].references[0].sha256


def test_another_photograph_or_decoder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = embedded_data("photos.toml")
    box = [value + 1 for value in data["person"][0]["box"]]
    other = {**data, "person": [{**data["person"][0], "box": box}]}
    monkeypatch.setattr(module, "embedded_data", lambda _: other)
    with pytest.raises(UserError, match="group-1 cut from insightface's"):
        module.photo_identities()
    assert list(tmp_path.glob("**/*.png")) == []


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ({"package": "numpy", "file": "gone.jpg"}, "of numpy cannot be read"),
        ({"package": "gone_x", "file": "x"}, "not installed"),
    ],
)
def test_a_package_without_its_photograph(source: dict[str, str], what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    other = {**embedded_data("photos.toml"), "source": {"group": source}}
    monkeypatch.setattr(module, "embedded_data", lambda _: other)
    monkeypatch.setattr(module, "_DISTRIBUTIONS", {"numpy": "numpy", "gone_x": "gone"})
    with pytest.raises(UserError, match=what):
        module.photo_identities()


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (200, 150)])
def test_the_uncompressed_png_is_read_by_others(size: tuple[int, int]) -> None:
    import cv2

    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    data = module.png(pixels)
    with Image.open(io.BytesIO(data)) as image:
        image.verify()
    with Image.open(io.BytesIO(data)) as image:
        assert np.array_equal(np.asarray(image), pixels)
    assert np.array_equal(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1], pixels)
    assert struct.unpack(">II", data[16:24]) == size[::-1]
