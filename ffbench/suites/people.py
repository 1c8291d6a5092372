"""People from a user's photographs: a folder of them, or a table."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from ffbench.errors import UserError
from ffbench.records import Reference
from ffbench.suites.cases import Identity, reference
from ffbench.suites.manifests import TABLES, Row, distinct_ids, is_text, read_table, slug

IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
VIEWS = ("frontal", "non-frontal")
COLUMNS = ("identity", "reference", "view", "prompt_id", "prompt", "scene", "background", "tags", "status", "video")
"""Columns that tables of people, prompts, cases and videos may have."""
_VIEW = re.compile(r"(?:(non-?frontal|profile)|frontal)(?:-.*|\d*)")

Photographs = dict[str, tuple[Reference, ...]]
"""Name as the user wrote it -> photographs."""


def people(found: Photographs) -> list[Identity]:
    """Photographs by name -> identities with safe ids.

    Raises:
        UserError: two names with one id.
    """
    ids = distinct_ids(found, "identities")
    return [Identity(ids[name], files) for name, files in found.items()]


def photographs(path: Path) -> Photographs:
    """Photographs by name, of a folder (stem, or subfolder with several), of `identities.csv` in it, or of a table.

    Raises:
        UserError: no such folder, none in it, one name twice, or a bad row.
    """
    if path.suffix.lower() in TABLES and path.is_file():
        return photograph_rows(path, read_table(path, COLUMNS, ("reference",)))
    if not path.is_dir():
        raise UserError(f"{path} is no folder of photographs", "give a folder, or a table with a column reference")
    for suffix in TABLES:
        if (table := path / f"identities{suffix}").is_file():
            return photograph_rows(table, read_table(table, COLUMNS, ("reference",)))
    by_name: dict[str, list[Path]] = {}
    for file in visible_files(path, IMAGES):
        inside = file.relative_to(path).parts
        by_name.setdefault(inside[0] if len(inside) > 1 else file.stem, []).append(file)
    if not by_name:
        raise UserError(f"{path} holds no photographs ({', '.join(IMAGES)})", "give a folder with one or more")
    for name, files in by_name.items():
        if len(files) > 1 and any(file.parent == path for file in files):
            raise UserError(
                f"{path} holds {name!r} more than once: {', '.join(str(file.relative_to(path)) for file in files)}",
                "rename one; put several photographs of one person into a subfolder of their name",
            )
    return {name: tuple(reference(file, view_of(file.stem)) for file in files) for name, files in by_name.items()}


def photograph_rows(table: Path, rows: Sequence[Row]) -> Photographs:
    """Photographs by name of a table's rows; several rows of one name, or several files in a cell, are one person.

    Raises:
        UserError: a missing file or an unknown view.
    """
    found: dict[str, tuple[Reference, ...]] = {}
    for row in rows:
        files = references_of(table, row)
        name = name_of(row, files)
        found[name] = (*found.get(name, ()), *files)
    return found


def references_of(table: Path, row: Row) -> tuple[Reference, ...]:
    """The photographs of a row, `;` between several, relative to the table.

    Raises:
        UserError: none, a missing file or an unknown view.
    """
    view = row.values.get("view", "")
    if view and view not in VIEWS:
        raise UserError(
            f"{table}:{row.line}: there is no view {view!r}", f"give {' or '.join(VIEWS)}, or leave it empty"
        )
    names = [name.strip() for name in row.values.get("reference", "").split(";") if name.strip()]
    if not names:
        raise UserError(f"{table}:{row.line} has no 'reference'", "give a photograph's path, relative to the table")
    return tuple(reference(table.parent / name, view) for name in names)


def name_of(row: Row, files: Sequence[Reference]) -> str:
    """The name of a row's person: its column identity, else the stem of the first photograph."""
    return row.values.get("identity") or Path(files[0].path).stem


def view_of(stem: str) -> str:
    """What a file name says of the view: `frontal`, `frontal-2`, `non-frontal`, `profile3`; empty otherwise."""
    match = _VIEW.fullmatch(slug(stem))
    if match is None:
        return ""
    return "non-frontal" if match[1] else "frontal"


def visible_files(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """Files of these suffixes at and below a folder, by path; hidden ones and those in hidden folders are left out.

    Raises:
        UserError: a folder that may not be read, or a file name that is no text.
    """
    try:
        files = [
            file
            for file in sorted(folder.rglob("*"))
            if file.suffix.lower() in suffixes
            and file.is_file()
            and not any(part.startswith(".") for part in file.relative_to(folder).parts)
        ]
    except OSError as error:
        raise UserError(f"{folder} cannot be read: {error.strerror}", "give a folder that you may read") from error
    if strange := [file for file in files if not is_text(str(file))]:
        raise UserError(f"{folder} holds a file whose name is not UTF-8: {str(strange[0])!a}", "rename it")
    return files
