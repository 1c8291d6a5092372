"""Everything that learns, and the frozen base that it learns on: construction, wrapping, loading, the two losses.

Shapes: n pairs, B videos, D width of S, C dictionary elements.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from faithfulfaces import checkpoint, lora, losses, parallel
from faithfulfaces.aligner import Aligned, PoseSharedIdentityAligner, pixels
from faithfulfaces.config import Base, Train
from faithfulfaces.context import vace_context
from faithfulfaces.data import Pairs, Videos
from faithfulfaces.parallel import World
from faithfulfaces.prior import Prior
from ffbench.errors import UserError


class Learner(nn.Module):
    """Aligner and temperature, or a transformer; with both, also the prior that carries S into the transformer."""

    def __init__(self, config: Train, transformer: Any = None) -> None:
        super().__init__()
        self.config = config
        self.aligner = PoseSharedIdentityAligner(config.aligner) if config.aligner else None
        self.temperature = losses.Temperature() if config.aligner else None
        # diffusers is not typed
        self.transformer: Any = transformer
        self.prior: Prior | None = None
        if transformer is not None and config.aligner:
            width = transformer.config.num_attention_heads * transformer.config.attention_head_dim
            self.prior = Prior(config.aligner.dim, width, config.injection)

    def align(self, crops: Tensor, euler: Tensor) -> Aligned:
        """S and W of uint8 crops [B,3,H,W] and angles [B,3] in degrees; float32 whatever the base's dtype.

        Raises:
            ValueError: without an aligner.
        """
        if self.aligner is None:
            raise ValueError("S needs an aligner (Train.aligner)")
        aligned: Aligned = self.aligner(pixels(crops), euler)
        return aligned

    def flow_loss(self, videos: Videos, blank: Tensor, noise: torch.Generator) -> Tensor:
        """L_FM of a micro-batch: the reference frame is noised and counted like the video's own frames."""
        base = self.config.base
        if base is None:
            raise ValueError("L_FM needs a base (Train.base)")
        clean = torch.cat([videos.reference, videos.latents], dim=2).float()
        uniform = torch.rand(len(clean), generator=noise, device=clean.device)
        sigma = losses.shifted_sigmas(uniform, base.shift)
        drawn = torch.randn(clean.shape, generator=noise, device=clean.device)
        noisy, target = losses.noised(clean, drawn, sigma)
        text = videos.text
        if self.config.data.text_drop:
            kept = torch.rand(len(text), generator=noise, device=text.device) >= self.config.data.text_drop
            text = text * kept.to(text)[:, None, None]
        dtype = getattr(torch, self.config.parallel.dtype)
        # no cache of casts: a cached copy of an adapter would outlive the sharded tensor that it was made from
        autocast = torch.autocast(clean.device.type, dtype, enabled=dtype != torch.float32, cache_enabled=False)
        with autocast, self._with_prior(videos):
            (prediction,) = self.transformer(
                hidden_states=noisy.to(dtype),
                timestep=1000 * sigma,
                encoder_hidden_states=text.to(dtype),
                control_hidden_states=vace_context(videos.reference, blank).to(dtype),
                return_dict=False,
            )
        if base.prediction == "sample":
            target = clean
        bell = base.weighting == "bell"
        weight = losses.flow_matching_weight(sigma) if bell else torch.ones_like(sigma)
        return losses.flow_matching_loss(prediction, target, weight)

    def _with_prior(self, videos: Videos) -> AbstractContextManager[None]:
        if self.prior is None:
            return nullcontext()
        with torch.set_grad_enabled(self.config.prior_grad and torch.is_grad_enabled()):
            s_BD = self.align(videos.crops, videos.euler).s_BD
        return self.prior.attached(self.transformer, s_BD)


class PairLoss(NamedTuple):
    """L_PIA of the joined batch and what is logged with it."""

    terms: losses.AlignmentLoss
    winners: Tensor
    """int64: the strongest dictionary element of each of this process's crops."""


def pair_loss(learner: Learner, pairs: Pairs, world: World) -> PairLoss:
    """L_PIA over all processes' pairs: negatives are gathered with gradient, labels with them.

    Raises:
        ValueError: without an aligner.
    """
    if learner.temperature is None:
        raise ValueError("L_PIA needs an aligner (Train.aligner)")
    first = learner.align(pairs.first, pairs.first_euler)
    second = learner.align(pairs.second, pairs.second_euler)
    terms = losses.alignment_loss(
        parallel.gather(first.s_BD, world),
        parallel.gather(second.s_BD, world),
        parallel.gather(pairs.identities, world),
        learner.temperature(),
    )
    winners = torch.cat([first.w_BC, second.w_BC]).detach().argmax(1)
    return PairLoss(terms, winners)


def build(config: Train, world: World) -> Learner:
    """The learner on this process's device, wrapped and sharded, with the same initial weights on every process.

    Raises:
        UserError: when the base's files do not hold exactly the base's tensors.
    """
    torch.manual_seed(config.seed)
    transformer = None
    if config.base is not None:
        transformer = _base(config, config.base)
        blocks = [*transformer.vace_blocks, *transformer.blocks]
        if config.parallel.activation_checkpointing:
            parallel.checkpoint_activations(blocks)
        if config.parallel.compile:
            parallel.compile_blocks(blocks)
        parallel.shard(transformer, blocks, world)
        if config.base.folder:
            _materialise(transformer, world)
            _load_base(transformer, base_folder(config.base))
        transformer.to(world.device)
        if config.lora:
            _init_adapters(transformer, config.seed)
        parallel.share_tokens(transformer, world)
    torch.manual_seed(config.seed)
    learner = Learner(config, transformer)
    for part in (learner.aligner, learner.temperature, learner.prior):
        if part is not None:
            part.to(world.device)
            blocks = list(part.blocks) if isinstance(part, PoseSharedIdentityAligner) else []
            parallel.shard(part, blocks, world)
    return learner


def base_folder(base: Base) -> Path:
    """Where config.json and the safetensors of the transformer lie: the folder, or `transformer` in a pipeline's.

    Raises:
        UserError: when they do not.
    """
    for folder in (Path(base.folder), Path(base.folder) / "transformer"):
        if (folder / "config.json").is_file():
            return folder
    raise UserError(
        f"Base.folder {base.folder}: no config.json of a transformer there",
        "download the base there (a VACE folder in diffusers' format), or set Base.folder in a recipe",
    )


def bare_transformer(config: Train, arch: Mapping[str, Any]) -> Any:
    """A base on the current device: with adapters, those in float32 and the frozen part in the compute dtype."""
    from diffusers import WanVACETransformer3DModel

    transformer = WanVACETransformer3DModel.from_config(dict(arch))
    if config.lora is None:
        return transformer.train()
    dtype = getattr(torch, config.parallel.dtype)
    # the parts that diffusers itself keeps in float32, when it loads a model in a smaller type
    precise = tuple(WanVACETransformer3DModel._keep_in_fp32_modules)
    for name, parameter in transformer.named_parameters():
        if not any(part in name.split(".") for part in precise):
            parameter.data = parameter.data.to(dtype)
    lora.inject(transformer, config.lora)
    for parameter in transformer.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return transformer.train()


def _base(config: Train, base: Base) -> Any:
    if not base.folder:
        return bare_transformer(config, base.arch)
    from diffusers import WanVACETransformer3DModel

    arch = WanVACETransformer3DModel.load_config(str(base_folder(base)))
    with torch.device("meta"):
        return bare_transformer(config, arch)


def _materialise(transformer: Any, world: World) -> None:
    transformer.to_empty(device=world.device)
    # the rotary tables are buffers that no file holds
    c = transformer.config
    with torch.device(world.device):
        transformer.rope = type(transformer.rope)(c.attention_head_dim, c.patch_size, c.rope_max_seq_len)


def _load_base(transformer: nn.Module, folder: Path) -> None:
    """Every process reads its own shards of every tensor, straight from the published files."""
    import torch.distributed.checkpoint as dcp

    present = set(dcp.HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata)
    wanted = {
        name.replace(".base_layer.", "."): parameter.detach()
        for name, parameter in transformer.named_parameters()
        if ".lora_" not in name
    }
    if present != wanted.keys():
        missing, unknown = sorted(wanted.keys() - present), sorted(present - wanted.keys())
        raise UserError(
            f"{folder}: {len(missing)} tensors of the base are missing {missing[:3]}, {len(unknown)} are unknown "
            f"{unknown[:3]}",
            "give the folder of a WanVACETransformer3DModel whose config.json belongs to its safetensors",
        )
    checkpoint.read_shards(folder, wanted)


@torch.no_grad()
def _init_adapters(transformer: nn.Module, seed: int) -> None:
    """A Kaiming, B zero; drawn whole on every process, so the same for any number of them."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in transformer.named_parameters():
        if not parameter.requires_grad:
            continue
        whole = torch.zeros(parameter.shape)
        if ".lora_A." in name:
            nn.init.kaiming_uniform_(whole, a=math.sqrt(5), generator=generator)
        if isinstance(parameter, DTensor):
            local = whole.to(parameter.device)
            parameter.copy_(distribute_tensor(local, parameter.device_mesh, parameter.placements, src_data_rank=None))
        else:
            parameter.copy_(whole)
