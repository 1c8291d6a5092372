from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import cv2
import numpy as np
import pytest
from PIL import Image

from ffbench.extract.align import align
from ffbench.metrics.catalog import METRICS
from ffbench.page.data import as_script, pack
from ffbench.page.write import TEMPLATES, Gallery, choose, write_page
from ffbench.records import Case
from ffbench.tables.rows import Row, load_rows
from ffbench.tables.sheet import sheet
from tests.ffbench.page.conftest import EVIL
from tests.ffbench.scored_runs import MISSING, Made, cases, make_run

PLACES = tuple(
    re.findall(
        r"\w+", re.search(r"const \[(status.*?)\] = one;", (TEMPLATES / "page_data.js").read_text("utf-8"), re.S)[1]
    )
)


class Page(HTMLParser):
    """What a browser would see: tags with attributes, and the text outside scripts and styles."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, Mapping[str, str | None]]] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.raw: dict[str, str] = {}
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in {"meta", "img", "input", "br"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in {"script", "style"}:
            kind = "data" if self.tags[-1] == ("script", {"type": "application/json", "id": "data"}) else self.open[-1]
            self.raw[kind] = self.raw.get(kind, "") + data
        else:
            self.text.append(data)

    @property
    def data_text(self) -> str:
        return self.raw["data"]

    @property
    def data(self) -> dict[str, Any]:
        return dict(json.loads(self.data_text))

    def video(self, label: str, case: str) -> dict[str, Any] | None:
        """What the page knows of one video, by the names that the script gives to its places."""
        data = self.data
        method = [one["label"] for one in data["methods"]].index(label)
        place = [f"{one['id']}-s{one['take']}" for one in data["cases"]].index(case)
        record = data["videos"][method][place]
        return None if record is None else dict(zip(PLACES, record, strict=True))

    def all(self, tag: str) -> list[Mapping[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture(scope="module")
def folder(rows: list[Row], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = rows[0].run.root.parent / "report"
    write_page(Gallery(sheet(rows), rows, folder))
    return folder


@pytest.fixture(scope="module")
def page(folder: Path) -> Page:
    return Page((folder / "index.html").read_text("utf-8"))


def test_the_page_is_well_formed_and_escapes_every_string(page: Page) -> None:
    assert page.open == []
    assert [attrs.get("type") for attrs in page.all("script")] == ["application/json", None]
    assert all("onerror" not in attrs for _, attrs in page.tags)
    assert "alert" not in page.raw["script"]
    # the prompt is in the data, where nothing of it can end the script element
    assert "<" not in page.data_text
    assert ">" not in page.data_text
    assert page.data["cases"][0]["prompt"] == EVIL


def test_the_policy_allows_its_own_script_and_style_and_nothing_else(page: Page) -> None:
    (policy,) = [meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    for kind, tag in (("script-src", "script"), ("style-src", "style")):
        digest = base64.b64encode(hashlib.sha256(page.raw[tag].encode()).digest()).decode()
        assert rules[kind] == f"'sha256-{digest}'"
    # the policy would block these, so the page must not need them
    assert all("style" not in attrs for _, attrs in page.tags)
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)


def test_every_link_leads_somewhere_and_is_relative(page: Page, folder: Path) -> None:
    links = [str(attrs[name]) for _, attrs in page.tags for name in ("src", "href") if name in attrs]
    assert links.count("#videos") == 1
    sheets = [link for link in links if link != "#videos"]
    assert set(sheets) == {f"contact/{number:02d}.jpg" for number in range(len(page.data["methods"]))}
    data = page.data
    found = [case[name] for case in data["cases"] for name in ("photo", "face")]
    for method, one in enumerate(data["methods"]):
        for record in data["videos"][method]:
            video = dict(zip(PLACES, record, strict=True))
            if not video["status"]:
                found += [video["href"] or one["videos"] + video["key"] + ".mp4", video["strip"]]
    assert len(found) == 12 + 2 * 17
    found += sheets
    for link in found:
        assert not re.match(r"[a-z]+:|/", link), link
        assert (folder / unquote(link)).is_file(), link
    with Image.open(folder / data["cases"][0]["photo"]) as reference:
        assert reference.format == "JPEG"


def test_strips_show_the_video(page: Page, folder: Path) -> None:
    video = page.video("a", "id00-gym-s0")
    assert video is not None
    picture = np.asarray(Image.open(folder / video["strip"]).convert("RGB")).astype(int)
    assert picture.shape == (223, 960, 3)
    # the middle of the first face crop is skin, not background
    assert np.abs(picture[103 + 60, 60] - (210, 170, 140)).max() < 24


def test_the_data_of_a_video_are_its_records(page: Page, rows: list[Row]) -> None:
    video, row = page.video("a", "id00-gym-s0"), rows[0]
    assert video is not None
    generation, scores = row.generations["id00-gym", 0], row.scores["id00-gym", 0]
    data = page.data
    values = dict(zip([one["id"] for one in data["metrics"]], video["values"], strict=True))
    for metric, value in values.items():
        assert value == round(scores[metric].value, METRICS[metric].decimals + 1)
    assert "facesim_arc" in values
    assert "facesim_cur" not in values, "no video has a number"
    assert (video["key"], video["seed"], video["frames"]) == (generation.key, generation.seed, 16)
    assert json.loads(data["texts"][video["facts"]])["settings"] == {"steps": 4}
    times = data["times"][video["when"]]
    np.testing.assert_allclose(times, np.arange(16) / 8)
    width = len(data["units"])
    table = np.frombuffer(base64.b64decode(video["packed"]), "<i2").reshape(16, width).astype(float)
    table[table == -32768] = np.nan
    table /= data["units"]
    track = row.track(("id00-gym", 0))
    assert track is not None
    np.testing.assert_allclose(table[:, 0], scores["facesim_arc"].per_frame, atol=6e-4)
    np.testing.assert_allclose(table[:, 2], track.angles[:, 1], atol=0.06)
    assert np.isnan(table[5]).all(), "the frame without a face"


def test_a_packed_crop_is_the_aligned_face(rows: list[Row]) -> None:
    track = rows[0].track(("id00-gym", 0))
    assert track is not None
    rotated = np.float32([[140, 120], [160, 134], [144, 136], [130, 140], [146, 150]])
    points = track.points.copy()
    points[0] = rotated
    packed = pack(dataclasses.replace(track, points=points), [])
    x, y, side, turn = np.frombuffer(base64.b64decode(packed), "<i2")[3:7] / (4.0, 4.0, 4.0, 10.0)
    picture = np.random.default_rng(0).integers(0, 255, (300, 300, 3)).astype(np.uint8)
    picture = cv2.GaussianBlur(picture, (0, 0), 4)
    # what a canvas does with these four numbers
    scale, angle = 112 / side, math.radians(turn)
    linear = scale * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    matrix = np.column_stack([linear, np.array([56.0, 56.0]) - linear @ [x, y]])
    drawn = cv2.warpAffine(picture, matrix, (112, 112))
    assert np.abs(drawn.astype(int) - align(picture, rotated, 112)).max() <= 8


def test_data_cannot_leave_its_script_element() -> None:
    text = as_script({"prompt": "</script><!--<script>\u2028&"})
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == {"prompt": "</script><!--<script>\u2028&"}


def test_failures_are_listed_with_their_reasons_and_controls_marked(page: Page) -> None:
    text = " ".join(page.text)
    assert "Not made: 1" in text
    assert text.count("CUDA out of memory") == 1
    failed = page.video("a", "id01-gym-s0")
    assert failed is not None
    assert (failed["status"], page.data["texts"][failed["error"]]) == (1, "CUDA out of memory")
    assert "still (control)" in text
    assert MISSING["cur"] in text
    assert "6 cases" in text
    assert [one["label"] for one in page.data["methods"] if one["control"]] == ["still"]


def test_the_page_says_its_weight(folder: Path) -> None:
    html = (folder / "index.html").read_text("utf-8")
    told = re.search(r"This page is\s+([0-9.]+) MB", html)
    assert told
    assert float(told[1]) == round(len(html.encode()) / 1e6, 2)


def test_writing_again_gives_the_same_bytes_and_decodes_nothing(rows: list[Row], folder: Path) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    times = {path: path.stat().st_mtime_ns for path in folder.glob("strips/*")}
    found = write_page(Gallery(sheet(rows), rows, folder))
    assert (found.num_cases, found.num_videos, found.size) == (6, 18, (folder / "index.html").stat().st_size)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert {path: path.stat().st_mtime_ns for path in folder.glob("strips/*")} == times


def test_the_worst_cases_are_among_the_few_that_have_strips(rows: list[Row], tmp_path: Path) -> None:
    videos = sorted(rows[0].generations)
    assert choose(rows, videos, 10) == videos
    few = choose(rows, videos, 3)
    assert len(few) == len(set(few)) == 3
    # one failed and one is faceless, so these two are the worst half of three
    assert {("id01-gym", 0), ("id02-gym", 0)} < set(few)
    write_page(Gallery(sheet(rows), rows, tmp_path, max_strips=2))
    page = Page((tmp_path / "index.html").read_text("utf-8"))
    assert "for 2 of 6 cases" in " ".join(page.text)
    with_strips = {case["id"] for i, case in enumerate(page.data["cases"]) if page.data["videos"][1][i][15]}
    assert len(page.data["cases"]) == 6
    assert len(with_strips) == 2


def test_what_is_gone_is_said(tmp_path: Path) -> None:
    suite: list[Case] = cases(tmp_path / "photos", 2)
    run = make_run(tmp_path / "runs", Made("a", 0.8), suite, with_videos=True)
    (row,) = load_rows(run, "standard@1")
    Path(suite[0].references[0].path).unlink()
    for path in (run.root / "videos").glob("*"):
        path.unlink()
    write_page(Gallery(sheet([row]), [row], tmp_path / "report"))
    page = Page((tmp_path / "report" / "index.html").read_text("utf-8"))
    assert [case["photo"] == "" for case in page.data["cases"]] == [True, False]
    assert [dict(zip(PLACES, one, strict=True))["strip"] for one in page.data["videos"][0]] == ["", ""]
