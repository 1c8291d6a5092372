"""People of the evaluation suite are kept out, and clips of one person carry one name."""

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import PIL.Image
import pytest
from onnx import TensorProto, helper, numpy_helper

from faithfulfaces.dataset import frames
from faithfulfaces.dataset.clip import Analyst
from faithfulfaces.dataset.combine import combine
from faithfulfaces.dataset.folder import Folder
from faithfulfaces.dataset.instruments import open_instruments
from faithfulfaces.dataset.journal import append
from faithfulfaces.dataset.settings import People, Settings
from faithfulfaces.dataset.sources import find
from ffbench.errors import UserError
from ffbench.video import frame_times, write_mp4
from tests.faithfulfaces.dataset import red

pytest.importorskip("scenedetect")


def green_reader(path: Path) -> Path:
    """A recogniser by form: the direction of (1 + 2g, 1 - 2g), g the mean green in -1..1."""
    weight = np.zeros((3, 2), np.float32)
    weight[1] = (2, -2)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "keep"], ["a"], name="Conv_0"),
            helper.make_node("GlobalAveragePool", ["a"], ["mean"], name="Pool_1"),
            helper.make_node("Flatten", ["mean"], ["flat"], name="Flatten_2"),
            helper.make_node("MatMul", ["flat", "weight"], ["m"], name="MatMul_3"),
            helper.make_node("Add", ["m", "shift"], ["y"], name="Add_4"),
        ],
        "green",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 112, 112])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])],
        [
            numpy_helper.from_array(np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1), "keep"),
            numpy_helper.from_array(weight, "weight"),
            numpy_helper.from_array(np.array([1, 1], np.float32), "shift"),
        ],
    )
    onnx.save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), str(path))
    return path


def person(green: int, texture: int) -> np.ndarray:
    """A turning face whose surroundings are green: a colour that neither the detector nor the yaw reads."""
    made = red.pixels(red.TURN, texture=texture)
    made[:, 40:120, 16:120, 1] = green
    made[:, 72:80, 64:72, 1] = 0
    return made


@pytest.fixture
def chosen(tmp_path: Path) -> Settings:
    videos = tmp_path / "videos"
    videos.mkdir()
    for name, green, texture in (("a", 110, 1), ("b", 0, 2), ("c", 112, 3), ("d", 2, 4)):
        write_mp4(videos / f"{name}.mp4", person(green, texture), 16)
    settings = red.settings(tmp_path)
    networks = dataclasses.replace(
        settings.networks, embedder="arcface-onnx", embedder_weights=str(green_reader(tmp_path / "green.onnx"))
    )
    return dataclasses.replace(settings, networks=networks, people=People(same=0.95, exclude_cosine=0.95))


def run(settings: Settings, tmp_path: Path) -> Folder:
    folder = Folder(tmp_path / "out")
    analyst = Analyst(settings, open_instruments(settings, "cpu"), folder)
    for source in find(tmp_path / "videos"):
        append(folder.journal, analyst.outcome(source).to_json())
    return folder


def test_clips_of_one_person_carry_one_name(chosen: Settings, tmp_path: Path) -> None:
    rows = combine(run(chosen, tmp_path), chosen).rows
    a, b, c, d = (row.identity for row in rows)
    assert all(row.shard for row in rows)
    assert (a, b) == (c, d)
    assert a != b


def test_people_of_the_suite_are_refused(chosen: Settings, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    PIL.Image.fromarray(person(111, 9)[11]).save(photos / "suite.png")
    settings = dataclasses.replace(chosen, people=dataclasses.replace(chosen.people, exclude=str(photos)))
    rows = {row.record.source: row.record for row in combine(run(settings, tmp_path), settings).rows}
    assert {name: row.reason for name, row in rows.items()} == {
        "a.mp4": "excluded", "b.mp4": "", "c.mp4": "excluded", "d.mp4": "",
    }  # fmt: skip
    assert rows["a.mp4"].excluded_like == "suite.png"
    assert rows["a.mp4"].excluded_cosine > 0.95 > rows["b.mp4"].excluded_cosine


@pytest.mark.parametrize("face", [True, False])
def test_a_photograph_without_a_face_is_not_passed_over(chosen: Settings, tmp_path: Path, face: bool) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    if face:
        PIL.Image.fromarray(np.zeros((128, 128, 3), np.uint8)).save(photos / "dark.png")
    settings = dataclasses.replace(chosen, people=dataclasses.replace(chosen.people, exclude=str(photos)))
    with pytest.raises(UserError, match="no face found in .*dark.png" if face else "no photographs"):
        open_instruments(settings, "cpu")


def test_a_slow_film_shows_its_frames_longer(tmp_path: Path) -> None:
    """12 frames a second at 16: every standard frame is there, at the place of the source frame it shows."""
    (tmp_path / "videos").mkdir()
    write_mp4(tmp_path / "videos" / "slow.mp4", red.pixels(red.TURN), 12)
    settings = red.settings(tmp_path)
    analyst = Analyst(settings, open_instruments(settings, "cpu"), Folder(tmp_path / "out"))
    (source,) = find(tmp_path / "videos")
    numbers = frames.resample(frame_times(source.path), 16)
    ((first, shown),) = analyst._pieces(source, numbers, 24, 16.0)
    assert first == 0 and len(shown) == len(numbers) > 24
    yaw = (shown[..., 2].mean((1, 2)) - 127.5) * 90 / 128
    np.testing.assert_allclose(yaw, red.TURN[numbers], atol=4)
