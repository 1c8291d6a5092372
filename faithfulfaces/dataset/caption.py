"""Step 3 of Section 3.4: a caption of every clip from a vision-language model, checked before it counts.

What is asked and what is accepted is data: prompts/captions.toml, whose version every caption records.
"""

from __future__ import annotations

import base64
import io
import re
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cache
from importlib import resources
from pathlib import Path
from string import Template
from threading import Lock
from typing import Any, NamedTuple, Protocol

from PIL import Image

from faithfulfaces.dataset import journal
from ffbench.chat import ChatError, RefusedError
from ffbench.errors import UserError
from ffbench.progress import Bar, bar
from ffbench.records import digest
from ffbench.video import VideoError, read_clip

ATTEMPTS = 3
"""Answers asked for before a clip is recorded as failed; each further request says what was wrong."""
BY_HAND = "by hand"
SIDE = 640
"""Longer side of a frame as it is sent, px."""


@cache
def rules() -> Mapping[str, Any]:
    """prompts/captions.toml: its version, what is sent, what is accepted."""
    return tomllib.loads(resources.files("prompts").joinpath("captions.toml").read_text("utf-8"))


class Clip(NamedTuple):
    """One clip to describe."""

    key: str
    video: Path


class Model(Protocol):
    """Something that answers messages of the chat interface: `ffbench.chat.Chat`, or `qwen.Qwen` on this machine."""

    def ask(self, messages: Sequence[Mapping[str, Any]], seed: int) -> tuple[str, str]:
        """The answer, and the model's name for itself. Called by several threads at once."""
        ...


@dataclass(frozen=True)
class Asked:
    """What a caption depends on, besides the clip; a clip captioned with other values is captioned anew."""

    model: str
    frames: int = 8
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Caption:
    """One line of captions.jsonl; the last of a clip counts, and `failed` ones have no prompt."""

    key: str
    prompt: str
    status: str = "ok"
    error: str = ""
    made_with: str = ""
    """Digest of what it depends on: model, instructions, frames, seed; BY_HAND where a reviewer wrote it."""
    provenance: Mapping[str, Any] = field(default_factory=dict)


class Captions:
    """captions.jsonl as it grows; several threads and processes may use it at once."""

    def __init__(self, path: Path) -> None:
        self._journal = journal.Follower(path)
        self._found: dict[str, Caption] = {}
        self._lock = Lock()

    def newest(self) -> dict[str, Caption]:
        """The newest caption of every clip.

        Raises:
            UserError: for a line that is no caption.
        """
        with self._lock:
            for record in self._journal.news():
                try:
                    caption = Caption(**record)
                except TypeError as error:
                    raise UserError(
                        f"{self._journal.path}:{self._journal.line} is no caption",
                        "delete that line, or name another journal",
                    ) from error
                self._found[caption.key] = caption
            return self._found.copy()


def captions(path: Path) -> dict[str, Caption]:
    """What a journal holds: the newest caption of every clip.

    Raises:
        UserError: for a line that is no caption.
    """
    return Captions(path).newest()


def mend(path: Path, key: str, prompt: str, reviewer: str) -> Caption:
    """Write down the caption that a person gives a clip; no model writes over it. On the disk when this returns."""
    provenance = {"reviewer": reviewer, "utc": datetime.now(UTC).isoformat(timespec="seconds")}
    caption = Caption(key=key, prompt=prompt, made_with=BY_HAND, provenance=provenance)
    journal.append(path, asdict(caption))
    return caption


@dataclass(frozen=True)
class Captioning:
    """How clips are captioned: with which model, into which journal, how many at a time."""

    model: Model
    asked: Asked
    journal: Path
    workers: int = 8
    retry_failed: bool = False


def caption_clips(clips: Iterable[Clip], how: Captioning) -> dict[str, Caption]:
    """Caption every clip that the journal lacks; each is appended, and on the disk, as soon as it is there.

    Returns:
        The captions of all `clips`, old and new; the same command after a kill goes on, and a second one does nothing.

    Raises:
        UserError: for options out of range, or a model that cannot be used at all. One clip that cannot be read, or
            that the model says nothing usable about, is a failed caption.
    """
    if not (1 <= how.asked.frames <= 64 and 1 <= how.workers <= 256):
        raise UserError(
            f"--frames {how.asked.frames} --workers {how.workers}", "give 1 to 64 frames, and 1 to 256 workers"
        )
    clips = list(clips)
    made_with, kept = digest_of(how.asked), captions(how.journal)
    done = {
        clip.key
        for clip in clips
        if (old := kept.get(clip.key))
        and old.made_with in (made_with, BY_HAND)
        and (old.status == "ok" or not how.retry_failed)
    }
    todo = [clip for clip in clips if clip.key not in done]
    with bar("captions", len(clips), "clip", len(done)) as shown, ThreadPoolExecutor(how.workers) as pool:
        asker = _Asker(how, made_with, shown)
        futures = [pool.submit(asker.caption, clip) for clip in todo]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
        made = {record.key: record for record in (f.result() for f in futures if not f.cancelled())}
    return {clip.key: made.get(clip.key) or kept[clip.key] for clip in clips}


def digest_of(asked: Asked) -> str:
    """Digest of everything a caption depends on besides its clip."""
    return digest([asdict(asked), rules()["version"]], 16)


def problems(caption: str) -> list[str]:
    """What keeps a text from being a caption: its form, its length, its language, or a claim of who the person is.

    A name that is one word at the beginning of a sentence goes unseen: that is left to the review.
    """
    accept = rules()["accept"]
    found = []
    if "\n" in caption or re.search(r"^\s*([-*#>•]|\d+[.)])\s|[*_`#<>{}\[\]|]", caption):
        found.append("it is not one plain paragraph")
    words = re.findall(r"[^\W\d_]+(?:['’-][^\W\d_]+)*", caption)
    lower = [word.lower().replace("’", "'") for word in words]
    if not accept["least"] <= len(words) <= accept["most"]:
        found.append(f"it has {len(words)} words, not {accept['least']} to {accept['most']}")
    foreign = any(letter.isalpha() and ord(letter) > 0x24F for letter in caption)
    share = sum(word in set(accept["common"]) for word in lower) / max(len(lower), 1)
    if foreign or share < accept["least_common"]:
        found.append("it is not English")
    runs = Counter(zip(lower, lower[1:], lower[2:], lower[3:], strict=False))
    if runs and sum(count == 1 for count in runs.values()) < accept["least_new"] * sum(runs.values()):
        found.append("it repeats itself")
    text = f" {' '.join(lower)} "
    about, claimed = (
        [words for words in listed if f" {words} " in text]
        for listed in (accept["speaker"] + accept["medium"], accept["claims"])
    )
    if about:
        found.append(f"it speaks of itself or of the medium: {', '.join(about)}")
    who = claimed + _names(caption, set(accept["capitals"]))
    if who:
        found.append(f"it tells who the person is, or names something: {', '.join(who)}")
    if caption and not caption.rstrip().endswith((".", "!", "?")):
        found.append("it breaks off")
    return found


def messages(clip: Path, frames: int) -> list[dict[str, Any]]:
    """The request about one clip: instructions, and frames evenly spaced in time as JPEG data URLs, each with its time.

    Raises:
        VideoError: for anything that is no whole video.
        FileNotFoundError: where there is no file.
    """
    words = rules()
    seen = read_clip(clip, [f"time{frames}"])
    content: list[dict[str, Any]] = []
    taken = seen.frames[f"time{frames}"]
    for pixels, second in zip(taken.pixels, taken.time - taken.time[0], strict=True):
        picture = Image.fromarray(pixels)
        picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
        stream = io.BytesIO()
        picture.save(stream, "JPEG", quality=90)
        url = "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()
        content.append({"type": "text", "text": Template(words["frame"]).substitute(seconds=f"{second:.1f}")})
        content.append({"type": "image_url", "image_url": {"url": url}})
    content.append({"type": "text", "text": Template(words["ask"]).substitute(seconds=f"{seen.duration:.1f}")})
    system = Template(words["system"]).substitute(least=words["accept"]["least"], most=words["accept"]["most"])
    return [{"role": "system", "content": system}, {"role": "user", "content": content}]


def _names(caption: str, allowed: set[str]) -> list[str]:
    """Capitalised words within a sentence."""
    inner = re.findall(r"(?<![.!?:])(?<![.!?:][\"”')])\s+([A-Z][^\W\d_]+(?:['’-][^\W\d_]+)*)", caption)
    return sorted({word for word in inner if re.sub(r"['’]s$", "", word).lower() not in allowed})


class _Asker:
    """Asks about one clip after the other, in several threads, and writes each answer down."""

    def __init__(self, how: Captioning, made_with: str, shown: Bar) -> None:
        self._how, self._made_with, self._shown = how, made_with, shown
        self._rules = rules()
        self._lock = Lock()
        self._answered = False
        self._refused = 0

    def caption(self, clip: Clip) -> Caption:
        try:
            start = messages(clip.video, self._how.asked.frames)
        except (VideoError, OSError) as error:
            return self._write(clip, 0, {}, error=f"the clip cannot be read: {error}")
        talk, wrong, facts = start, ["nothing was answered"], {}
        seed = int(digest([self._how.asked.seed, clip.key], 8), 16) & 0x7FFFFFFF
        for attempt in range(ATTEMPTS):
            answer = ""
            try:
                answer, served = self._how.model.ask(talk, seed + attempt)
                facts = {"served": served, "request_seed": seed + attempt}
                self._answered = True
            except ChatError as error:
                wrong = [str(error)]
                continue
            except RefusedError as error:
                self._count_refusal(error)
                return self._write(clip, attempt + 1, facts, error=error.what)
            text = answer.strip()
            wrong = problems(text)
            if not wrong:
                return self._write(clip, attempt + 1, facts, prompt=text)
            again = Template(self._rules["again"]).substitute(problems="; ".join(wrong))
            talk = [*start, {"role": "assistant", "content": answer}, {"role": "user", "content": again}]
        return self._write(clip, ATTEMPTS, facts, error="; ".join(wrong))

    def _count_refusal(self, error: RefusedError) -> None:
        """A server that has refused the first requests of all will refuse the rest too."""
        with self._lock:
            self._refused += 1
            if not self._answered and self._refused > self._how.workers:
                raise error

    def _write(
        self, clip: Clip, answers: int, facts: Mapping[str, Any], *, prompt: str = "", error: str = ""
    ) -> Caption:
        provenance = {
            **asdict(self._how.asked),
            "instructions": self._rules["version"],
            "answers": answers,
            **facts,
            "utc": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        record = Caption(
            key=clip.key, prompt=prompt, status="failed" if error else "ok", error=error,
            made_with=self._made_with, provenance=provenance,
        )  # fmt: skip
        journal.append(self._how.journal, asdict(record))
        self._shown.advance(failed=int(bool(error)))
        return record
