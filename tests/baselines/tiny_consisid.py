"""A real ConsisID folder in diffusers' layout, small enough for tests, and its four face networks by their classes."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import warnings
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXDPMScheduler, ConsisIDPipeline, ConsisIDTransformer3DModel
from PIL import Image
from torch import nn
from transformers import T5Config, T5EncoderModel

from tests.faithfulfaces.tiny_vace import WORDS, tokenizer

FACE = {"LFE_id_dim": 3, "LFE_vit_dim": 6, "LFE_depth": 4, "LFE_dim_head": 8, "LFE_num_heads": 2}
FACE |= {"LFE_num_id_token": 1, "LFE_num_querie": 1, "LFE_output_dim": 21, "LFE_ff_mult": 1, "LFE_num_scale": 2}
EVA = "EVA02-CLIP-L-14-336"
WIDTH, EMBED, DEPTH = 16, 8, 9
"""Of the small EVA-CLIP tower; of nine layers the inputs of the fifth and the ninth are handed on."""
MARKS = ((-8, -8), (8, -8), (0, 0), (-6, 8), (6, 8))
"""Five points around the centre of what the small RetinaFace finds, px."""


def whole(**face: int) -> ConsisIDPipeline:
    """ConsisID with random weights, for features of the sizes in `face` (1 x 3 and 6 unless given)."""
    torch.manual_seed(0)
    transformer = ConsisIDTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=8,
        out_channels=4,
        time_embed_dim=8,
        text_embed_dim=32,
        num_layers=2,
        sample_width=2,
        sample_height=2,
        sample_frames=9,
        use_rotary_positional_embeddings=True,
        is_train_face=True,
        is_kps=True,
        cross_attn_interval=1,
        cross_attn_dim_head=8,
        cross_attn_num_heads=2,
        **{**FACE, **face},
    )
    # the authors start it at nothing; a face has to show
    for layer in transformer.perceiver_cross_attention:
        nn.init.normal_(layer.to_out.weight)
    blocks = {"down_block_types": ("CogVideoXDownBlock3D",) * 4, "up_block_types": ("CogVideoXUpBlock3D",) * 4}
    return ConsisIDPipeline(
        tokenizer=tokenizer(),
        text_encoder=T5EncoderModel(T5Config(vocab_size=len(WORDS), d_model=32, d_kv=8, d_ff=37, num_layers=2)).eval(),
        vae=AutoencoderKLCogVideoX(
            block_out_channels=(8, 8, 8, 8), latent_channels=4, layers_per_block=1, norm_num_groups=2, **blocks
        ).eval(),
        transformer=transformer.eval(),
        scheduler=CogVideoXDPMScheduler(prediction_type="v_prediction", timestep_spacing="trailing"),
    )


def packages(folder: Path) -> str:
    """A PYTHONPATH on which consisid_eva_clip is the installed package with a small model under the published name."""
    spec = importlib.util.find_spec("consisid_eva_clip")
    assert spec is not None and spec.origin is not None
    shutil.copytree(Path(spec.origin).parent, folder / "consisid_eva_clip")
    file = folder / "consisid_eva_clip" / "model_configs" / f"{EVA}.json"
    config = json.loads(file.read_text())
    # its other options stay: rotary positions, sub-norms, SwiGLU
    config["vision_cfg"] |= {"image_size": 28, "width": WIDTH, "head_width": 8, "layers": DEPTH, "pt_hw_seq_len": 2}
    config["text_cfg"] |= {"width": WIDTH, "heads": 2, "layers": 1}
    file.write_text(json.dumps({**config, "embed_dim": EMBED}))
    return os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)


def write_face_networks(encoder: Path) -> None:
    """The four files that upstream's own code opens as PyTorch: EVA-CLIP small, facexlib's three of their only size.

    RetinaFace finds what is red; the others have random weights, and BiSeNet takes most for skin.
    """
    from facexlib.detection.retinaface import RetinaFace
    from facexlib.parsing.bisenet import BiSeNet
    from facexlib.parsing.parsenet import ParseNet

    torch.manual_seed(0)
    with warnings.catch_warnings():
        # how facexlib calls torchvision
        warnings.simplefilter("ignore")
        finder = red_finder(RetinaFace("resnet50", device="cpu"))
    skin = BiSeNet(num_class=19)
    with torch.no_grad():
        skin.conv_out.conv_out.weight[1].fill_(1)
    files = {
        "detection_Resnet50_Final.pth": finder,
        "parsing_bisenet.pth": skin,
        "parsing_parsenet.pth": ParseNet(in_size=512, out_size=512, parsing_ch=19),
    }
    encoder.mkdir(parents=True, exist_ok=True)
    for name, network in files.items():
        # half as large, and read back into float32
        torch.save(
            {key: t.half() if t.is_floating_point() else t for key, t in network.state_dict().items()}, encoder / name
        )


@torch.no_grad()
def red_finder(network: nn.Module) -> nn.Module:
    """RetinaFace whose first channel carries red minus green to the head: a face of 32 px around every red spot."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.zero_()
            module.weight[0, 0, module.kernel_size[0] // 2, module.kernel_size[1] // 2] = 1
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
    for name, module in network.body.named_modules():
        if name.endswith("bn3"):
            # what a residual block adds to its input
            module.weight.zero_()
    # [256 out, 3 in, 7, 7] of pictures in BGR less their mean
    network.body.conv1.weight[0] = torch.tensor([0.0, -1.0, 1.0]).view(3, 1, 1).expand(3, 7, 7) / 49
    for level, (score, box, points) in enumerate(
        zip(network.ClassHead, network.BboxHead, network.LandmarkHead, strict=True)
    ):
        for head in (score, box, points):
            head.conv1x1.weight.zero_()
            head.conv1x1.bias.zero_()
        score.conv1x1.bias[1::2] = -50
        if level == 0:
            # of two anchors a cell the one of 32 px; its logits are the third and fourth
            score.conv1x1.weight[3, 0], score.conv1x1.bias[3] = 1.0, -100.0
            points.conv1x1.bias[10:] = torch.tensor(MARKS).flatten() / (0.1 * 32)
    return network


def write_list(encoder: Path) -> str:
    """Write SHA256SUMS of all that lies in face_encoder/, as the program of that name does; its own sha256."""
    files = sorted(path for path in encoder.rglob("*.*") if path.is_file())
    lines = [f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.relative_to(encoder)}\n" for file in files]
    (encoder / "SHA256SUMS").write_text("".join(lines))
    return hashlib.sha256((encoder / "SHA256SUMS").read_bytes()).hexdigest()


def portrait(path: Path, *, face: bool = True, seed: int = 0) -> None:
    """A red face with a grey pattern of its own around it on blue, 128x96 px; or the pattern alone."""
    pattern = np.random.default_rng(seed).integers(20, 240, (12, 16, 1), np.uint8).repeat(8, 0).repeat(8, 1)
    picture = np.concatenate([pattern, pattern, pattern // 2 + 120], 2)
    if face:
        picture[40:56, 56:72] = (255, 10, 30 + 40 * seed)
    Image.fromarray(picture).save(path)
