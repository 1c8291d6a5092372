"""Tables that users bring (CSV, JSONL), and safe ids from names that users chose."""

from __future__ import annotations

import csv
import difflib
import hashlib
import io
import json
import re
import unicodedata
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

from ffbench.errors import UserError

TABLES = (".csv", ".jsonl")
LONGEST_ID = 48
_LONGEST_FIELD = 1 << 20


class Row(NamedTuple):
    """One row of a table: its line, for messages, and its non-empty values by column."""

    line: int
    values: Mapping[str, str]


def read_table(path: Path, known: Collection[str], required: Collection[str]) -> list[Row]:
    """Rows of a CSV file with a header, or of a JSONL file with one object a line; UTF-8.

    Columns outside `known` are left alone, except those that look like a misspelt one. Numbers become text, lists of
    text are joined by `;`.

    Raises:
        UserError: no such file, no UTF-8, broken rows, a missing column or value, no rows at all.
    """
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 (byte {error.start})", "save it as UTF-8") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}", "give a CSV or JSONL file") from error
    if path.suffix.lower() not in TABLES:
        raise UserError(f"{path} is no table", "give a .csv file with a header, or a .jsonl file")
    rows = _read_csv(path, text, known) if path.suffix.lower() == ".csv" else _read_jsonl(path, text)
    if not rows:
        raise UserError(f"{path} has no rows", f"give at least one row with {', '.join(required)}")
    for name in sorted({name for row in rows for name in row.values} - set(known)):
        if near := difflib.get_close_matches(name, known, 1, 0.8):
            raise UserError(f"{path} has a column {name!r}", f"did you mean {near[0]!r}? known: {', '.join(known)}")
    for row in rows:
        for name, value in row.values.items():
            if "\0" in value or not is_text(value):
                raise UserError(
                    f"{path}:{row.line}: {name!r} holds a NUL or half a character", "write plain Unicode text"
                )
        if absent := [name for name in required if name not in row.values]:
            raise UserError(f"{path}:{row.line} has no {absent[0]!r}", f"each row needs: {', '.join(required)}")
    return rows


def is_text(value: str) -> bool:
    """Whether a text can be written as UTF-8; names of files, and escapes in JSON, can hold halves of characters."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def words_of(value: str) -> tuple[str, ...]:
    """The items of a list in one cell, separated by `;`, `,` or blanks."""
    return tuple(word for word in re.split(r"[;,\s]+", value) if word)


def slug(name: str) -> str:
    """An id of [a-z0-9-] for any name; a name without such characters or of great length gets a digest of its text.

    Raises:
        UserError: for an empty name.
    """
    if not name.strip():
        raise UserError("a name is empty", "give every identity, prompt and video a name")
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    text = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")
    mark = hashlib.sha256(unicodedata.normalize("NFC", name).encode("utf-8", "surrogateescape")).hexdigest()[:8]
    if not text:
        return f"x{mark}"
    return text if len(text) <= LONGEST_ID else f"{text[: LONGEST_ID - 9].rstrip('-')}-{mark}"


def distinct_ids(names: Collection[str], what: str) -> dict[str, str]:
    """Each name -> its id.

    Raises:
        UserError: two names that have one id, naming both.
    """
    taken: dict[str, str] = {}
    for name in names:
        other = taken.setdefault(slug(name), name)
        if other != name:
            raise UserError(
                f"the {what} {other!r} and {name!r} both have the id {slug(name)!r}", "rename one of the two"
            )
    return {name: key for key, name in taken.items()}


def _read_csv(path: Path, text: str, known: Collection[str]) -> list[Row]:
    csv.field_size_limit(_LONGEST_FIELD)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows: list[Row] = []
    header: list[str] = []
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if not header:
                header = [cell.strip() for cell in cells]
                if len(header) == 1 and ";" in header[0] and set(header[0].split(";")) & set(known):
                    raise UserError(f"{path} is separated by semicolons", "separate the columns by commas")
                if twice := {name for name in header if header.count(name) > 1}:
                    raise UserError(f"{path} has the column {min(twice)!r} twice", "keep one of them")
                continue
            if len(cells) > len(header):
                raise UserError(
                    f"{path}:{reader.line_num} has {len(cells)} cells under {len(header)} columns",
                    "put quotes around a text that holds commas",
                )
            values = {name: cell for name, cell in zip(header, cells, strict=False) if cell.strip()}
            rows.append(Row(reader.line_num, values))
    except csv.Error as error:
        raise UserError(
            f"{path}:{reader.line_num}: {error}", "mend the row; double the quotes inside quotes"
        ) from error
    return rows


def _read_jsonl(path: Path, text: str) -> list[Row]:
    rows = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            data = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise UserError(f"{path}:{number} is no JSON: {error}", "write one JSON object a line") from error
        if not isinstance(data, dict):
            raise UserError(f"{path}:{number} is no JSON object", "write one JSON object a line")
        rows.append(Row(number, {key: cell for key, value in data.items() if (cell := _cell(value)).strip()}))
    return rows


def _cell(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return ";".join(value)
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else ""
