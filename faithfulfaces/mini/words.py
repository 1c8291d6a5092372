"""The mini world's text encoder: a tokenizer that reads only the words of its captions, and a small UMT5.

The encoder learns what a caption says (scene, place, colours of clothes and gloves, hands over the face) from captions
alone, with words dropped and others put in, so that longer prompts of the same vocabulary are read too.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from faithfulfaces.synthetic.captions import CLOTHES, GLOVES, SCENES, caption

PAD, END, UNKNOWN = "<pad>", "</s>", "<unk>"
TEXT_TOKENS = 48
"""Words that are read of a prompt."""
_COMMON = {
    *("a", "an", "and", "the", "of", "in", "on", "at", "to", "is", "it", "as", "with", "from", "for", "by", "then"),
    *("this", "that", "person", "video", "shows", "wearing", "dressed", "one", "who", "their", "they"),
}
PLACES = tuple(dict.fromkeys(place for places in SCENES.values() for place in places))


@dataclass(frozen=True)
class Said:
    """A caption and what it says, as class numbers."""

    text: str
    classes: tuple[int, ...]
    """scene, place, clothes, gloves (the last class: none), hands cross the face."""


COUNTS = (len(SCENES), len(PLACES), len(CLOTHES), len(GLOVES) + 1, 2)


def say(rng: np.random.Generator) -> Said:
    """A random caption."""
    scene, place = str(rng.choice(list(SCENES))), str(rng.choice(PLACES))
    cloth, glove = str(rng.choice(list(CLOTHES))), str(rng.choice(list(GLOVES)))
    covered = scene in ("ballet", "dramatic") and bool(rng.uniform() < 0.5)
    gloves = list(GLOVES).index(glove) if scene == "boxing" else len(GLOVES)
    classes = (list(SCENES).index(scene), PLACES.index(place), list(CLOTHES).index(cloth), gloves, int(covered))
    return Said(caption(scene, place, cloth, glove, covered, rng), classes)


def vocabulary(count: int = 4000) -> list[str]:
    """Words of the captions, most common grammar left out, in alphabetical order."""
    rng = np.random.default_rng(7)
    words = {word for _ in range(count) for word in re.findall(r"[a-z]+", say(rng).text.lower())}
    return sorted(words - _COMMON)


def make_tokenizer(words: Sequence[str]) -> Any:
    """A transformers tokenizer: one token a known word, every other word skipped, an end token."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    ids = {token: i for i, token in enumerate((PAD, END, UNKNOWN, *words))}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=UNKNOWN))
    known = "|".join(words)
    tokenizer.normalizer = normalizers.Sequence([
        normalizers.Lowercase(),
        normalizers.Replace(Regex(r"[^a-z]+"), " "),
        normalizers.Replace(Regex(rf"\b(?!(?:{known})\b)[a-z]+\b"), ""),
    ])  # fmt: skip
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single=f"$A {END}", special_tokens=[(END, ids[END])])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=END, unk_token=UNKNOWN, model_max_length=TEXT_TOKENS,
        padding_side="right",
    )  # fmt: skip


def make_encoder(size: int, width: int = 128) -> Any:
    """An untrained UMT5 encoder of two layers."""
    from transformers import UMT5Config, UMT5EncoderModel

    config = UMT5Config(
        vocab_size=size, d_model=width, d_kv=32, d_ff=2 * width, num_layers=2, num_heads=4,
        relative_attention_num_buckets=16, relative_attention_max_distance=48, dropout_rate=0.0,
        pad_token_id=0, eos_token_id=1, tie_word_embeddings=True,
    )  # fmt: skip
    return UMT5EncoderModel(config)


def train_encoder(tokenizer: Any, encoder: Any, steps: int, seed: int = 0, batch: int = 96) -> list[float]:
    """Train the encoder to tell what captions say from the mean of its outputs; returns the losses."""
    torch.manual_seed(seed)
    rng = np.random.default_rng([29, seed])
    heads = nn.ModuleList(nn.Linear(encoder.config.d_model, count) for count in COUNTS)
    parameters = [*encoder.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, 2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps, pct_start=0.1)
    words = list(tokenizer.get_vocab())[3:]
    losses = []
    for _ in range(steps):
        said = [say(rng) for _ in range(batch)]
        tokens = tokenizer(
            [_disturbed(one.text, words, rng) for one in said], padding=True, truncation=True, return_tensors="pt"
        )
        outputs = encoder(tokens.input_ids, attention_mask=tokens.attention_mask).last_hidden_state
        logits = [head(mean_of(outputs, tokens.attention_mask)) for head in heads]
        classes = torch.tensor([one.classes for one in said])
        loss = sum((F.cross_entropy(logit, classes[:, i]) for i, logit in enumerate(logits)), torch.zeros(()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    encoder.eval().requires_grad_(False)
    return losses


def mean_of(outputs: Tensor, mask: Tensor) -> Tensor:
    """[B,D] mean over the tokens that are there."""
    weight = mask[..., None].to(outputs.dtype)
    return (outputs * weight).sum(1) / weight.sum(1)


@torch.no_grad()
def embed(tokenizer: Any, encoder: nn.Module, texts: Sequence[str]) -> list[Tensor]:
    """[T,D] embeddings of each text, padding left out, as the pipeline computes them."""
    out = []
    for start in range(0, len(texts), 256):
        tokens = tokenizer(
            list(texts[start : start + 256]), padding="max_length", truncation=True, max_length=TEXT_TOKENS,
            return_tensors="pt",
        )  # fmt: skip
        rows = encoder(tokens.input_ids, attention_mask=tokens.attention_mask).last_hidden_state
        out += [row[: int(mask.sum())].clone() for row, mask in zip(rows, tokens.attention_mask, strict=True)]
    return out


def _disturbed(text: str, words: Sequence[str], rng: np.random.Generator) -> str:
    kept = [word for word in text.split() if rng.uniform() > 0.05]
    for _ in range(int(rng.integers(0, 12))):
        kept.insert(int(rng.integers(len(kept) + 1)), str(rng.choice(words)))
    return " ".join(kept)
