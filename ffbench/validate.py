"""What is wrong with a suite, found before any GPU hour."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ffbench.download import sha256_of
from ffbench.errors import UserError
from ffbench.extract.extractor import Extractor
from ffbench.image import ImageError, read_image
from ffbench.progress import track
from ffbench.protocols import Protocol, get_protocol
from ffbench.records import Case, Reference
from ffbench.store import Run
from ffbench.suites.cases import Suite
from ffbench.video import VideoError, read_clip

SMALLEST_FACE = 80
"""Shorter side of the face's box in px below which a reference is called small: the recognisers crop it to 112 px."""
CONTEXT = 77
"""Tokens that CLIP's text encoder reads, start and end included."""


Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Finding:
    """One thing to mend, or to know."""

    severity: Severity
    where: str
    what: str
    fix: str


def validate(
    suite: Suite, *, protocol: Protocol, runs: Sequence[Run] | None = None, device: str = "cpu"
) -> list[Finding]:
    """Check a suite's photographs, prompts and finished videos, and the videos of runs of it.

    Where the protocol's detector has no weights here, `basic`'s looks for faces instead, and a finding says so.

    Raises:
        UserError: a network's file is not what it should be.
    """
    found = [*_photographs(suite, protocol, device), *_prompts(suite.cases), *_given(suite)]
    for run in runs or ():
        found += _run(suite, run)
    return found


def _photographs(suite: Suite, protocol: Protocol, device: str) -> Iterator[Finding]:
    owners: dict[str, dict[str, None]] = {}
    photographs: dict[str, Reference] = {}
    for case in suite.cases:
        if not case.references:
            yield Finding("error", case.case_id, "the case has no photograph", "give each identity one")
        for one in case.references:
            owners.setdefault(one.sha256, {})[case.identity_id] = None
            photographs.setdefault(one.path, one)
    for names in owners.values():
        if len(names) > 1:
            people = ", ".join(names)
            yield Finding(
                "error",
                people,
                "these identities have the same photograph",
                "give each person a photograph of their own",
            )
    extractor, notes = _detector(protocol, device)
    yield from notes
    for one in track(list(photographs.values()), "photographs", "photograph"):
        yield from _photograph(one, extractor)


def _detector(protocol: Protocol, device: str) -> tuple[Extractor, list[Finding]]:
    """The protocol's detector alone: other networks have no say here, and need not be there."""

    def alone(recipe: Protocol) -> Extractor:
        networks = {"detector": recipe.networks["detector"]}
        return Extractor(dataclasses.replace(recipe, networks=networks, metrics=()), device)

    try:
        return alone(protocol), []
    except UserError as error:
        basic = get_protocol("basic")
        if protocol.networks["detector"] == basic.networks["detector"]:
            raise
        what = f"faces were looked for with protocol basic's detector, since {error.what}"
        return alone(basic), [Finding("warning", protocol.id, what, error.fix)]


def _photograph(one: Reference, extractor: Extractor) -> Iterator[Finding]:
    path = Path(one.path)
    try:
        if sha256_of(path) != one.sha256:
            yield Finding(
                "error", one.path, "the photograph has changed since the suite was read", "read the suite again"
            )
        image = read_image(path)
    except (OSError, ImageError) as error:
        yield Finding("error", one.path, f"the photograph cannot be read: {error}", "give another file")
        return
    found = extractor.reference(image)
    if not found.found[0]:
        rungs = ", ".join(extractor.protocol.ladder)
        yield Finding("error", one.path, f"holds no face (tried {rungs})", "crop closer or give another photograph")
        return
    if (count := int(found.num_faces[0])) > 1:
        yield Finding(
            "warning", one.path, f"holds {count} faces; the largest is measured", "crop the photograph to one person"
        )
    x1, y1, x2, y2 = (float(value) for value in found.box[0])
    if (side := min(x2 - x1, y2 - y1)) < SMALLEST_FACE:
        yield Finding(
            "warning", one.path, f"the face is {side:.0f} px wide, below {SMALLEST_FACE}", "give a larger photograph"
        )


def _prompts(cases: Iterable[Case]) -> Iterator[Finding]:
    texts = {case.prompt: case.prompt_id for case in cases}
    if "" in texts:
        count = sum(not case.prompt for case in cases)
        what = f"{count} cases have no prompt: text metrics will have no value"
        yield Finding("warning", "prompts", what, "give prompts (--prompts FILE), or leave the text metrics aside")
    tokens = {name: len(_tokenizer().encode(text)) + 2 for text, name in texts.items() if text}
    if long := {prompt_id: count for prompt_id, count in tokens.items() if count > CONTEXT}:
        worst = max(long, key=lambda prompt_id: long[prompt_id])
        what = (
            f"{len(long)} of {len(tokens)} prompts are longer than CLIP's {CONTEXT} tokens, {worst} has {long[worst]}"
        )
        yield Finding("warning", "prompts", what, "clip_score reads their beginning, clip_score_long all of them")


@functools.cache
def _tokenizer() -> Any:
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer()


def _given(suite: Suite) -> Iterator[Finding]:
    """Videos that the user brought: there, whole, and none of them for two people."""
    if not suite.given:
        return
    by_content: dict[str, list[Case]] = {}
    cases = {case.case_id: case for case in suite.cases}
    for case_id, path in track(list(suite.given.items()), "videos", "video"):
        if finding := _video(path):
            yield finding
        else:
            by_content.setdefault(sha256_of(path), []).append(cases[case_id])
    if absent := [case_id for case_id in cases if case_id not in suite.given]:
        yield Finding("error", suite.name, f"{len(absent)} cases have no video: {absent[0]}", "give a video for each")
    for same in by_content.values():
        if len(same) > 1:
            people = {case.identity_id for case in same}
            severity: Severity = "error" if len(people) > 1 else "warning"
            names = ", ".join(str(suite.given[case.case_id]) for case in same[:3])
            fix = (
                "give each case a video of its own" if len(people) > 1 else "delete the copies: each counts as a video"
            )
            yield Finding(severity, names, f"{len(same)} videos have the same content", fix)


def _run(suite: Suite, run: Run) -> Iterator[Finding]:
    """Videos of a run of the suite: counts, files, content."""
    where = str(run.root)
    records = list(run.generations().values())
    wanted = {case.case_id for case in suite.cases}
    others = [one for one in records if (one.suite, one.suite_version) != (suite.name, suite.version)]
    if others:
        what = f"holds {len(others)} videos of {others[0].suite}@{others[0].suite_version}"
        yield Finding("error", where, what, f"validate it against that suite, not {suite.name}@{suite.version}")
        return
    if strange := sorted({one.case_id for one in records} - wanted):
        what = f"holds {len(strange)} cases that the suite lacks, such as {strange[0]}"
        yield Finding("error", where, what, "the suite changed without a new version: restore it, or generate anew")
    if absent := sorted(wanted - {one.case_id for one in records}):
        what = f"lacks {len(absent)} of {len(wanted)} cases, such as {absent[0]}"
        yield Finding("warning", where, what, "run ffbench generate with the same options: it goes on")
    if bad := [one for one in records if one.status != "ok"]:
        what = f"{len(bad)} of {len(records)} videos were not made; {bad[0].handle}: {bad[0].error}"
        yield Finding("warning", where, what, "ffbench generate --redo failed tries them again")
    contents: dict[str, list[str]] = {}
    for one in track([one for one in records if one.status == "ok"], "videos", "video"):
        if finding := _video(run.video(one)):
            yield finding
        elif sha256_of(run.video(one)) != one.video_sha256:
            yield Finding(
                "error", one.handle, "the video has changed since it was made", "ffbench generate makes it again"
            )
        else:
            contents.setdefault(one.video_sha256, []).append(one.handle)
    if same := [handles for handles in contents.values() if len(handles) > 1]:
        what = f"{sum(map(len, same))} videos are copies of another, such as {same[0][0]} and {same[0][1]}"
        yield Finding(
            "warning", where, what, "expected of controls that do not read the prompt; else look at the method"
        )


def _video(path: Path) -> Finding | None:
    """What is wrong with a video file, decoded whole."""
    try:
        read_clip(path, ())
    except FileNotFoundError:
        return Finding("error", str(path), "the video is missing", "put the file back, or take it out of the list")
    except VideoError as error:
        return Finding("error", str(path), f"the video is broken: {error}", "make or copy it again")
    return None
