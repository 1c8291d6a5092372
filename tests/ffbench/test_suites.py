from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ffbench.errors import UserError
from ffbench.image import ImageError, read_image
from ffbench.suites import embedded_suites, fetch_suite, load_suite, prepare_reference
from tests.ffbench.paths import PROMPTS, photo, video

HARD = 'He said "no",\nthen ../.. and 🙂, {braces} & <b>' + " word" * 600


def test_a_folder_of_photographs_meets_the_twenty_prompts(tmp_path: Path) -> None:
    folder = tmp_path / "My People"
    photo(folder / "Anna Böhm.png", 1)
    photo(folder / "李明.png", 2)
    photo(folder / "carl" / "one.png", 3)
    photo(folder / "carl" / "frontal-2.png", 4)
    photo(folder / ".hidden.png", 5)
    photo(folder / ".thumbs" / "x.png", 6)
    (folder / "notes.txt").write_text("x")
    suite = load_suite(folder)
    assert (suite.name, len(suite.cases), dict(suite.given)) == ("my-people", 60, {})
    people = {case.identity_id: case for case in suite.cases}
    assert set(people) == {"anna-bohm", "carl", "x" + _mark("李明")}
    assert [Path(one.path).name for one in people["carl"].references] == ["frontal-2.png", "one.png"]
    assert [one.view for one in people["carl"].references] == ["frontal", ""]
    assert "frontal" in people["carl"].tags
    assert Counter(case.prompt_id for case in suite.cases) == dict.fromkeys((case.prompt_id for case in suite.cases), 3)


def _mark(name: str) -> str:
    import hashlib

    return hashlib.sha256(name.encode()).hexdigest()[:8]


def test_the_version_changes_with_a_photograph_or_a_prompt(tmp_path: Path) -> None:
    photo(tmp_path / "a.png", 1)
    first = load_suite(tmp_path).version
    assert load_suite(tmp_path).version == first
    photo(tmp_path / "a.png", 2)
    second = load_suite(tmp_path).version
    (tmp_path / "prompts.txt").write_text("a person walks\n\nanother\n")
    suite = load_suite(tmp_path)
    assert len({first, second, suite.version}) == 3
    assert sorted(case.prompt for case in suite.cases) == ["a person walks", "another"]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_prompts_may_hold_anything(tmp_path: Path, suffix: str) -> None:
    photo(tmp_path / "a.png")
    path = tmp_path / f"prompts{suffix}"
    if suffix == ".jsonl":
        rows = [{"prompt_id": "../Hard 1", "prompt": HARD, "scene": "My Scene", "tags": ["large-pose", "occlusion"]}]
        path.write_text("\n".join(json.dumps(row) for row in rows))
    else:
        quoted = HARD.replace('"', '""')
        path.write_text(f'prompt_id,prompt,scene,tags\n../Hard 1,"{quoted}",My Scene,large-pose occlusion\n')
    (case,) = load_suite(tmp_path).cases
    assert case.prompt == HARD
    assert len(case.prompt) > 3000
    assert (case.case_id, case.tags) == ("a-hard-1", ("my-scene", "large-pose", "occlusion"))


def test_failed_prompts_of_a_language_model_are_left_out(tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    lines = [
        {"prompt_id": "x", "prompt": "a text", "status": "ok", "error": "", "number": 0, "provenance": {"seed": 1}},
        {"prompt_id": "", "prompt": "", "status": "failed", "error": "garbage", "number": 1, "provenance": {}},
    ]
    (tmp_path / "prompts.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert [case.prompt_id for case in load_suite(tmp_path).cases] == ["x"]


def test_a_table_of_identities(tmp_path: Path) -> None:
    photo(tmp_path / "in" / "a.png", 1)
    photo(tmp_path / "in" / "b.png", 2)
    table = tmp_path / "people.csv"
    table.write_text("identity,reference,view\nAnna,in/a.png,frontal\nAnna,in/b.png,non-frontal\nBob,in/b.png,\n")
    suite = load_suite(table)
    assert (suite.name, len(suite.cases)) == ("people", 40)
    views = {case.identity_id: [one.view for one in case.references] for case in suite.cases}
    assert views == {"anna": ["frontal", "non-frontal"], "bob": [""]}


def test_identities_csv_in_a_folder_counts_before_its_files(tmp_path: Path) -> None:
    photo(tmp_path / "a.png", 1)
    photo(tmp_path / "b.png", 2)
    (tmp_path / "identities.jsonl").write_text('{"identity": "Only", "reference": ["a.png", "b.png"]}\n')
    suite = load_suite(tmp_path)
    assert {case.identity_id: len(case.references) for case in suite.cases} == {"only": 2}


def test_a_table_of_cases(tmp_path: Path) -> None:
    photo(tmp_path / "a.png", 1)
    photo(tmp_path / "b.png", 2)
    table = tmp_path / "cases.csv"
    table.write_text("reference,prompt,prompt_id\na.png,one text,p\nb.png,one text,p\nb.png,other text,\n")
    cases = load_suite(table).cases
    assert sorted((case.identity_id, case.prompt) for case in cases) == [
        ("a", "one text"),
        ("b", "one text"),
        ("b", "other text"),
    ]
    assert {case.prompt_id for case in cases if case.prompt == "one text"} == {"p"}


def test_a_table_with_videos_is_a_suite_of_videos(tmp_path: Path) -> None:
    photo(tmp_path / "a.png", 1)
    video(tmp_path / "x.mp4")
    (tmp_path / "v.csv").write_text("video,reference\nx.mp4,a.png\n")
    suite = load_suite(tmp_path / "v.csv")
    assert suite.given == {"x": (tmp_path / "x.mp4").resolve()}


@pytest.mark.parametrize(
    ("files", "what"),
    [
        ({}, "holds no photographs"),
        ({"Anna B.png": 1, "anna-b.png": 2}, "'Anna B' and 'anna-b' both have the id"),
        ({"a.png": 1, "a.jpg": 2}, "holds 'a' more than once: a.jpg, a.png"),
        ({"a.png": 1, "a/x.png": 2}, "holds 'a' more than once"),
        ({"a.png": 1, "prompts.txt": "  \n", "": None}, "holds no prompts"),
        ({"a.png": 1, "prompts.txt": "x", "prompts.csv": "prompt\nx\n"}, "prompts.csv and prompts.txt"),
        ({"a.png": 1, "prompts.csv": "prompt_id,prompt\nx,1\nx,2\n"}, "prompts.csv:3 repeats the prompt 'x' of line 2"),
        ({"a.png": 1, "prompts.csv": "prompt_id,prompt\nA b,1\na-b,2\n"}, "both have the id 'a-b'"),
        ({"a.png": 1, "prompts.csv": "prompt_id\nx\n"}, "has no 'prompt'"),
        ({"a.png": 1, "identities.csv": "identity,reference\nx,gone.png\n"}, "gone.png cannot be read"),
        ({"a.png": 1, "identities.csv": "reference,view\na.png,left\n"}, "no view 'left'"),
        ({"a.png": 1, "identities.csv": "identity,reference\nx,;\n"}, "has no 'reference'"),
    ],
)
def test_bad_folders_are_refused_in_two_lines(tmp_path: Path, files: dict[str, int | str], what: str) -> None:
    for name, content in files.items():
        if isinstance(content, int):
            picture = photo(tmp_path / Path(name).with_suffix(".png"), content)
            picture.replace(tmp_path / name)
            if name == "a.jpg" or name == "a/x.png":
                photo(tmp_path / "a.png", 1)
        elif content:
            (tmp_path / name).write_text(content)
    with pytest.raises(UserError) as caught:
        load_suite(tmp_path)
    assert what in caught.value.what
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("prompt\nx\n", "names no photographs"),
        ("reference,prompt\na.png,x\na.png,\n", "t.csv:3 has no 'prompt'"),
        ("reference,prompt,prompt_id\na.png,x,p\na.png,y,p\n", "prompt_id 'p' has two texts"),
        ("reference,prompt\na.png,x\na.png,x\n", "are both the case"),
    ],
)
def test_bad_tables_of_cases_are_refused(tmp_path: Path, text: str, what: str) -> None:
    photo(tmp_path / "a.png")
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(UserError) as caught:
        load_suite(tmp_path / "t.csv")
    assert what in caught.value.what


def test_a_file_name_that_is_no_text(tmp_path: Path) -> None:
    photo(tmp_path / "a.png").replace(tmp_path / os.fsdecode(b"a\xff.png"))
    with pytest.raises(UserError, match=r"whose name is not UTF-8: .*a\\udcff") as caught:
        load_suite(tmp_path)
    str(caught.value).encode()


def test_nonfrontal_holds_each_person_twice(tmp_path: Path) -> None:
    for number, name in enumerate(("ann", "bob")):
        photo(tmp_path / name / "frontal.png", 2 * number)
        photo(tmp_path / name / "non-frontal.png", 2 * number + 1)
    suite = load_suite(f"nonfrontal:{tmp_path}")
    assert (suite.name, len(suite.cases)) == ("nonfrontal", 80)
    assert {case.identity_id for case in suite.cases} == {"ann", "bob"}
    for case in suite.cases:
        (one,) = case.references
        assert Path(one.path).stem == one.view
        assert one.view in case.tags
        assert case.case_id == f"{case.identity_id}-{one.view}-{case.prompt_id}"
    assert Counter(case.references[0].view for case in suite.cases) == {"frontal": 40, "non-frontal": 40}
    assert "not public" in suite.notes[0]
    (tmp_path / "bob" / "non-frontal.png").unlink()
    with pytest.raises(UserError, match="bob has no non-frontal photograph"):
        load_suite(f"nonfrontal:{tmp_path}")


def test_nonfrontal_from_a_table(tmp_path: Path) -> None:
    photo(tmp_path / "a.png", 1)
    photo(tmp_path / "b.png", 2)
    (tmp_path / "t.csv").write_text("identity,reference,view\nx,a.png,frontal\nx,b.png,non-frontal\n")
    assert len(load_suite(f"nonfrontal:{tmp_path / 't.csv'}").cases) == 40


@pytest.mark.parametrize(
    ("name", "what", "fix"),
    [
        ("nonfrontal", "not public", "nonfrontal:FOLDER"),
        ("nonfrontal:gone", "gone is no folder", "folder"),
        ("photo", "there is no suite 'photo'", "photos, paper, nonfrontal"),
    ],
)
def test_unknown_and_missing_suites_say_what_to_do(name: str, what: str, fix: str) -> None:
    with pytest.raises(UserError) as caught:
        load_suite(name)
    assert what in caught.value.what
    assert fix in caught.value.fix


def test_the_list_names_every_suite() -> None:
    assert list(embedded_suites()) == ["mini", "mini-views", "photos", "paper", "nonfrontal"]
    with pytest.raises(UserError, match="nothing to fetch for a suite 'photos'"):
        fetch_suite("photos")


def test_a_prepared_reference_is_an_upright_rgb_png_of_the_content(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    pixels = np.zeros((20, 30, 3), np.uint8)
    pixels[:, :15] = (255, 0, 0)
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    made = prepare_reference(tmp_path / "turned.png", tmp_path / "cache")
    with Image.open(made) as image:
        assert (image.format, image.mode, image.size) == ("PNG", "RGB", (20, 30))
        assert image.getpixel((10, 2)) == (255, 0, 0)
        assert image.getpixel((10, 28)) == (0, 0, 0)
    again = tmp_path / "copy of it.png"
    again.write_bytes((tmp_path / "turned.png").read_bytes())
    before = made.stat().st_mtime_ns
    assert prepare_reference(again, tmp_path / "cache") == made
    assert made.stat().st_mtime_ns == before


@pytest.mark.parametrize("mode", ["CMYK", "L", "P", "RGBA", "I;16"])
def test_every_colour_mode_is_prepared(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "x.tiff"
    Image.new(mode, (9, 7)).save(path)
    assert read_image(prepare_reference(path, tmp_path)).shape == (7, 9, 3)


def test_a_broken_photograph_is_no_user_error(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"0" * 40)
    with pytest.raises(ImageError):
        prepare_reference(tmp_path / "x.png", tmp_path)
    with pytest.raises(FileNotFoundError):
        prepare_reference(tmp_path / "gone.png", tmp_path)
    assert list(tmp_path.iterdir()) == [tmp_path / "x.png"]


def test_scene_data_lies_with_the_prompts() -> None:
    assert (PROMPTS / "prompts.toml").is_file()
