"""Records of a build: one `Outcome` a source video, one `ClipRecord` a clip of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

Verdict = Literal["qualified", "rejected", "failed"]
NAN = float("nan")


@dataclass(frozen=True, kw_only=True)
class ClipRecord:
    """What became of one clip, and why; NaN (null on disk) where a stage was not reached."""

    key: str
    """Name of the clip, without a dot."""
    source: str
    """Path below `--videos`."""
    source_sha256: str = ""
    """Empty where the file was not read to its end."""
    source_bytes: int = 0
    source_size: tuple[int, int] = (0, 0)
    """Upright width and height, px."""
    source_fps: float = NAN
    start: float = NAN
    """Seconds in the source."""
    seconds: float = NAN
    frames: int = 0
    """At the standard rate."""
    verdict: Verdict = "failed"
    reason: str = ""
    """One word, what the statistics count by; empty for a qualified clip."""
    detail: str = ""
    """A sentence."""
    clarity: float = NAN
    """Median variance of the Laplacian."""
    checks: dict[str, float] = field(default_factory=dict)
    """Values of the checks of `quality.checks` that were reached."""
    phash: str = ""
    """16 hex digits each of three frames."""
    frames_seen: int = 0
    """Frames given to the detector."""
    frames_with_face: int = 0
    most_faces: int = 0
    face_px: float = NAN
    """Median of the root of the box's area, px of the standard frame."""
    variation: float = NAN
    """Eq. 8, degrees."""
    variation_robust: float = NAN
    variation_steady: float = NAN
    pitch: tuple[float, float] = (NAN, NAN)
    """Least and greatest, degrees."""
    yaw: tuple[float, float] = (NAN, NAN)
    roll: tuple[float, float] = (NAN, NAN)
    first: int = 0
    """First frame of the sample within the clip."""
    kept_faces: float = NAN
    """Share of the sample's faces that lie wholly inside the standard frame."""
    excluded_like: str = ""
    """Photograph of the excluded person that is nearest."""
    excluded_cosine: float = NAN

    def to_json(self) -> dict[str, Any]:
        """Plain values; null for NaN."""
        return {name: plain(value) for name, value in dataclasses.asdict(self).items()}

    @staticmethod
    def from_json(table: Mapping[str, Any]) -> ClipRecord:
        """The record of a line.

        Raises:
            TypeError: for a line of another version of this program.
        """
        kinds = {f.name: f.type for f in dataclasses.fields(ClipRecord)}
        return ClipRecord(**{name: _back(value, str(kinds.get(name, ""))) for name, value in table.items()})


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One source video, done: a line of the journal."""

    source: str
    bytes: int
    """Size of the file when it was read; another size is another file."""
    clips: tuple[ClipRecord, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"source": self.source, "bytes": self.bytes, "clips": [clip.to_json() for clip in self.clips]}

    @staticmethod
    def from_json(table: Mapping[str, Any]) -> Outcome:
        """The outcome of a line.

        Raises:
            KeyError, TypeError: for a line of another version of this program.
        """
        clips = tuple(ClipRecord.from_json(clip) for clip in table["clips"])
        return Outcome(source=table["source"], bytes=table["bytes"], clips=clips)


def plain(value: Any) -> Any:
    """Lists for tuples and None for NaN, all the way down."""
    if isinstance(value, dict):
        return {name: plain(v) for name, v in value.items()}
    if isinstance(value, tuple | list):
        return [plain(v) for v in value]
    return None if isinstance(value, float) and value != value else value


def _back(value: Any, kind: str) -> Any:
    if isinstance(value, dict):
        return {name: NAN if v is None else v for name, v in value.items()}
    if isinstance(value, list):
        return tuple(NAN if v is None else v for v in value)
    return NAN if value is None and kind == "float" else value


class Row(NamedTuple):
    """A clip with what the whole set makes of it."""

    record: ClipRecord
    identity: str = ""
    split: str = ""
    shard: str = ""
    """`train/000000.tar`."""
    prompt: str = ""
