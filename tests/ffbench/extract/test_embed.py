from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
import torch
from insightface.model_zoo.arcface_onnx import ArcFaceONNX
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from ffbench.errors import UserError
from ffbench.extract.curricular import CurricularBackbone
from ffbench.extract.embed import ArcFaceOnnx, CurricularFace, FaceNet, unit
from ffbench.extract.loading import CHUNK

Crops = NDArray[np.uint8]


def crops(count: int, side: int, seed: int = 0) -> Crops:
    """Smooth coloured images."""
    small = np.random.default_rng(seed).integers(0, 256, (count, 7, 7, 3), np.uint8)
    return np.stack([cv2.resize(image, (side, side), interpolation=cv2.INTER_CUBIC) for image in small])


def write_onnx(
    path: Path,
    *,
    batch: int | str = "n",
    inside: bool = False,
    side: int = 112,
    flat: tuple[int, int] = (-1, 196),
    outputs: int = 1,
) -> Path:
    """A small network of ArcFace's form, with the normalisation inside or not."""
    rng = np.random.default_rng(3)
    tensors = {
        "conv": rng.normal(size=(4, 3, 16, 16)).astype(np.float32) / 16,
        "dense": rng.normal(size=(196, 8)).astype(np.float32),
        "mean": np.float32(127.5),
        "scale": np.float32(1 / 128),
        "flat": np.array(flat, np.int64),
    }
    first = [
        helper.make_node("Sub", ["data", "mean"], ["a"], name="_minusscalar0"),
        helper.make_node("Mul", ["a", "scale"], ["b"], name="_mulscalar0"),
    ]
    rest = [
        helper.make_node("Conv", ["b" if inside else "data", "conv"], ["c"], strides=[16, 16], name="Conv_0"),
        helper.make_node("Relu", ["c"], ["d"], name="Relu_1"),
        helper.make_node("Reshape", ["d", "flat"], ["e"], name="Reshape_2"),
        helper.make_node("MatMul", ["e", "dense"], ["out0"], name="MatMul_3"),
        helper.make_node("Neg", ["out0"], ["out1"], name="Neg_4"),
    ]
    graph = helper.make_graph(
        [*(first if inside else []), *rest],
        "recogniser",
        [helper.make_tensor_value_info("data", TensorProto.FLOAT, [batch, 3, side, side])],
        [helper.make_tensor_value_info(f"out{i}", TensorProto.FLOAT, None) for i in range(outputs)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save_model(model, str(path))
    return path


def cosine_error(got: NDArray[Any], raw: NDArray[Any]) -> float:
    expected = raw.astype(np.float64) / np.linalg.norm(raw.astype(np.float64), axis=1, keepdims=True)
    return float(np.abs(got - expected).max())


def test_unit_has_length_one_or_no_direction() -> None:
    rows = unit(np.array([[3.0, 4.0], [0.0, 0.0], [np.nan, 1.0], [np.inf, 1.0], [1e-30, 0.0]]))
    np.testing.assert_allclose(rows[[0, 4]], [[0.6, 0.8], [1.0, 0.0]], rtol=1e-6)
    assert np.isnan(rows[1:4]).all()
    assert rows.dtype == np.float32
    assert unit(np.zeros((0, 5))).shape == (0, 5)


@pytest.mark.parametrize("inside", [False, True])
def test_arcface_is_insightface(tmp_path: Path, inside: bool) -> None:
    path = write_onnx(tmp_path / "rec.onnx", inside=inside)
    faces = crops(40, 112)
    raw = ArcFaceONNX(str(path)).get_feat([face[..., ::-1] for face in faces])
    net = ArcFaceOnnx(path, "ab" * 32)
    assert cosine_error(net(faces), raw) < 1e-6
    assert net.source == "align112"
    assert net.id == "arcface-onnx:rec.onnx@abababababab"
    # the other range or colour order would not have passed
    assert cosine_error(net(faces[..., ::-1]), raw) > 0.1


@pytest.mark.parametrize("pack", ["small_y1/rec_mobilefacenet_y1", "small_apache/rec_mobilefacenet_foamliu"])
def test_arcface_is_insightface_on_real_networks(assets: Path, pack: str) -> None:
    path = assets / "models" / "insightface" / "models" / f"{pack}.onnx"
    faces = crops(5, 112)
    raw = ArcFaceONNX(str(path)).get_feat([face[..., ::-1] for face in faces])
    assert cosine_error(ArcFaceOnnx(path, "0" * 64)(faces), raw) < 1e-6


@pytest.mark.parametrize("batch", [1, 3])
def test_a_fixed_batch_gives_the_same(tmp_path: Path, batch: int) -> None:
    faces = crops(5, 112)
    free = ArcFaceOnnx(write_onnx(tmp_path / "free.onnx"), "0" * 64)(faces)
    fixed = ArcFaceOnnx(write_onnx(tmp_path / "fixed.onnx", batch=batch, flat=(batch, 196)), "0" * 64)(faces)
    np.testing.assert_allclose(fixed, free, atol=1e-6)


@pytest.mark.parametrize("at_once", [1, 4])
def test_pieces_side_by_side_are_faces_alone(tmp_path: Path, at_once: int) -> None:
    """More faces than one call takes, and a number that no piece divides."""
    faces = crops(2 * CHUNK + 5, 112)
    net = ArcFaceOnnx(write_onnx(tmp_path / "rec.onnx"), "0" * 64)
    net._callers = at_once
    together = net(faces)
    np.testing.assert_allclose(together, np.concatenate([net(face[None]) for face in faces]), atol=1e-6)
    assert np.abs(together[1:] - together[:-1]).max(axis=1).min() > 0.01


@pytest.mark.parametrize(
    "form",
    [{"side": 128, "flat": (-1, 256)}, {"outputs": 2}, {"flat": (1, 196)}, {"flat": (1, -1)}],
)
def test_a_network_of_another_form_is_refused(tmp_path: Path, form: dict[str, Any]) -> None:
    path = write_onnx(tmp_path / "rec.onnx", **form)
    with pytest.raises(UserError, match=r"rec\.onnx"):
        ArcFaceOnnx(path, "0" * 64)


@pytest.fixture(scope="module")
def curricular(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("curricular") / "ir18.bin"
    torch.save(CurricularBackbone("ir18").state_dict(), path)
    return path


def test_curricular_is_consisids_recipe(curricular: Path) -> None:
    faces = crops(3, 224)
    net = CurricularBackbone("ir18").eval()
    net.load_state_dict(torch.load(curricular, weights_only=True))
    raw = []
    for face in faces:
        x = torch.from_numpy(cv2.resize(face, (112, 112)).transpose(2, 0, 1)).unsqueeze(0).float()
        with torch.no_grad():
            raw.append(net(x.div(255).sub(0.5).div(0.5)).numpy()[0])
    embedder = CurricularFace(curricular, "cd" * 32, "ir18")
    got = embedder(faces)
    assert cosine_error(got, np.stack(raw)) < 1e-5
    assert embedder.id == "curricular-ir18:ir18.bin@cdcdcdcdcdcd"
    assert embedder.source == "align224"
    np.testing.assert_allclose(np.linalg.norm(got, axis=1), 1, rtol=1e-6)
    assert cosine_error(embedder(faces[..., ::-1]), np.stack(raw)) > 1e-3


def test_curricular_names_what_does_not_fit(curricular: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"does not hold CurricularFace ir101: it lacks body"):
        CurricularFace(curricular, "0" * 64, "ir101")
    state = torch.load(curricular, weights_only=True)
    torch.save({**state, "more": torch.zeros(1)}, tmp_path / "more.bin")
    with pytest.raises(UserError, match="unknown more"):
        CurricularFace(tmp_path / "more.bin", "0" * 64, "ir18")
    torch.save({**state, "input_layer.2.weight": torch.zeros(3)}, tmp_path / "shape.bin")
    with pytest.raises(UserError, match=r"another shape for input_layer\.2\.weight"):
        CurricularFace(tmp_path / "shape.bin", "0" * 64, "ir18")


def test_old_checkpoints_and_half_precision_load(curricular: Path, tmp_path: Path) -> None:
    state = torch.load(curricular, weights_only=True)
    old = {k: v.half() if v.is_floating_point() else v for k, v in state.items() if not k.endswith("tracked")}
    torch.save(old, tmp_path / "old.bin")
    faces = crops(2, 224)
    before, after = (CurricularFace(path, "0" * 64, "ir18")(faces) for path in (curricular, tmp_path / "old.bin"))
    assert (before * after).sum(1).min() > 0.9999


def test_facenet_is_facenet_pytorch(tmp_path: Path) -> None:
    from facenet_pytorch import InceptionResnetV1, fixed_image_standardization

    torch.manual_seed(0)
    oracle = InceptionResnetV1(pretrained=None, classify=True, num_classes=8631).eval()
    torch.save(oracle.state_dict(), tmp_path / "vgg.pt")
    oracle.classify = False
    faces = crops(3, 160)
    with torch.no_grad():
        raw = oracle(fixed_image_standardization(torch.from_numpy(faces.transpose(0, 3, 1, 2)).float())).numpy()
    net = FaceNet(tmp_path / "vgg.pt", "ef" * 32)
    assert cosine_error(net(faces), raw) < 1e-5
    assert net.source == "box160"
    assert net.id == "facenet:vgg.pt@efefefefefef"
    with pytest.raises(ValueError, match=r"FaceNet takes uint8 \[N,160,160,3\] RGB, not uint8 \[3, 112, 112, 3\]"):
        net(crops(3, 112))
    assert net(np.zeros((0, 160, 160, 3), np.uint8)).shape == (0, 512)


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((2, 112, 112, 3), np.float32),
        np.zeros((2, 3, 112, 112), np.uint8),
        np.zeros((112, 112, 3), np.uint8),
        np.zeros((2, 224, 224, 3), np.uint8),
        np.zeros((2, 112, 112, 4), np.uint8),
    ],
)
def test_other_crops_are_refused(tmp_path: Path, wrong: Any) -> None:
    net = ArcFaceOnnx(write_onnx(tmp_path / "rec.onnx"), "0" * 64)
    with pytest.raises(ValueError, match=r"ArcFace takes uint8 \[N,112,112,3\] RGB, not"):
        net(wrong)


def test_no_crops_give_no_rows(tmp_path: Path, curricular: Path) -> None:
    assert ArcFaceOnnx(write_onnx(tmp_path / "r.onnx"), "0" * 64)(np.zeros((0, 112, 112, 3), np.uint8)).shape == (0, 8)
    assert CurricularFace(curricular, "0" * 64, "ir18")(np.zeros((0, 224, 224, 3), np.uint8)).shape == (0, 512)


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "cuda:99"])
def test_devices_that_are_not_there(curricular: Path, device: str) -> None:
    with pytest.raises(UserError, match=device):
        CurricularFace(curricular, "0" * 64, "ir18", device)


@pytest.mark.parametrize("pack", ["small_y1/rec_mobilefacenet_y1", "small_apache/rec_mobilefacenet_foamliu"])
def test_real_photographs_of_the_same_person_are_nearer(assets: Path, pack: str) -> None:
    """CFP, 20 people: frontal-frontal and frontal-profile against strangers.

    Measured: .71, .36, .01 (y1) and .70, .33, .02 (apache) over 60, 60 and 3040 pairs.
    """
    from ffbench.extract.align import align
    from ffbench.extract.detect import Scrfd, detect_ladder, largest

    folder = assets / "models" / "insightface" / "models"
    path = folder / f"{pack}.onnx"
    detector = Scrfd(folder / "small_y1" / "det_scrfd_2.5g.onnx", "0" * 64)
    people = sorted((assets / "images" / "cfp").iterdir())
    faces, rows = [], []
    for person, home in enumerate(people):
        for view, count in (("frontal", 3), ("profile", 1)):
            for photo in sorted((home / view).iterdir())[:count]:
                image = cv2.imread(str(photo))[..., ::-1]
                found, _ = detect_ladder(detector, image, ("320", "640", "pad25", "128"))
                faces.append(align(image, found.points[largest(found)], 112))
                rows.append((person, view))
    net = ArcFaceOnnx(path, hashlib.sha256(path.read_bytes()).hexdigest())
    emb = net(np.stack(faces))
    who, frontal = np.array([person for person, _ in rows]), np.array([view == "frontal" for _, view in rows])
    cosine, same = emb @ emb.T, who[:, None] == who
    upper = np.triu(np.ones_like(same), 1)
    both, mixed = frontal[:, None] & frontal, frontal[:, None] ^ frontal
    same_frontal = cosine[same & upper & both]
    same_turned = cosine[same & upper & mixed]
    strangers = cosine[~same & upper]
    assert (len(people), len(same_frontal), len(same_turned)) == (20, 60, 60)
    assert same_frontal.mean() > 0.6
    assert 0.2 < same_turned.mean() < 0.5
    assert abs(strangers.mean()) < 0.05
    swapped = net(np.stack(faces)[..., ::-1])
    assert (swapped * emb).sum(1).mean() < 0.98
