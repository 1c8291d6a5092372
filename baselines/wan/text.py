"""Prompts to embeddings, each once; the text encoder is on the device only while it encodes."""

from __future__ import annotations

import html
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ftfy
import torch
from torch import Tensor, nn

from baselines.wan.loading import line, load_part
from ffbench.errors import UserError

LENGTH = 512
"""Tokens of a Wan prompt; the transformer takes whatever is before the last 512 as tokens of an image."""


class PromptMemory:
    """Embeddings of prompts, each made once; the text encoder is on the device only while it runs.

    Args:
        encoder: the network that `embed` runs.
        device: a PyTorch device.
        embed: prompt -> tensor on the device.
    """

    def __init__(self, encoder: nn.Module, device: str, embed: Callable[[str], Tensor]) -> None:
        self.encoder, self.device, self._embed = encoder, device, embed
        self.runs = 0
        """How often the encoder has run."""
        self._known: dict[str, Tensor] = {}

    @torch.no_grad()
    def __call__(self, prompt: str) -> Tensor:
        """The embedding of a prompt, on the device."""
        if prompt not in self._known:
            self.encoder.to(self.device)
            made = self._embed(prompt)
            self.encoder.to("cpu")
            self.runs += 1
            self._known[prompt] = made.cpu()
        return self._known[prompt].to(self.device)


class PromptEncoder(PromptMemory):
    """Wan's: rows [1,length,D] of the prompt's tokens by UMT5, then zeros, since Wan passes no mask."""

    def __init__(self, tokenizer: Any, encoder: nn.Module, device: str, length: int = LENGTH) -> None:
        super().__init__(encoder, device, self._rows)
        self.tokenizer, self.length = tokenizer, length

    def _rows(self, prompt: str) -> Tensor:
        tokens = self.tokenizer(
            [clean(prompt)], padding="max_length", max_length=self.length, truncation=True, return_tensors="pt"
        )
        mask = tokens.attention_mask.to(self.device)
        hidden: Tensor = self.encoder(tokens.input_ids.to(self.device), mask).last_hidden_state
        return hidden.masked_fill(mask[..., None] == 0, 0)


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
    return PromptEncoder(tokenizer, load_text_encoder(folder, dtype), device, length)


def load_text_encoder(folder: Path, dtype: torch.dtype) -> Any:
    """T5 or UMT5 of a folder, on the CPU.

    Raises:
        UserError: as `load_part`, or an input embedding that is not the stored one.
    """
    encoder = load_part(folder, "text_encoder", dtype)
    # transformers 5.0 to 5.2 leave it uninitialised: prompts become noise, and nothing else would tell
    shared = getattr(encoder, "shared", None)
    if shared is not None and not torch.equal(shared.weight, encoder.encoder.embed_tokens.weight):
        raise UserError(
            f"{folder / 'text_encoder'}: the input embedding is not the stored one",
            "use transformers 4.49 or newer, but none of 5.0 to 5.2",
        )
    return encoder
