"""What the review page asks for and sends: every answer is on the disk before it is confirmed."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from threading import Lock
from typing import Any

from fastapi import Response
from fastapi.responses import FileResponse, JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from faithfulfaces.dataset import answers, caption, pose
from faithfulfaces.dataset.answers import QUESTIONS, REVIEWER, Answer
from faithfulfaces.dataset.clips import Clips
from faithfulfaces.dataset.records import ClipRecord
from ffbench.records import digest


class GivenAnswer(BaseModel):
    """What the page sends when somebody presses a key."""

    model_config = ConfigDict(extra="forbid")
    id: str = Field(pattern=r"^[0-9a-f]{32}$")
    reviewer: str
    key: str = Field(max_length=200)
    question: str
    value: str


class GivenCaption(BaseModel):
    """A mended caption, and the one that it was made from."""

    model_config = ConfigDict(extra="forbid")
    reviewer: str
    key: str = Field(max_length=200)
    prompt: str = Field(max_length=8000)
    base: str = Field(max_length=8000)


class Desk:
    """Answers the page's requests; each runs in a thread of its own.

    Args:
        clips: under review.
        blind: angles, variation and verdict are not even sent, so that labels owe nothing to the estimator.
    """

    def __init__(self, clips: Clips, *, blind: bool = False) -> None:
        self._clips, self._blind = clips, blind
        self._log = answers.Log(clips.folder.reviews)
        self._captions = caption.Captions(clips.folder.captions)
        self._writing = Lock()

    def clips(self, reviewer: str = "") -> dict[str, Any]:
        """Every clip, and what this reviewer has said of it."""
        root = self._clips.folder.root.resolve()
        given = self._log.answers()
        mine = {question: answers.standing(given, question).get(reviewer, {}) for question in QUESTIONS}
        return {
            "name": root.name,
            "id": digest(str(root), 16),
            "blind": self._blind,
            "questions": QUESTIONS,
            "clips": [
                {"key": record.key} | {q: said[record.key].value for q, said in mine.items() if record.key in said}
                for record in self._clips.records
            ],
        }

    def clip(self, key: str) -> Response:
        """One clip: its pose over time, crops, caption."""
        record = self._clips.record(key)
        if record is None:
            return _unknown(key)
        shown = self._clips.shown(record)
        said = self._captions.newest().get(key)
        about: dict[str, Any] = {
            "key": key,
            "source": record.source,
            "start": record.start,
            "caption": said.prompt if said else "",
            "caption_by": _author(said),
            "caption_problems": caption.problems(said.prompt) if said and said.prompt else [],
            "crops": [{"seconds": round(s, 3)} for s in shown.seconds],
        }
        if not self._blind:
            about["crops"] = [
                {"seconds": round(s, 3), "euler": list(e)} for s, e in zip(shown.seconds, shown.euler, strict=True)
            ]
            about |= self._pose(record)
        return JSONResponse(about)

    def _pose(self, record: ClipRecord) -> dict[str, Any]:
        seconds, angles = self._clips.angles(record)
        return {
            "seconds": [round(float(s), 3) for s in seconds],
            "angles": [[round(float(a), 2) if math.isfinite(a) else None for a in column] for column in angles.T],
            "ranges": [[round(v, 1) if math.isfinite(v) else None for v in pair] for pair in pose.ranges(angles)],
            "variation": round(record.variation, 1),
            "threshold": self._clips.settings.subject.threshold,
            "verdict": record.verdict,
            "reason": record.detail,
        }

    def video(self, key: str) -> Response:
        """A clip's film; parts of it on request."""
        record = self._clips.record(key)
        return (
            _unknown(key) if record is None else FileResponse(self._clips.shown(record).video, media_type="video/mp4")
        )

    def crop(self, key: str, number: int) -> Response:
        """A face crop."""
        record = self._clips.record(key)
        crops = self._clips.shown(record).crops if record else []
        return FileResponse(crops[number], media_type="image/jpeg") if 0 <= number < len(crops) else _unknown(key)

    def agreement(self) -> list[dict[str, Any]]:
        """Every pair of reviewers."""
        found = answers.agreements(self._log.answers())
        return [one._asdict() | {"kappa": None if math.isnan(one.kappa) else one.kappa} for one in found]

    def answer(self, given: GivenAnswer) -> Response:
        """Write an answer down; one that came before is confirmed again."""
        if wrong := self._wrong(given.reviewer, given.key):
            return wrong
        if given.value not in ("", *QUESTIONS.get(given.question, ())):
            return JSONResponse({"error": f"{given.question}: no such answer"}, 422)
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        self._log.add(Answer(**given.model_dump(), blind=self._blind, utc=now))
        return JSONResponse({"saved": given.id})

    def caption(self, given: GivenCaption) -> Response:
        """Write a mended caption down, unless somebody else has changed it meanwhile."""
        if wrong := self._wrong(given.reviewer, given.key):
            return wrong
        text = " ".join(given.prompt.split())
        with self._writing:
            standing = self._captions.newest().get(given.key)
            now = standing.prompt if standing else ""
            if now == text:
                return JSONResponse(
                    {"caption": text, "caption_by": _author(standing), "problems": caption.problems(text)}
                )
            if now != given.base:
                return JSONResponse({"error": "somebody else has changed it", "caption": now}, 409)
            made = caption.mend(self._clips.folder.captions, given.key, text, given.reviewer)
        return JSONResponse({"caption": text, "caption_by": _author(made), "problems": caption.problems(text)})

    def _wrong(self, reviewer: str, key: str) -> Response | None:
        if not REVIEWER.fullmatch(reviewer):
            return JSONResponse({"error": "a reviewer's name is 1 to 40 letters, digits, spaces, . @ or -"}, 422)
        return None if self._clips.record(key) else _unknown(key)


def _unknown(key: str) -> Response:
    return JSONResponse({"error": f"no such clip: {key[:200]}", "unknown": True}, 404)


def _author(said: caption.Caption | None) -> str:
    if said is None or not said.prompt:
        return ""
    return str(said.provenance.get("reviewer" if said.made_with == caption.BY_HAND else "model", ""))
