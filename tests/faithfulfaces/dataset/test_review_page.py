"""The review page as a person uses it, in a headless Chromium."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sklearn.metrics import cohen_kappa_score

from faithfulfaces.dataset import answers, journal
from faithfulfaces.dataset.caption import captions
from faithfulfaces.dataset.clips import Clips
from faithfulfaces.dataset.folder import Folder
from tests.faithfulfaces.dataset.made_build import make_build
from tests.faithfulfaces.dataset.test_caption import GOOD
from tests.faithfulfaces.dataset.test_review import Running

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("original")
    records = make_build(folder / "set", folder / "videos")
    first = min(record.key for record in records)
    journal.append(Folder(folder / "set").captions, {"key": first, "prompt": GOOD, "provenance": {"model": "vl"}})
    return folder


class Person:
    """Somebody at the page, in a browser of their own."""

    def __init__(self, browser: Any, url: str, name: str) -> None:
        self.context = browser.new_context(viewport={"width": 1280, "height": 860})
        self.context.set_default_timeout(30_000)
        self.page = self.context.new_page()
        self.wrong: list[str] = []
        """Complaints of the browser, and requests to anywhere else."""
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("console", lambda said: self.wrong.append(said.text) if said.type == "error" else None)
        self.page.on("request", lambda asked: None if asked.url.startswith(url) else self.wrong.append(asked.url))
        self.page.goto(url)
        self.page.wait_for_selector("#ask-name[open]")
        self.page.keyboard.type(name)
        self.page.keyboard.press("Enter")
        self.at(1)

    def at(self, number: int) -> None:
        """Wait until clip `number` is there."""
        self.page.wait_for_function(
            "n => document.getElementById('progress').textContent.startsWith(`clip ${n} of`)"
            " && document.getElementById('main').matches(':not([hidden], .loading)')",
            arg=number,
        )

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def text(self, what: str) -> str:
        return str(self.page.text_content(what))

    def saved(self) -> None:
        self.page.wait_for_function("() => document.getElementById('saved').textContent === 'saved'")

    def pressed(self) -> list[str]:
        return [str(one.get_attribute("id")) for one in self.page.query_selector_all("#answers [aria-pressed=true]")]


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    shutil.copytree(original, tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.fixture
def url(folder: Path) -> Iterator[str]:
    with Running(Clips(folder / "set", "all", folder / "videos")) as server:
        yield server.url


def test_labels_by_keyboard_of_two_people_and_their_kappa(browser: Any, url: str, folder: Path) -> None:
    ann, bob = Person(browser, url, "ann"), Person(browser, url, "Bob B.")
    for person, keys in ((ann, "112212"), (bob, "121212")):
        for number, key in enumerate(keys, 1):
            person.at(number)
            person.press(key)
        person.saved()
    # an answer leads to the next clip, that to the last one stays
    assert (ann.text("#progress"), ann.pressed()) == ("clip 6 of 6, 6 answered", ["answer-unqualified"])
    log = answers.read(Folder(folder / "set").reviews)
    given = {who: [a.value for a in sorted(one.values(), key=lambda a: a.key)] for who, one in standing(log).items()}
    words = {"1": "qualified", "2": "unqualified"}
    assert given == {"ann": [words[k] for k in "112212"], "Bob B.": [words[k] for k in "121212"]}
    ann.press("g")
    ann.page.wait_for_selector("#pairs td")
    row = [str(cell.text_content()) for cell in ann.page.query_selector_all("#pairs td")]
    assert row == ["pose", "Bob B., ann", "6", "67%", f"{cohen_kappa_score(list('112212'), list('121212')):.3f}"]
    # bob's own answers, and nobody else's, are there after a reload
    bob.page.reload()
    bob.at(6)
    assert bob.pressed() == ["answer-unqualified"]
    bob.press("k", "k", "k", "k")
    bob.at(2)
    assert bob.pressed() == ["answer-unqualified"]
    bob.press("2")
    bob.saved()
    assert bob.text("#progress") == "clip 2 of 6, 5 answered"
    bob.press("j")
    bob.at(3)
    bob.press("n")
    bob.at(2)
    assert ann.wrong == bob.wrong == []


def standing(log: list[answers.Answer]) -> dict[str, dict[str, answers.Answer]]:
    return answers.standing(log, "pose")


def test_the_film_plays_beside_its_curves_and_faces(browser: Any, url: str) -> None:
    ann = Person(browser, url, "ann")
    page = ann.page
    page.wait_for_function("() => document.getElementById('video').currentTime > 0.2")
    page.wait_for_function(
        "() => [...document.querySelectorAll('#faces img')].every((i) => i.complete && i.naturalWidth > 0)"
    )
    assert len(page.query_selector_all("#faces img")) == 10
    assert len(page.query_selector_all("#curves polyline")) == 6  # three angles, parted by a frame without a face
    assert re.match(r"variation \d+\.\d° against 120°: rejected, the pose varies too little", ann.text("#verdict"))
    # all of it is seen at once
    for width, height in ((1366, 768), (1280, 860)):
        page.set_viewport_size({"width": width, "height": height})
        for what in ("#video", "#curves", "#faces", "#answers", "#verdict"):
            box = page.query_selector(what).bounding_box()
            assert box["y"] >= 0
            assert box["y"] + box["height"] <= height, what
    ann.press(" ")
    assert page.evaluate("document.getElementById('video').paused")
    curves = page.query_selector("#curves svg").bounding_box()
    page.mouse.click(curves["x"] + curves["width"] * (38 + 0.5 * 470) / 640, curves["y"] + curves["height"] / 2)
    assert page.evaluate("document.getElementById('video').currentTime") == pytest.approx(0.95, abs=0.03)
    ann.press(".")
    assert page.evaluate("document.getElementById('video').currentTime") == pytest.approx(0.95 + 1 / 16, abs=0.04)
    page.wait_for_function("() => Number(document.querySelector('.cursor').getAttribute('x1')) > 270")
    assert ann.wrong == []


def test_captions_are_mended_kept_and_never_lost(browser: Any, url: str, folder: Path) -> None:
    ann, bob = Person(browser, url, "ann"), Person(browser, url, "bob")
    box = "#caption"
    assert ann.page.input_value(box) == GOOD
    ann.press("t", "e")
    ann.page.keyboard.press("Control+End")
    ann.page.keyboard.type(" It is 12 o'clock.")
    # digits in a caption are no answers
    assert ann.pressed() == []
    ann.page.reload()
    ann.at(1)
    assert ann.page.input_value(box) == GOOD + " It is 12 o'clock."
    assert ann.text("#caption-note") == "not saved"
    ann.press("e")
    ann.page.keyboard.press("Control+Enter")
    ann.page.wait_for_function("() => document.getElementById('caption-by').textContent === 'by ann'")
    kept = captions(Folder(folder / "set").captions)
    assert [one.prompt for one in kept.values()] == [GOOD + " It is 12 o'clock."]
    # bob still sees the old one: he is told, and nothing is written over unseen
    bob.press("e")
    bob.page.fill(box, "Quite another.")
    bob.page.keyboard.press("Control+Enter")
    bob.page.wait_for_function("() => document.getElementById('caption-note').textContent.includes('12 o')")
    assert captions(Folder(folder / "set").captions) == kept
    bob.page.keyboard.press("Escape")
    assert bob.page.input_value(box) == GOOD + " It is 12 o'clock."
    ann.press("1")
    ann.at(2)
    ann.saved()
    assert [(a.question, a.value) for a in answers.read(Folder(folder / "set").reviews)] == [("sample", "accept")]
    assert ann.wrong == []


def test_answers_given_while_the_server_is_away_arrive_later(browser: Any, url: str, folder: Path) -> None:
    ann = Person(browser, url, "ann")
    ann.page.route("**/answer", lambda route: route.abort())
    ann.press("1")
    ann.at(2)
    ann.press("2")
    ann.at(3)
    assert ann.text("#saved") == "2 not saved yet"
    assert not Folder(folder / "set").reviews.exists()
    ann.page.reload()
    ann.at(3)
    ann.press("k")
    ann.at(2)
    assert ann.pressed() == ["answer-unqualified"]
    ann.page.unroute("**/answer")
    ann.saved()
    assert [a.value for a in answers.read(Folder(folder / "set").reviews)] == ["qualified", "unqualified"]


def test_a_page_of_another_address_keeps_its_answers(browser: Any, url: str, folder: Path) -> None:
    """Such as that of a server which another one has taken the port of."""
    ann = Person(browser, url, "ann")
    gone = {"status": 404, "content_type": "application/json", "body": '{"error": "not found"}'}
    ann.page.route("**/answer", lambda route: route.fulfill(**gone))
    ann.press("1")
    ann.at(2)
    ann.page.wait_for_function("() => document.getElementById('trouble').textContent.includes('not saved yet')")
    assert ann.text("#saved") == "1 not saved yet"
    ann.page.unroute("**/answer")
    ann.saved()
    assert [a.value for a in answers.read(Folder(folder / "set").reviews)] == ["qualified"]


def test_a_killed_server_comes_back_and_open_pages_go_on(browser: Any, folder: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    words = ["review", str(folder / "set"), "--show", "all", "--videos", str(folder / "videos"), "--port", port]
    code = "from faithfulfaces.cli import main; main()"

    def start() -> tuple[subprocess.Popen[str], str]:
        process = subprocess.Popen([sys.executable, "-c", code, "data", *words], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        with process.stdout:
            return process, process.stdout.readline().strip()

    first, url = start()
    ann = Person(browser, url, "ann")
    ann.press("1")
    ann.at(2)
    ann.saved()
    first.kill()
    first.wait()
    ann.press("2")
    ann.page.wait_for_function("() => document.getElementById('saved').textContent === '1 not saved yet'")
    ann.page.wait_for_function("() => !document.getElementById('trouble').hidden")
    second, again = start()
    try:
        assert again == url
        ann.at(3)
        ann.saved()
        ann.page.wait_for_function("() => document.getElementById('trouble').hidden")
        ann.press("1")
        ann.at(4)
        ann.saved()
        assert [a.value for a in answers.read(Folder(folder / "set").reviews)] == [
            "qualified", "unqualified", "qualified",
        ]  # fmt: skip
        assert Folder(folder / "set").secret.stat().st_mode & 0o777 == 0o600
    finally:
        second.kill()
        second.wait()


def test_a_clip_that_nobody_has_seen_yet_gets_no_answer(browser: Any, url: str, folder: Path) -> None:
    ann = Person(browser, url, "ann")
    held: list[Any] = []
    ann.page.route("**/clip?*", lambda route: held.append(route))
    ann.press("j", "1", "2")
    ann.page.wait_for_function("() => document.getElementById('progress').textContent === 'clip 2 of 6, 0 answered'")
    for route in held:
        route.continue_()
    ann.page.unroute("**/clip?*")
    ann.at(2)
    ann.press("2")
    ann.at(3)
    ann.saved()
    assert [a.value for a in answers.read(Folder(folder / "set").reviews)] == ["unqualified"]


def test_text_of_others_is_never_code(browser: Any, url: str, folder: Path) -> None:
    first = Clips(folder / "set", "all", folder / "videos").records[0].key
    bad = "<img src=x onerror=\"document.title='taken'\"><script>document.title='taken'</script>"
    journal.append(Folder(folder / "set").captions, {"key": first, "prompt": bad, "provenance": {"model": bad}})
    ann = Person(browser, url, "ann")
    assert ann.page.input_value("#caption") == bad
    assert ann.text("#caption-by") == f"by {bad}"
    assert ann.page.title() == "set"
    assert ann.wrong == []
