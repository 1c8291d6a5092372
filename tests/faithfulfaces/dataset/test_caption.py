"""Captions from a real HTTP server that speaks the chat interface, well and badly."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from faithfulfaces.dataset import journal
from faithfulfaces.dataset.answers import Answer, Log
from faithfulfaces.dataset.caption import (
    ATTEMPTS,
    BY_HAND,
    Asked,
    Caption,
    Captioning,
    Clip,
    caption_clips,
    captions,
    messages,
    problems,
    rules,
)
from ffbench import chat as client
from ffbench.chat import Chat
from ffbench.errors import UserError
from ffbench.records import digest
from ffbench.suites.cases import embedded_prompts
from ffbench.video import write_mp4
from tests.faithfulfaces.dataset.made_build import make_build
from tests.ffbench.test_prompting import ChatServer, chat_json, chatting

GOOD = (
    "A person with short dark hair and a green coat stands on a wooden pier in the morning. They look towards the "
    "camera, then turn the head slowly to the left until the profile is seen, and lift the chin with a calm face. "
    "The coat moves in the wind while both hands rest on the railing. Behind them a grey lake and low hills fade "
    "into mist, and the light is soft and even. The camera stays still and holds the head and the shoulders."
)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ChatServer]:
    monkeypatch.setattr(client, "BACKOFF_S", 0.005)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with chatting() as running:
        running.reply = lambda *_: (200, chat_json(GOOD), {})
        yield running


@pytest.fixture
def clips(tmp_path: Path) -> list[Clip]:
    """Six clips of eleven frames; frame i of clip k is grey of level 20 k + 10 i."""
    made = []
    for k in range(6):
        frames = np.stack([np.full((48, 64, 3), 20 * k + 10 * i, np.uint8) for i in range(11)])
        write_mp4(tmp_path / f"c{k}.mp4", frames, 10)
        made.append(Clip(f"clip-{k}", tmp_path / f"c{k}.mp4"))
    return made


def how(server: ChatServer, path: Path, **given: Any) -> Captioning:
    return Captioning(Chat(server.url, "vl"), Asked("vl", frames=3), path, **{"workers": 3, **given})


def test_frames_go_out_in_order_and_captions_are_kept(server: ChatServer, clips: list[Clip], tmp_path: Path) -> None:
    path = tmp_path / "captions.jsonl"
    made = caption_clips(clips, how(server, path))
    assert [(one.key, one.status, one.prompt) for one in made.values()] == [(c.key, "ok", GOOD) for c in clips]
    assert captions(path) == made
    sent = {}
    for request in server.asked:
        content = request["messages"][1]["content"]
        pictures = [part["image_url"]["url"] for part in content if part["type"] == "image_url"]
        levels = [
            round(float(np.asarray(Image.open(io.BytesIO(base64.b64decode(url.split(",")[1])))).mean()))
            for url in pictures
        ]
        assert all(url.startswith("data:image/jpeg;base64,") for url in pictures)
        words = [part["text"] for part in content if part["type"] == "text"]
        assert words == ["At 0.0 s:", "At 0.5 s:", "At 1.0 s:", "Describe this clip of 1.1 seconds."]
        sent[round(levels[0] / 20)] = levels
    assert sorted(sent) == [0, 1, 2, 3, 4, 5]
    for k, levels in sent.items():
        assert np.abs(np.array(levels) - [20 * k, 20 * k + 50, 20 * k + 100]).max() <= 3
    facts = made["clip-0"].provenance
    assert (facts["model"], facts["served"], facts["instructions"], facts["answers"]) == ("vl", "served-1", 1, 1)


def test_a_second_run_asks_nothing_and_a_new_clip_is_asked_alone(
    server: ChatServer, clips: list[Clip], tmp_path: Path
) -> None:
    path = tmp_path / "captions.jsonl"
    caption_clips(clips[:4], how(server, path))
    before = path.read_bytes()
    caption_clips(clips[:4], how(server, path))
    assert (path.read_bytes(), len(server.asked)) == (before, 4)
    # a kill in the middle of a line costs that clip alone
    path.write_bytes(before[:-20])
    assert len(caption_clips(clips[:5], how(server, path))) == 5
    assert len(server.asked) == 6
    assert all(one.status == "ok" for one in captions(path).values())


def test_another_model_asks_anew_but_never_over_a_hand_written_caption(
    server: ChatServer, clips: list[Clip], tmp_path: Path
) -> None:
    path = tmp_path / "captions.jsonl"
    caption_clips(clips[:2], how(server, path))
    journal.append(path, {"key": "clip-1", "prompt": "Mended.", "made_with": BY_HAND, "provenance": {"reviewer": "a"}})
    other = Captioning(Chat(server.url, "vl2"), Asked("vl2"), path)
    made = caption_clips(clips[:2], other)
    assert len(server.asked) == 3
    assert (made["clip-0"].provenance["model"], made["clip-1"].prompt) == ("vl2", "Mended.")


def test_an_unfit_answer_is_asked_again_with_what_was_wrong(
    server: ChatServer, clips: list[Clip], tmp_path: Path
) -> None:
    server.reply = lambda number, _: (200, chat_json("Too short." if number == 1 else GOOD), {})
    made = caption_clips(clips[:1], how(server, tmp_path / "c.jsonl"))
    talk = server.asked[1]["messages"]
    assert [part["role"] for part in talk] == ["system", "user", "assistant", "user"]
    assert "it has 2 words, not 50 to 200" in talk[3]["content"]
    assert server.asked[0]["seed"] != server.asked[1]["seed"]
    assert made["clip-0"].provenance["answers"] == 2


def test_what_never_gets_better_is_a_failed_record(server: ChatServer, clips: list[Clip], tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    clips[1].video.write_bytes(b"no video")
    clips[2].video.unlink()

    def reply(_: int, body: dict[str, Any]) -> tuple[int, str, dict[str, str]]:
        level = len(json.dumps(body))
        return (200, chat_json("The video shows things."), {}) if level else (500, "", {})

    server.reply = reply
    made = caption_clips(clips[:3], how(server, path))
    assert [one.status for one in made.values()] == ["failed"] * 3
    assert "medium: the video" in made["clip-0"].error
    assert "cannot be read" in made["clip-1"].error
    assert "cannot be read" in made["clip-2"].error
    assert len(server.asked) == ATTEMPTS
    caption_clips(clips[:3], how(server, path))
    assert len(server.asked) == ATTEMPTS
    server.reply = lambda *_: (200, chat_json(GOOD), {})
    assert caption_clips(clips[:3], how(server, path, retry_failed=True))["clip-0"].status == "ok"


def test_one_refused_clip_is_its_own_failure_but_a_deaf_server_stops_all(
    server: ChatServer, clips: list[Clip], tmp_path: Path
) -> None:
    lock = threading.Lock()
    refused = []

    def reply(number: int, _: dict[str, Any]) -> tuple[int, str, dict[str, str]]:
        with lock:
            if number == 3:
                refused.append(number)
                return 400, "prompt is too long", {}
        return 200, chat_json(GOOD), {}

    server.reply = reply
    made = caption_clips(clips, how(server, tmp_path / "a.jsonl"))
    assert sorted(one.status for one in made.values()) == ["failed"] + ["ok"] * 5
    assert next("too long" in one.error for one in made.values() if one.status == "failed")
    server.reply = lambda *_: (400, "no pictures here", {})
    with pytest.raises(UserError, match="no pictures here"):
        caption_clips(clips, how(server, tmp_path / "b.jsonl", workers=2))
    server.reply = lambda *_: (404, "no such model", {})
    with pytest.raises(UserError, match="no such model"):
        caption_clips(clips, how(server, tmp_path / "c.jsonl", workers=2))
    assert captions(tmp_path / "c.jsonl") == {}


def test_nonsense_of_the_server_is_tried_again(server: ChatServer, clips: list[Clip], tmp_path: Path) -> None:
    server.reply = lambda number, _: (200, "{}" if number < 3 else chat_json(GOOD), {})
    assert caption_clips(clips[:1], how(server, tmp_path / "c.jsonl"))["clip-0"].status == "ok"
    assert len(server.asked) == 3


def test_several_clips_are_under_way_at_once(server: ChatServer, clips: list[Clip], tmp_path: Path) -> None:
    together = threading.Barrier(3, timeout=20)

    def reply(*_: Any) -> tuple[int, str, dict[str, str]]:
        together.wait()
        return 200, chat_json(GOOD), {}

    server.reply = reply
    assert len(caption_clips(clips, how(server, tmp_path / "c.jsonl"))) == 6


@pytest.mark.parametrize("given", [{"workers": 0}, {"workers": 1000}])
def test_options_out_of_range(server: ChatServer, clips: list[Clip], tmp_path: Path, given: dict[str, int]) -> None:
    with pytest.raises(UserError, match="--workers"):
        caption_clips(clips, how(server, tmp_path / "c.jsonl", **given))


def test_a_journal_of_something_else_is_named(tmp_path: Path) -> None:
    (tmp_path / "c.jsonl").write_text('{"key": "a", "colour": 3}\n')
    with pytest.raises(UserError, match=r"c\.jsonl:1 is no caption"):
        captions(tmp_path / "c.jsonl")
    assert captions(tmp_path / "none.jsonl") == {}


def test_pictures_are_made_small(tmp_path: Path) -> None:
    write_mp4(tmp_path / "wide.mp4", np.zeros((2, 90, 1600, 3), np.uint8), 5)
    url = next(part for part in messages(tmp_path / "wide.mp4", 1)[1]["content"] if part["type"] == "image_url")
    picture = Image.open(io.BytesIO(base64.b64decode(url["image_url"]["url"].split(",")[1])))
    assert picture.size == (640, 36)


CHANGED = {
    "one plain paragraph": ("- " + GOOD, GOOD.replace(". ", ".\n", 1), GOOD.replace("green", "**green**")),
    "words, not 50 to 200": (GOOD[:100] + ".", GOOD + (" " + GOOD) * 2),
    "not English": (
        "Eine Person mit kurzem dunklem Haar steht am Morgen auf einem Steg aus Holz und blickt ruhig zur Kamera. " * 3,
        "Une personne aux cheveux courts se tient sur une jetée de bois, puis tourne lentement la tête vers la "
        "gauche et lève le menton, le visage calme, devant un lac gris et des collines basses perdues dans la brume "
        "du matin, sous une lumière douce, tandis que la caméra reste immobile et cadre la tête du début à la fin.",
        GOOD.replace("green coat", "绿色大衣"),
    ),
    "repeats itself": (GOOD[:270] + " and the light is soft and even" * 12 + ".",),
    "of itself or of the medium": (
        GOOD.replace("A person", "The video shows a person"),
        "I'm sorry, but this is what is there. " + GOOD,
    ),
    "who the person is": (
        GOOD.replace("They look", "This is Tom Cruise, who looks"),
        GOOD.replace("They look", "The person resembles a singer and looks"),
        GOOD.replace("grey lake", "grey Lake Geneva"),
        GOOD.replace("They look", "He is known as a boxer and looks"),
    ),
    "breaks off": (GOOD[:-20],),
}


@pytest.mark.parametrize(("what", "text"), [(what, text) for what, texts in CHANGED.items() for text in texts])
def test_unfit_captions_are_told_what_is_wrong(what: str, text: str) -> None:
    assert what in "; ".join(problems(text))


def test_fit_captions_pass() -> None:
    assert problems(GOOD) == []
    assert problems(GOOD.replace("green coat", "grey T-shirt and a French beret")) == []
    # long English prose of another hand: nothing but "the video", which a prompt may say and a caption may not
    found = {problem for prompt in embedded_prompts() for problem in problems(prompt.prompt)}
    assert found <= {"it speaks of itself or of the medium: the video"}


def test_a_caption_survives_its_journal(tmp_path: Path) -> None:
    kept = Caption(key="k", prompt="Ein Wort — 語.", provenance={"x": 1})
    journal.append(tmp_path / "j.jsonl", kept.__dict__)
    assert captions(tmp_path / "j.jsonl") == {"k": kept}


def test_words_change_only_with_their_version() -> None:
    # a changed text needs a new version: both of the pair change together, or neither
    assert (rules()["version"], digest(rules())) == (1, "2833569e0237df39")


def test_the_command_captions_what_qualified(
    server: ChatServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from faithfulfaces.cli import main

    records = make_build(tmp_path / "set", tmp_path / "videos")
    server.reply = lambda number, _: (200, chat_json(GOOD if number == 1 else "No."), {})

    def run(*more: str) -> str:
        arguments = [
            "faithfulfaces",
            "data",
            "caption",
            str(tmp_path / "set"),
            "--model",
            "vl",
            "--endpoint",
            server.url,
        ]
        monkeypatch.setattr("sys.argv", [*arguments, "--workers", "1", *more])
        with pytest.raises(SystemExit) as left:
            main()
        assert not left.value.code
        return capsys.readouterr().err

    assert "1 of 2 clips have a caption" in run()
    assert len(server.asked) == 1 + ATTEMPTS
    assert "1 of 2" in run()
    assert len(server.asked) == 1 + ATTEMPTS
    server.reply = lambda *_: (200, chat_json(GOOD), {})
    assert "2 of 2" in run("--retry")
    found = captions(tmp_path / "set" / "captions.jsonl")
    good = sorted(r.key for r in records if r.verdict == "qualified")
    assert sorted(found) == good
    # one that reviewers rejected is no sample
    refused = Answer(id="1", reviewer="ann", key=good[0], question="sample", value="reject", blind=False, utc="")
    Log(tmp_path / "set" / "reviews.jsonl").add(refused)
    assert "1 of 1 clips have a caption" in run()
