"""One face, one prompt, one seed -> frames: diffusers' VACE pipeline with the pose-faithful prior (paper, Fig. 2)."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import PIL.Image
import torch
from numpy.typing import NDArray
from torch import Tensor

from faithfulfaces.aligner import PoseSharedIdentityAligner, pixels
from faithfulfaces.backbone import load_vace
from faithfulfaces.config import Faces
from faithfulfaces.faces import Face, FaceReader, as_rgb, open_faces, resized
from faithfulfaces.lora import load, state
from faithfulfaces.model import ModelConfig, Parts, base_of, base_width, load_model, save_model
from ffbench.embedded import folder_of
from ffbench.errors import UserError

if TYPE_CHECKING:
    from diffusers import WanVACEPipeline

NEGATIVE_PROMPT = (
    "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，低质量，JPEG压缩残留，丑陋的，"
    "残缺的，多余的手指，画得不好的手部，画得不好的脸部，畸形的，毁容的，形态畸形的肢体，手指融合，静止不动的画面，杂乱的背景，"
    "三条腿，背景人很多，倒着走"
)
"""What the base was published with."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a video is sampled; the defaults are the base's own, and nothing ablated."""

    width: int = 832
    height: int = 480
    num_frames: int = 81
    """4 k + 1: the autoencoder packs four frames into one after the first."""
    steps: int = 50
    guidance: float = 5.0
    """Classifier-free guidance on the text; S stays in both branches."""
    flow_shift: float = 16.0
    """Of the UniPC sampler; VACE was published with 16, its folder in diffusers' layout says 3."""
    text_tokens: int = 512
    """Length that prompts are padded to, as in the base's training."""
    negative_prompt: str = NEGATIVE_PROMPT
    aligner: bool = True
    """False: S is left out (Table 2, second and third factor off)."""
    euler: bool = True
    """False: tokens without Euler embedding (Table 2)."""
    euler_noise_degrees: float = 0.0
    """Each angle is off by a uniform draw within plus and minus this (Table 6); the draw follows from the seed."""
    scale: float = 1.0
    """Factor on the injected prior."""

    def __post_init__(self) -> None:
        for field in ("width", "height"):
            if getattr(self, field) < 16 or getattr(self, field) % 16:
                raise UserError(f"{field} = {getattr(self, field)} is no multiple of 16", f"give {field} such as 480")
        if self.num_frames < 1 or self.num_frames % 4 != 1:
            raise UserError(f"num_frames = {self.num_frames} is not 4 k + 1", "give num_frames such as 49 or 81")
        if self.text_tokens < 1:
            raise UserError(f"text_tokens = {self.text_tokens} is below 1", "give text_tokens such as 512")
        if self.steps < 1:
            raise UserError(f"steps = {self.steps} is below 1", "give steps such as 50")
        for field in ("guidance", "scale"):
            if not math.isfinite(getattr(self, field)):
                raise UserError(f"{field} = {getattr(self, field)} is no finite number", f"give {field} such as 1")
        if not 0 < self.flow_shift < float("inf"):
            raise UserError(f"flow_shift = {self.flow_shift} is not above 0", "give flow_shift such as 16")
        if not 0 <= self.euler_noise_degrees < 180:
            raise UserError(f"euler_noise_degrees = {self.euler_noise_degrees} is not in 0..180", "give it such as 10")


def sampling_of(config: ModelConfig, given: Mapping[str, Any]) -> Sampling:
    """What is given; else what the checkpoint wants; else the defaults.

    Raises:
        UserError: an option out of range, or one of the checkpoint's that `Sampling` does not know.
    """
    unknown = sorted(config.sampling.keys() - {item.name for item in fields(Sampling)})
    if unknown:
        raise UserError(
            f"the checkpoint's config.json has the unknown sampling option {unknown[0]!r}",
            f"take it out; there are {', '.join(item.name for item in fields(Sampling))}",
        )
    return Sampling(**{**config.sampling, **given})


class FaithfulFacesPipeline:
    """Base, trained parts and face reader together.

    Aligner and prior stay in float32 on the CPU: they see one crop a video, and S is then the same on every device.

    Args:
        vace: diffusers' pipeline, which samples; the LoRA is put into its transformer.
        config: of the trained parts.
        parts: aligner, prior and LoRA; without aligner and prior it samples with the LoRA alone.
        faces: finds the face and its pose.

    Raises:
        UserError: parts that were trained on a base of another size, or on none.
    """

    def __init__(self, vace: WanVACEPipeline, config: ModelConfig, parts: Parts, faces: FaceReader) -> None:
        base_of(config)
        arch = vace.transformer.config
        width = arch.num_attention_heads * arch.attention_head_dim
        wide = base_width(parts.prior.projection.weight, config.injection) if parts.prior is not None else width
        if wide != width:
            raise UserError(
                f"the checkpoint was trained on a base of width {wide}, this base has {width}",
                "give the base that it was trained on (14B: 5120, 1.3B: 1536)",
            )
        if parts.lora is not None:
            load(vace.transformer, parts.lora, to=vace.transformer.dtype)
        self.vace, self.config, self.faces = vace, config, faces
        self.aligner, self.prior = parts.aligner, parts.prior

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        base: str | Path = "",
        dtype: torch.dtype = torch.bfloat16,
        device: str = "cpu",
        faces: Faces | None = None,
    ) -> Self:
        """Load a checkpoint of `save_pretrained` and the base that it needs.

        Args:
            name: folder, or repository on the Hugging Face Hub.
            base: VACE folder or repository in diffusers' layout; by default the one that the checkpoint names.
            dtype: of transformer and text encoder.
            device: a PyTorch device for the base.
            faces: how faces are read; by default as the checkpoint says.

        Raises:
            UserError: a file that is missing, damaged or of another shape; an aligner that was trained by itself.
        """
        config, parts = load_model(local_folder(name, "checkpoint"))
        trained_on = base_of(config)
        reader = open_faces(faces or config.faces, device)
        vace = load_vace(local_folder(base or trained_on, "base"), dtype)
        return cls(vace, config, parts, reader).to(device)

    def to(self, device: str) -> Self:
        """Move the base; for less GPU memory call `pipe.vace.enable_model_cpu_offload()` instead."""
        self.vace.to(device)
        return self

    def __call__(
        self, image: PIL.Image.Image | NDArray[np.uint8], prompt: str, seed: int = 0, **options: Any
    ) -> NDArray[np.uint8]:
        """Frames uint8 [T,H,W,3] RGB of the person of the image.

        Args:
            image: PIL image (its EXIF orientation is heeded) or uint8 [H,W,3] RGB; its largest face counts.
            prompt: what happens.
            seed: noise is drawn on the CPU, alike for every device.
            **options: fields of `Sampling`; the others are as the checkpoint says.

        Raises:
            UserError: no face in the image, or an option out of range.
            FloatingPointError: the base made values that are not finite.
        """
        sampling = sampling_of(self.config, options)
        return self.generate(self.faces.read(as_rgb(image)), prompt, seed, sampling)

    @torch.no_grad()
    def generate(self, face: Face, prompt: str, seed: int, sampling: Sampling) -> NDArray[np.uint8]:
        """As calling the pipeline, with a face that was read before."""
        with_prior: AbstractContextManager[None] = nullcontext()
        if self.prior is not None and sampling.aligner:
            s_1D = self.representation(face, seed, sampling)
            with_prior = self.prior.attached(self.vace.transformer, s_1D, sampling.scale)
        sampler = self.vace.scheduler
        self.vace.scheduler = sampler.from_config(sampler.config, flow_shift=sampling.flow_shift)
        with with_prior:
            video = self.vace(
                prompt=prompt,
                negative_prompt=sampling.negative_prompt,
                reference_images=PIL.Image.fromarray(face.crop),
                width=sampling.width,
                height=sampling.height,
                num_frames=sampling.num_frames,
                num_inference_steps=sampling.steps,
                guidance_scale=sampling.guidance,
                max_sequence_length=sampling.text_tokens,
                generator=torch.Generator().manual_seed(seed),
                output_type="np",
            ).frames[0]
        if not np.isfinite(video).all():
            raise FloatingPointError("the base made values that are not finite; try dtype bfloat16 or float32")
        return np.asarray((video * 255).round(), np.uint8)

    @torch.no_grad()
    def representation(self, face: Face, seed: int, sampling: Sampling) -> Tensor:
        """S [1,D] of a face (Eq. 4), with the ablations that touch it.

        Raises:
            ValueError: for a checkpoint without an aligner.
        """
        if self.aligner is None:
            raise ValueError("this checkpoint was trained without an aligner: there is no S")
        noise_3 = np.random.default_rng([seed, 3]).uniform(-1, 1, 3) * sampling.euler_noise_degrees
        euler_13 = torch.from_numpy(face.euler + noise_3).float()[None]
        pixels_HW3 = torch.from_numpy(resized(face.crop, self.aligner.config.image_size).copy())
        crop_13HW = pixels(pixels_HW3.permute(2, 0, 1)[None])
        aligner = self.aligner if sampling.euler else without_euler(self.aligner)
        s_1D: Tensor = aligner(crop_13HW, euler_13).s_BD
        return s_1D

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the trained parts (not the base) with a model card; see `faithfulfaces.model`."""
        carries = hasattr(self.vace.transformer, "peft_config")
        lora = state(self.vace.transformer) if carries else None
        save_model(Path(folder), self.config, Parts(self.aligner, self.prior, lora))

    def push_to_hub(
        self, repo_id: str, *, private: bool = True, token: str | None = None, endpoint: str | None = None
    ) -> str:
        """Upload what `save_pretrained` writes to the Hugging Face Hub, and return the address of the commit."""
        from huggingface_hub import HfApi

        api = HfApi(endpoint, token)
        api.create_repo(repo_id, private=private, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            commit = api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message="FaithfulFaces")
        return str(commit.commit_url)


def without_euler(aligner: PoseSharedIdentityAligner) -> PoseSharedIdentityAligner:
    """The aligner less its Euler embedding, on the same memory."""
    with torch.device("meta"):
        bare = PoseSharedIdentityAligner(replace(aligner.config, euler=False))
    shared = {key: tensor for key, tensor in aligner.state_dict().items() if not key.startswith("euler.")}
    bare.load_state_dict(shared, assign=True)
    return bare.eval()


def local_folder(name: str | Path, part: Literal["base", "checkpoint"]) -> Path:
    """A folder as it is, `mini` for the embedded `part`, or a hub repository's files in the hub's cache.

    Only safetensors and text are fetched.

    Raises:
        UserError: neither is there.
    """
    name, what = folder_of(str(name), part), f"the {part}"
    if Path(name).is_dir():
        return Path(name)
    if Path(name).is_absolute() or name.count("/") != 1 or name.startswith("."):
        raise UserError(f"{what} {name} is no folder", "give the path of a folder, or OWNER/NAME of the Hub")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "*.model", "*.md"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        first = str(error).strip().partition("\n")[0]
        raise UserError(
            f"{what} {name} is no folder and did not come from the Hub: {first}", "give a folder"
        ) from error
