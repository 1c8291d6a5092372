from __future__ import annotations

import numpy as np
import pytest

from faithfulfaces.synthetic.captions import CLOTHES, SCENES, caption, named_cloth


@pytest.mark.parametrize(
    ("text", "colour"),
    [
        ("A person in a long sand coloured coat and a turquoise scarf dances.", "sand coloured"),
        ("dressed in an orange checked shirt, at a white wall", "orange"),
        ("A person wearing a mint green shirt, red sky behind.", None),
        ("a person in a navy windbreaker and black fingerless gloves", None),
        ("wearing a black boxing gloves logo", None),
    ],
)
def test_a_sentence_names_the_colour_of_the_clothes(text: str, colour: str | None) -> None:
    assert named_cloth(text) == colour


def test_every_caption_names_its_cloth() -> None:
    rng = np.random.default_rng(0)
    for scene, places in SCENES.items():
        for cloth in CLOTHES:
            assert named_cloth(caption(scene, places[0], cloth, "red", False, rng)) == cloth
