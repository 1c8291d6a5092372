"""Real Wan 2.1 folders in diffusers' layout, small enough for tests, and checkpoints in Wan's own key layout."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanTransformer3DModel
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPVisionConfig, CLIPVisionModel, UMT5Config, UMT5EncoderModel
from typer.testing import CliRunner

from ffbench.cli import app
from ffbench.contract import Request, Runtime
from ffbench.errors import UserError
from ffbench.methods import METHODS, find
from ffbench.records import Case, Generation, Reference, from_json
from ffbench.video import read_clip
from tests.faithfulfaces.tiny_vace import WORDS, landscape, portrait, tokenizer

SIZE = {"width": 32, "height": 16, "num_frames": 5, "steps": 3, "dtype": "float32"}
RENAMED = {
    "condition_embedder.time_embedder.linear_1": "time_embedding.0",
    "condition_embedder.time_embedder.linear_2": "time_embedding.2",
    "condition_embedder.text_embedder.linear_1": "text_embedding.0",
    "condition_embedder.text_embedder.linear_2": "text_embedding.2",
    "condition_embedder.time_proj": "time_projection.1",
    "condition_embedder.image_embedder.norm1": "img_emb.proj.0",
    "condition_embedder.image_embedder.ff.net.0.proj": "img_emb.proj.1",
    "condition_embedder.image_embedder.ff.net.2": "img_emb.proj.3",
    "condition_embedder.image_embedder.norm2": "img_emb.proj.4",
    "proj_out": "head.head",
}
"""Name in diffusers -> name in Wan's own files, outside the blocks."""
RENAMED_IN_BLOCKS = {
    "attn1": "self_attn",
    "attn2": "cross_attn",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "o",
    "add_k_proj": "k_img",
    "add_v_proj": "v_img",
    "norm_added_k": "norm_k_img",
    "ffn.net.0.proj": "ffn.0",
    "ffn.net.2": "ffn.2",
    "norm2": "norm3",
    "norm3": "norm2",
    "scale_shift_table": "modulation",
    "proj_in": "before_proj",
    "proj_out": "after_proj",
}


def transformer(*, image: bool) -> WanTransformer3DModel:
    """Text-to-video with 16 channels in, or image-to-video with 36."""
    made = WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=36 if image else 16,
        out_channels=16,
        text_dim=32,
        freq_dim=256,
        ffn_dim=32,
        num_layers=2,
        rope_max_seq_len=32,
        image_dim=20 if image else None,
        added_kv_proj_dim=24 if image else None,
    )
    return loud(made.eval().requires_grad_(False))


@torch.no_grad()
def loud(network: torch.nn.Module) -> torch.nn.Module:
    """The network with attention that shows: as it is drawn, neither prompt nor reference would move a pixel by one."""
    for name, weight in network.named_parameters():
        if name.endswith(("to_out.0.weight", "vace_patch_embedding.weight", "proj_out.weight")):
            weight.mul_(4 if name == "proj_out.weight" else 20)
        elif ".to_q." in name or ".to_k." in name or ".norm_" in name:
            weight.mul_(3)
    return network


def differ(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two videos differ by more than rounding: by 3 of 255 somewhere."""
    return bool(np.abs(one.astype(int) - other).max() >= 3)


def loaded(name: str, folders: Mapping[str, Any], **values: Any) -> Any:
    """A method of the table, its weights in `folders`, ready to make tiny videos."""
    module, _, cls = METHODS[name].partition(":")
    chosen = {key: str(path) for key, path in folders.items()}
    method = getattr(importlib.import_module(module), cls)({**find(name).settings, **SIZE, **chosen, **values})
    method.load(Runtime("cpu", ""))
    return method


def frames(method: Any, *references: Reference, **options: Any) -> np.ndarray:
    """The one video of one request, at the rate that the card says."""
    (output,) = method.generate([request(*references, **options)])
    assert output.frames is not None and output.fps == method._settings["fps"]
    assert output.notes.get("dropped_frames") == method._settings.get("drop")
    return output.frames


def assert_described(
    method: Any, references: Sequence[Reference], people: Sequence[Reference], expected: torch.Tensor, plain: Restated
) -> None:
    """The loop ends in the expected latents, the video is their decoding less what is dropped, and mistakes show.

    Args:
        method: with the negative prompt that `expected` was made with.
        references: what `expected` [1,16,F,h,w] was made of, with the prompt and seed of `request`.
        people: two references.
        expected: of an independent statement.
        plain: decodes it.
    """
    latents, (ann, bob) = latents_of(method, *references), people
    assert torch.allclose(latents, expected, atol=1e-3)
    for others in ((bob,), (bob, ann), (ann, ann)):
        assert (latents_of(method, *others) - latents).abs().max() > 0.05, "the test would miss a mistake"
    assert (latents_of(method, *references, prompt="a head turns") - latents).abs().max() > 0.05
    got = frames(method, *references)
    assert got.shape == (5, 16, 32, 3) and np.ptp(got) > 20
    assert np.abs(got.astype(int) - plain.frames(expected)[method._settings.get("drop", 0) :]).max() <= 1


def assert_named(name: str, folders: Mapping[str, Any], values: dict[str, Any], match: str) -> None:
    """Loading is refused in two lines that name the first setting of `values`."""
    with pytest.raises(UserError, match=match) as caught:
        loaded(name, folders, **values)
    assert next(iter(values)) in caught.value.fix and len(str(caught.value).splitlines()) == 2


def latents_of(method: Any, *references: Reference, **options: Any) -> torch.Tensor:
    """What a method's loop ends in, before it is decoded."""
    seen = []
    networks = method._networks
    decode = networks.decode
    networks.decode = lambda latents: seen.append(latents) or decode(latents)
    list(method.generate([request(*references, **options)]))
    networks.decode = decode
    return seen[0]


def vae() -> AutoencoderKLWan:
    made = AutoencoderKLWan(
        base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True]
    )
    return made.eval().requires_grad_(False)


def text_encoder() -> UMT5EncoderModel:
    config = UMT5Config(
        vocab_size=len(WORDS), d_model=32, d_kv=8, d_ff=37, num_layers=2, num_heads=4, tie_word_embeddings=False
    )
    return UMT5EncoderModel(config).eval().requires_grad_(False)


def image_encoder() -> CLIPVisionModel:
    config = CLIPVisionConfig(
        hidden_size=20, intermediate_size=24, num_hidden_layers=3, num_attention_heads=4, image_size=28, patch_size=14
    )
    return CLIPVisionModel(config).eval().requires_grad_(False)


def write(folder: Path, *, image: bool, seed: int = 0) -> dict[str, torch.nn.Module]:
    """Save a folder as `Wan-AI/Wan2.1-T2V-14B-Diffusers` or `Wan2.1-I2V-14B-480P-Diffusers` is laid out.

    Returns:
        The networks that were saved.
    """
    torch.manual_seed(seed)
    networks = {"transformer": transformer(image=image), "vae": vae(), "text_encoder": text_encoder()}
    if image:
        networks["image_encoder"] = image_encoder()
    index = {"_class_name": "WanImageToVideoPipeline" if image else "WanPipeline"}
    for part, network in networks.items():
        network.save_pretrained(folder / part)
        library = type(network).__module__.partition(".")[0]
        index[part] = [library, type(network).__name__]
    tokenizer().save_pretrained(folder / "tokenizer")
    published = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    published.save_pretrained(folder / "scheduler")
    (folder / "model_index.json").write_text(json.dumps(index))
    return networks


def original_name(key: str) -> str:
    """The key that Wan's own files give to a weight of diffusers' transformer."""
    if not key.startswith(("blocks.", "vace_blocks.")):
        stem, _, leaf = key.rpartition(".")
        return "head.modulation" if key == "scale_shift_table" else f"{RENAMED.get(stem, stem)}.{leaf}"
    stack, number, rest = key.split(".", 2)
    if rest in RENAMED_IN_BLOCKS:
        return f"{stack}.{number}.{RENAMED_IN_BLOCKS[rest]}"
    stem, _, leaf = rest.rpartition(".")
    if stem in RENAMED_IN_BLOCKS:
        return f"{stack}.{number}.{RENAMED_IN_BLOCKS[stem]}.{leaf}"
    attention, _, inner = stem.partition(".")
    return f"{stack}.{number}.{RENAMED_IN_BLOCKS[attention]}.{RENAMED_IN_BLOCKS.get(inner, inner)}.{leaf}"


def write_original(folder: Path, network: WanTransformer3DModel, shards: int = 2) -> dict[str, torch.Tensor]:
    """Save a transformer in Wan's own key layout, in shards; returns what was saved."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {original_name(key): tensor.contiguous() for key, tensor in network.state_dict().items()}
    names = sorted(tensors)
    for shard in range(shards):
        part = {name: tensors[name] for name in names[shard::shards]}
        save_file(part, folder / f"diffusion_pytorch_model-{shard + 1:05d}-of-{shards:05d}.safetensors")
    return tensors


def photos(folder: Path) -> tuple[Reference, Reference]:
    """A portrait and a landscape as references."""
    references = []
    for name, photo in {"ann": portrait(), "bob": landscape()}.items():
        photo.save(folder / f"{name}.png")
        references.append(Reference(str(folder / f"{name}.png"), name[0] * 64))
    return references[0], references[1]


def request(*references: Reference, prompt: str = "a person boxes", seed: int = 5) -> Request:
    return Request(Case("s", "1", "c", "id", references, "p", prompt, "woman"), seed, "")


def white_canvas(path: str, width: int, height: int) -> torch.Tensor:
    """A picture scaled to fit by Lanczos, sides rounded down, centred on white: 0..255 [3,H,W]."""
    with Image.open(path) as picture:
        ratio = picture.width / picture.height
        w, h = (width, int(width / ratio)) if ratio > width / height else (int(height * ratio), height)
        small = picture.convert("RGB").resize((w, h), Image.Resampling.LANCZOS)
    canvas = torch.full((3, height, width), 255.0)
    y, x = (height - h) // 2, (width - w) // 2
    canvas[:, y : y + h, x : x + w] = torch.tensor(np.asarray(small)).float().permute(2, 0, 1)
    return canvas


def words(prompt: str) -> torch.Tensor:
    """Token ids [1,L] of a prompt, end of text included."""
    return torch.tensor([[*(WORDS.index(word) if word in WORDS else 2 for word in prompt.split()), 1]])


class Restated:
    """A Wan folder's networks and the steps that all methods share, stated plainly, for tests to build on."""

    def __init__(self, networks: dict[str, torch.nn.Module]) -> None:
        self.network, self.vae, self.text = (networks[part] for part in ("transformer", "vae", "text_encoder"))
        self.clip = networks.get("image_encoder")
        self.mean = torch.tensor(self.vae.config.latents_mean).view(1, 16, 1, 1, 1)
        self.std = torch.tensor(self.vae.config.latents_std).view(1, 16, 1, 1, 1)

    def latents(self, video: torch.Tensor) -> torch.Tensor:
        """Mode of the posterior, normalised; video [3,T,H,W] in 0..255."""
        return (self.vae.encode(video[None] / 127.5 - 1).latent_dist.mode() - self.mean) / self.std

    def embedding(self, prompt: str) -> torch.Tensor:
        hidden = self.text(words(prompt)).last_hidden_state
        return torch.cat([hidden, torch.zeros(1, 512 - hidden.shape[1], 32)], 1)

    def tokens(self, picture: torch.Tensor) -> torch.Tensor:
        """CLIP tokens of a picture [3,28,28] in 0..1."""
        mean = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
        std = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)
        return self.clip(((picture - mean) / std)[None], output_hidden_states=True).hidden_states[-2]

    def frames(self, latents: torch.Tensor) -> np.ndarray:
        video = self.vae.decode(latents * self.std + self.mean).sample[0].clamp(-1, 1)
        return ((video / 2 + 0.5) * 255).round().byte().permute(1, 2, 3, 0).numpy()

    @staticmethod
    def solver(shift: float, levels: list[float] | None) -> UniPCMultistepScheduler:
        """UniPC of three steps, on the levels given or on diffusers' own."""
        made = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift)
        made.set_timesteps(3, sigmas=None if levels is None else np.array(levels))
        return made


def generated(
    method: str, root: Path, reference: Reference, folders: Mapping[str, object], *others: Reference
) -> Generation:
    """The record of the case of `reference` that the command `ffbench generate` has made, in the method's own process.

    It makes one case of each of the `others` too, which get videos of their own.
    """
    references = (reference, *others)
    table = root / "people.jsonl"
    words = {"prompt_id": "p", "prompt": "a person boxes"}
    people = [{"identity": Path(r.path).stem, "reference": r.path, **words} for r in references]
    table.write_text("".join(f"{json.dumps(person)}\n" for person in people))
    chosen = [word for key, value in {**SIZE, **folders}.items() for word in ("--set", f"{key}={value}")]
    done = CliRunner().invoke(
        app, ["generate", "--method", method, "--suite", str(table), "--out", str(root / "runs"), *chosen]
    )
    logs = "\n".join(path.read_text("utf-8", "replace") for path in root.rglob("*.log"))
    assert f"{len(references)} ok, 0 failed, 0 refused" in done.output, (done.output, done.exception, logs)
    (run,) = (root / "runs").glob(f"*/{method}")
    records = [from_json(Generation, line) for line in (run / "generations.jsonl").read_text("utf-8").splitlines()]
    for record in records:
        clip = read_clip(run / record.video, ["all"])
        size = record.settings["width"], record.settings["height"]
        dropped = record.provenance["notes"].get("dropped_frames", 0)
        assert (clip.num_frames, clip.size) == (record.settings["num_frames"] - dropped, size)
        assert clip.fps == pytest.approx(record.settings["fps"] if clip.num_frames > 1 else 0)
    assert len({record.video_sha256 for record in records}) == len(references)
    return next(record for record in records if record.case_id.startswith(Path(reference.path).stem))
