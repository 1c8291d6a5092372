"""The prompts folder as data: what the benchmark promises of it."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from ffbench.prompting import problems, read_scenes
from ffbench.records import digest
from ffbench.suites.cases import embedded_data, embedded_prompts
from tests.ffbench.paths import PROMPTS

SCENES = {"boxing": 4, "dancing": 3, "turning": 4, "ballet": 3, "speech": 3, "dramatic": 3}
# a changed text needs a new version: both lines of the pair change together, or neither
PINNED = {
    "prompts": (1, "9cc2c4b88b771647"),
    "photos": (1, "b0bd26c39eb29631"),
    "instructions": (1, "a0dcb55a4856e388"),
}


def test_twenty_prompts_of_six_scenes_over_twenty_backgrounds() -> None:
    prompts = embedded_prompts()
    assert Counter(prompt.scene for prompt in prompts) == SCENES
    assert len({prompt.background for prompt in prompts}) == len({prompt.prompt for prompt in prompts}) == 20
    assert len({prompt.prompt_id.lower() for prompt in prompts}) == 20
    for prompt in prompts:
        assert re.fullmatch(r"[a-z]+(-[a-z]+)+", prompt.prompt_id)
        assert prompt.prompt_id.startswith(prompt.scene + "-")


@pytest.mark.parametrize("prompt", embedded_prompts(), ids=lambda prompt: prompt.prompt_id)
def test_a_prompt_is_long_neutral_and_plain(prompt) -> None:  # type: ignore[no-untyped-def]
    assert problems(prompt.prompt) == []
    assert 80 <= prompt.words <= 130
    assert re.fullmatch(r"[A-Za-z ,.'-]+", prompt.prompt)
    assert "person" in prompt.prompt
    assert "camera" in prompt.prompt
    assert re.search(r"\b((sun|day)?light|lamps?|lit|sun|sunlit|beams?|bulbs?|spot)\b", prompt.prompt)
    assert re.search(r"\b(face|head|profile)\b", prompt.prompt)


def test_tags_drive_pose_occlusion_and_expression() -> None:
    tags = Counter(tag for prompt in embedded_prompts() for tag in prompt.tags)
    assert set(tags) == {"large-pose", "occlusion", "expression"}
    assert all(prompt.tags for prompt in embedded_prompts())
    assert min(tags.values()) >= 8


def test_no_two_prompts_share_a_sentence() -> None:
    sentences = Counter(part.strip() for p in embedded_prompts() for part in p.prompt.split(".") if part.strip())
    assert max(sentences.values()) == 1


def test_clip_tokens_are_known(record_property: pytest.FixtureRequest) -> None:
    from open_clip.tokenizer import SimpleTokenizer

    tokenizer = SimpleTokenizer()
    counts = {p.prompt_id: len(tokenizer.encode(p.prompt)) + 2 for p in embedded_prompts()}
    record_property("clip_tokens", counts)  # type: ignore[operator]
    # all beyond CLIP's 77, as the docs say: clip_score reads only their beginning
    assert (min(counts.values()), max(counts.values())) == (131, 145)


@pytest.mark.parametrize("name", PINNED)
def test_content_changes_only_with_its_version(name: str) -> None:
    data = embedded_data(f"{name}.toml")
    assert (data["version"], digest(data)) == PINNED[name]


def test_photos_name_the_prompts_they_go_with() -> None:
    assert embedded_data("photos.toml")["prompts"] == embedded_data("prompts.toml")["version"]


def test_base_scenes_cover_the_prompts_scenes() -> None:
    scenes = read_scenes(PROMPTS / "scenes.jsonl")
    assert {scene.scene for scene in scenes} == set(SCENES)
    for scene in scenes:
        told = [problem for problem in problems(scene.text) if "tells who" in problem]
        assert told == []


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("She walks. " * 45, "tells who the person is: she"),
        ("A middle-aged person. " * 35, "aged"),
        ("A person walks. " * 2, "6 words"),
        ("A person {walks}. " * 35, "'{'"),
        ("A person — walks. " * 30, "—"),
        ("Their blond hair moves. " * 25, "blond, hair"),
    ],
)
def test_problems_are_found(text: str, part: str) -> None:
    assert any(part in problem for problem in problems(text))
