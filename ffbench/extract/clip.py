"""CLIP through open_clip: unit embeddings of frames, prompts and a long prompt's sentences."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from ffbench.errors import UserError
from ffbench.extract.embed import unit
from ffbench.extract.loading import CHUNK, in_chunks, inference, load_strict, torch_device
from ffbench.weights import load_state_dict

Floats = NDArray[np.float32]
_SENTENCE = re.compile(r"(?<=[.!?;])\s+|(?<=[。！？；])|\n+")


class TextFeatures(NamedTuple):
    """Embedded prompts."""

    embeddings: Floats
    """[N,D] unit length."""
    num_tokens: NDArray[np.int64]
    """[N] tokens of the whole prompt, start and end included."""
    truncated: NDArray[np.bool_]
    """[N] prompts longer than the network reads; their last token is still the end of text."""


class ClipModel:
    """A CLIP (Radford et al., ICML 2021) of open_clip's catalogue with OpenAI's preprocessing.

    Args:
        path: state dict with open_clip's keys.
        sha256: of that file, for the id.
        model: open_clip's name of the architecture; OpenAI's own weights want a `-quickgelu` one.
        device: a PyTorch device.

    Raises:
        UserError: an unknown or unfit architecture, or a file that does not hold it.
    """

    def __init__(self, path: Path, sha256: str, model: str = "ViT-B-32-quickgelu", device: str = "cpu") -> None:
        import open_clip

        self._device = torch_device(device)
        config = _config(model)
        net: Any = open_clip.CLIP(**config)
        self._net = load_strict(net, load_state_dict(path), path, f"CLIP {model}").to(self._device)
        self._context = int(self._net.context_length)
        self._dim = int(config["embed_dim"])
        self._tokenizer: Any = open_clip.SimpleTokenizer(context_length=self._context)
        # shortest side by bicubic PIL resizing, centre crop, CLIP's mean and deviation
        self._preprocess: Any = open_clip.image_transform(self._net.visual.image_size, is_train=False)
        self.id = f"open-clip:{model}:{path.name}@{sha256[:12]}"

    def images(self, pixels: NDArray[np.uint8], colour: Literal["rgb", "bgr"] = "rgb") -> Floats:
        """[T,D] of unit length from uint8 [T,H,W,3] RGB.

        `bgr` shows the network red as blue, as ConsisID's script does; `pixels` are RGB all the same.

        Raises:
            ValueError: other pixels or another colour.
        """
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[3] != 3:
            raise ValueError(f"CLIP takes uint8 [T,H,W,3] RGB, not {pixels.dtype} {list(pixels.shape)}")
        if colour not in ("rgb", "bgr"):
            raise ValueError(f"colour is rgb or bgr, not {colour!r}")
        if not len(pixels):
            return np.zeros((0, self._dim), np.float32)
        return unit(in_chunks(self._encode, pixels[..., :: 1 if colour == "rgb" else -1], self._device))

    def _encode(self, shown: NDArray[np.uint8]) -> Floats:
        import torch

        batch = torch.stack([self._preprocess(PIL.Image.fromarray(np.ascontiguousarray(frame))) for frame in shown])
        with inference():
            return np.asarray(self._net.encode_image(batch.to(self._device)).float().cpu().numpy(), np.float32)

    def texts(self, prompts: Sequence[str]) -> TextFeatures:
        """Embed prompts; one that is too long is cut, its end-of-text token kept, and flagged."""
        counts = np.array([self._count(prompt) for prompt in prompts], np.int64)
        rows = [np.zeros((0, self._dim), np.float32)]
        for start in range(0, len(prompts), CHUNK):
            tokens = self._tokenizer(list(prompts[start : start + CHUNK]))
            with inference():
                rows.append(self._net.encode_text(tokens.to(self._device)).float().cpu().numpy())
        return TextFeatures(unit(np.concatenate(rows)), counts, counts > self._context)

    def long_texts(self, prompt: str) -> Floats:
        """[S,D] of unit length: one row a sentence, or a part of one where a sentence is too long; nothing is cut."""
        sentences = [part.strip() for part in _SENTENCE.split(prompt) if part.strip()] or [prompt]
        parts = [part for sentence in sentences for part in self._fitting(sentence)]
        return self.texts(parts).embeddings

    def _count(self, prompt: str) -> int:
        return len(self._tokenizer.encode(prompt)) + 2

    def _fitting(self, text: str) -> list[str]:
        """`text` in parts that fit, halved at the space (else the character) nearest to the middle."""
        if self._count(text) <= self._context or len(text) < 2:
            return [text]
        middle = len(text) // 2
        spaces = [i for i, letter in enumerate(text) if letter.isspace()]
        cut = min(spaces, key=lambda i: abs(i - middle), default=middle)
        halves = (text[:cut].strip(), text[cut:].strip())
        return [part for half in halves if half for part in self._fitting(half)]


def _config(model: str) -> dict[str, Any]:
    """open_clip's configuration of a plain CLIP: one image and one text transformer, OpenAI's tokenizer."""
    import open_clip

    # the catalogue only: other names would have open_clip ask a model hub
    known = model in open_clip.list_models()
    config: dict[str, Any] = open_clip.get_model_config(model) if known else {}
    text, vision = config.get("text_cfg", {}), config.get("vision_cfg", {})
    plain = set(config) <= {"embed_dim", "quick_gelu", "vision_cfg", "text_cfg"} and "timm_model_name" not in vision
    if not config or not plain or {"hf_model_name", "hf_tokenizer_name", "tokenizer_kwargs"} & set(text):
        raise UserError(
            f"CLIP model {model!r} is {'not of the plain kind' if known else 'unknown to open_clip'}",
            "give an OpenAI-style architecture such as ViT-B-32-quickgelu",
        )
    return config
