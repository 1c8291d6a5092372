"""The pieces of the mini world put into the folders that pipelines read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch

INDEX = {
    "_class_name": "WanVACEPipeline",
    "scheduler": ["diffusers", "UniPCMultistepScheduler"],
    "text_encoder": ["transformers", "UMT5EncoderModel"],
    "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
    "transformer": ["diffusers", "WanVACETransformer3DModel"],
    "vae": ["faithfulfaces.mini.codec", "PatchCodec"],
}
SHIFT = 2.0
"""Of the sampler's noise levels, as in training."""
SAMPLING: dict[str, int | float | str | bool] = {
    "width": 64, "height": 64, "num_frames": 9, "steps": 1, "guidance": 1.0, "flow_shift": SHIFT, "text_tokens": 48,
    "negative_prompt": "",
}  # fmt: skip
"""How the embedded checkpoint samples unless told otherwise; the cards of faithfulfaces and vace say the same."""


def assemble(parts: Path, transformer: Path, out: Path) -> None:
    """Write a VACE folder in diffusers' layout, the transformer rounded to float16.

    Args:
        parts: folder with vae, text_encoder and tokenizer.
        transformer: folder of the trained base, float32.
        out: replaced.
    """
    from diffusers import UniPCMultistepScheduler, WanVACETransformer3DModel

    if out.exists():
        shutil.rmtree(out)
    out.mkdir(parents=True)
    network = WanVACETransformer3DModel.from_pretrained(transformer)
    for parameter in network.parameters():
        parameter.data = parameter.data.to(torch.float16)
    network.save_pretrained(out / "transformer")
    # diffusers notes where a model came from: a path of the machine that built it, and nothing to a user
    config = out / "transformer" / "config.json"
    kept = {key: value for key, value in json.loads(config.read_text("utf-8")).items() if key != "_name_or_path"}
    config.write_text(json.dumps(kept, indent=2) + "\n", "utf-8")
    for name in ("vae", "text_encoder", "tokenizer"):
        shutil.copytree(parts / name, out / name)
    scheduler = UniPCMultistepScheduler(prediction_type="sample", use_flow_sigmas=True, flow_shift=SHIFT)
    scheduler.save_pretrained(out / "scheduler")
    (out / "model_index.json").write_text(json.dumps(INDEX, indent=2) + "\n", "utf-8")
