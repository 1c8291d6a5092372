"""The records that stages leave on disk for each other, and the keys that identify them.

Standard library only: this file is imported inside the foreign environments of methods. JSON has no NaN, so a
missing number is written as null and read back as NaN; a record that holds one also holds the reason.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

SCHEMA = 1
Status = Literal["ok", "failed", "refused"]
Scalar = str | int | float | bool | None
R = TypeVar("R")
_SCALARS = (str, int, bool)
_ENCODE = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


@dataclass(frozen=True)
class Reference:
    """One reference photograph: absolute path, sha256 of its bytes, and the view it shows."""

    path: str
    sha256: str
    view: str = ""
    """`frontal`, `non-frontal`, or empty where nobody said."""


@dataclass(frozen=True)
class Case:
    """One identity with one prompt: what a method is asked to make a video of."""

    suite: str
    suite_version: str
    case_id: str
    identity_id: str
    references: tuple[Reference, ...]
    prompt_id: str
    prompt: str
    subject: str = "person"
    """The noun for the subject that some methods ask for beside the prompt."""
    tags: tuple[str, ...] = ()
    """Scene, `large-pose`, `occlusion`, `expression`, `frontal`, `non-frontal`."""
    schema: int = SCHEMA


@dataclass(frozen=True)
class Generation:
    """One attempt to make one video. A failure is a record too, never an absence."""

    case_id: str
    suite: str
    suite_version: str
    method: str
    revision: str
    settings: Mapping[str, Scalar]
    seed: int
    take: int
    """0 for the first video of a case, 1 for the next; the seed is derived from the case and the take."""
    status: Status
    video: str = ""
    """Path relative to the run folder, or absolute for videos the user gave; empty unless status is ok."""
    video_sha256: str = ""
    error: str = ""
    seconds: float = math.nan
    peak_gib: float = math.nan
    provenance: Mapping[str, Any] = field(default_factory=dict)
    utc: str = ""
    schema: int = SCHEMA

    @functools.cached_property
    def key(self) -> str:
        """16 hex digits over everything the video depends on; device, workers and engine are not part of it."""
        return generation_key(
            self.suite, self.suite_version, self.case_id, self.method, self.revision, self.settings, self.seed
        )

    @property
    def handle(self) -> str:
        """The readable name that `ffbench show` takes: `suite@version/method/case-s0`."""
        return f"{self.suite}@{self.suite_version}/{self.method}/{self.case_id}-s{self.take}"


@dataclass(frozen=True)
class Score:
    """One metric of one video under one protocol."""

    generation: str
    """Key of the Generation."""
    track: str
    """Key of the FaceTrack it was computed from."""
    protocol: str
    """Protocol id, such as `standard@1`; a changed network changes it."""
    metric: str
    version: int
    value: float
    reason: str = ""
    """Why the value is NaN; empty for a number."""
    num_frames: int = 0
    num_scored: int = 0
    per_frame: tuple[float, ...] = ()
    """One value a sampled frame, NaN where the frame has none; empty for metrics without a per-frame form."""
    schema: int = SCHEMA

    @property
    def key(self) -> tuple[str, str, str, int]:
        """What makes a score unique inside a run."""
        return (self.generation, self.protocol, self.metric, self.version)

    def __post_init__(self) -> None:
        if math.isnan(self.value) != bool(self.reason):
            raise ValueError(
                f"{self.metric}: a score is a number, or NaN with a reason; got {self.value!r}, {self.reason!r}"
            )


@dataclass(frozen=True)
class Cell:
    """One aggregated number of a table, with everything needed to read it honestly."""

    suite: str
    protocol: str
    method: str
    metric: str
    version: int
    group: str
    """`all`, or a subset such as `scene:boxing` or `yaw:45-60`."""
    value: float
    low: float
    high: float
    """95% interval, bootstrap clustered by identity; NaN where it cannot be had."""
    num_identities: int
    num_videos: int
    """Videos that carry a value."""
    num_unscored: int
    """Videos that were made but have no value (no face, weights missing)."""
    num_failed: int
    """Videos that were not made."""
    coverage: float
    """Scored frames over sampled frames, all made videos."""
    reason: str = ""
    schema: int = SCHEMA


def digest(value: Any, length: int = 16) -> str:
    """First `length` hex digits of the sha256 of canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def generation_key(
    suite: str,
    suite_version: str,
    case_id: str,
    method: str,
    revision: str,
    settings: Mapping[str, Scalar],
    seed: int,
) -> str:
    """Key of a Generation, computable before it exists."""
    return digest([suite, suite_version, case_id, method, revision, dict(settings), seed])


def derive_seed(suite: str, case_id: str, take: int) -> int:
    """Seed of a take: a 31-bit hash, equal for every method, so that methods meet the same draw."""
    return int(digest([suite, case_id, take], 8), 16) & 0x7FFFFFFF


def to_json(record: Any) -> str:
    """One line of strict JSON (NaN becomes null)."""
    return _ENCODE(_plain(record))


def from_json(cls: type[R], line: str) -> R:
    """Read one record strictly.

    Raises:
        ValueError: on an unknown or missing field, another schema, or a value of the wrong type.
    """
    data = json.loads(line)
    if not isinstance(data, dict):
        raise ValueError(f"{cls.__name__}: expected an object, got {type(data).__name__}")
    schema = data.get("schema", SCHEMA)
    if schema != SCHEMA:
        raise ValueError(f"{cls.__name__}: schema {schema!r}, this version reads {SCHEMA}")
    return _build(cls, data)


def _plain(value: Any) -> Any:
    if value is None or type(value) in _SCALARS:
        return value
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        if math.isnan(value):
            return None
        raise ValueError("a record cannot hold an infinite number")
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if dataclasses.is_dataclass(value):
        return {name: _plain(getattr(value, name)) for name in _fields(_hashable(type(value)))}
    return value


@dataclass(frozen=True)
class _Fields:
    """How the fields of a record class are read; found out once a class, since 100,000 records are read at a time."""

    read: Mapping[str, Callable[[Any], Any]]
    """Field -> its value from JSON's; raises TypeError for a value of another type."""
    required: frozenset[str]


def _hashable(cls: type[Any]) -> Any:
    """The class itself: mypy holds that a class of dataclasses may have no hash."""
    return cls


@functools.cache
def _fields(cls: type[Any]) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(cls))


@functools.cache
def _readers(cls: type[Any]) -> _Fields:
    hints = typing.get_type_hints(cls)
    required = (
        f.name
        for f in dataclasses.fields(cls)
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    )
    return _Fields({name: _reader(hints[name]) for name in _fields(_hashable(cls))}, frozenset(required))


def _build(cls: type[R], data: Mapping[str, Any]) -> R:
    readers = _readers(_hashable(cls))
    unknown, absent = sorted(data.keys() - readers.read.keys()), sorted(readers.required - data.keys())
    if unknown or absent:
        raise ValueError(f"{cls.__name__}: unknown fields {unknown}, missing fields {absent}")
    values = {}
    for name, value in data.items():
        try:
            values[name] = readers.read[name](value)
        except TypeError as error:
            raise ValueError(f"{cls.__name__}.{name}: {error}") from error
    return cls(**values)


def _reader(hint: Any) -> Callable[[Any], Any]:
    """What reads a value of a type from JSON's, raising TypeError for another."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any or origin in (typing.Union, types.UnionType):
        return _as_it_is
    if hint is float:
        return _read_float
    if origin is tuple:
        return functools.partial(_read_tuple, _reader(inner[0]))
    if origin is typing.Literal:
        return functools.partial(_read_literal, inner)
    if origin is not None:
        return _read_mapping
    if dataclasses.is_dataclass(hint):
        return lambda value: _build(typing.cast(type[Any], hint), _read_mapping(value))
    return functools.partial(_read_exactly, hint)


def _as_it_is(value: Any) -> Any:
    return value


def _read_float(value: Any) -> float:
    if type(value) is float:
        return value
    if value is None:
        return math.nan
    if isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    raise TypeError(f"expected a number, got {value!r}")


def _read_tuple(read: Callable[[Any], Any], value: Any) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise TypeError(f"expected a list, got {value!r}")
    return tuple([read(item) for item in value])


def _read_literal(allowed: tuple[Any, ...], value: Any) -> Any:
    if value not in allowed:
        raise TypeError(f"expected one of {', '.join(map(str, allowed))}, got {value!r}")
    return value


def _read_mapping(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"expected an object, got {value!r}")
    return value


def _read_exactly(kind: type[Any], value: Any) -> Any:
    if type(value) is not kind:
        raise TypeError(f"expected {kind.__name__}, got {value!r}")
    return value
