"""Every defect against its definition: which frames change, to what, and where nothing may."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from ffbench.metrics.catalog import METRICS
from ffbench.truth.defects import (
    DEFECTS,
    GREY,
    HEAD,
    Shot,
    blurred,
    faceless,
    fitted,
    frozen,
    recoloured,
    still,
    swapped,
    swapped_late,
)

BOX = (20.0, 16.0, 40.0, 48.0)


def shot(seed: int, faces: list[int], count: int = 10, size: tuple[int, int] = (64, 64)) -> Shot:
    rng = np.random.default_rng(seed)
    box = np.full((count, 4), np.nan, np.float32)
    yaw = np.full(count, np.nan, np.float32)
    box[faces] = BOX
    yaw[faces] = rng.permutation(len(faces)) * 10.0
    pixels = rng.integers(0, 256, (count, *size, 3), np.uint8)
    return Shot(pixels, box, yaw, rng.integers(0, 256, (96, 96, 3), np.uint8))


def changed(before: Shot, after: np.ndarray) -> list[int]:
    assert after.dtype == np.uint8
    assert after.shape == before.pixels.shape
    return np.flatnonzero((after != before.pixels).any((1, 2, 3))).tolist()


MINE, THEIRS = shot(0, [0, 2, 3, 4, 5, 6, 7, 8]), shot(1, [1, 2, 3, 4, 5, 6, 7, 8, 9])


@pytest.mark.parametrize(("share", "count"), [(0.1, 1), (0.3, 2), (0.45, 4), (0.5, 4), (1.0, 8), (0.01, 1)])
def test_swap_replaces_a_share_of_the_frames_with_a_face(share: float, count: int) -> None:
    out = swapped(MINE, THEIRS, share, np.random.default_rng(0))
    touched = changed(MINE, out)
    assert len(touched) == count
    assert set(touched) <= set(MINE.shown.tolist())
    for t in touched:
        same = [j for j in range(10) if np.array_equal(out[t], THEIRS.pixels[j])]
        assert same == [j for j in THEIRS.shown if THEIRS.yaw[j] == min(MINE.yaw[t], THEIRS.yaw[1:].max())]


def test_swap_follows_the_place_where_a_yaw_is_unknown() -> None:
    blind = Shot(THEIRS.pixels, THEIRS.box, np.full(10, np.nan, np.float32), THEIRS.photo)
    out = swapped(MINE, blind, 1.0, np.random.default_rng(0))
    for t in MINE.shown:
        assert np.array_equal(out[t], THEIRS.pixels[max(1, t)])


def test_swap_differs_with_the_random_numbers() -> None:
    picks = {tuple(changed(MINE, swapped(MINE, THEIRS, 0.5, np.random.default_rng(s)))) for s in range(5)}
    assert len(picks) > 1


def test_late_swap_takes_the_second_half_of_the_faces() -> None:
    assert changed(MINE, swapped_late(MINE, THEIRS)) == [5, 6, 7, 8]


@pytest.mark.parametrize("other", [None, shot(2, [])])
def test_swap_needs_another_person_with_a_face(other: Shot | None) -> None:
    with pytest.raises(ValueError, match="another person"):
        swapped(MINE, other, 0.5, np.random.default_rng(0))


@pytest.mark.parametrize("defect", [d for d in DEFECTS if d.name not in ("still", "RGB->BGR")], ids=lambda d: d.name)
def test_a_video_without_a_face_has_no_such_defect(defect: object) -> None:
    with pytest.raises(ValueError, match="no face was found"):
        defect.apply(shot(3, []), THEIRS, np.random.default_rng(0))


def test_blur_is_a_gaussian_in_shares_of_the_face() -> None:
    point = np.zeros((2, 65, 65, 3), np.uint8)
    point[:, 32, 32] = 255
    box = np.tile(np.array(BOX, np.float32), (2, 1))
    out = blurred(Shot(point, box, np.zeros(2, np.float32), point[0]), 0.05)
    sigma = 0.05 * (BOX[3] - BOX[1])
    x = np.arange(65) - 32
    kernel = np.exp(-(x**2) / (2 * sigma**2))
    kernel /= kernel.sum()
    assert np.abs(out[0, ..., 0] - 255 * np.outer(kernel, kernel)).max() <= 1.5
    assert np.array_equal(out[0], out[1])


def test_frozen_repeats_the_first_frame_with_a_face() -> None:
    late = shot(4, [3, 4])
    assert np.array_equal(frozen(late), np.repeat(late.pixels[3:4], 10, 0))


def test_still_shows_the_whole_photograph() -> None:
    wide = shot(5, [0], size=(64, 96))
    out = still(wide)
    assert (out == out[:1]).all()
    assert (out[0, :, :16] == GREY).all()
    assert (out[0, :, 80:] == GREY).all()
    assert np.array_equal(out[0, :, 16:80], cv2.resize(wide.photo, (64, 64), interpolation=cv2.INTER_AREA))


def test_red_and_blue_are_exchanged() -> None:
    out = recoloured(MINE)
    assert np.array_equal(out[..., 0], MINE.pixels[..., 2])
    assert np.array_equal(out[..., 1], MINE.pixels[..., 1])


def test_faceless_paints_heads_and_nothing_else() -> None:
    out = faceless(MINE, 0.3, np.random.default_rng(0))
    touched = changed(MINE, out)
    assert len(touched) == round(0.3 * 8)
    assert set(touched) <= set(MINE.shown.tolist())
    grey = (out[touched[0]] == GREY).all(2)
    rows, columns = np.flatnonzero(grey.sum(1) > 30), np.flatnonzero(grey.sum(0) > 30)
    wide, high = HEAD * 20 / 2, HEAD * 32 / 2
    assert (rows[0], rows[-1] + 1) == (round(32 - high), round(32 + high))
    assert (columns[0], columns[-1] + 1) == (round(30 - wide), round(30 + wide))
    assert np.array_equal(out[touched[0]][~grey], MINE.pixels[touched[0]][~grey])


def test_fitted_keeps_the_shape_of_what_it_shows() -> None:
    image = np.zeros((10, 20, 3), np.uint8)
    out = fitted(image, 40, 40)
    assert (out[10:30] == 0).all()
    assert (out[:10] == GREY).all()
    assert (out[30:] == GREY).all()
    assert np.array_equal(fitted(MINE.photo, 96, 96), MINE.photo)


def test_the_input_stays_as_it_was() -> None:
    before = MINE.pixels.copy()
    for defect in DEFECTS:
        defect.apply(MINE, THEIRS, np.random.default_rng(0))
    assert np.array_equal(MINE.pixels, before)


def test_every_defect_concerns_metrics_that_exist() -> None:
    assert len({defect.name for defect in DEFECTS}) == len(DEFECTS)
    for defect in DEFECTS:
        assert defect.concerns
        assert set(defect.concerns) <= set(METRICS)
