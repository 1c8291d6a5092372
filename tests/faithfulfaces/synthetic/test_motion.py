"""Clips: the six scenes move as they should, repeat by seed, and their captions say what is in them."""

from __future__ import annotations

import tomllib
from pathlib import Path

import numpy as np
import pytest

from faithfulfaces.synthetic.captions import CLOTHES, GLOVES, SCENES
from faithfulfaces.synthetic.motion import clip, make_plan, reference_frames
from faithfulfaces.synthetic.people import linear, person, suite_people
from faithfulfaces.synthetic.scene import BACKDROPS

WHO = person(2_000_003)
PROMPTS = tomllib.loads((Path(__file__).parents[3] / "prompts" / "prompts.toml").read_text("utf-8"))["prompt"]


def test_scenes_and_places_are_the_benchmarks() -> None:
    theirs: dict[str, list[str]] = {}
    for prompt in PROMPTS:
        theirs.setdefault(prompt["scene"], []).append(prompt["background"])
    assert {scene: list(places) for scene, places in SCENES.items()} == theirs
    assert set(BACKDROPS) == {"plain"} | {place for places in theirs.values() for place in places}


def test_most_caption_words_are_words_of_the_prompts() -> None:
    def words(text: str) -> set[str]:
        return set("".join(c if c.isalpha() else " " for c in text.lower()).split())

    known = set().union(*(words(p["prompt"] + p["background"]) for p in PROMPTS))
    used = set().union(*(words(make_plan(WHO, s, i, 2).caption) for s in SCENES for i in range(60)))
    assert len(used & known) / len(used) > 0.8


@pytest.mark.parametrize("scene", SCENES)
def test_a_plan_repeats_and_another_seed_differs(scene: str) -> None:
    a, b, c = make_plan(WHO, scene, 1, 9), make_plan(WHO, scene, 1, 9), make_plan(WHO, scene, 2, 9)
    assert a.frames == b.frames and a.caption == b.caption and a.setting == b.setting
    assert a.frames != c.frames


@pytest.mark.parametrize("scene", SCENES)
def test_captions_name_clothes_and_place(scene: str) -> None:
    for seed in range(20):
        plan = make_plan(WHO, scene, seed, 2)
        worn = [name for name, colour in CLOTHES.items() if linear(colour) == plan.setting.cloth]
        assert worn and f" {worn[0]} " in plan.caption
        assert plan.setting.backdrop in plan.caption
        assert plan.caption[0].isupper() and plan.caption.endswith(".") and "{" not in plan.caption


def test_captions_vary() -> None:
    assert len({make_plan(WHO, "speech", seed, 2).caption for seed in range(50)}) > 40


def yaws(scene: str, seed: int, count: int = 33) -> np.ndarray:
    return np.array([f.yaw for f in make_plan(WHO, scene, seed, count).frames])


def test_turning_goes_from_the_back_to_the_front() -> None:
    for seed in range(10):
        yaw = yaws("turning", seed)
        assert abs(yaw[0]) > 150 and abs(yaw[-1]) < 20
        assert ((np.abs(yaw) > 60) & (np.abs(yaw) < 120)).any(), "through a profile"


@pytest.mark.parametrize("scene", ["boxing", "dancing", "ballet", "speech", "dramatic"])
def test_heads_turn_widely_and_smoothly(scene: str) -> None:
    spans, jumps = zip(
        *((np.ptp(y), np.abs(np.diff(y)).max()) for y in (yaws(scene, s) for s in range(12))), strict=True
    )
    assert np.median(spans) > 40
    assert max(jumps) < 35


def test_speech_moves_the_mouth_and_drama_the_face() -> None:
    jaw = np.array([f.expression.jaw for f in make_plan(WHO, "speech", 4, 33).frames])
    assert jaw.max() > 0.3 and jaw.min() < 0.1
    brows = [np.ptp([f.expression.brow for f in make_plan(WHO, "dramatic", s, 33).frames]) for s in range(5)]
    assert min(brows) > 0.5


def test_gloves_pass_in_front_of_the_face() -> None:
    hidden = 0
    for seed in range(3):
        made = clip(WHO, "boxing", seed, 9, 24)
        hidden += int((~made.labels.visible[:, 3:].any(1)).sum())
        assert made.pixels.shape == (9, 24, 24, 3) and made.pixels.dtype == np.uint8
    assert hidden > 0
    colours = {linear(c) for c in GLOVES.values()}
    assert any(b.colour in colours for b in made.plan.frames[0].blobs)


def test_unknown_scene_is_refused() -> None:
    with pytest.raises(ValueError, match="scenes are boxing"):
        make_plan(WHO, "swimming", 0, 5)
    with pytest.raises(ValueError, match="0 frames"):
        make_plan(WHO, "boxing", 0, 0)


def test_each_of_the_suite_has_a_frontal_and_a_turned_reference() -> None:
    for who in suite_people():
        front, turned = reference_frames(who)
        assert (front.pitch, front.yaw, front.roll) == (0, 0, 0)
        assert 35 <= abs(turned.yaw) <= 60
        assert reference_frames(who) == (front, turned)
    sides = {np.sign(reference_frames(who)[1].yaw) for who in suite_people()}
    assert sides == {-1.0, 1.0}
