"""The default suite: embedded, frontal or with both views, and the protocol that goes with it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from faithfulfaces.synthetic.motion import reference_frames
from faithfulfaces.synthetic.people import suite_people
from faithfulfaces.synthetic.render import render
from faithfulfaces.synthetic.scene import Setting
from ffbench.image import read_image
from ffbench.protocols import default_protocol
from ffbench.suites import load_suite


def test_thirty_people_times_twenty_prompts() -> None:
    suite = load_suite("mini")
    assert (suite.name, suite.version, len(suite.cases)) == ("mini", "1", 600)
    assert {case.references[0].view for case in suite.cases} == {"frontal"}
    assert len({case.references[0].sha256 for case in suite.cases}) == 30
    assert "mini" in suite.notes[0]


def test_both_views_of_everybody() -> None:
    suite = load_suite("mini-views")
    assert len(suite.cases) == 1200
    views = [case.references[0].view for case in suite.cases]
    assert views.count("frontal") == views.count("non-frontal") == 600


@pytest.mark.parametrize(("number", "view"), [(0, 0), (17, 1)])
def test_photographs_are_the_renderers(number: int, view: int) -> None:
    who = suite_people()[number]
    drawn = render([who], [reference_frames(who)[view]], [Setting()], 96).pixels[0].astype(int)
    cases = [c for c in load_suite("mini-views").cases if c.identity_id == f"person{number:02d}"]
    (path,) = {c.references[0].path for c in cases if c.references[0].view == ("frontal", "non-frontal")[view]}
    # other processors may round a ray's way differently
    assert np.abs(read_image(Path(path)).astype(int) - drawn).mean() < 0.5


def test_each_suite_has_its_protocol() -> None:
    assert default_protocol("mini@1") == default_protocol("mini-views") == "mini"
    assert default_protocol("photos@1") == default_protocol("") == default_protocol("paper") == "basic"
