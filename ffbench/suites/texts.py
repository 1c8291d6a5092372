"""Prompts from a user's files: a table, or the lines of a text file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ffbench.errors import UserError
from ffbench.records import digest
from ffbench.suites.cases import Prompt
from ffbench.suites.manifests import TABLES, Row, distinct_ids, read_table, slug, words_of
from ffbench.suites.people import COLUMNS


def read_prompts(path: Path) -> list[Prompt]:
    """Prompts of a table (those recorded as failed are left out), or one a line of a text file.

    Without `prompt_id` a prompt's id is a digest of its text.

    Raises:
        UserError: no prompts, an empty one, or an id twice.
    """
    if path.suffix.lower() in TABLES:
        rows = [row for row in read_table(path, COLUMNS, ()) if row.values.get("status", "ok") == "ok"]
        for row in rows:
            if "prompt" not in row.values:
                raise UserError(f"{path}:{row.line} has no 'prompt'", "give every row a text in the column prompt")
    else:
        lines = read_text(path).split("\n")
        rows = [Row(number, {"prompt": line.strip()}) for number, line in enumerate(lines, 1) if line.strip()]
    if not rows:
        raise UserError(f"{path} holds no prompts", "give at least one")
    return prompt_rows(path, rows)


def prompt_rows(path: Path, rows: Sequence[Row]) -> list[Prompt]:
    """One prompt a row, with safe ids.

    Raises:
        UserError: an id that two rows share.
    """
    lines: dict[str, int] = {}
    names = [name_of_text(row) for row in rows]
    for name, row in zip(names, rows, strict=True):
        if (before := lines.setdefault(name, row.line)) != row.line:
            raise UserError(
                f"{path}:{row.line} repeats the prompt {name!r} of line {before}", "delete it, or give it another id"
            )
    ids = distinct_ids(names, "prompts")
    return [prompt_of(ids[name], row) for name, row in zip(names, rows, strict=True)]


def prompt_of(prompt_id: str, row: Row) -> Prompt:
    """The prompt of a row, under this id."""
    scene = slug(row.values["scene"]) if "scene" in row.values else ""
    tags = tuple(slug(tag) for tag in words_of(row.values.get("tags", "")))
    return Prompt(prompt_id, scene, row.values.get("background", ""), row.values["prompt"], tags)


def name_of_text(row: Row) -> str:
    """The prompt_id of a row, else a digest of its text."""
    return row.values.get("prompt_id") or f"text-{digest(row.values['prompt'], 8)}"


def read_text(path: Path) -> str:
    """A text file's content.

    Raises:
        UserError: no such file, or no UTF-8.
    """
    try:
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 (byte {error.start})", "save it as UTF-8") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}", "give a table or a text file") from error
