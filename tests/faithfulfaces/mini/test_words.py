from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, UMT5EncoderModel

from faithfulfaces.mini import words
from faithfulfaces.synthetic.captions import CLOTHES, SCENES
from ffbench.suites import embedded_prompts


def test_a_caption_says_what_its_classes_are() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        said = words.say(rng)
        assert words.PLACES[said.classes[1]] in said.text
        assert list(CLOTHES)[said.classes[2]] in said.text
        assert ("gloves" in said.text) == (list(SCENES)[said.classes[0]] == "boxing")


def test_the_tokenizer_reads_known_words_in_order_and_skips_the_rest(tmp_path: Path) -> None:
    words.make_tokenizer(["boxing", "gym", "red"]).save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    ids = tokenizer("A red, RED fox goes boxing; the boxinggym is no gym!").input_ids
    assert tokenizer.convert_ids_to_tokens(ids) == ["red", "red", "boxing", "gym", "</s>"]
    assert tokenizer("nothing known").input_ids == [1]


def test_every_prompt_of_the_benchmark_fits_and_says_something() -> None:
    tokenizer = words.make_tokenizer(words.vocabulary())
    counts = [len(tokenizer(prompt.prompt).input_ids) for prompt in embedded_prompts()]
    assert min(counts) > 15 and max(counts) <= words.TEXT_TOKENS


def test_the_encoder_learns_what_captions_say(tmp_path: Path) -> None:
    tokenizer = words.make_tokenizer(words.vocabulary(400))
    encoder = words.make_encoder(len(tokenizer), width=64)
    losses = words.train_encoder(tokenizer, encoder, 40, batch=32)
    chance = sum(np.log(count) for count in words.COUNTS)
    assert losses[0] == pytest.approx(chance, rel=0.15)
    assert np.mean(losses[-5:]) < 0.75 * chance
    encoder.save_pretrained(tmp_path)
    again = UMT5EncoderModel.from_pretrained(tmp_path)
    one, two = (words.embed(tokenizer, net, ["dances in a gym", "red"]) for net in (encoder, again))
    assert [len(rows) for rows in one] == [3, 2]
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
