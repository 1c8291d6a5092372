"""The truth itself: the suite's rendered person in the prompt's scene, from the renderer."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from importlib import resources

import numpy as np
from numpy.typing import NDArray

from ffbench.contract import Output, RefusedError, Request, Runtime
from ffbench.records import Case, Scalar

PERSON = re.compile(r"person(\d\d)")
PEOPLE = 30


class Oracle:
    """Renders the case's person, or with `whose = "next"` the next of the thirty: a true head, and the wrong one."""

    def __init__(self, settings: Mapping[str, Scalar]) -> None:
        self._shift = {"own": 0, "next": 1}[str(settings["whose"])]
        self._size = int(settings["size"] or 0)
        self._fps = float(settings["fps"] or 0)
        self._device = "cpu"
        self._places: dict[str, str] = {}

    def load(self, runtime: Runtime) -> None:
        """Read which prompt plays where; the renderer runs on the runtime's device, on a CPU with one thread."""
        import torch

        if runtime.device == "cpu":
            # rays come in small pieces: threads would wait for each other
            torch.set_num_threads(1)
        self._device = runtime.device
        tables = tomllib.loads(resources.files("prompts").joinpath("prompts.toml").read_text("utf-8"))["prompt"]
        self._places = {table["prompt_id"]: table["background"] for table in tables}

    def generate(self, requests: Sequence[Request]) -> Iterator[Output]:
        """One rendered video a request.

        Raises:
            RefusedError: an identity that is not one of the mini suite's, or a prompt of no known scene.
        """
        from faithfulfaces.synthetic.captions import SCENES

        for request in requests:
            case = request.case
            found = PERSON.fullmatch(case.identity_id)
            scene = next((tag for tag in case.tags if tag in SCENES), "")
            if not case.suite.startswith("mini") or found is None or int(found[1]) >= PEOPLE or not scene:
                raise RefusedError(
                    f"{case.identity_id} in {case.prompt_id} is no case of the suite mini: nobody knows its truth"
                )
            number = (int(found[1]) + self._shift) % PEOPLE
            yield Output(self._frames(number, scene, case, request.seed), self._fps, notes={
                "shown_identity": f"person{number:02d}", "scene": scene,
            })  # fmt: skip

    def _frames(self, number: int, scene: str, case: Case, seed: int) -> NDArray[np.uint8]:
        from faithfulfaces.mini.footage import FRAMES, mini_plan
        from faithfulfaces.synthetic.captions import CLOTHES, named_cloth
        from faithfulfaces.synthetic.people import linear, suite_people
        from faithfulfaces.synthetic.render import render

        plan = mini_plan(suite_people()[number], scene, seed % (1 << 31), self._places.get(case.prompt_id))
        setting = plan.setting
        if cloth := named_cloth(case.prompt):
            setting = replace(setting, cloth=linear(CLOTHES[cloth]))
        drawn = render([plan.person] * FRAMES, plan.frames, [setting] * FRAMES, self._size, self._device)
        return drawn.pixels
