"""What a dataset build does, as one TOML or JSON file; every field has a default, and the folder records them all."""

from __future__ import annotations

import dataclasses
import json
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from faithfulfaces.dataset.checks import form
from ffbench.errors import UserError

POSITIVE = frozenset(
    {"width", "height", "frames", "max_seconds", "stride", "max_faces", "box", "crops", "min_crops", "per_shard"}
    | {"max_upscale"}
)
RANGES: Mapping[str, tuple[float, float]] = {
    "video.fps": (0, 1000),
    "video.min_fps": (0, 1000),
    "video.min_kept": (0, 1),
    "video.shot_threshold": (0, 255),
    "quality.clarity": (0, 1e6),
    "quality.text": (0, 1),
    "quality.aesthetic": (0, 10),
    "quality.duplicate": (-1, 64),
    "subject.min_presence": (0, 1),
    "subject.min_face": (0, 10_000),
    # pitch, yaw and roll of half a turn each, and beyond it the angles themselves
    "subject.threshold": (0, 1080),
    "subject.percentile": (0, 49.9),
    "people.same": (-1, 1),
    "people.exclude_cosine": (-1, 1),
    "samples.jpeg": (1, 100),
    "samples.val": (0, 0.99),
}


@dataclass(frozen=True, kw_only=True)
class Video:
    """The standard form of a clip, and which sources can be brought into it."""

    width: int = 832
    height: int = 480
    fps: float = 16.0
    """Of the samples; frames nearest in time are taken. **open** in the paper: Wan 2.1's rate. 0 keeps the source's."""
    frames: int = 81
    """Consecutive frames of a sample (Section 4.1): of a longer clip, the run with the greatest pose variation."""
    max_seconds: float = 15.0
    """A longer shot is cut into equal clips."""
    min_fps: float = 16.0
    """Of the source."""
    max_upscale: float = 2.0
    """A source that must be enlarged further is rejected."""
    min_kept: float = 0.3
    """Least share of the picture that the crop to 832x480 keeps; 9:16 keeps 0.32, a square 0.58."""
    shots: Literal["adaptive", "content", "none"] = "adaptive"
    """PySceneDetect's detector; `none` takes a source for one shot."""
    shot_threshold: float = 0.0
    """Of that detector; 0 is its own default."""


@dataclass(frozen=True, kw_only=True)
class Quality:
    """Stages beside the paper's four steps; 0 switches one off."""

    clarity: float = 0.0
    """Least median variance of the Laplacian of the 8-bit grey frames at 832x480; measured in any case."""
    text: float = 0.0
    """Greatest share of the picture that text may cover, 0..1; needs rapidocr."""
    aesthetic: float = 0.0
    """Least rating, 1 to 10; needs networks.aesthetic_clip and networks.aesthetic_head."""
    checks: tuple[str, ...] = ()
    """Filters of your own, `module:function<=number` each (faithfulfaces/dataset/checks.py)."""
    duplicate: int = 6
    """Greatest Hamming distance of 64-bit perceptual hashes that makes two clips one; -1 switches it off."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """Steps 1 and 2."""

    stride: int = 1
    """Every n-th frame of a clip is looked at."""
    max_faces: int = 1
    """More faces in any frame reject. The paper says "more than two"; its aim is one subject."""
    min_presence: float = 0.0
    """Least share of the frames with a face; at 0, one is enough, as in the paper."""
    min_face: int = 0
    """Least median side of the face, px of the standard frame."""
    threshold: float = 120.0
    """Least pose variation in degrees (Section 3.4)."""
    variation: Literal["range", "robust", "steady"] = "range"
    """`range` is Eq. 8, `robust` the range between percentiles, `steady` Eq. 8 without frames that jump."""
    percentile: float = 5.0
    """Of the robust variation: from p to 100 - p."""


@dataclass(frozen=True, kw_only=True)
class Networks:
    """Detector, pose estimator and, for identities, a recogniser: kinds and weights of `ffbench.extract`."""

    detector: str = "scrfd"
    detector_weights: str = "antelopev2/scrfd_10g_bnkps.onnx"
    ladder: tuple[str, ...] = ("fit640",)
    """Attempts; the first that finds a face counts. InsightFace's own is 640 alone, a square of mostly black."""
    pose: str = "sixdrepnet"
    pose_weights: str = "6drepnet"
    pose_aux: str = ""
    """Second file, of 3ddfa and fsanet."""
    box: float = 1.5
    """Factor of the box's sides for pose and crops (Section 3.4)."""
    embedder: str = ""
    """A recogniser's kind, such as arcface-onnx: identities are then told by faces, not by files."""
    embedder_weights: str = ""
    aesthetic_clip: str = ""
    """Weights of a CLIP of open_clip, for quality.aesthetic."""
    aesthetic_model: str = "ViT-L-14-quickgelu"
    """Its architecture by open_clip's name."""
    aesthetic_head: str = ""
    """A linear layer on its embeddings, such as LAION's sa_0_4_vit_l_14_linear.pth."""


@dataclass(frozen=True, kw_only=True)
class People:
    """Who is in the clips."""

    same: float = 0.4
    """Least cosine of two clips' mean embeddings that makes them one person."""
    exclude: str = ""
    """Folder of photographs: people of an evaluation suite, who must not be trained on."""
    exclude_cosine: float = 0.35
    """Least cosine of any crop to any of these photographs that refuses a clip."""


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Step 4."""

    crops: int = 10
    """Face crops of a clip, chosen to span its range of poses."""
    min_crops: int = 10
    """A clip with fewer frames that show a face is rejected."""
    jpeg: int = 95
    per_shard: int = 100
    val: float = 0.02
    """Share of the identities that are kept for validation."""
    seed: int = 0
    """Of the split."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything a build depends on, sections of the settings file."""

    video: Video = field(default_factory=Video)
    quality: Quality = field(default_factory=Quality)
    subject: Subject = field(default_factory=Subject)
    networks: Networks = field(default_factory=Networks)
    people: People = field(default_factory=People)
    samples: Samples = field(default_factory=Samples)

    def __post_init__(self) -> None:
        for name, section in ((f.name, getattr(self, f.name)) for f in dataclasses.fields(self)):
            for f in dataclasses.fields(section):
                value = getattr(section, f.name)
                if f.name in POSITIVE and not value > 0:
                    raise _wrong(f"{name}.{f.name}", f"must be greater than 0, got {value}")
                low, high = RANGES.get(f"{name}.{f.name}", (-math.inf, math.inf))
                # NaN lies in no range, and TOML has it
                if isinstance(value, float | int) and not low <= value <= high:
                    raise _wrong(f"{name}.{f.name}", f"must lie in {low:g}..{high:g}, got {value}")
        if self.video.width % 2 or self.video.height % 2:
            raise _wrong("video.width and video.height", f"must be even, got {self.video.width}x{self.video.height}")
        if not self.networks.ladder:
            raise _wrong("networks.ladder", "is empty: no frame would be looked at")
        for text in self.quality.checks:
            form(text)
        if self.quality.aesthetic and not (self.networks.aesthetic_clip and self.networks.aesthetic_head):
            raise UserError(
                "quality.aesthetic needs weights: networks.aesthetic_clip or networks.aesthetic_head is empty",
                "name OpenAI's CLIP ViT-L/14 and LAION's sa_0_4_vit_l_14_linear.pth there; docs/dataset.md",
            )
        if self.people.exclude and not self.networks.embedder:
            raise UserError(
                "people.exclude needs a recogniser, and networks.embedder is empty",
                "set networks.embedder and networks.embedder_weights, or leave people.exclude empty",
            )

    def to_json(self) -> dict[str, Any]:
        """Sections as plain values."""
        return dict(json.loads(json.dumps(dataclasses.asdict(self))))


def load(path: Path | None) -> Settings:
    """Settings of a TOML or JSON file; the defaults without one.

    Raises:
        UserError: for a file that cannot be read, or a section, field or value that is none.
    """
    if path is None:
        return Settings()
    try:
        text = path.read_text("utf-8")
        table = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (OSError, ValueError) as error:
        raise UserError(f"--settings {path}: {error}", "give a TOML or JSON file; see docs/dataset.md") from error
    return from_table(table, str(path))


def from_table(table: Any, source: str) -> Settings:
    """Settings of a table of sections; `source` is named in errors.

    Raises:
        UserError: for a section, field or value that is none.
    """
    sections = get_type_hints(Settings)
    if not isinstance(table, Mapping):
        raise UserError(f"{source} holds no table", f"sections: {', '.join(sections)}")
    made = {}
    for name, values in table.items():
        if name not in sections or not isinstance(values, Mapping):
            raise UserError(f"{source}: there is no section {name!r}", f"sections: {', '.join(sections)}")
        hints = get_type_hints(sections[name])
        for key, value in values.items():
            if key not in hints:
                raise UserError(f"{source}: section {name} has no field {key!r}", f"fields: {', '.join(hints)}")
            if not _fits(value, hints[key]):
                raise UserError(f"{source}: {name}.{key} cannot be {value!r}", f"give {_words(hints[key])}")
        made[name] = sections[name](**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
    return Settings(**made)


def _fits(value: Any, kind: Any) -> bool:
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if get_origin(kind) is tuple:
        return isinstance(value, list | tuple) and all(isinstance(v, str) for v in value)
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, kind) and not isinstance(value, bool)


def _words(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(str(v) for v in get_args(kind))
    if get_origin(kind) is tuple:
        return "a list of strings"
    return {int: "a whole number", float: "a number", str: "a string"}[kind]


def _wrong(field_name: str, why: str) -> UserError:
    return UserError(f"settings: {field_name} {why}", "mend it in the settings file; see docs/dataset.md")
