"""New prompts from a language model, in two stages as in the paper: a base scene, then other backgrounds.

Any server with the OpenAI chat interface will do (`ffbench.chat`). What is sent, and what is accepted back, is data:
prompts/instructions.toml, whose version every prompt records.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from string import Template
from typing import Any, NamedTuple

from ffbench.chat import Chat, ChatError
from ffbench.durable import write_atomic
from ffbench.errors import UserError
from ffbench.progress import Bar, bar
from ffbench.records import digest
from ffbench.suites.cases import embedded_data
from ffbench.suites.manifests import TABLES, Row, read_table, slug, words_of

ATTEMPTS = 4
"""Answers asked for before a prompt is recorded as failed; each further request says what was wrong."""
LONGEST_BACKGROUND = 10
"""Words; it becomes part of the prompt's id."""
COLUMNS = ("scene", "text", "backgrounds", "tags")


class Scene(NamedTuple):
    """A base scene, and the backgrounds to put it in; the model chooses where none are named."""

    scene: str
    text: str
    tags: tuple[str, ...] = ()
    backgrounds: tuple[str, ...] = ()


@dataclass(frozen=True)
class MadePrompt:
    """One line of the file that is written; `failed` ones have no prompt and are left out of suites."""

    prompt_id: str
    scene: str
    number: int
    """0 for the prompt made of the base scene, 1 and on for its variations."""
    background: str
    prompt: str
    tags: tuple[str, ...]
    status: str
    error: str
    provenance: Mapping[str, Any] = field(default_factory=dict)


def new_prompts(
    base_scenes: Path, endpoint: str, model: str, out: Path, variants: int = 2, seed: int = 0
) -> list[MadePrompt]:
    """Make 1 + `variants` prompts of each base scene, each appended to `out` (JSONL) as soon as it is there.

    A scene that names backgrounds gets one prompt for each of them. Prompts that `out` already holds are kept: the same
    command goes on after an interruption, and tries failed ones again.

    Raises:
        UserError: bad scenes or files, an unfit endpoint, a refused key, or a server that cannot be reached.
    """
    if variants < 0 or out.suffix.lower() != ".jsonl":
        raise UserError(f"cannot write {variants} variants to {out}", "give a .jsonl file, and 0 variants or more")
    scenes = read_scenes(base_scenes)
    chat = Chat(endpoint, model)
    facts = {
        "model": model,
        "endpoint": chat.host,
        "instructions": embedded_data("instructions.toml")["version"],
        "base_scenes": hashlib.sha256(base_scenes.read_bytes()).hexdigest(),
        "seed": seed,
    }
    kept = _kept(out, facts)
    total = sum(len(scene.backgrounds) or 1 + variants for scene in scenes)
    made: list[MadePrompt] = []
    out.parent.mkdir(parents=True, exist_ok=True)
    with chat, bar("prompts", total, "prompt", len(kept)) as shown:
        maker = _Maker(chat, facts, out, kept, shown)
        for scene in scenes:
            made += maker.scene(scene, scene.backgrounds or ("",) * (1 + variants))
    return made


def read_scenes(path: Path) -> list[Scene]:
    """Base scenes of a table with scene and text (backgrounds and tags where known), or `scene: text` lines.

    Raises:
        UserError: none, or one without a text, or one name twice.
    """
    if path.suffix.lower() in TABLES:
        rows = read_table(path, COLUMNS, ("scene", "text"))
    else:
        try:
            lines = path.read_text("utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path} cannot be read: {error}", "give base scenes as UTF-8, one a line") from error
        rows = [
            Row(number, dict(zip(("scene", "text"), (part.strip() for part in line.split(":", 1)), strict=False)))
            for number, line in enumerate(lines, 1)
            if line.strip()
        ]
    scenes: dict[str, Scene] = {}
    for row in rows:
        name, text = slug(row.values["scene"]), row.values.get("text", "")
        if not text or name in scenes:
            what = "has no text" if not text else f"repeats the scene {name!r}"
            raise UserError(f"{path}:{row.line} {what}", "give each scene a name, a colon and a text, once")
        places = tuple(place.strip() for place in row.values.get("backgrounds", "").split(";") if place.strip())
        scenes[name] = Scene(name, text, tuple(slug(tag) for tag in words_of(row.values.get("tags", ""))), places)
    if not scenes:
        raise UserError(f"{path} holds no scenes", "give one a line, such as `boxing: a person boxes`")
    return list(scenes.values())


def problems(prompt: str) -> list[str]:
    """What keeps a text from being a prompt here: its length, its characters, words that tell who the person is."""
    accept = embedded_data("instructions.toml")["accept"]
    found = []
    count = len(prompt.split())
    if not accept["least"] <= count <= accept["most"]:
        found.append(f"it has {count} words, not {accept['least']} to {accept['most']}")
    if odd := sorted(set(re.findall(r"[^A-Za-z0-9 ,.;:'-]", prompt))):
        found.append(f"it holds {' '.join(repr(letter) for letter in odd[:5])}")
    words = re.findall(r"[a-z]+(?:-[a-z]+)*", prompt.lower())
    told = {part for word in words for part in (word, *word.split("-"))} & set(accept["told"])
    if told:
        found.append(f"it tells who the person is: {', '.join(sorted(told))}")
    return found


class _Maker:
    """Asks for prompts one after the other and writes each down."""

    def __init__(
        self, chat: Chat, facts: Mapping[str, Any], out: Path, kept: Mapping[tuple[str, int], MadePrompt], shown: Bar
    ) -> None:
        self._chat, self._facts, self._out, self._kept, self._shown = chat, facts, out, kept, shown
        self._rules = embedded_data("instructions.toml")
        self._ids = {record.prompt_id for record in kept.values()}
        self._texts = {record.prompt for record in kept.values()}

    def scene(self, scene: Scene, places: Sequence[str]) -> list[MadePrompt]:
        """One prompt a place, the first from the base scene, the others from the first."""
        made: list[MadePrompt] = []
        for number, place in enumerate(places):
            record = self._kept.get((scene.scene, number))
            if record is None:
                base = made[0].prompt if made else ""
                if number and not base:
                    record = MadePrompt("", scene.scene, number, place, "", scene.tags, "failed", "no base prompt")
                else:
                    record = self._ask(scene, number, base, place or self._elsewhere(number, made))
                with self._out.open("a", encoding="utf-8") as stream:
                    stream.write(json.dumps(asdict(record), ensure_ascii=False) + "\n")
                self._shown.advance(failed=int(record.status != "ok"))
            made.append(record)
        return made

    def _elsewhere(self, number: int, made: Sequence[MadePrompt]) -> str:
        taken = ", ".join(record.background for record in made if record.background)
        key = "other_background" if number else "any_background"
        return Template(self._rules[key]).substitute(taken=taken)

    def _ask(self, scene: Scene, number: int, base: str, place: str) -> MadePrompt:
        """Ask until an answer can be used, at most ATTEMPTS times."""
        limits = {"least": self._rules["accept"]["least"], "most": self._rules["accept"]["most"]}
        request = Template(self._rules["vary" if number else "first"]).substitute(
            text=scene.text, base=base, background=place
        )
        start = [
            {"role": "system", "content": Template(self._rules["system"]).substitute(limits)},
            {"role": "user", "content": request},
        ]
        messages, wrong = start, ["nothing was answered"]
        seed = int(digest([self._facts["seed"], scene.scene, number], 8), 16) & 0x7FFFFFFF
        for attempt in range(ATTEMPTS):
            served, answer = "", ""
            try:
                answer, served = self._chat.ask(messages, seed + attempt)
                background, prompt = read_answer(answer)
                name = slug(f"{scene.scene} {background}")
                wrong = problems(prompt) + self._taken(name, prompt)
            except ChatError as error:
                wrong = [str(error)]
            facts = {**self._facts, "served": served, "request_seed": seed + attempt, "answers": attempt + 1}
            facts["utc"] = datetime.now(UTC).isoformat(timespec="seconds")
            if not wrong:
                self._ids.add(name)
                self._texts.add(prompt)
                return MadePrompt(name, scene.scene, number, background, prompt, scene.tags, "ok", "", facts)
            again = Template(self._rules["again"]).substitute(problems="; ".join(wrong))
            # a long bad answer is not sent back whole: it would cost and teach nothing
            messages = [
                *start,
                {"role": "assistant", "content": answer[:2000] or "-"},
                {"role": "user", "content": again},
            ]
        return MadePrompt("", scene.scene, number, "", "", scene.tags, "failed", "; ".join(wrong), facts)

    def _taken(self, name: str, prompt: str) -> list[str]:
        found = ["the background was used before"] if name in self._ids else []
        return [*found, "the text was used before"] if prompt in self._texts else found


def read_answer(text: str) -> tuple[str, str]:
    """Background and prompt of a model's answer: the first JSON object in it, whatever stands around it.

    Raises:
        ChatError: no such object, or one without these texts.
    """
    decoder = json.JSONDecoder()
    for match in re.finditer(r"\{", text):
        try:
            data, _ = decoder.raw_decode(text, match.start())
        except (ValueError, RecursionError):
            continue
        values = [data.get(key) for key in ("background", "prompt")]
        background, prompt = (" ".join(value.split()) if isinstance(value, str) else "" for value in values)
        if len(background.split()) > LONGEST_BACKGROUND:
            raise ChatError(f"the background has more than {LONGEST_BACKGROUND} words")
        if background and prompt:
            return background, prompt
        raise ChatError("the JSON object lacks a text under background or prompt")
    raise ChatError("it holds no JSON object")


def _kept(out: Path, facts: Mapping[str, Any]) -> dict[tuple[str, int], MadePrompt]:
    """Usable prompts of an earlier command by scene and number.

    Raises:
        UserError: lines that are none of ours, or made with another model, scenes or instructions.
    """
    kept: dict[tuple[str, int], MadePrompt] = {}
    if not out.is_file():
        return kept
    text = out.read_text("utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:  # torn by a kill
        write_atomic(out, whole.encode())
    for number, line in enumerate(whole.split("\n")[:-1], 1):
        try:
            record = MadePrompt(**json.loads(line))
        except (ValueError, TypeError) as error:
            raise UserError(f"{out}:{number} is no line of `ffbench prompts new`", "give another --out") from error
        if record.status == "ok":
            differs = [name for name, value in facts.items() if record.provenance.get(name) != value]
            if differs:
                raise UserError(f"{out} was made with another {', '.join(differs)}", "give another --out")
            kept[record.scene, record.number] = record
    return kept
