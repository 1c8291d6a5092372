"""Suites by name or path: embedded, fetched and the user's own."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from ffbench.download import sha256_of
from ffbench.errors import UserError
from ffbench.image import ImageError, read_image, write_png
from ffbench.suites import hub
from ffbench.suites.cases import (
    Identity,
    Prompt,
    Suite,
    cross,
    embedded_data,
    embedded_prompts,
    limit_cases,
    make_suite,
)
from ffbench.suites.manifests import TABLES, Row, distinct_ids, read_table, slug
from ffbench.suites.mini import VERSION as MINI_VERSION
from ffbench.suites.mini import mini_identities, mini_views
from ffbench.suites.pairing import suite_of_videos
from ffbench.suites.people import COLUMNS, VIEWS, name_of, people, photograph_rows, photographs, references_of
from ffbench.suites.photos import photo_identities
from ffbench.suites.texts import name_of_text, prompt_of, read_prompts

__all__ = [
    "ImageError",
    "Prompt",
    "Suite",
    "embedded_prompts",
    "embedded_suites",
    "fetch_suite",
    "limit_cases",
    "load_suite",
    "prepare_reference",
    "suite_of_videos",
]

_SUMMARIES = {
    "mini": "30 rendered people x 20 prompts; embedded, comparable inside mini only",
    "mini-views": "the 30 rendered people, each by a frontal and a non-frontal photograph, x 20 prompts",
    "photos": "7 people from photographs inside declared packages x 20 prompts; needs no download",
    "paper": "30 people of ConsisID's evaluation images x 20 prompts, as in the paper; fetched on first use",
    "nonfrontal": "frontal and non-frontal photographs of each person x 20 prompts; bring yours: nonfrontal:FOLDER",
}


def embedded_suites() -> Mapping[str, str]:
    """Names of the suites that ffbench knows, each with a line on what it is."""
    return dict(_SUMMARIES)


def load_suite(name_or_path: str | Path) -> Suite:
    """The suite of a name (`mini`, `photos`, `paper`, `nonfrontal:FOLDER`), or of a folder or table of the user's.

    A folder holds photographs (file stem = identity; subfolder = identity with several), or a table `identities.csv`;
    `prompts.csv`, `.jsonl` or `.txt` in it replaces the benchmark's 20 prompts. A table holds identities, cases, or
    finished videos, see docs/suites.md.

    Raises:
        UserError: an unknown name, missing data, or anything that is not as it should be in the user's files.
    """
    name = str(name_or_path)
    if name in ("mini", "mini-views"):
        found = mini_identities() if name == "mini" else mini_views()
        note = "rendered people: numbers compare with nothing outside the mini world"
        suite = make_suite(name, MINI_VERSION, _SUMMARIES[name], cross(found, embedded_prompts()))
        return dataclasses.replace(suite, notes=(note,))
    if name == "photos":
        version = str(embedded_data("photos.toml")["version"])
        return make_suite(name, version, _SUMMARIES[name], cross(photo_identities(), embedded_prompts()))
    if name == "paper":
        people, manifest = hub.paper_identities()
        version = f"{embedded_data('prompts.toml')['version']}-{manifest['digest']}"
        return make_suite(name, version, _SUMMARIES[name], cross(people, embedded_prompts()))
    if name == "nonfrontal":
        raise UserError(
            "suite nonfrontal has no data: the paper's 10 people, each frontal and not, are not public",
            "make FOLDER/<person>/frontal.png and non-frontal.png and give --suite nonfrontal:FOLDER (docs/suites.md)",
        )
    if name.startswith("nonfrontal:"):
        return _nonfrontal(Path(name.removeprefix("nonfrontal:")))
    return _own(Path(name))


def fetch_suite(name: str) -> Path:
    """Fetch a published suite's photographs; returns the manifest with their hashes.

    Raises:
        UserError: there is nothing to fetch under this name, or it cannot be had.
    """
    if name != "paper":
        raise UserError(f"there is nothing to fetch for a suite {name!r}", "ffbench suites fetch paper")
    return hub.fetch_paper()


def prepare_reference(path: Path, cache: Path) -> Path:
    """A photograph as every method gets it: upright 8-bit RGB PNG, named in `cache` by the hash of the original bytes.

    Raises:
        ImageError: not a readable image.
        OSError: no such file, or the cache cannot be written.
    """
    target = cache / f"{sha256_of(path)[:32]}.png"
    if not target.is_file():
        write_png(target, read_image(path))
    return target


def _own(path: Path) -> Suite:
    if path.suffix.lower() in TABLES and path.is_file():
        return _of_table(path)
    if not path.is_dir():
        raise UserError(
            f"there is no suite {str(path)!r}", f"give one of {', '.join(_SUMMARIES)}, or a folder or table of your own"
        )
    found, prompts = people(photographs(path)), _prompts_of(path)
    summary = f"{len(found)} people x {len(prompts)} prompts of {path.resolve().name}"
    return make_suite(slug(path.resolve().name), "*", summary, cross(found, prompts))


def _of_table(path: Path) -> Suite:
    rows = read_table(path, COLUMNS, ())
    columns = {name for row in rows for name in row.values}
    if "video" in columns:
        return suite_of_videos(path, None)
    if "reference" not in columns:
        raise UserError(
            f"{path} names no photographs", "add a column reference; prompts alone go as prompts.csv beside photographs"
        )
    found = photograph_rows(path, rows)
    if "prompt" not in columns:
        summary = f"{len(found)} people of {path.name}"
        return make_suite(slug(path.stem), "*", summary, cross(people(found), embedded_prompts()))
    return make_suite(slug(path.stem), "*", f"the cases of {path.name}", _case_rows(path, rows))


def _case_rows(path: Path, rows: Sequence[Row]) -> list[tuple[Identity, Prompt]]:
    """Each row a case: reference, prompt, and as far as given identity, prompt_id, scene, tags and view."""
    names: list[tuple[str, str]] = []
    texts: dict[str, str] = {}
    for row in rows:
        if "prompt" not in row.values:
            raise UserError(f"{path}:{row.line} has no 'prompt'", "each row of cases needs reference and prompt")
        text = name_of_text(row)
        if texts.setdefault(text, row.values["prompt"]) != row.values["prompt"]:
            raise UserError(f"{path}:{row.line}: prompt_id {text!r} has two texts", "give each text an id of its own")
        names.append((name_of(row, references_of(path, row)), text))
    ids = distinct_ids(dict.fromkeys(name for name, _ in names), "identities")
    prompt_ids = distinct_ids(texts, "prompts")
    return [
        (Identity(ids[name], references_of(path, row)), prompt_of(prompt_ids[text], row))
        for (name, text), row in zip(names, rows, strict=True)
    ]


def _prompts_of(folder: Path) -> Sequence[Prompt]:
    found = [path for path in (folder / f"prompts{suffix}" for suffix in (*TABLES, ".txt")) if path.is_file()]
    if len(found) > 1:
        raise UserError(f"{folder} holds {' and '.join(path.name for path in found)}", "keep one of them")
    return read_prompts(found[0]) if found else embedded_prompts()


def _nonfrontal(path: Path) -> Suite:
    """Each person twice, once with the frontal and once with the non-frontal photograph, x the 20 prompts."""
    entries: list[Identity] = []
    for person in people(photographs(path)):
        for view in VIEWS:
            chosen = tuple(one for one in person.references if one.view == view)
            if not chosen:
                raise UserError(
                    f"{path}: {person.identity_id} has no {view} photograph",
                    f"name it {view}.png in the person's folder, or give it the view {view} in identities.csv",
                )
            entries.append(Identity(person.identity_id, chosen, view))
    count = len(entries) // len(VIEWS)
    suite = make_suite(
        "nonfrontal", "*", f"{count} people, frontal and non-frontal, x 20 prompts", cross(entries, embedded_prompts())
    )
    note = f"{count} people of the user's own; the paper's 10 are not public, so its numbers do not compare"
    return dataclasses.replace(suite, notes=(note,))
