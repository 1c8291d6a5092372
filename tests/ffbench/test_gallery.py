from __future__ import annotations

import base64
import hashlib
import math
import re
import shutil
import subprocess
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image

from ffbench.gallery import Gallery, choose, write_page
from ffbench.records import Case
from ffbench.rows import Row, load_rows
from ffbench.tables import sheet
from tests.ffbench.scored_runs import MISSING, Made, cases, make_run

EVIL = "<script>alert(1)</script> \"quoted\" & 'single' ../../x\n😀 <img src=x onerror=alert(2)>"
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


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
            self.raw[self.open[-1]] = self.raw.get(self.open[-1], "") + data
        else:
            self.text.append(data)

    def all(self, tag: str) -> list[Mapping[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    root = tmp_path_factory.mktemp("gallery")
    suite = cases(root / "photos", 3, (("gym", EVIL), ("talk", "speaks")))
    methods = (
        Made("a", 0.8, failed=("id01-gym",)),
        Made("b", 0.5, faceless=("id02-gym",)),
        Made("still", 0.95, turn=2.0, kind="control"),
    )
    runs = [make_run(root / "runs", made, suite, with_videos=True) for made in methods]
    return [row for run in runs for row in load_rows(run, "standard@1")]


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
    assert len(page.all("script")) == 1
    assert all("onerror" not in attrs for _, attrs in page.tags)
    assert "alert" not in page.raw["script"]
    assert any("<script>alert(1)</script>" in text for text in page.text)


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


def test_every_link_is_relative_and_leads_somewhere(page: Page, folder: Path) -> None:
    links = [attrs[name] for _, attrs in page.tags for name in ("src", "href") if name in attrs]
    assert len(links) > 20
    for link in links:
        assert not re.match(r"[a-z]+:|/", link), link
        assert (folder / unquote(link)).is_file(), link
    videos = [link for link in links if link.endswith(".mp4")]
    assert len(videos) == 17
    with Image.open(folder / page.all("img")[0]["src"]) as reference:
        assert reference.format == "JPEG"


def test_strips_show_the_video_and_curves_its_scores(page: Page, rows: list[Row], folder: Path) -> None:
    strips = [attrs for attrs in page.all("img") if str(attrs["src"]).startswith("strips/")]
    assert len(strips) == 17
    assert {(attrs["width"], attrs["height"]) for attrs in strips} == {("960", "223")}
    picture = np.asarray(Image.open(folder / strips[0]["src"]).convert("RGB")).astype(int)
    # the middle of the first face crop is skin, not background
    assert np.abs(picture[103 + 60, 60] - (210, 170, 140)).max() < 24
    shown = [text for text in page.text if "°" in text and " s" in text]
    assert any("-60°" in text for text in shown)
    assert any("no face" in text for text in page.text)
    curves = [attrs for attrs in page.all("g") if str(attrs.get("class", "")).startswith("curve")]
    # one video has no face in any frame, so it has no curve
    assert len(curves) == 16


def test_failures_are_listed_with_their_reasons_and_controls_marked(page: Page) -> None:
    text = " ".join(page.text)
    assert "Not made: 1" in text
    assert text.count("CUDA out of memory") == 2
    assert "still (control)" in text
    assert MISSING["cur"] in text
    assert "6 cases" in text


def test_sorting_keys_are_the_scores(page: Page, rows: list[Row]) -> None:
    found = [(a["data-label"], a["data-worst"], a["data-turn"]) for a in page.all("div") if "data-label" in a]
    assert len(found) == 18
    video = ("id00-gym", 0)
    score = rows[0].scores[video]
    assert found[0] == ("a", f"{score['facesim_arc'].value:.6g}", f"{score['pose_range'].value:.6g}")
    assert ("a", "", "") in found


def test_writing_again_gives_the_same_bytes_and_decodes_nothing(rows: list[Row], folder: Path) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    times = {path: path.stat().st_mtime_ns for path in folder.glob("strips/*")}
    write_page(Gallery(sheet(rows), rows, folder))
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert {path: path.stat().st_mtime_ns for path in folder.glob("strips/*")} == times


def test_the_worst_cases_are_among_the_few_that_are_shown(rows: list[Row], tmp_path: Path) -> None:
    videos = sorted(rows[0].generations)
    assert choose(rows, videos, 10) == videos
    few = choose(rows, videos, 3)
    assert len(few) == len(set(few)) == 3
    # one failed and one is faceless, so these two are the worst half of three
    assert {("id01-gym", 0), ("id02-gym", 0)} < set(few)
    write_page(Gallery(sheet(rows), rows, tmp_path, max_cases=2))
    text = (tmp_path / "index.html").read_text("utf-8")
    assert "2 of 6 cases" in text
    assert text.count('<article class="case">') == 2


def test_what_is_gone_is_said(tmp_path: Path) -> None:
    suite: list[Case] = cases(tmp_path / "photos", 2)
    run = make_run(tmp_path / "runs", Made("a", 0.8), suite, with_videos=True)
    (row,) = load_rows(run, "standard@1")
    Path(suite[0].references[0].path).unlink()
    for path in (run.root / "videos").glob("*"):
        path.unlink()
    write_page(Gallery(sheet([row]), [row], tmp_path / "report"))
    text = (tmp_path / "report" / "index.html").read_text("utf-8")
    assert text.count("the reference photograph is gone") == 1
    assert text.count("no strip: the video or its track is gone") == 2


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_a_browser_runs_the_page_under_its_policy_and_sorts_worst_first(folder: Path, rows: list[Row]) -> None:
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--enable-logging=stderr",
    ]
    url = (folder / "index.html").as_uri() + "#worst"
    done = subprocess.run(
        [str(CHROMIUM), *flags, "--dump-dom", url], capture_output=True, text=True, check=True, timeout=60
    )
    assert "Content Security Policy" not in done.stderr
    order = re.findall(r'<p class="id">(.*?)-s0</p>', done.stdout)
    lowest = dict.fromkeys(order, 2.0)
    for row in rows:
        for case, _ in row.generations:
            value = row.scores[case, 0]["facesim_arc"].value if (case, 0) in row.scores else math.nan
            lowest[case] = min(lowest[case], -2.0 if math.isnan(value) else value)
    assert len(set(lowest.values())) == 5
    assert order == sorted(order, key=lambda case: (lowest[case], case))
