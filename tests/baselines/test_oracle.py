"""The controls of the mini world: the person's own head, turning, and somebody else's."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import baselines
from baselines.impostor.adapter import Impostor
from baselines.oracle.adapter import Oracle
from faithfulfaces.mini.footage import mini_plan
from faithfulfaces.synthetic.captions import CLOTHES
from faithfulfaces.synthetic.people import linear, suite_people
from faithfulfaces.synthetic.render import render
from ffbench.cards import for_suite
from ffbench.contract import Method, RefusedError, Request, Runtime
from ffbench.methods import card
from ffbench.records import Case, Scalar
from ffbench.suites import load_suite

ROOT = Path(baselines.__path__[0])


def settings(name: str) -> Mapping[str, Scalar]:
    return for_suite(card(name), "mini").settings


def made(method: Method, case: Case, seed: int = 7) -> np.ndarray:
    method.load(Runtime("cpu", ""))
    (output,) = method.generate([Request(case, seed, "")])
    assert output.fps == 8.0
    return np.asarray(output.frames)


def case_of(identity: str, prompt: str) -> Case:
    (found,) = (c for c in load_suite("mini").cases if (c.identity_id, c.prompt_id) == (identity, prompt))
    return found


def test_the_oracle_shows_the_person_of_the_case_in_scene_and_dress_of_the_prompt() -> None:
    plan = mini_plan(suite_people()[4], "speech", 7, "lecture hall")
    teal = replace(plan.setting, cloth=linear(CLOTHES["dark teal"]))
    assert teal != plan.setting
    wanted = render([plan.person] * 9, plan.frames, [teal] * 9, 64).pixels
    found = made(Oracle(settings("oracle")), case_of("person04", "speech-lecture"))
    assert np.array_equal(found, wanted)


def test_the_impostor_shows_the_next_person_turning() -> None:
    for number, other in ((4, 5), (29, 0)):
        own = made(Oracle(settings("oracle")), case_of(f"person{other:02d}", "ballet-park"))
        found = made(Impostor(settings("impostor")), case_of(f"person{number:02d}", "ballet-park"))
        if number == 4:
            assert found.shape == own.shape and not np.array_equal(found[0], found[-1])
        oracle = Oracle({**settings("oracle"), "whose": "next"})
        assert np.array_equal(found, made(oracle, case_of(f"person{number:02d}", "ballet-park")))


@pytest.mark.parametrize(
    "change", [{"suite": "photos"}, {"identity_id": "ann"}, {"identity_id": "person30"}, {"tags": ()}]
)
def test_of_others_nobody_knows_the_truth(change: dict[str, object]) -> None:
    with pytest.raises(RefusedError, match="no case of the suite mini"):
        made(Oracle(settings("oracle")), replace(case_of("person04", "speech-lecture"), **change))


def test_every_scene_and_place_of_the_prompts_is_one_of_the_worlds() -> None:
    from faithfulfaces.synthetic.captions import SCENES

    text = (ROOT.parent / "prompts" / "prompts.toml").read_text("utf-8")
    for prompt in tomllib.loads(text)["prompt"]:
        assert prompt["background"] in SCENES[prompt["scene"]]
