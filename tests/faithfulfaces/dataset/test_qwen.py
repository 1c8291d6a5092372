"""Qwen2.5-VL as transformers has it, tiny and with random weights, from a folder on disk."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from faithfulfaces.dataset.caption import ATTEMPTS, Asked, Captioning, Clip, caption_clips, messages
from faithfulfaces.dataset.qwen import Qwen
from ffbench.errors import UserError
from ffbench.video import write_mp4

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>",
           "<|video_pad|>")  # fmt: skip
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for part in m.content %}{% if part.type == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}{% endfor %}"
    "<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_model(folder: Path) -> None:
    """Write a Qwen2.5-VL of two layers, a byte tokenizer, and their processor."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import (
        PreTrainedTokenizerFast,
        Qwen2_5_VLConfig,
        Qwen2_5_VLForConditionalGeneration,
        Qwen2_5_VLProcessor,
        Qwen2VLImageProcessor,
        Qwen2VLVideoProcessor,
    )

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token="<|im_end|>", pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL[1:2] + SPECIAL[3:]), padding_side="left",
    )  # fmt: skip
    ids = {name: int(tokenizer.convert_tokens_to_ids(name)) for name in SPECIAL}
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
            "num_attention_heads": 2, "num_key_value_heads": 1, "initializer_range": 0.3,
            "bos_token_id": ids["<|endoftext|>"],
            "eos_token_id": ids["<|im_end|>"], "pad_token_id": ids["<|endoftext|>"],
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]},
        },
        vision_config={
            "initializer_range": 0.3, "depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2,
            "out_hidden_size": 32, "fullatt_block_indexes": [1],
        },
        image_token_id=ids["<|image_pad|>"], video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"], vision_end_token_id=ids["<|vision_end|>"],
    )  # fmt: skip
    torch.manual_seed(0)
    Qwen2_5_VLForConditionalGeneration(config).save_pretrained(folder)
    processor = Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(min_pixels=28 * 28, max_pixels=56 * 56),
        tokenizer=tokenizer, video_processor=Qwen2VLVideoProcessor(), chat_template=TEMPLATE,
    )  # fmt: skip
    processor.save_pretrained(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("qwen")
    make_model(folder)
    return folder


@pytest.fixture(scope="module")
def qwen(folder: Path) -> Qwen:
    return Qwen(folder, device="cpu")


def clip(path: Path, level: int) -> Path:
    write_mp4(path, np.full((6, 56, 84, 3), level, np.uint8), 6)
    return path


def test_frames_and_words_reach_the_model(
    qwen: Qwen, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("faithfulfaces.dataset.qwen.LONGEST", 12)
    dark, light = (messages(clip(tmp_path / f"{level}.mp4", level), 3) for level in (20, 220))
    answer, name = qwen.ask(dark, 1)
    assert (name, qwen.ask(dark, 2)[0]) == (folder.name, answer)  # the first answer is greedy
    # random weights say nothing sensible, but what they say of little depends on each part of it
    said = {
        qwen.ask([{"role": "user", "content": [talk[1]["content"][1], {"type": "text", "text": words}]}], 1)[0]
        for talk in (dark, light)
        for words in ("Sing", "zz")
    }
    assert len(said) == 4


def test_an_unfit_answer_is_drawn_anew_with_its_seed(
    qwen: Qwen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("faithfulfaces.dataset.qwen.LONGEST", 12)
    start = messages(clip(tmp_path / "a.mp4", 90), 2)
    talk = [*start, {"role": "assistant", "content": "no"}, {"role": "user", "content": "again"}]
    before = torch.random.get_rng_state()
    drawn = [qwen.ask(talk, seed)[0] for seed in (1, 1, 2, 3)]
    assert drawn[0] == drawn[1]
    assert len(set(drawn)) > 1
    assert torch.equal(before, torch.random.get_rng_state())


def test_what_random_weights_say_is_no_caption(qwen: Qwen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("faithfulfaces.dataset.qwen.LONGEST", 8)
    how = Captioning(qwen, Asked("tiny", 2), tmp_path / "captions.jsonl", 1)
    made = caption_clips([Clip("a", clip(tmp_path / "a.mp4", 90))], how)["a"]
    assert (made.status, made.provenance["answers"], made.prompt) == ("failed", ATTEMPTS, "")


def test_folders_that_hold_no_such_model_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no folder of a model"):
        Qwen(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(UserError, match=r"is no Qwen2\.5-VL"):
        Qwen(tmp_path)
    assert (folder / "model.safetensors").is_file()
