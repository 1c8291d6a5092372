"""Qwen2.5-VL on this machine, behind the interface of a chat server: the same messages, the same answers."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ffbench.errors import UserError

LONGEST = 512
"""Tokens of an answer."""


class Qwen:
    """One model in memory, one answer at a time; nothing is fetched, and no code of the folder is run.

    Args:
        folder: weights (safetensors), config and processor of Qwen2.5-VL in transformers' layout.
        device: where it runs; empty for a GPU where there is one.

    Raises:
        UserError: no such model in the folder.
    """

    def __init__(self, folder: Path, device: str = "") -> None:
        if not (folder / "config.json").is_file():
            raise UserError(f"--model {folder} is no folder of a model", "download Qwen2.5-VL, or name an --endpoint")
        import torch
        from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

        self._device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        loading: Any = AutoProcessor
        own: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        try:
            self._processor = loading.from_pretrained(folder, **own)
            dtype = torch.bfloat16 if self._device != "cpu" else torch.float32
            model: Any = Qwen2_5_VLForConditionalGeneration.from_pretrained(
                folder, torch_dtype=dtype, use_safetensors=True, **own
            )
        except (OSError, ValueError) as error:
            raise UserError(f"--model {folder} is no Qwen2.5-VL: {error}", "give the folder of its weights") from error
        self._model = model.to(self._device).eval()
        self._name = str(folder.name)

    def ask(self, messages: Sequence[Mapping[str, Any]], seed: int) -> tuple[str, str]:
        """The model's answer and its name; the same seed gives the same answer.

        The first answer to a question is the likeliest (greedy); one that was found unfit is drawn with the seed.
        """
        import torch

        pictures: list[Any] = []
        talk = [{"role": m["role"], "content": _content(m["content"], pictures)} for m in messages]
        text = self._processor.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)
        inputs = self._processor(text=[text], images=pictures or None, return_tensors="pt").to(self._device)
        again = any(m["role"] == "assistant" for m in messages)
        chosen: dict[str, Any] = (
            {"do_sample": True, "temperature": 0.7, "top_p": 0.9} if again else {"do_sample": False}
        )
        with torch.inference_mode(), torch.random.fork_rng():
            torch.manual_seed(seed)
            made = self._model.generate(**inputs, max_new_tokens=LONGEST, **chosen)
        answer = self._processor.batch_decode(made[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)[0]
        return str(answer), self._name


def _content(content: str | Sequence[Mapping[str, Any]], pictures: list[Any]) -> list[dict[str, Any]]:
    """Parts as the processor's chat template knows them; the pictures of data URLs go into `pictures`, in order."""
    from PIL import Image

    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    parts: list[dict[str, Any]] = []
    for part in content:
        if part["type"] == "text":
            parts.append({"type": "text", "text": part["text"]})
            continue
        data = base64.b64decode(part["image_url"]["url"].partition(",")[2])
        pictures.append(Image.open(io.BytesIO(data)).convert("RGB"))
        parts.append({"type": "image"})
    return parts
