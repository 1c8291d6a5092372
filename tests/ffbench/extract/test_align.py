"""Alignment against scikit-image, InsightFace and OpenCV."""

import cv2
import numpy as np
import pytest
from skimage import data, transform

from ffbench.extract.align import ARCFACE_TEMPLATE, align, crop_box, enlarge, similarity


@pytest.fixture(scope="module")
def faces() -> np.ndarray:
    """Fifty sets of five points: the template turned, scaled, shifted, with noise."""
    rng = np.random.default_rng(0)
    angle, scale = rng.uniform(-np.pi, np.pi, 50), rng.uniform(0.2, 4, 50)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) * scale
    shift = rng.uniform(50, 400, (50, 1, 2))
    points = (ARCFACE_TEMPLATE - 56) @ turn.transpose(2, 1, 0) + shift + rng.normal(0, 3, (50, 5, 2))
    return points.astype(np.float32)


def test_similarity_is_the_least_squares_line_of_complex_numbers(faces: np.ndarray) -> None:
    """In the plane the solution has a closed form: a = sum(conj(p) q) / sum(|p|^2)."""
    for points in faces.astype(float):
        p, q = (v - v.mean(0) for v in (points, ARCFACE_TEMPLATE.astype(float)))
        a = np.vdot(p @ (1, 1j), q @ (1, 1j)) / np.square(p).sum()
        np.testing.assert_allclose(similarity(points, ARCFACE_TEMPLATE)[:, 0], [a.real, a.imag], atol=1e-9)


def test_similarity_is_scikit_images(faces: np.ndarray) -> None:
    for points in faces:
        expected = transform.SimilarityTransform.from_estimate(points.astype(float), ARCFACE_TEMPLATE)
        matrix = similarity(points.astype(float), ARCFACE_TEMPLATE)
        np.testing.assert_allclose(matrix, expected.params[:2], atol=1e-9)


def test_a_mirrored_face_is_turned_and_never_mirrored_back() -> None:
    mirrored = ARCFACE_TEMPLATE * (-1, 1)
    expected = transform.SimilarityTransform.from_estimate(mirrored, ARCFACE_TEMPLATE).params[:2]
    matrix = similarity(mirrored, ARCFACE_TEMPLATE)
    assert np.linalg.det(matrix[:, :2]) > 0
    np.testing.assert_allclose(matrix, expected, atol=1e-9)


@pytest.mark.filterwarnings("ignore:.*estimate.*:FutureWarning")
@pytest.mark.parametrize("size", [112, 224])
def test_align_has_the_pixels_of_insightface(faces: np.ndarray, size: int) -> None:
    from insightface.utils.face_align import norm_crop

    image = data.astronaut()
    for points in faces:
        crop = align(image, points, size)
        assert crop.shape == (size, size, 3)
        assert crop.dtype == np.uint8
        np.testing.assert_array_equal(crop, norm_crop(image, points, size))


@pytest.mark.parametrize(
    ("points", "words"),
    [(np.full((5, 2), 7.0), "all equal"), (np.full((5, 2), np.nan), "finite"), (np.zeros((4, 2)), "must both be")],
)
def test_unfit_points_are_refused(points: np.ndarray, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        align(np.zeros((8, 8, 3), np.uint8), points, 112)


@pytest.mark.parametrize("size", [0, 128, -112])
def test_only_multiples_of_the_template_are_sizes(size: int) -> None:
    with pytest.raises(ValueError, match="multiple of 112"):
        align(np.zeros((8, 8, 3), np.uint8), ARCFACE_TEMPLATE, size)


def test_enlarge_keeps_the_centre() -> None:
    box = enlarge(np.array([10.0, 20.0, 30.0, 60.0]), 1.5)
    np.testing.assert_allclose(box, [5, 10, 35, 70])
    assert box.dtype == np.float32


def test_crop_inside_the_image_is_a_resized_slice() -> None:
    image = data.astronaut()
    expected = cv2.resize(image[20:120, 30:150], (64, 64), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(crop_box(image, np.array([30.2, 19.8, 150.4, 120.0]), 64), expected)


@pytest.mark.parametrize(("border", "outside"), [("zero", 0), ("edge", 9)])
def test_crop_beyond_the_edge(border: str, outside: int) -> None:
    image = np.full((10, 10, 3), 9, np.uint8)
    crop = crop_box(image, np.array([-5.0, -5.0, 5.0, 5.0]), 10, border=border)  # type: ignore[arg-type]
    assert (crop[:5] == outside).all()
    assert (crop[:, :5] == outside).all()
    assert (crop[5:, 5:] == 9).all()


@pytest.mark.parametrize("box", [[np.nan, 0, 5, 5], [20, 0, 30, 5], [5, 5, 5, 9], [8, 8, 2, 2], [0, 0, np.inf, 5]])
def test_boxes_without_a_pixel_are_refused(box: list[float]) -> None:
    with pytest.raises(ValueError, match="box"):
        crop_box(np.zeros((10, 10, 3), np.uint8), np.array(box), 16)
