"""Frozen configurations. Checks live in `__post_init__`; their messages name the field."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

Pooling = Literal["max", "mean", "sum"]
Stack = Literal["blocks", "vace_blocks"]
Attention = Literal["attn1", "attn2"]


@dataclass(frozen=True, kw_only=True)
class Aligner:
    """Shape of the pose-shared identity aligner (paper, Section 3.3). **open** marks what the paper leaves open."""

    elements: int = 4096
    """C, dictionary elements (Appendix A.2)."""
    dim: int = 1024
    """D, width of tokens and elements. **open**."""
    image_size: int = 224
    """Side of the square face crop in px. **open**."""
    patch: int = 16
    """Side of a token's patch in px; L = (image_size / patch)^2. **open**."""
    depth: int = 0
    """Pre-norm transformer blocks between tokenizer and dictionary; 0 is the paper's letter. **open**."""
    heads: int = 16
    """Attention heads of those blocks."""
    pooling: Pooling = "max"
    """Over tokens, Eq. 3 and Appendix A.4."""
    euler: bool = True
    """Whether Euler-angle embeddings are added to the tokens (Table 2)."""
    shortest_period: float = 30.0
    """Degrees of the fastest sinusoid of the Euler embedding. **open**."""
    longest_period: float = 720.0
    """Degrees of the slowest one. **open**."""

    def __post_init__(self) -> None:
        for field in ("elements", "dim", "image_size", "patch", "heads"):
            if getattr(self, field) < 1:
                raise ValueError(f"Aligner.{field} must be at least 1, got {getattr(self, field)}")
        if self.depth < 0:
            raise ValueError(f"Aligner.depth cannot be negative, got {self.depth}")
        if self.image_size % self.patch:
            raise ValueError(f"Aligner.image_size {self.image_size} is no multiple of Aligner.patch {self.patch}")
        if self.depth and self.dim % self.heads:
            raise ValueError(f"Aligner.dim {self.dim} is no multiple of Aligner.heads {self.heads}")
        if self.pooling not in ("max", "mean", "sum"):
            raise ValueError(f"Aligner.pooling must be max, mean or sum, got {self.pooling!r}")
        if not 0 < self.shortest_period < self.longest_period:
            raise ValueError(
                f"Aligner.shortest_period {self.shortest_period} must lie between 0 and "
                f"Aligner.longest_period {self.longest_period}"
            )

    @property
    def num_tokens(self) -> int:
        """L, tokens of one face crop."""
        return (self.image_size // self.patch) ** 2


@dataclass(frozen=True, kw_only=True)
class Lora:
    """Low-rank adapters on the query, key and value projections of VACE (paper, Section 4.1).

    **open**: whether cross-attention and the VACE stack are included; default all.
    """

    rank: int = 128
    """r, Section 4.1."""
    alpha: float = 128.0
    """The adapter's output is scaled by alpha / rank. **open**."""
    stacks: tuple[Stack, ...] = ("blocks", "vace_blocks")
    """`blocks` are the main transformer's, `vace_blocks` the identity encoder's."""
    attentions: tuple[Attention, ...] = ("attn1", "attn2")
    """`attn1` is self-attention, `attn2` cross-attention to the text."""

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"Lora.rank must be at least 1, got {self.rank}")
        if not 0 < self.alpha < float("inf"):
            raise ValueError(f"Lora.alpha must be above 0, got {self.alpha}")
        for field, allowed in (("stacks", get_args(Stack)), ("attentions", get_args(Attention))):
            chosen = getattr(self, field)
            if not chosen or len(set(chosen)) != len(chosen) or not set(chosen) <= set(allowed):
                raise ValueError(f"Lora.{field} must hold one or more of {', '.join(allowed)}, got {chosen!r}")


@dataclass(frozen=True, kw_only=True)
class Faces:
    """How the face of a photograph and its pose are found (paper, Sections 3.2 and 3.4)."""

    detector: Literal["scrfd", "mtcnn"] = "scrfd"
    """InsightFace's detector, Section 3.4; `mtcnn` needs no weights."""
    detector_weights: str = "antelopev2/scrfd_10g_bnkps.onnx"
    """Name in `ffbench weights ls`, an absolute path, or empty for mtcnn. **open** which of InsightFace's."""
    pose: Literal["sixdrepnet", "five-point", "fsanet", "mini-pose"] = "sixdrepnet"
    """6DRepNet, Section 3.4; `five-point` needs no weights, `mini-pose` is embedded and knows rendered heads alone."""
    pose_weights: str = "6drepnet"
    """As `detector_weights`; empty for five-point."""
    box: float = 1.5
    """Factor of the detected box's sides for the crop (Section 3.4 for the pose; Fig. 2 gives the same crop on)."""

    def __post_init__(self) -> None:
        for field, kinds in (
            ("detector", ("scrfd", "mtcnn")),
            ("pose", ("sixdrepnet", "five-point", "fsanet", "mini-pose")),
        ):
            if getattr(self, field) not in kinds:
                raise ValueError(f"Faces.{field} must be one of {', '.join(kinds)}, got {getattr(self, field)!r}")
        if not 1 <= self.box < 10:
            raise ValueError(f"Faces.box must lie in 1..10, got {self.box}")


WEIGHTLESS_FACES = Faces(detector="mtcnn", detector_weights="", pose="five-point", pose_weights="")
"""Coarse, but everything comes inside installed packages; for tests and trials."""

MINI_FACES = Faces(detector="mtcnn", detector_weights="", pose="mini-pose", pose_weights="")
"""The mini world's."""


def _positive(owner: object, *fields: str) -> None:
    for field in fields:
        if getattr(owner, field) < 1:
            raise ValueError(f"{type(owner).__name__}.{field} must be at least 1, got {getattr(owner, field)}")


@dataclass(frozen=True, kw_only=True)
class Data:
    """Samples and batch sizes. Batches are global: every number of GPUs trains on the same ones."""

    shards: str = "data/shards"
    """Folder of WebDataset shards (*.tar); empty makes clips up (`debug`)."""
    width: int = 832
    """Of the videos, px (Section 4.1)."""
    height: int = 480
    num_frames: int = 81
    """4k + 1 (Section 4.1)."""
    pair_batch: int = 1024
    """n of Eq. 5, pairs of crops a step (Section 4.1). Never accumulated: it is the pool of negatives."""
    pairs: Literal["any", "reference"] = "any"
    """Two crops of a clip, as in Section 3.2; or the clip's reference and another crop, where the reference is a
    photograph from elsewhere: two frames of one clip share light and dress, and can be told by these."""
    video_batch: int = 32
    """Videos a step for L_FM (Section 4.1)."""
    video_micro_batch: int = 1
    """Videos of one forward on one GPU; accumulation is video_batch / (GPUs x this) and must come out whole."""
    text_tokens: int = 512
    """Length that prompts are padded to, the base's."""
    text_drop: float = 0.0
    """Share of videos that are shown without their prompt, for guidance; LoRA training keeps every prompt."""
    temporal_factor: int = 4
    """Frames in one latent frame after the first, the VAE's."""
    workers: int = 4
    """Threads that read and decode, in each process."""
    ahead: int = 2
    """Batches made before they are asked for."""

    def __post_init__(self) -> None:
        _positive(
            self,
            "width",
            "height",
            "num_frames",
            "pair_batch",
            "video_batch",
            "video_micro_batch",
            "text_tokens",
            "workers",
            "ahead",
            "temporal_factor",
        )
        if self.pair_batch < 2:
            raise ValueError("Data.pair_batch must be at least 2: one pair has no negatives")
        if self.num_frames % self.temporal_factor != 1:
            raise ValueError(
                f"Data.num_frames must be {self.temporal_factor}k + 1 (the VAE's frames), got {self.num_frames}"
            )
        if self.pairs not in ("any", "reference"):
            raise ValueError(f"Data.pairs must be any or reference, got {self.pairs!r}")
        if not 0 <= self.text_drop < 1:
            raise ValueError(f"Data.text_drop must lie in 0..1, got {self.text_drop}")

    @property
    def latent_frames(self) -> int:
        """F, latent frames of a video."""
        return (self.num_frames - 1) // self.temporal_factor + 1


@dataclass(frozen=True, kw_only=True)
class Optim:
    """AdamW on the trainable tensors. All **open** in the paper; 1e-4 is the base's LoRA recipe."""

    lr: float = 1e-4
    warmup_steps: int = 100
    """Linear from lr / warmup_steps; constant or cosine after."""
    schedule: Literal["constant", "cosine"] = "constant"
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.01
    grad_clip: float = 1.0
    """Bound on the global gradient norm."""

    def __post_init__(self) -> None:
        for field in ("lr", "eps", "grad_clip"):
            if getattr(self, field) <= 0:
                raise ValueError(f"Optim.{field} must be above 0, got {getattr(self, field)}")
        for field in ("warmup_steps", "weight_decay"):
            if getattr(self, field) < 0:
                raise ValueError(f"Optim.{field} cannot be negative, got {getattr(self, field)}")
        if self.schedule not in ("constant", "cosine"):
            raise ValueError(f"Optim.schedule must be constant or cosine, got {self.schedule!r}")


@dataclass(frozen=True, kw_only=True)
class Parallel:
    """How one model lies on several processes. Never changes what is computed, beyond rounding."""

    activation_checkpointing: bool = True
    compile: bool = False
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Frozen base and its matrix products; trainable tensors, their gradients and the aligner stay float32."""
    context: int = 1
    """Processes that share the tokens of one video (Ulysses), for videos that one GPU cannot hold."""

    def __post_init__(self) -> None:
        if self.dtype not in ("float32", "bfloat16"):
            raise ValueError(f"Parallel.dtype must be float32 or bfloat16, got {self.dtype!r}")
        _positive(self, "context")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """When checkpoints are written and how many stay."""

    every: int = 250
    keep: int = 3

    def __post_init__(self) -> None:
        _positive(self, "every", "keep")


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What is generated and measured during training. The paper has no such thing; all **open**."""

    shards: str
    """Folder of `faithfulfaces encode` with people who are not trained on; its first clips are the cases."""
    every: int = 250
    """Steps between two probes; there is one at the end, too."""
    cases: int = 8
    """Videos of one probe, shared out over the processes."""
    steps: int = 30
    """Of the sampler."""
    guidance: float = 5.0
    flow_shift: float = 16.0
    """Of the sampler, as `Sampling.flow_shift`."""
    seed: int = 0
    """Noise of case i is drawn from seed + i, the same in every probe."""
    protocol: str = "standard"
    """Whose detector, face encoder and frames measure (`ffbench protocols`)."""
    slot: Literal["arc", "cur", "facenet"] = "arc"
    """Which face encoder of the protocol."""

    def __post_init__(self) -> None:
        _positive(self, "every", "cases", "steps")
        if not self.shards:
            raise ValueError("Probe.shards must name a folder of encoded clips")
        if not 0 < self.flow_shift < float("inf"):
            raise ValueError(f"Probe.flow_shift must be above 0, got {self.flow_shift}")
        if self.slot not in ("arc", "cur", "facenet"):
            raise ValueError(f"Probe.slot must be arc, cur or facenet, got {self.slot!r}")


@dataclass(frozen=True, kw_only=True)
class Base:
    """The frozen WanVACETransformer3DModel (Section 3.2)."""

    folder: str = ""
    """Folder of its safetensors files in diffusers' format; empty draws random weights (tests, `debug`)."""
    arch: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Arguments of its constructor; empty is diffusers' default, the 14B."""
    shift: float = 5.0
    """Timestep shift of flow matching. **open**; 5 as DiffSynth-Studio trains."""
    prediction: Literal["flow", "sample"] = "flow"
    """What the base says: the velocity, as Wan's, or the clean latents. The sampler's `prediction_type` must agree."""
    weighting: Literal["bell", "uniform"] = "bell"
    """Of noise levels in L_FM: the bell of DiffSynth-Studio is zero at both ends and so teaches nothing of pure noise,
    which is right for a base that knows it; uniform for one that is made from nothing."""

    def __post_init__(self) -> None:
        if self.prediction not in ("flow", "sample"):
            raise ValueError(f"Base.prediction must be flow or sample, got {self.prediction!r}")
        if self.weighting not in ("bell", "uniform"):
            raise ValueError(f"Base.weighting must be bell or uniform, got {self.weighting!r}")
        if not self.shift > 0:
            raise ValueError(f"Base.shift must be above 0, got {self.shift}")


@dataclass(frozen=True, kw_only=True)
class Train:
    """Everything that a run is: a recipe returns one of these."""

    name: str
    steps: int = 5000
    """Optimizer steps (Section 4.1)."""
    seed: int = 0
    aligner: Aligner | None = Aligner()
    """None learns by L_FM alone: with a LoRA that LoRA (the row without aligner of Table 2), without one every tensor
    of the base, which is how the mini world's base was made."""
    base: Base | None = None
    """None trains the aligner alone, by L_PIA."""
    lora: Lora | None = None
    """How a frozen base learns; beside an aligner there must be one."""
    injection: Literal["add", "token", "modulation"] = "add"
    """Where S enters the base. **open**."""
    prior_grad: bool = False
    """Whether L_FM reaches the aligner through S; false as "each loss focuses on its own task"."""
    data: Data = Data()
    optim: Optim = Optim()
    parallel: Parallel = Parallel()
    checkpoint: Checkpoint = Checkpoint()
    probe: Probe | None = None
    """None generates nothing during training."""
    log_every: int = 10

    def __post_init__(self) -> None:
        _positive(self, "steps", "log_every")
        if self.aligner is None and self.base is None:
            raise ValueError("Train.aligner and Train.base are both None: nothing would be trained")
        if self.probe is not None and (self.base is None or not self.base.folder):
            raise ValueError("Train.probe needs Train.base.folder: its transformer generates, its VAE decodes")
        if self.lora is not None and self.base is None:
            raise ValueError("Train.lora goes with Train.base: it adapts the base, and an aligner by itself has none")
        if self.lora is None and self.aligner is not None and self.base is not None:
            raise ValueError(
                "Train.lora goes with Train.aligner and Train.base: beside an aligner a frozen base learns through its "
                "LoRA alone"
            )
