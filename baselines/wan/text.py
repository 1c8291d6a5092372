"""Prompts to embeddings, each once; the text encoder is on the device only while it encodes."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

import ftfy
import torch
from torch import Tensor, nn

from baselines.wan.loading import line, load_part
from ffbench.errors import UserError

LENGTH = 512
"""Tokens of a Wan prompt; the transformer takes whatever is before the last 512 as tokens of an image."""


class PromptEncoder:
    """Tokenizer and UMT5 encoder, with a memory of what they have encoded."""

    def __init__(self, tokenizer: Any, encoder: nn.Module, device: str, length: int = LENGTH) -> None:
        self.tokenizer, self.encoder, self.device, self.length = tokenizer, encoder, device, length
        self.runs = 0
        """How often the encoder has run."""
        self._known: dict[str, Tensor] = {}

    @torch.no_grad()
    def __call__(self, prompt: str) -> Tensor:
        """Embedding [1,length,D] on the device: rows of the prompt's tokens, then zeros (Wan passes no mask)."""
        if prompt not in self._known:
            tokens = self.tokenizer(
                [clean(prompt)], padding="max_length", max_length=self.length, truncation=True, return_tensors="pt"
            )
            mask = tokens.attention_mask.to(self.device)
            self.encoder.to(self.device)
            hidden = self.encoder(tokens.input_ids.to(self.device), mask).last_hidden_state
            self.encoder.to("cpu")
            self.runs += 1
            self._known[prompt] = hidden.masked_fill(mask[..., None] == 0, 0).cpu()
        return self._known[prompt].to(self.device)


def clean(prompt: str) -> str:
    """A prompt as Wan cleans it: broken Unicode mended, HTML entities resolved (twice), white space collapsed."""
    return " ".join(html.unescape(html.unescape(ftfy.fix_text(prompt))).split())


def load_prompts(folder: Path, dtype: torch.dtype, device: str, length: int = LENGTH) -> PromptEncoder:
    """The prompt encoder of a folder in diffusers' layout; `length` is what prompts are padded to.

    Raises:
        UserError: a missing or damaged part, or an input embedding that is not the stored one.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise UserError(f"{folder / 'tokenizer'} cannot be loaded: {line(error)}", "download it again") from error
    encoder = load_part(folder, "text_encoder", dtype)
    # transformers 5.0 to 5.2 leave it uninitialised: prompts become noise, and nothing else would tell
    shared = getattr(encoder, "shared", None)
    if shared is not None and not torch.equal(shared.weight, encoder.encoder.embed_tokens.weight):
        raise UserError(
            f"{folder / 'text_encoder'}: the input embedding is not the stored one",
            "use transformers 4.49 or newer, but none of 5.0 to 5.2",
        )
    return PromptEncoder(tokenizer, encoder, device, length)
