"""CLIPScore against open_clip's logits on unit vectors and a small real CLIP model."""

from __future__ import annotations

import math

import numpy as np
import open_clip
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ffbench.metrics.text import clip_score, clip_score_long


def unit(random: np.random.Generator, *shape: int) -> NDArray[np.float64]:
    values = random.standard_normal(shape)
    return values / np.linalg.norm(values, axis=-1, keepdims=True)


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 20))
def test_clip_score_is_the_mean_of_open_clips_logits(seed: int, count: int) -> None:
    random = np.random.default_rng(seed)
    images, text = unit(random, count, 32), unit(random, 32)
    # open_clip's own loss forms the logits that logits_per_image of other implementations holds
    per_image, _ = open_clip.loss.ClipLoss().get_logits(torch.tensor(images), torch.tensor(text)[None], 100.0)
    got = clip_score(images, text)
    assert got.value == pytest.approx(per_image.mean().item(), abs=1e-11)
    assert got.per_frame == pytest.approx(per_image[:, 0].tolist(), abs=1e-11)
    assert got.num_scored == count


def test_clip_score_is_the_mean_of_logits_per_image_of_a_real_clip_model() -> None:
    from transformers import CLIPConfig, CLIPModel

    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    config = CLIPConfig(
        text_config={**small, "vocab_size": 99, "max_position_embeddings": 77, "eos_token_id": 98},
        vision_config={**small, "image_size": 32, "patch_size": 8},
        projection_dim=16,
        logit_scale_init_value=math.log(100),
    )
    model = CLIPModel(config).eval()
    tokens = torch.tensor([[97, 5, 6, 7, 98]])
    with torch.no_grad():
        out = model(input_ids=tokens, pixel_values=torch.randn(7, 3, 32, 32))
    got = clip_score(out.image_embeds.numpy(), out.text_embeds[0].numpy())
    assert got.value == pytest.approx(out.logits_per_image.mean().item(), abs=1e-4)
    assert got.per_frame == pytest.approx(out.logits_per_image[:, 0].tolist(), abs=1e-4)
    assert abs(got.value) > 0.01


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 5))
def test_long_text_weighs_its_parts_alike(seed: int, count: int, parts: int) -> None:
    random = np.random.default_rng(seed)
    images, sentences = unit(random, count, 16), unit(random, parts, 16)
    got = clip_score_long(images, sentences)
    assert got.value == pytest.approx(np.mean([clip_score(images, one).value for one in sentences]), abs=1e-11)
    assert clip_score_long(images, sentences[::-1]).value == pytest.approx(got.value, abs=1e-11)


def test_one_part_is_the_plain_score() -> None:
    random = np.random.default_rng(1)
    images, text = unit(random, 4, 16), unit(random, 16)
    assert clip_score_long(images, text[None]) == clip_score(images, text)


def test_negative_agreement_stays_negative() -> None:
    assert clip_score([[0.6, 0.8], [-1, 0]], [1, 0]).value == pytest.approx(-20)


def test_nothing_to_compare_is_missing_with_a_reason() -> None:
    for images, text, reason in (
        (np.empty((0, 2)), [[1.0, 0.0]], "no frame was sampled"),
        (np.empty((0, 0)), [[1.0, 0.0]], "no frame was sampled"),
        ([[1.0, 0.0]], np.empty((0, 2)), "the prompt has no text"),
    ):
        got = clip_score_long(images, text)
        assert math.isnan(got.value)
        assert got.reason == reason


def test_contracts() -> None:
    with pytest.raises(ValueError, match="every row is needed"):
        clip_score([[1.0, 0.0], [math.nan, math.nan]], [1.0, 0.0])
    with pytest.raises(ValueError, match="every row is needed"):
        clip_score([[1.0, 0.0]], [math.nan, math.nan])
    with pytest.raises(ValueError, match="images: expected unit vectors"):
        clip_score([[100.0, 0.0]], [1.0, 0.0])
    with pytest.raises(ValueError, match=r"images: expected shape \[T,2\]"):
        clip_score([[1.0, 0.0, 0.0]], [1.0, 0.0])
