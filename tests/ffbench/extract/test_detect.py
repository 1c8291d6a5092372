"""Detectors on pictures that ship with packages, on a tiny network that finds red squares, and on real photographs."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from skimage import data

from ffbench.errors import UserError
from ffbench.extract.detect import (
    Detections,
    Detector,
    Mtcnn,
    Scrfd,
    detect_all,
    detect_ladder,
    largest,
    no_faces,
    pad25,
)

REACH, MARKS = 3, ((-1, -1), (1, -1), (0, 0), (-1, 1), (1, 1))
"""What the tiny network answers for each red cell of 8 px: a box of 3 cells to each side and five points, in cells."""


def red_finder(path: Path, side: int | str = "?") -> Path:
    """An SCRFD by form: scores, boxes and points of three strides, two anchors a cell; it scores red minus green."""
    nodes, tensors, outputs = [], [], []

    def constant(name: str, value: object, kind: type = np.float32) -> str:
        tensors.append(numpy_helper.from_array(np.array(value, kind), name))
        return name

    constant("flat", [-1, 1], np.int64)
    constant("redness", np.reshape([0.5, -0.5, 0], (1, 3, 1, 1)))
    nodes.append(helper.make_node("Conv", ["x", "redness"], ["red"]))
    for stride in (8, 16, 32):
        on = constant(f"on{stride}", float(stride == 8))
        answers = (("box", [REACH] * 4), ("points", np.ravel(MARKS)))
        nodes += [
            helper.make_node("AveragePool", ["red"], [f"p{stride}"], kernel_shape=[stride] * 2, strides=[stride] * 2),
            helper.make_node("Mul", [f"p{stride}", on], [f"q{stride}"]),
            helper.make_node("Reshape", [f"q{stride}", "flat"], [f"r{stride}"]),
            helper.make_node("Concat", [f"r{stride}", f"r{stride}"], [f"s{stride}"], axis=1),
            helper.make_node("Reshape", [f"s{stride}", "flat"], [f"score{stride}"]),
        ]
        for name, answer in answers:
            zeros = constant(f"{name}zero{stride}", np.zeros((1, len(answer))))
            value = constant(f"{name}value{stride}", answer)
            nodes += [
                helper.make_node("MatMul", [f"score{stride}", zeros], [f"{name}m{stride}"]),
                helper.make_node("Add", [f"{name}m{stride}", value], [f"{name}{stride}"]),
            ]
    for name, width in (("score", 1), ("box", 4), ("points", 10)):
        outputs += [helper.make_tensor_value_info(f"{name}{s}", TensorProto.FLOAT, ["k", width]) for s in (8, 16, 32)]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, side, side])
    graph = helper.make_graph(nodes, "red", [x], outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save_model(model, str(path))
    return path


@pytest.fixture(scope="module")
def red(tmp_path_factory: pytest.TempPathFactory) -> Scrfd:
    return Scrfd(red_finder(tmp_path_factory.mktemp("net") / "red.onnx"), "abcdef0123456789", threshold=0.6)


@pytest.fixture(scope="module")
def mtcnn() -> Mtcnn:
    return Mtcnn()


@pytest.fixture(scope="module")
def six_people() -> np.ndarray:
    """insightface's own photograph of six people, RGB."""
    from insightface.data import get_image

    return np.ascontiguousarray(get_image("t1")[:, :, ::-1])


def canvas(
    height: int, width: int, left: int, top: int, side: int = 8, colour: Sequence[int] = (255, 0, 0)
) -> np.ndarray:
    image = np.zeros((height, width, 3), np.uint8)
    image[top : top + side, left : left + side] = colour
    return image


@pytest.mark.parametrize(("rung", "scale"), [("320", 1.0), ("640", 2.0), ("128", 0.4)])
def test_scrfd_answers_in_pixels_of_the_image(red: Scrfd, rung: str, scale: float) -> None:
    """One red cell of the network's grid is 8/scale px of a 320 px image."""
    cell = round(8 / scale)
    found = red.detect(canvas(320, 240, 5 * cell, 3 * cell, cell), rung)
    assert found.boxes.shape == (1, 4)
    corner = np.array([5 * cell, 3 * cell])
    reach = REACH * cell
    np.testing.assert_allclose(found.boxes[0], [*(corner - reach), *(corner + reach)], atol=1e-3)
    np.testing.assert_allclose(found.points[0], corner + np.array(MARKS) * cell, atol=1e-3)
    assert 0.85 < found.scores[0] < 1
    assert [a.dtype for a in found] == [np.float32] * 3


@pytest.mark.parametrize(
    ("shape", "size"),
    [((480, 853), (640, 384)), ((853, 480), (384, 640)), ((480, 640), (640, 480)), ((481, 800), (640, 416))],
)
def test_a_fitted_rung_sees_the_same_picture_in_a_smaller_input(
    red: Scrfd, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int], size: tuple[int, int]
) -> None:
    """481 of 800 needs 384.8 rows: 384 would shrink the picture."""
    image = np.random.default_rng(0).integers(0, 100, (*shape, 3), np.uint8)
    image[200:240, 120:160] = (255, 0, 0)
    seen = []
    whole = red._scrfd.forward
    monkeypatch.setattr(red._scrfd, "forward", lambda picture, *rest: (seen.append(picture), whole(picture, *rest))[1])
    square, fitted = red.detect(image, "640"), red.detect(image, "fit640")
    assert seen[1].shape[1::-1] == size
    assert (seen[0][: size[1], : size[0]] == seen[1]).all()
    assert not seen[0][size[1] :].any()
    assert not seen[0][:, size[0] :].any()
    assert len(square.scores)
    for a, b in zip(square, fitted, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_scrfd_sees_rgb(red: Scrfd) -> None:
    assert len(red.detect(canvas(320, 320, 40, 40, colour=(0, 0, 255)), "320").scores) == 0
    assert len(red.detect(canvas(320, 320, 40, 40, colour=(255, 0, 0)), "320").scores) == 1


def test_scrfd_keeps_every_face(red: Scrfd) -> None:
    image = canvas(320, 320, 40, 40) + canvas(320, 320, 200, 40) + canvas(320, 320, 40, 240)
    assert len(red.detect(image, "320").scores) == 3


@pytest.mark.parametrize(("cells", "faces"), [(2, 1), (3, 2)])
def test_scrfd_joins_boxes_that_share_two_fifths(red: Scrfd, cells: int, faces: int) -> None:
    """Boxes of 48 px that lie 2 cells apart overlap by 1/2 of their union, 3 cells apart by 1/3."""
    image = canvas(320, 320, 40, 40) + canvas(320, 320, 40 + 8 * cells, 40)
    assert len(red.detect(image, "320").scores) == faces


def test_scrfd_id_names_all_that_its_answer_depends_on(red: Scrfd) -> None:
    assert red.id == "scrfd:red.onnx@abcdef012345,threshold=0.6"


def test_scrfd_of_one_size_refuses_other_rungs(tmp_path: Path) -> None:
    fixed = Scrfd(red_finder(tmp_path / "fixed.onnx", 320), "0" * 64)
    assert len(fixed.detect(canvas(320, 320, 40, 40), "320").scores) == 1
    with pytest.raises(UserError, match=r"takes \(320, 320\) px only"):
        fixed.detect(canvas(320, 320, 40, 40), "640")


def test_other_networks_are_no_scrfd(tmp_path: Path) -> None:
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 3, 8, 8]) for n in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save_model(model, str(tmp_path / "relu.onnx"))
    with pytest.raises(UserError, match=r"relu\.onnx is no SCRFD"):
        Scrfd(tmp_path / "relu.onnx", "0" * 64)


@pytest.mark.parametrize("shape", [(1, 1), (1, 900), (900, 1), (3, 2), (33, 40)])
def test_slivers_have_no_face(red: Scrfd, mtcnn: Mtcnn, shape: tuple[int, int]) -> None:
    image = np.full((*shape, 3), 128, np.uint8)
    assert detect_ladder(red, image, ("320", "640", "pad25", "128"))[1] == ""
    assert detect_ladder(mtcnn, image, ("full", "pad25"))[1] == ""


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((9, 9), np.uint8),
        np.zeros((9, 9, 4), np.uint8),
        np.zeros((9, 9, 3), np.float32),
        np.zeros((0, 9, 3), np.uint8),
    ],
)
def test_only_rgb_bytes_are_images(red: Scrfd, mtcnn: Mtcnn, image: np.ndarray) -> None:
    with pytest.raises(ValueError, match="uint8"):
        red.detect(image, "320")
    with pytest.raises(ValueError, match="uint8"):
        mtcnn.detect(image, "full")


def test_unknown_rungs(red: Scrfd, mtcnn: Mtcnn) -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    with pytest.raises(ValueError, match="no rung 'full'"):
        red.detect(image, "full")
    with pytest.raises(ValueError, match="no rung '320'"):
        mtcnn.detect(image, "320")


def test_mtcnn_finds_six_people_and_the_astronaut(mtcnn: Mtcnn, six_people: np.ndarray) -> None:
    found = mtcnn.detect(six_people, "full")
    assert (found.scores > 0.9).sum() == 6
    assert [a.dtype for a in found] == [np.float32] * 3
    one = mtcnn.detect(data.astronaut(), "full")
    left_eye, right_eye, nose, left_mouth, right_mouth = one.points[largest(one)]
    assert left_eye[0] < nose[0] < right_eye[0]
    assert left_mouth[0] < right_mouth[0]
    assert max(left_eye[1], right_eye[1]) < nose[1] < min(left_mouth[1], right_mouth[1])


def test_mtcnn_is_facenet_pytorch_in_rgb(mtcnn: Mtcnn, six_people: np.ndarray) -> None:
    from facenet_pytorch import MTCNN

    boxes, scores, points = MTCNN(min_face_size=32, keep_all=True).detect(six_people, landmarks=True)
    found = mtcnn.detect(six_people, "full")
    np.testing.assert_array_equal(found.boxes, boxes.astype(np.float32))
    np.testing.assert_array_equal(found.points, points.astype(np.float32))
    np.testing.assert_array_equal(found.scores, scores.astype(np.float32))


def test_mtcnn_shrinks_large_images_and_answers_in_their_pixels(mtcnn: Mtcnn) -> None:
    small = data.astronaut()
    large = cv2.resize(small, (4096, 3072), interpolation=cv2.INTER_CUBIC)
    a, b = mtcnn.detect(small, "full"), mtcnn.detect(large, "full")
    eyes = np.linalg.norm(np.subtract(*a.points[largest(a)][:2]))
    difference = b.points[largest(b)] / (8, 6) - a.points[largest(a)]
    assert np.abs(difference).max() < 0.1 * eyes


def test_mtcnn_points_do_not_move_when_a_face_fills_the_image(mtcnn: Mtcnn) -> None:
    whole = mtcnn.detect(data.astronaut(), "full")
    expected = whole.points[largest(whole)]
    eyes = np.linalg.norm(expected[1] - expected[0])
    x1, y1, x2, y2 = whole.boxes[largest(whole)].round().astype(int)
    for left, top, right, bottom in (
        (x1, y1, x2, y2),
        (x1 - 9, y1 + 9, x2 + 9, y2 - 9),
        (x1 + 9, y1 - 30, x2 + 60, y2),
    ):
        close = mtcnn.detect(np.ascontiguousarray(data.astronaut()[top:bottom, left:right]), "full")
        assert np.abs(close.points[largest(close)] + (left, top) - expected).max() < 0.15 * eyes


def test_mtcnn_id_holds_the_bytes_and_the_settings(mtcnn: Mtcnn) -> None:
    assert mtcnn.id == "mtcnn:facenet-pytorch-2.5.3@743721dfef3c,threshold=0.7,min_face=32,max_side=1280,edge=pad25"
    assert Mtcnn(threshold=0.9, min_face=40).id != mtcnn.id


class Loose:
    """Finds the red pixels of an image, if they leave a margin of a tenth of its width all around."""

    id = "loose"
    callers = 1

    def __init__(self, blind: Sequence[str] = ()) -> None:
        self.blind = blind
        self.asked: list[tuple[str, tuple[int, ...]]] = []

    def detect(self, image: np.ndarray, rung: str) -> Detections:
        self.asked.append((rung, image.shape))
        rows, columns = np.nonzero((image == (255, 0, 0)).all(-1))
        margin = image.shape[1] / 10
        if rung in self.blind or not len(rows) or min(rows.min(), columns.min()) < margin:
            return no_faces()
        box = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], np.float32)
        points = np.tile((box[:2] + box[2:]) / 2, (1, 5, 1))
        return Detections(box[None], points, np.ones(1, np.float32))


def test_the_ladder_stops_at_the_first_rung_that_finds_a_face() -> None:
    detector: Detector = Loose(blind=("320",))
    found, rung = detect_ladder(detector, canvas(100, 200, 60, 40), ("320", "640", "128"))
    assert rung == "640"
    np.testing.assert_array_equal(found.boxes, [[60, 40, 68, 48]])


@pytest.mark.parametrize("at_once", [1, 3])
def test_images_side_by_side_are_images_alone(tmp_path: Path, at_once: int) -> None:
    """Of several sizes, so that they fall on several rungs, the last on none."""
    detector = Scrfd(red_finder(tmp_path / "red.onnx"), "0" * 64, threshold=0.6)
    detector.callers = at_once
    images = [canvas(120 + 8 * i, 160 + 40 * i, 40 + 8 * i, 40) for i in range(11)]
    images += [np.zeros((40, 40, 3), np.uint8), np.zeros((1, 400, 3), np.uint8)]
    ladder = ("128", "640", "pad25")
    alone = [detect_ladder(detector, image, ladder) for image in images]
    together = detect_all(detector, images, ladder)
    assert {step for _, step in alone} >= {"128", "640", ""}
    for (found, step), (expected, rung) in zip(together, alone, strict=True):
        assert step == rung
        for got, want in zip(found, expected, strict=True):
            np.testing.assert_array_equal(got, want)


def test_pad25_repeats_the_first_rung_and_answers_in_pixels_of_the_image() -> None:
    detector = Loose()
    image = canvas(99, 202, 0, 10)
    found, rung = detect_ladder(detector, image, ("320", "640", "pad25", "128"))
    assert rung == "pad25"
    # int(99/4) = 24 rows and int(202/4) = 50 columns on each side
    assert detector.asked == [("320", (99, 202, 3)), ("640", (99, 202, 3)), ("320", (147, 302, 3))]
    np.testing.assert_array_equal(found.boxes, [[0, 10, 8, 18]])
    np.testing.assert_array_equal(found.points[0], np.tile([4, 14], (5, 1)))


def test_no_rung_finds_a_face() -> None:
    found, rung = detect_ladder(Loose(), np.zeros((50, 50, 3), np.uint8), ("320", "pad25"))
    assert rung == ""
    assert [a.shape for a in found] == [(0, 4), (0, 5, 2), (0,)]


def test_pad25_is_grey() -> None:
    image = np.arange(8 * 12 * 3, dtype=np.uint8).reshape(8, 12, 3)
    padded, (left, top) = pad25(image)
    assert (left, top) == (3, 2)
    np.testing.assert_array_equal(padded, np.pad(image, ((2, 2), (3, 3), (0, 0)), constant_values=128))


def test_largest_is_by_area_and_the_last_of_equals() -> None:
    boxes = np.array([[0, 0, 9, 9], [0, 0, 2, 60], [5, 5, 17, 15], [0, 0, 10, 12]], np.float32)
    detections = Detections(boxes, np.zeros((4, 5, 2), np.float32), np.array([0.9, 0.8, 0.5, 0.4], np.float32))
    assert largest(detections) == 3
    with pytest.raises(ValueError, match="no face"):
        largest(no_faces())


@pytest.fixture(scope="module")
def scrfd(assets: Path) -> Scrfd:
    return Scrfd(assets / "models/insightface/models/small_y1/det_scrfd_2.5g.onnx", "0" * 64)


@pytest.mark.parametrize("rung", ["320", "640"])
def test_scrfd_is_face_analysis(scrfd: Scrfd, assets: Path, six_people: np.ndarray, rung: str) -> None:
    from insightface.app import FaceAnalysis

    app = FaceAnalysis("small_y1", root=str(assets / "models/insightface"), allowed_modules=["detection"])
    app.prepare(0, det_size=(int(rung), int(rung)), det_thresh=0.5)
    for image in (six_people, data.astronaut()):
        faces = app.get(np.ascontiguousarray(image[:, :, ::-1]))
        found = scrfd.detect(image, rung)
        np.testing.assert_allclose(found.boxes, [f.bbox for f in faces], atol=1e-3)
        np.testing.assert_allclose(found.points, [f.kps for f in faces], atol=1e-3)
        np.testing.assert_allclose(found.scores, [f.det_score for f in faces], atol=1e-5)


def test_both_detectors_find_photographs_of_turned_heads(scrfd: Scrfd, mtcnn: Mtcnn, assets: Path) -> None:
    """One frontal and one profile photograph of each of twenty people; on all 280 see docs/metrics.md."""
    steps: dict[str, list[str]] = {"scrfd": [], "mtcnn": []}
    apart = []
    for folder in sorted((assets / "images/cfp").iterdir()):
        for kind in ("frontal", "profile"):
            image = cv2.imread(str(folder / kind / "01.jpg"))[:, :, ::-1].copy()
            a, step = detect_ladder(scrfd, image, ("320", "640", "pad25", "128"))
            b, other = detect_ladder(mtcnn, image, ("full", "pad25"))
            steps["scrfd"].append(step)
            steps["mtcnn"].append(other)
            if kind == "frontal" and step and other:
                points = a.points[largest(a)]
                between = np.linalg.norm(points - b.points[largest(b)], axis=1).mean()
                apart.append(between / np.linalg.norm(points[1] - points[0]))
    assert steps["scrfd"].count("") == 0
    assert steps["mtcnn"].count("") <= 1
    assert np.median(apart) < 0.08
