from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image

from ffbench.page.strips import COLUMN, chart, face, scatter, shown_frames, strip


@pytest.mark.parametrize(("total", "expected"), [(1, [0]), (3, [0, 1, 2]), (16, [0, 2, 4, 6, 9, 11, 13, 15])])
def test_shown_frames_hold_the_first_and_the_last(total: int, expected: list[int]) -> None:
    assert shown_frames(total) == expected


def test_a_strip_shows_frames_above_their_faces() -> None:
    frames = np.zeros((3, 60, 80, 3), np.uint8)
    frames[0, 20:40, 30:50] = (255, 0, 0)
    frames[1] = (0, 0, 255)
    boxes = np.float32([[30, 20, 50, 40], [0, 0, 80, 60], [math.nan] * 4])
    picture = np.asarray(strip(frames, boxes))
    assert picture.shape == (90 + COLUMN, 3 * COLUMN, 3)
    # the face of the first frame fills the middle of its square, in the right colour order
    assert tuple(picture[90 + COLUMN // 2, COLUMN // 2]) == (255, 0, 0)
    assert tuple(picture[45, COLUMN + 60]) == (0, 0, 255)
    # what has no face is neither black nor a copy of the frame
    hatched = picture[90:, 2 * COLUMN :]
    assert len({tuple(pixel) for pixel in hatched.reshape(-1, 3).tolist()}) == 2


def test_a_face_crop_is_centred_and_grey_outside_the_picture() -> None:
    picture = Image.new("RGB", (40, 40), (10, 200, 10))
    crop = np.asarray(face(picture, np.float32([-10, 10, 10, 30])))
    assert crop.shape == (COLUMN, COLUMN, 3)
    assert tuple(crop[COLUMN // 2, 5]) == (104, 104, 104)
    assert tuple(crop[COLUMN // 2, COLUMN - 5]) == (10, 200, 10)
    assert np.asarray(face(picture, np.float32([90, 90, 99, 99]))).max() == 104


def test_a_chart_places_means_and_intervals() -> None:
    nan = math.nan
    series = {
        "a": [(0.8, 0.7, 0.9), (nan, nan, nan), (0.4, nan, nan), (0.2, 0.1, 0.3)],
        "still": [(0.9, 0.9, 0.9), (nan, nan, nan), (nan, nan, nan), (nan, nan, nan)],
    }
    made = chart(["0-15°", "15-30°", "30-45°", "45-60°"], series, ["still"])
    assert [name for _, name in made.columns] == ["0-15°", "15-30°", "30-45°", "45-60°"]
    assert [name for _, name in made.levels] == ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]
    a, still = made.lines
    assert (a.control, still.control) == (False, True)
    assert len(a.points) == 1
    assert len(a.points[0].split()) == 2
    heights = {name: y for y, name in made.levels}
    assert [dot.y for dot in a.dots] == [heights["0.8"], heights["0.4"], heights["0.2"]]
    assert len(a.bars) == 2
    assert a.bars[0][1] < a.dots[0].y < a.bars[0][2]
    assert still.points == ()
    empty = chart(["0-15°"], {"a": [(nan, nan, nan)]}, [])
    assert empty.lines[0].dots == ()
    below = chart(["0-15°"], {"a": [(-0.1, -0.3, 0.1)]}, [])
    assert below.levels[0][1] == "-0.4"


def test_a_scatter_places_methods_by_both_numbers_and_keeps_their_names_apart() -> None:
    nan = math.nan
    made = scatter(
        {
            "still": ((0.0, 0.0, 0.0), (0.9, 0.8, 1.0)),
            "a": ((60.0, 50.0, 70.0), (0.4, 0.3, 0.5)),
            "b": ((61.0, nan, nan), (0.41, nan, nan)),
            "faceless": ((nan, nan, nan), (nan, nan, nan)),
            "wide": ((100.0, 90.0, 110.0), (-0.1, -0.2, 0.0)),
        },
        ["still"],
        30.0,
    )
    still, a, b, wide = made.marks
    assert [mark.label for mark in made.marks if mark.control] == ["still"]
    across = {name: x for x, name in made.columns}
    heights = {name: y for y, name in made.levels}
    assert list(across) == ["0", "30", "60", "90", "120"]
    assert list(heights) == ["-0.2", "0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]
    assert still.x == across["0"]
    assert (a.x, a.y) == (across["60"], heights["0.4"])
    assert a.across[0] < a.x < a.across[1]
    assert a.along == (
        pytest.approx((heights["0.4"] + heights["0.6"]) / 2),
        pytest.approx((heights["0.2"] + heights["0.4"]) / 2),
    )
    assert b.across == (b.x, b.x)
    assert abs(a.name_y - b.name_y) >= 13
    assert (a.side, wide.side) == ("start", "end")
    assert scatter({"x": ((nan,) * 3, (nan,) * 3)}, [], 30.0).marks == ()
