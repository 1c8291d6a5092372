"""Somebody else: what a method gets that makes good videos of the wrong person."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from baselines.oracle.adapter import Oracle
from baselines.sway.adapter import Sway
from ffbench.contract import Output, Request, Runtime
from ffbench.errors import UserError
from ffbench.records import Scalar


class Impostor:
    """Shows, for each identity, the next one of the suite in sorted order; the last shows the first.

    A swaying photograph; of the mini world's people (`rendered`) a true turning head.
    """

    def __init__(self, settings: Mapping[str, Scalar]) -> None:
        self._sway = Sway(settings)
        self._oracle: Oracle | None = None
        if settings["rendered"]:
            self._oracle = Oracle({"whose": "next", "size": settings["width"], "fps": settings["fps"]})
        self._fps = float(settings["fps"] or 0)
        self._identities: Mapping[str, str] = {}
        self._next: dict[str, str] = {}

    def load(self, runtime: Runtime) -> None:
        """Pair every identity with another.

        Raises:
            UserError: if the suite has fewer than two identities.
        """
        if self._oracle:
            self._oracle.load(runtime)
            return
        people = sorted(runtime.identities)
        if len(people) < 2:
            raise UserError(
                f"impostor needs at least 2 identities, the suite has {len(people)} with a readable photograph",
                "choose a suite of several people",
            )
        self._identities = runtime.identities
        self._next = dict(zip(people, [*people[1:], people[0]], strict=True))

    def generate(self, requests: Sequence[Request]) -> Iterator[Output]:
        """One video of another person a request, who is named in the notes."""
        if self._oracle:
            yield from self._oracle.generate(requests)
            return
        for request in requests:
            shown = self._next[request.case.identity_id]
            frames = self._sway.frames(self._identities[shown])
            yield Output(frames, self._fps, notes={"shown_identity": shown})
