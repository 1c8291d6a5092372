"""The page in headless Chromium: filter, sort, play, keys, links, themes, print; and 6,600 videos."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ffbench.page.write import Gallery, write_page
from ffbench.tables.rows import Row, load_rows
from ffbench.tables.sheet import sheet
from tests.ffbench.page.conftest import EVIL
from tests.ffbench.page.many_videos import METHODS, make_runs

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def url(rows: list[Row]) -> str:
    folder = rows[0].run.root.parent / "report"
    return write_page(Gallery(sheet(rows), rows, folder, max_strips=2)).path.as_uri()


class Visitor:
    """Somebody at the page; `wrong` holds what the browser complains of, and requests that leave the disk."""

    def __init__(self, browser: Any, address: str, **context: Any) -> None:
        self.context = browser.new_context(viewport={"width": 1366, "height": 900}, **context)
        self.context.set_default_timeout(30_000)
        self.page = self.context.new_page()
        self.wrong: list[str] = []
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("console", lambda said: self.wrong.append(said.text) if said.type != "log" else None)
        self.page.on("dialog", lambda dialog: self.wrong.append(dialog.message))
        self.page.on("request", lambda asked: None if asked.url.startswith("file:") else self.wrong.append(asked.url))
        self.page.goto(address)

    def order(self) -> list[str]:
        return [str(text) for text in self.page.locator("#cases > .case .link").all_text_contents()]

    def hash(self) -> str:
        return str(self.page.evaluate("location.hash"))

    def until(self, script: str) -> None:
        # the page's policy forbids what wait_for_function does
        end = time.monotonic() + 30
        while not self.page.evaluate(script):
            assert time.monotonic() < end, script
            self.page.wait_for_timeout(30)


@pytest.fixture
def visitor(browser: Any, url: str) -> Iterator[Visitor]:
    one = Visitor(browser, url)
    yield one
    assert one.wrong == []
    one.context.close()


def test_worst_come_first_and_controls_do_not_count(visitor: Visitor, rows: list[Row]) -> None:
    lowest: dict[str, float] = {}
    for row in rows:
        for case, _ in row.generations if not row.control else ():
            value = row.scores[case, 0]["facesim_arc"].value if (case, 0) in row.scores else math.nan
            lowest[case] = min(lowest.get(case, 2.0), -2.0 if math.isnan(value) else value)
    assert len(set(lowest.values())) == 5
    worst = [f"{case}-s0" for case in sorted(lowest, key=lambda case: (lowest[case], case))]
    assert visitor.order() == worst
    visitor.page.select_option("#of", "still")
    still = {case: scores["facesim_arc"].value for (case, _), scores in rows[2].scores.items()}
    assert visitor.order() == [f"{case}-s0" for case in sorted(still, key=lambda case: (still[case], case))]
    visitor.page.evaluate("document.getElementById('videos').scrollIntoView()")
    visitor.until("document.querySelector('.case .tile') !== null")
    visitor.page.select_option("#sort", "best")
    assert visitor.order() == [f"{case}-s0" for case in sorted(still, key=lambda case: (-still[case], case))]
    # what comes into view by the new order is there, too
    visitor.until("document.querySelector('.case .tile') !== null")
    assert visitor.hash() == "#sort=best&of=still"


def test_filters_by_words_person_tag_state_and_score(visitor: Visitor, rows: list[Row]) -> None:
    page = visitor.page
    page.fill("#q", "SPEAKS id01")
    assert visitor.order() == ["id01-talk-s0"]
    assert page.locator("#count").inner_text() == "1 of 6 cases, 3 videos"
    page.click("#reset")
    assert len(visitor.order()) == 6
    page.select_option("#tag", "large-pose")
    assert {name.split("-")[1] for name in visitor.order()} == {"gym"}
    page.select_option("#person", "id02")
    assert visitor.order() == ["id02-gym-s0"]
    page.click("#reset")
    page.select_option("#state", "failed")
    assert visitor.order() == ["id01-gym-s0"]
    page.select_option("#state", "faceless")
    assert visitor.order() == ["id02-gym-s0"]
    page.click("#reset")
    page.select_option("#of", "a")
    values = {case: scores["facesim_arc"].value for (case, _), scores in rows[0].scores.items()}
    third, fourth = sorted(values.values())[2:4]
    page.fill("#low", str((third + fourth) / 2))
    assert set(visitor.order()) == {f"{case}-s0" for case, value in values.items() if value >= fourth}
    assert len(visitor.order()) == 2
    page.fill("#q", "nothing like this")
    assert visitor.order() == []
    assert "No case fits" in page.locator("#count").inner_text()


def test_prompts_are_shown_as_text(visitor: Visitor) -> None:
    assert EVIL in visitor.page.locator(".prompt").all_text_contents()
    assert visitor.page.locator("#cases script").count() == 0
    assert visitor.page.locator("img[src=x]").count() == 0


def test_all_videos_of_a_case_play_together_and_stop_together(visitor: Visitor) -> None:
    page = visitor.page
    card = page.locator(".case").nth(3)
    card.scroll_into_view_if_needed()
    videos = "[...document.querySelectorAll('.case')][3].querySelectorAll('video')"
    visitor.until(f"{videos}.length === 3 && [...{videos}].every((v) => v.readyState >= 2)")
    card.locator(".transport select").select_option("0.25")
    card.locator(".play").click()
    visitor.until(f"[...{videos}].every((v) => v.currentTime > 0.05 && !v.paused)")
    times = page.evaluate(f"[...{videos}].map((v) => v.currentTime)")
    assert max(times) - min(times) < 0.15
    card.locator(".play").click()
    visitor.until(f"[...{videos}].every((v) => v.paused && !v.seeking)")
    times = page.evaluate(f"[...{videos}].map((v) => v.currentTime)")
    assert max(times) - min(times) < 1e-3


def test_the_aligned_face_is_drawn_from_the_frame_that_is_shown(visitor: Visitor) -> None:
    page = visitor.page
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("j")
    visitor.until("document.querySelector('.focused video')?.readyState >= 2")
    page.keyboard.press("ArrowRight")
    visitor.until("!document.querySelector('.focused video').seeking")
    page.wait_for_timeout(200)
    # reading a canvas back is not allowed on a page from disk, a picture of it is
    picture = page.locator(".focused .crop").first.screenshot()
    assert len(set(picture)) > 40
    assert "yaw −52°" in page.locator(".focused .now").first.inner_text()
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    # no face was found in the sixth frame
    assert "no face" in page.locator(".focused .now").first.inner_text()
    assert page.locator(".focused .crop.none").count() > 0
    page.keyboard.press("ArrowLeft")
    assert page.locator(".focused .crop.none").count() == 0


def test_keys_move_search_hide_and_explain(visitor: Visitor) -> None:
    page = visitor.page
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("k")
    assert page.locator(".focused .link").text_content() == visitor.order()[0]
    page.keyboard.press("2")
    assert page.locator("#cases .tile[data-label=b]").count() == 0
    assert "hide=b" in visitor.hash()
    page.keyboard.press("2")
    assert page.locator("#cases .tile[data-label=b]").count() > 0
    page.keyboard.press("b")
    assert page.locator("body.outlined").count() == 1
    page.keyboard.press("f")
    page.keyboard.press("j")
    visitor.until("document.querySelectorAll('#cases .strip').length > 0")
    assert page.locator("#cases video").count() == 0
    page.keyboard.press("/")
    page.keyboard.type("jb")
    assert page.input_value("#q") == "jb", "keys are letters in a field"
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    assert page.locator("#help[open]").count() == 1
    page.keyboard.press("Escape")
    assert page.locator("#help[open]").count() == 0


def test_a_number_says_where_it_comes_from(visitor: Visitor, rows: list[Row]) -> None:
    page = visitor.page
    page.fill("#q", "id00-talk")
    page.locator(".tile[data-label=a] .value", has_text="Arc").click()
    told = page.locator("#about").inner_text()
    generation = rows[0].generations["id00-talk", 0]
    score = rows[0].scores["id00-talk", 0]["facesim_arc"]
    for fact in (
        f"{score.value:.3f}",
        "standard@1",
        "w600k_r50#bbbbbbbbbbbb",
        generation.key,
        score.track,
        "15 of 16 sampled",
    ):
        assert fact in told
    assert "ffbench show tiny@1/a/id00-talk-s0" in told
    assert "steps" in told
    page.keyboard.press("Escape")
    page.locator(".tile[data-label=a] .value", has_text="…").click()
    page.locator("#about .value", has_text="pose range").first.click()
    assert "pose_range version" in page.locator("#about").inner_text()


def test_links_survive(browser: Any, visitor: Visitor, url: str) -> None:
    page = visitor.page
    page.select_option("#sort", "suite")
    page.uncheck("#methods [data-label=b] input")
    page.fill("#q", "talk")
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("j")
    page.keyboard.press("j")
    visitor.until("document.querySelector('.focused video')?.readyState >= 2")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    visitor.until("location.hash.includes('t=0.25')")
    other = Visitor(browser, url + visitor.hash())
    assert other.order() == visitor.order() == ["id00-talk-s0", "id01-talk-s0", "id02-talk-s0"]
    assert other.page.locator(".focused .link").text_content() == "id01-talk-s0"
    assert other.page.locator(".focused .tile[data-label=b]").count() == 0
    other.until("[...document.querySelectorAll('.focused video')].every((v) => Math.abs(v.currentTime - 0.25) < 0.01)")
    other.page.evaluate("location.hash = '#person=id02'")
    other.until("document.querySelectorAll('#cases > .case').length === 2")
    assert other.hash() == "#person=id02"
    other.page.goto(url + "#sort=nonsense&person=nobody&low=x&case=gone")
    other.page.reload()
    assert len(other.order()) == 6, "an address of another page hides nothing"
    assert other.wrong == []
    other.context.close()


def test_dark_and_light_and_print(browser: Any, url: str) -> None:
    def paper(visitor: Visitor) -> str:
        return str(visitor.page.evaluate("getComputedStyle(document.body).backgroundColor"))

    dark = Visitor(browser, url, color_scheme="dark")
    light = Visitor(browser, url, color_scheme="light")
    assert paper(dark) != paper(light)
    night = paper(dark)
    light.page.keyboard.press("t")
    assert paper(light) == night
    assert light.hash() == "#theme=dark"
    printed = dark.page.pdf()
    assert printed.startswith(b"%PDF")
    assert len(printed) > 20_000
    dark.page.emulate_media(media="print")
    assert paper(dark) == "rgb(255, 255, 255)"
    assert not dark.page.locator(".tools").is_visible()
    # A4 between its margins, in CSS px
    dark.page.set_viewport_size({"width": 718, "height": 1000})
    assert dark.page.evaluate("document.documentElement.scrollWidth") <= 718
    shown = "[...document.querySelectorAll('.scroll table')].filter((one) => one.checkVisibility())"
    ends = dark.page.evaluate(f"{shown}.map((one) => one.getBoundingClientRect().right)")
    assert ends
    assert max(ends) <= 718, "no column of a table is cut off"
    assert dark.wrong == light.wrong == []
    for one in (dark, light):
        one.context.close()


def test_a_phone_sees_no_sideways_scroll(browser: Any, url: str) -> None:
    phone = Visitor(browser, url)
    phone.page.set_viewport_size({"width": 390, "height": 844})
    assert phone.page.evaluate("document.documentElement.scrollWidth") <= 390
    phone.page.keyboard.press("j")
    assert phone.page.evaluate("document.documentElement.scrollWidth") <= 390
    phone.context.close()


def test_6600_videos(browser: Any, tmp_path: Path) -> None:
    rows = [row for run in make_runs(tmp_path) for row in load_rows(run, "standard@1")]
    made = write_page(Gallery(sheet(rows), rows, tmp_path / "report", max_strips=0))
    assert (made.num_cases, made.num_videos) == (600, 6600)
    assert made.size < 4e6
    context = browser.new_context(viewport={"width": 1366, "height": 900})
    page = context.new_page()
    session = context.new_cdp_session(page)
    # of the page's own thread: what else the machine does is not counted
    session.send("Performance.enable", {"timeDomain": "threadTicks"})
    page.goto(made.path.as_uri())
    spent = {one["name"]: one["value"] for one in session.send("Performance.getMetrics")["metrics"]}
    assert spent["ThreadTime"] < 2.0
    assert page.locator("#count").inner_text() == "600 of 600 cases, 6600 videos"
    assert page.locator("#cases > .case").count() == 600
    page.evaluate("document.getElementById('videos').scrollIntoView()")
    page.wait_for_selector("#cases video")
    assert 0 < page.locator("#cases video").count() <= 10 * len(METHODS), "only what is near is loaded"
    page.select_option("#sort", "best")
    page.fill("#q", "scene07")
    assert page.locator("#cases > .case").count() == 30
    page.keyboard.press("Escape")
    page.click("#reset")
    # to the end and back: what was left behind is let go
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    page.wait_for_timeout(1500)
    page.evaluate("scrollTo(0, document.body.scrollHeight / 2)")
    page.wait_for_timeout(1500)
    assert page.locator("#cases video").count() <= 30 * len(METHODS)
    context.close()
