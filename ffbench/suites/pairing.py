"""Finished videos that a user brings, each with its person and its prompt."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ffbench.errors import UserError
from ffbench.records import Case, Reference, digest
from ffbench.suites.cases import Prompt, Suite, reference, spread
from ffbench.suites.manifests import TABLES, Row, distinct_ids, read_table, slug
from ffbench.suites.people import COLUMNS, IMAGES, Photographs, name_of, photographs, references_of, visible_files
from ffbench.suites.texts import name_of_text, prompt_of, read_prompts, read_text

VIDEOS = (".mp4", ".mov", ".webm", ".mkv", ".avi", ".gif")
_NO_PROMPT = Prompt("", "", "", "", ())
_SHOWN = 5


class _Clip(NamedTuple):
    """One video as the user named it."""

    name: str
    """Path below the folder or table, without suffix, `/` between parts."""
    file: Path
    row: Row | None = None


def suite_of_videos(videos: Path, references: Path | None, prompts: Path | None = None) -> Suite:
    """The suite of a user's finished videos, each paired with its person's photographs and its prompt.

    Videos come from a folder, one file, or a table with the columns video, and reference, identity, prompt as far as
    known (paths relative to the table). Without such columns names decide: a video is of the person whose name is that
    of one of its folders, or its own stem, or the beginning of its stem before a separator. `references` is a folder or
    table of photographs, or one photograph for all videos. `prompts` is a table with video and prompt, a table with
    prompt_id and prompt (ids that end the videos' names), a text file (name, tab, text; or one text for all videos), or
    a folder of text files. The version depends on photographs and prompts alone, so that two methods' videos compare.

    Raises:
        UserError: anything missing, unmatched or ambiguous, naming the nearest names.
    """
    clips = _clips(videos)
    offered = _offered(references)
    alone = references is not None and references.is_file() and len(offered) == 1
    pairs = [next(iter(offered.items()))] * len(clips) if alone else _persons(clips, offered, videos)
    texts, all_texts = _texts(prompts, clips)
    people = {**offered, **dict(pairs)}
    ids = distinct_ids(people, "identities")
    case_ids = distinct_ids([clip.name for clip in clips], "videos")
    photos = sorted([ids[name], [one.sha256 for one in files]] for name, files in people.items())
    version = digest([photos, sorted({(text.prompt_id, text.prompt) for text in all_texts})], 8)
    cases = []
    for clip, (name, files) in zip(clips, pairs, strict=True):
        text = texts.get(clip.name, _NO_PROMPT)
        views = dict.fromkeys(one.view for one in files)
        cases.append(
            Case(
                suite="videos",
                suite_version=version,
                case_id=case_ids[clip.name],
                identity_id=ids[name],
                references=files,
                prompt_id=text.prompt_id,
                prompt=text.prompt,
                tags=tuple(tag for tag in dict.fromkeys((text.scene, *text.tags, *views)) if tag),
            )
        )
    given = {case_ids[clip.name]: clip.file for clip in clips}
    return Suite("videos", version, f"{len(cases)} videos given by the user", tuple(spread(cases)), given)


def _clips(videos: Path) -> list[_Clip]:
    if videos.suffix.lower() in TABLES and videos.is_file():
        return _clip_rows(videos)
    if videos.is_file() and videos.suffix.lower() in VIDEOS:
        return [_Clip(videos.stem, videos.resolve())]
    if not videos.is_dir():
        kinds = f"({', '.join(VIDEOS)})"
        raise UserError(
            f"{videos} is no folder, table or video {kinds}", "give --videos a folder, a .csv, a .jsonl or a video"
        )
    clips: dict[str, _Clip] = {}
    for file in visible_files(videos, VIDEOS):
        name = file.relative_to(videos).with_suffix("").as_posix()
        if name in clips:
            raise UserError(
                f"{videos} holds {file.name} and {clips[name].file.name}, which have one name", "rename one of them"
            )
        clips[name] = _Clip(name, file.resolve())
    if not clips:
        raise UserError(f"{videos} holds no videos ({', '.join(VIDEOS)})", "give a folder with one or more")
    return list(clips.values())


def _clip_rows(table: Path) -> list[_Clip]:
    clips: dict[str, _Clip] = {}
    absent: list[str] = []
    for row in read_table(table, COLUMNS, ("video",)):
        file = (table.parent / row.values["video"]).resolve()
        if not _is_file(file):
            absent.append(f"{row.values['video'][:80]} (line {row.line})")
            continue
        # a file outside the table's folder goes by its own name
        inside = file.is_relative_to(table.parent.resolve())
        short = file.relative_to(table.parent.resolve()) if inside else Path(file.name)
        name = short.with_suffix("").as_posix()
        if name in clips:
            raise UserError(
                f"{table}:{row.line}: {row.values['video']} and {clips[name].file.name} have one name",
                "list each video once, and rename one of two with the same name",
            )
        clips[name] = _Clip(name, file, row)
    if absent:
        raise UserError(
            f"{table} names {len(absent)} missing videos: {_some(absent)}", "paths are relative to the table's folder"
        )
    return list(clips.values())


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a text in the wrong column can be too long for a name
        return False


def _offered(references: Path | None) -> Photographs:
    if references is None:
        return {}
    if references.is_file() and references.suffix.lower() in IMAGES:
        return {references.stem: (reference(references),)}
    return photographs(references)


def _persons(clips: Sequence[_Clip], offered: Photographs, videos: Path) -> list[tuple[str, tuple[Reference, ...]]]:
    """The name and photographs of each clip's person: by the table's columns, else by names."""
    found: list[tuple[str, tuple[Reference, ...]]] = []
    unmatched: list[str] = []
    for clip in clips:
        values = clip.row.values if clip.row else {}
        if clip.row and "reference" in values:
            files = references_of(videos, clip.row)
            found.append((name_of(clip.row, files), files))
            continue
        names = (
            [name for name in offered if name == values["identity"]] if "identity" in values else _named(clip, offered)
        )
        if len(names) > 1:
            raise UserError(
                f"the video {clip.name!r} could be of {' or '.join(repr(name) for name in names)}",
                "put it into a folder with the person's name, or give a table with the columns video and reference",
            )
        if names:
            found.append((names[0], offered[names[0]]))
        else:
            wanted = values.get("identity", clip.name)
            near = difflib.get_close_matches(_key(wanted), [_key(name) for name in offered], 2, 0.4)
            unmatched.append(repr(wanted) + (f" (nearest: {', '.join(near)})" if near else ""))
    if unmatched:
        lacks = (
            "there are no photographs" if not offered else f"no photograph among {_some(offered)} goes by their names"
        )
        raise UserError(
            f"{len(unmatched)} of {len(clips)} videos have no person: {_some(unmatched)}; {lacks}",
            "give --references FOLDER with one photograph a person, named like the beginning of their videos' names, "
            "or a table with the columns video and reference",
        )
    # two photographs of one name in a table are two people
    for name, files in found:
        first = next(other for person, other in [*offered.items(), *found] if person == name)
        if [one.sha256 for one in first] != [one.sha256 for one in files]:
            raise UserError(
                f"{videos}: {name!r} has different photographs in different rows",
                "give the rows of one person the same photographs, and each person a name in the column identity",
            )
    return found


def _named(clip: _Clip, offered: Photographs) -> list[str]:
    """Names of the people that a clip's folders or stem name."""
    *folders, stem = clip.name.split("/")
    keys = {name: _key(name) for name in offered}
    exact = [name for name, key in keys.items() if key in {_key(part) for part in (*folders, stem)}]
    return exact or [name for name, key in keys.items() if _key(stem).startswith(f"{key}-")]


def _key(name: str) -> str:
    """A name for comparing: letters and digits of any script in lower case, one `-` for all between."""
    text = unicodedata.normalize("NFKC", name).casefold()
    return re.sub(r"[\W_]+", "-", text).strip("-") or text


def _texts(prompts: Path | None, clips: Sequence[_Clip]) -> tuple[dict[str, Prompt], list[Prompt]]:
    """Clip name -> its prompt, and every prompt offered."""
    if prompts is None:
        rows = {clip.name: clip.row for clip in clips if clip.row and "prompt" in clip.row.values}
        found = {name: prompt_of(slug(name_of_text(row)), row) for name, row in rows.items() if row}
        return found, list(found.values())
    if prompts.is_dir():
        files = visible_files(prompts, (".txt",))
        return _by_name(
            prompts,
            {file.relative_to(prompts).with_suffix("").as_posix(): _loose(read_text(file)) for file in files},
            clips,
        )
    if prompts.suffix.lower() in TABLES:
        rows_of = read_table(prompts, COLUMNS, ("prompt",))
        if all("video" in row.values for row in rows_of):
            named = {Path(row.values["video"]).with_suffix("").as_posix(): row for row in rows_of}
            if len(named) < len(rows_of):
                raise UserError(f"{prompts} names a video twice", "give each video one prompt")
            return _by_name(prompts, {n: prompt_of(slug(name_of_text(row)), row) for n, row in named.items()}, clips)
        return _by_ending(prompts, read_prompts(prompts), clips)
    lines = [line.split("\t", 1) for line in read_text(prompts).split("\n") if line.strip()]
    if any(len(line) == 2 for line in lines):
        return _by_name(prompts, {line[0].strip(): _loose(line[-1]) for line in lines if len(line) == 2}, clips)
    text = _loose(read_text(prompts))
    return {clip.name: text for clip in clips}, [text]


def _loose(text: str) -> Prompt:
    text = text.strip()
    if not text:
        raise UserError("a prompt file is empty", "give each prompt file a text")
    return Prompt(f"text-{digest(text, 8)}", "", "", text, ())


def _by_name(
    source: Path, texts: Mapping[str, Prompt], clips: Sequence[_Clip]
) -> tuple[dict[str, Prompt], list[Prompt]]:
    """Prompts under a video's path below the folder, or its stem."""
    found = {clip.name: texts.get(clip.name) or texts.get(clip.name.rpartition("/")[2]) for clip in clips}
    return _all_found(source, found, texts), list(texts.values())


def _by_ending(source: Path, texts: Sequence[Prompt], clips: Sequence[_Clip]) -> tuple[dict[str, Prompt], list[Prompt]]:
    """Prompts whose id is a video's stem or its ending after a separator; the longest such id."""
    found: dict[str, Prompt | None] = {}
    for clip in clips:
        stem = f"-{_key(clip.name.rpartition('/')[2])}"
        ends = [text for text in texts if stem.endswith(f"-{text.prompt_id}")]
        found[clip.name] = max(ends, key=lambda text: len(text.prompt_id), default=None)
    return _all_found(source, found, [text.prompt_id for text in texts]), list(texts)


def _all_found(source: Path, found: Mapping[str, Prompt | None], names: Iterable[str]) -> dict[str, Prompt]:
    if absent := [name for name, text in found.items() if text is None]:
        near = difflib.get_close_matches(absent[0], list(names), 2, 0.3)
        raise UserError(
            f"{source} has no prompt for {len(absent)} of {len(found)} videos: {_some(absent)}"
            + (f" (nearest: {', '.join(near)})" if near else ""),
            "name each video, or leave --prompts out: text metrics then have no value",
        )
    return {name: text for name, text in found.items() if text is not None}


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return ", ".join(listed[:_SHOWN]) + more
