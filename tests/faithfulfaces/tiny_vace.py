"""A real VACE folder in diffusers' layout, small enough for tests: every class as in the 14B, random weights."""

from __future__ import annotations

import functools
from pathlib import Path

import insightface
import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanVACEPipeline, WanVACETransformer3DModel
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from faithfulfaces.aligner import PoseSharedIdentityAligner
from faithfulfaces.config import WEIGHTLESS_FACES, Aligner, Lora
from faithfulfaces.lora import inject, state
from faithfulfaces.model import ModelConfig, Parts
from faithfulfaces.prior import Prior

WORDS = ["<pad>", "</s>", "<unk>", "a", "person", "boxes", "dances", "turns", "the", "head", "blurred"]


def transformer(layers: int = 3, width: int = 2) -> WanVACETransformer3DModel:
    return WanVACETransformer3DModel(
        num_attention_heads=width,
        attention_head_dim=12,
        in_channels=16,
        out_channels=16,
        text_dim=32,
        freq_dim=256,
        ffn_dim=32,
        num_layers=layers,
        rope_max_seq_len=32,
        vace_layers=[0, 2],
        vace_in_channels=96,
    ).eval()


def tokenizer() -> PreTrainedTokenizerFast:
    inner = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=512
    )


def pipeline(seed: int = 0) -> WanVACEPipeline:
    torch.manual_seed(seed)
    config = UMT5Config(
        vocab_size=len(WORDS), d_model=32, d_kv=8, d_ff=37, num_layers=2, num_heads=4, tie_word_embeddings=False
    )
    return WanVACEPipeline(
        tokenizer=tokenizer(),
        text_encoder=UMT5EncoderModel(config).eval(),
        vae=AutoencoderKLWan(
            base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True]
        ).eval(),
        scheduler=UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, num_train_timesteps=1000, flow_shift=3.0
        ),
        transformer=transformer(),
    )


def write(folder: Path, seed: int = 0) -> Path:
    """Save the pipeline as `Wan-AI/Wan2.1-VACE-14B-diffusers` is laid out, and return the folder."""
    pipeline(seed).save_pretrained(folder)
    return folder


def parts(config: ModelConfig, *, trained: bool, seed: int = 0) -> Parts:
    """Aligner, prior and LoRA for the tiny transformer; untrained ones are exactly what training starts from."""
    torch.manual_seed(seed)
    aligner, prior = PoseSharedIdentityAligner(config.aligner).eval(), Prior(config.aligner.dim, 24, config.injection)
    model = transformer()
    inject(model, Lora(rank=4, alpha=4.0))
    if trained:
        # large enough that five degrees of Euler noise show in eight bits of a pixel
        for weight in [
            prior.projection.weight,
            *([m[2].weight for m in aligner.euler.angles] if aligner.euler else []),
        ]:
            torch.nn.init.normal_(weight, std=2.0)
        for weight in [parameter for name, parameter in model.named_parameters() if "lora_B" in name]:
            torch.nn.init.normal_(weight, std=0.5)
    return Parts(aligner.requires_grad_(False), prior.requires_grad_(False), state(model))


CONFIG = ModelConfig(
    aligner=Aligner(elements=16, dim=8, image_size=32, patch=8), faces=WEIGHTLESS_FACES, base="tiny/vace"
)
SMALL = {"width": 32, "height": 16, "num_frames": 5, "steps": 2}
"""Sampling that takes a tenth of a second."""


def portrait() -> Image.Image:
    """A person of the group photograph that ships with insightface, seen half from the side."""
    return _photograph().crop((850, 10, 1070, 260))


def landscape() -> Image.Image:
    """A corner of the same photograph without anybody."""
    return _photograph().crop((0, 0, 250, 130))


@functools.cache
def _photograph() -> Image.Image:
    return Image.open(Path(insightface.__file__).parent / "data" / "images" / "t1.jpg").convert("RGB")
