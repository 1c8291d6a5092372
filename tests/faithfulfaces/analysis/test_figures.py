"""The pictures: what they show, how large the letters are, and that their bytes repeat."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from faithfulfaces.analysis import figures
from faithfulfaces.analysis.measure import Faces, IdentityMap, LossCurve, Point, look_at_dictionary
from ffbench.figures.style import COLOURS, COLUMN, PAGE, save


def made_up_faces(groups: int = 5) -> Faces:
    euler = np.array([(0, 0, 0), (0, 45, 0), (0, -45, 0), (45, 0, 0), (-45, 0, 0)][:groups] * 20, np.float32)
    rng = np.random.default_rng(0)
    top = np.stack([rng.permutation(np.arange(12) + 5 * (i % groups))[:10] for i in range(len(euler))])
    names = [f"p{i // groups}" for i in range(len(euler))]
    return Faces(names, euler, rng.normal(size=(len(euler), 4)).astype(np.float32), top, [(i, 0) for i in range(20)])


def identity_map(of: str, people: int = 7) -> IdentityMap:
    points = tuple(Point(f"p{i:02d}", 0, 0, 0, i + 0.1 * k, -i + 0.1 * k) for i in range(people) for k in range(8))
    return IdentityMap(of, 0.5, 0.4, 0.1, points)


def dictionary_picture(groups: int = 5) -> tuple[Figure, object]:
    report = look_at_dictionary(made_up_faces(groups), 4096, permutations=9)
    crop = np.full((8, 8, 3), 200, np.uint8)
    return figures.draw_dictionary(report, {name: [crop] * 3 for name in report.table}), report


CURVE = LossCurve(tuple(range(500)), tuple(4 / (1 + i) for i in range(500)), (1.0,) * 500, 0.01)


@pytest.mark.parametrize("kind", ["dictionary", "one group", "identities", "one panel", "loss"])
def test_every_letter_is_7_points_and_inside_a_picture_of_a_columns_or_pages_width(kind: str, tmp_path: Path) -> None:
    figure = {
        "dictionary": lambda: dictionary_picture()[0],
        "one group": lambda: dictionary_picture(1)[0],
        "identities": lambda: figures.draw_identities([identity_map(of) for of in "abc"]),
        "one panel": lambda: figures.draw_identities([identity_map("S")]),
        "loss": lambda: figures.draw_loss(CURVE),
    }[kind]()
    save(figure, tmp_path, "picture")
    assert figure.get_figwidth() in (COLUMN, PAGE)
    words = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text()]
    assert words and min(text.get_fontsize() for text in words) >= 7
    # ink at the rim would be something cut off
    with Image.open(tmp_path / "picture.png") as image:
        ink = np.asarray(image.convert("L")) < 250
    assert ink.any() and not (ink[0].any() or ink[-1].any() or ink[:, 0].any() or ink[:, -1].any())


def test_files_are_png_and_pdf_and_repeat(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        paths = save(figures.draw_loss(CURVE), tmp_path / folder, "loss")
        assert [path.name for path in paths] == ["loss.png", "loss.pdf"]
    for name in ("loss.png", "loss.pdf"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    with Image.open(tmp_path / "a/loss.png") as image:
        assert image.width == round(COLUMN * 300) and len(np.unique(np.asarray(image.convert("L")))) > 20
    assert (tmp_path / "a/loss.pdf").read_bytes().startswith(b"%PDF")


def test_the_dictionary_shows_the_table_and_names_groups_and_elements() -> None:
    figure, report = dictionary_picture()
    left, right = figure.axes[:2]
    table = np.array(right.images[0].get_array())
    assert table == pytest.approx(np.array([report.table[name] for name in report.table]))
    assert [text.get_text() for text in right.get_xticklabels()] == [str(column) for column in report.columns]
    assert [text.get_text() for text in right.get_yticklabels()] == [
        f"{name}\n20 faces" for name in ("frontal", "left", "right", "up", "down")
    ]
    # three faces of 8 px for each of five groups
    assert left.images[0].get_array().shape == (40, 24, 3)


def test_groups_without_faces_are_left_out() -> None:
    figure, _ = dictionary_picture(2)
    assert len(figure.axes[1].get_yticklabels()) == 2


def test_people_have_a_colour_and_a_marker_of_their_own_in_all_panels() -> None:
    figure = figures.draw_identities([identity_map("pixels", 9), identity_map("S", 9)])
    looks = []
    for axes in figure.axes:
        looks.append([(tuple(c.get_facecolor()[0]), c.get_paths()[0].vertices.tobytes()) for c in axes.collections])
        assert "silhouette 0.50" in axes.get_title()
    assert looks[0] == looks[1] and len(set(looks[0])) == 9
    xy = figure.axes[1].collections[3].get_offsets()
    assert np.asarray(xy) == pytest.approx(np.array([(3 + 0.1 * k, -3 + 0.1 * k) for k in range(8)]))


def seen_by(matrix: list[list[float]], colour: str) -> np.ndarray:
    """A colour as a dichromat sees it: linear RGB through a published matrix, back to sRGB."""
    rgb = np.array(to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    out = (np.array(matrix) @ linear).clip(0, 1)
    return np.where(out <= 0.0031308, out * 12.92, 1.055 * out ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize(
    "matrix",
    [
        # Machado, Oliveira and Fernandes (2009), severity 1: protanopia, deuteranopia
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    ],
)
def test_colours_stay_apart_for_colour_blind_people(matrix: list[list[float]]) -> None:
    from skimage.color import deltaE_ciede2000, rgb2lab

    lab = [rgb2lab(seen_by(matrix, colour)[None, None])[0, 0] for colour in COLOURS]
    apart = [float(deltaE_ciede2000(a, b)) for i, a in enumerate(lab) for b in lab[:i]]
    # 2.3 is a just noticeable difference
    assert min(apart) > 7


def test_the_running_mean_leaves_out_what_is_missing() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=400)
    values[[0, 17, 18]] = np.nan
    values[100:120] = np.nan
    expected = []
    for i in range(400):
        near = values[max(0, i - 4) : i + 5]
        expected.append(near[np.isfinite(near)].mean() if np.isfinite(near).any() else np.nan)
    assert figures.running_mean(list(values)) == pytest.approx(np.array(expected), nan_ok=True)
    assert np.isnan(figures.running_mean(list(values))[110])
    assert figures.running_mean([1.0, 2.0]).tolist() == [1.0, 2.0], "a short series is left as it is"


def test_the_loss_shows_every_value_and_a_second_curve_only_where_there_is_one() -> None:
    both, alone = figures.draw_loss(CURVE), figures.draw_loss(LossCurve(CURVE.steps, CURVE.loss_pia, (), 0.01))
    assert len(both.axes) == 2 and len(alone.axes) == 1
    logged, mean = both.axes[0].lines
    assert tuple(logged.get_ydata()) == CURVE.loss_pia
    assert mean.get_ydata().tolist() == figures.running_mean(CURVE.loss_pia).tolist()
    assert tuple(both.axes[1].lines[0].get_ydata()) == CURVE.loss_fm
    short = figures.draw_loss(LossCurve((1, 2), (2.0, 1.0), (), 1.0))
    assert len(short.axes[0].lines) == 1 and short.axes[0].get_legend() is None
    assert both.axes[0].get_legend() is not None
