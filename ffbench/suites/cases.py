"""Identities x prompts -> the cases of a suite."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from ffbench.errors import UserError
from ffbench.records import Case, Reference, digest
from ffbench.store import safe_name


class Prompt(NamedTuple):
    """One text to make a video of, and what it shows."""

    prompt_id: str
    scene: str
    """`boxing`, `dancing`, `turning`, `ballet`, `speech`, `dramatic`, or a user's own; may be empty."""
    background: str
    prompt: str
    tags: tuple[str, ...]
    """Of `large-pose`, `occlusion`, `expression`."""

    @property
    def words(self) -> int:
        """Number of words."""
        return len(self.prompt.split())


class Identity(NamedTuple):
    """One person and the photographs that a method is given of them, in this order."""

    identity_id: str
    references: tuple[Reference, ...]
    label: str = ""
    """Sets apart two entries of one person, such as the frontal and the non-frontal photograph."""


@dataclass(frozen=True)
class Suite:
    """A named, versioned set of cases."""

    name: str
    version: str
    """A number for embedded suites, with a digest of the content where that is the user's or comes from a hub."""
    summary: str
    cases: tuple[Case, ...]
    """Every identity before a second prompt, so that the first N are a spread."""
    given: Mapping[str, Path] = field(default_factory=dict)
    """case_id -> finished video, for suites made of videos; empty otherwise."""
    notes: tuple[str, ...] = ()


def make_suite(name: str, version: str, summary: str, pairs: Iterable[tuple[Identity, Prompt]]) -> Suite:
    """The suite of these pairs, spread; `version` may end in `*`, which becomes a digest of the cases.

    Raises:
        UserError: two pairs with one case id, naming both.
    """
    made: dict[str, Case] = {}
    for identity, prompt in pairs:
        parts = (identity.identity_id, identity.label, prompt.prompt_id)
        case_id = safe_name("-".join(part for part in parts if part))
        if case_id in made:
            other = made[case_id]
            raise UserError(
                f"{other.identity_id!r} with {other.prompt_id!r} and {identity.identity_id!r} with "
                f"{prompt.prompt_id!r} are both the case {case_id!r}",
                "name each pair of identity and prompt once, and rename ids that run together",
            )
        view = tuple(dict.fromkeys(one.view for one in identity.references if one.view))
        tags = tuple(dict.fromkeys(tag for tag in (prompt.scene, *prompt.tags, *view) if tag))
        made[case_id] = Case(
            suite=name,
            suite_version="",
            case_id=case_id,
            identity_id=identity.identity_id,
            references=identity.references,
            prompt_id=prompt.prompt_id,
            prompt=prompt.prompt,
            tags=tags,
        )
    if version.endswith("*"):
        version = version[:-1] + digest(sorted(_content(case) for case in made.values()), 8)
    cases = tuple(dataclasses.replace(case, suite_version=version) for case in spread(list(made.values())))
    return Suite(name, version, summary, cases)


def cross(identities: Sequence[Identity], prompts: Sequence[Prompt]) -> list[tuple[Identity, Prompt]]:
    """Every identity with every prompt."""
    return [(identity, prompt) for identity in identities for prompt in prompts]


def spread(cases: Sequence[Case]) -> list[Case]:
    """The cases in rounds: each round takes one case of every identity, of another prompt than its neighbour's."""
    groups: dict[str, list[Case]] = {}
    for case in cases:
        groups.setdefault(case.identity_id, []).append(case)
    shifted = [
        group[number % len(group) :] + group[: number % len(group)] for number, group in enumerate(groups.values())
    ]
    rounds = max((len(group) for group in shifted), default=0)
    return [group[turn] for turn in range(rounds) for group in shifted if turn < len(group)]


def limit_cases(suite: Suite, limit: int | None) -> Suite:
    """The suite's first `limit` cases in their spread order; name and version stay, since the cases are the same ones.

    Raises:
        UserError: a limit below 1.
    """
    if limit is None:
        return suite
    if limit < 1:
        raise UserError(f"--limit {limit} leaves nothing to do", "give a number from 1 up")
    cases = suite.cases[:limit]
    kept = {case.case_id for case in cases}
    given = {case_id: path for case_id, path in suite.given.items() if case_id in kept}
    return dataclasses.replace(suite, cases=cases, given=given)


def reference(path: Path, view: str = "") -> Reference:
    """A photograph as it lies on disk.

    Raises:
        UserError: no such file.
    """
    try:
        with path.open("rb") as stream:
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"reference {path} cannot be read: {error.strerror}", "give a photograph") from error
    return Reference(str(path.resolve()), sha256, view)


def embedded_prompts() -> tuple[Prompt, ...]:
    """The benchmark's 20 prompts."""
    tables = embedded_data("prompts.toml")["prompt"]
    return tuple(
        Prompt(**{**table, "prompt": table["prompt"].strip(), "tags": tuple(table["tags"])}) for table in tables
    )


@functools.cache
def embedded_data(name: str) -> Mapping[str, Any]:
    """A TOML file of the prompts folder."""
    return tomllib.loads(resources.files("prompts").joinpath(name).read_text("utf-8"))


def cache_folder() -> Path:
    """Where photographs of embedded and fetched suites are kept: FFBENCH_CACHE, else the user's cache folder."""
    if chosen := os.environ.get("FFBENCH_CACHE"):
        return Path(chosen).expanduser().resolve()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ffbench"


def _content(case: Case) -> str:
    photographs = [[one.sha256, one.view] for one in case.references]
    return digest([case.case_id, case.identity_id, photographs, case.prompt_id, case.prompt, case.subject])
