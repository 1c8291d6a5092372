"""What a method implements and what it is given. Standard library only: it runs inside foreign environments."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from ffbench.records import Case, Scalar

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class RefusedError(Exception):
    """A method raises this when it declines a case (a content filter, an unfit reference): status `refused`."""


@dataclass(frozen=True)
class Runtime:
    """Where a method runs. Nothing here may change what it makes."""

    device: str
    """`cpu`, `cuda`, `cuda:1`."""
    weights_dir: str
    """Root of the weights folder of `ffbench weights`."""
    identities: Mapping[str, str] = field(default_factory=dict)
    """identity_id -> path of its first reference, for every identity of the suite (8-bit RGB PNG, upright)."""
    state: str = ""
    """A folder of this run that outlives the command, for what a method must not forget (jobs that are paid for); the
    method makes it."""


@dataclass(frozen=True)
class Request:
    """One video to make."""

    case: Case
    """Reference paths point to 8-bit RGB PNG files, upright, whatever the user's files were."""
    seed: int
    folder: str
    """An empty folder of this request's own, for a video file or scratch; removed afterwards."""


@dataclass(frozen=True)
class Output:
    """What a method made: frames, or the path of a video file that it wrote inside the request's folder."""

    frames: NDArray[np.uint8] | None = None
    """uint8 [T,H,W,3] RGB; encoded by ffbench, alike for every method."""
    fps: float = 0.0
    """Frames per second of `frames`; a video file carries its own."""
    video: str = ""
    notes: Mapping[str, Scalar] = field(default_factory=dict)
    """Facts for the record's provenance, such as the identity that a control showed."""


class Method(Protocol):
    """A way to make videos. The class is named in `ffbench.methods`; `card.toml` beside it holds its facts.

    `settings` holds every value of the card's `[settings]` table with the user's overrides, checked against the card.
    """

    def __init__(self, settings: Mapping[str, Scalar]) -> None: ...

    def load(self, runtime: Runtime) -> None:
        """Load weights once. Raise `UserError` for what the user can mend."""
        ...

    def generate(self, requests: Sequence[Request]) -> Iterator[Output]:
        """Yield one Output a request, in order. At most the card's `batch` requests come at once.

        Raises:
            RefusedError: the case becomes a `refused` record.
            UserError: the whole command stops with these two lines (an account without credit, a vanished tool).
            Exception: any other makes a `failed` record. If several requests were given, those without an Output yet
                are given again one at a time, so that only the guilty one fails.
        """
        ...
