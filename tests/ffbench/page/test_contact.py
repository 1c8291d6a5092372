"""Contact sheets of real small videos: every person in order, each with the first, middle and last frame."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from ffbench.page.contact import FRAMES, PEOPLE, SIDE, contact_sheet, spread
from ffbench.page.write import Gallery, write_page
from ffbench.tables.rows import Row, load_rows
from ffbench.tables.sheet import sheet
from ffbench.video import read_clip
from tests.ffbench.scored_runs import Made, cases, make_run

PROMPTS = (("gym", "boxes in a gym"), ("park", "dances in a park"))


def row(folder: Path, made: Made, people: int = 3) -> Row:
    suite = cases(folder / "people", people, PROMPTS)
    run = make_run(folder / "runs", made, suite, with_videos=True)
    (found,) = load_rows(run, next(iter(run.meta()["scoring"])))
    return found


def test_a_line_a_person_and_a_cell_a_video(tmp_path: Path) -> None:
    found = row(tmp_path, Made("ours", 0.5, failed=("id01-park",)))
    made = contact_sheet(found)
    assert made is not None
    width = round(SIDE * 56 / 48)
    assert made.size == (SIDE + 2 * (FRAMES * width + 6), 3 * (SIDE + 2) - 2)
    pixels = np.asarray(made, np.int64)
    # the failed one is grey, all of it
    left = SIDE + 6 + FRAMES * width + 6
    assert (pixels[SIDE + 2 : 2 * SIDE + 2, left : left + FRAMES * width] == 104).all()
    # the last frame of the first person's first video
    generation = found.generations["id00-gym", 0]
    last = read_clip(found.run.video(generation), ["time16"]).frames["time16"].pixels[-1]
    cell = pixels[:SIDE, SIDE + 6 + 2 * width : SIDE + 6 + 3 * width]
    assert np.abs(cell.mean((0, 1)) - last.mean((0, 1))).max() < 2


def test_nothing_to_show_is_no_sheet(tmp_path: Path) -> None:
    found = row(tmp_path, Made("ours", 0.5), people=1)
    for video in (tmp_path / "runs").rglob("*.mp4"):
        video.write_bytes(b"torn")
    assert contact_sheet(found) is None
    assert contact_sheet(replace(found, generations={})) is None


def test_people_are_spread_and_few() -> None:
    assert spread(range(30), PEOPLE) == list(range(0, 30, 3))
    assert spread("ab", 6) == ["a", "b"]
    assert spread((), 6) == []


def test_the_page_shows_the_sheet_of_every_method(tmp_path: Path) -> None:
    found = row(tmp_path, Made("ours", 0.5))
    page = write_page(Gallery(sheet([found]), [found], tmp_path / "page"))
    html = page.path.read_text("utf-8")
    assert html.count('<img class="contact"') == 1
    with Image.open(tmp_path / "page" / "contact" / "00.jpg") as picture:
        wanted = contact_sheet(found)
        assert wanted is not None
        assert picture.size == wanted.size
