"""Results files: the numbers of one scored run with all they rest on, to be handed in by pull request, and their check.

<folder>/<suite>@<version>/<method>/<protocol>-<settings digest>-<videos>.json holds cells and provenance, the `.jsonl`
of the same name a line for each video, from which the cells follow.
"""

from __future__ import annotations

import dataclasses
import math
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ffbench.durable import write_atomic
from ffbench.errors import UserError
from ffbench.metrics.catalog import METRICS
from ffbench.records import SCHEMA, Cell, Scalar, digest, from_json, to_json
from ffbench.store import safe_name
from ffbench.tables.archive import from_lines, keep, to_lines
from ffbench.tables.rows import Row
from ffbench.tables.sheet import cells

HEX64 = re.compile(r"[0-9a-f]{64}")
_PATH = re.compile(r"(?<![\w.~:/])/(?:[^\s/,;:]+/)+[^\s/,;:]+")
FACTS = ("ffbench", "python", "platform", "packages")
"""What the provenance of generation and of scoring must say."""


@dataclass(frozen=True)
class Result:
    """One run under one protocol, as it is handed in."""

    suite: str
    """`name@version`."""
    protocol: str
    method: str
    revision: str
    settings: Mapping[str, Scalar]
    """Every setting of the method; empty for videos that were given."""
    card: Mapping[str, Any]
    """The method's card as far as it bears on a number."""
    networks: Mapping[str, str]
    """slot -> id of the measuring network."""
    missing: Mapping[str, str]
    """slot -> why it did not measure."""
    notes: tuple[str, ...]
    num_cases: int
    """Cases of the suite in the run."""
    num_videos: int
    num_failed: int
    videos_sha256: str
    """Over case, take, status and sha256 of every video, sorted: says whether two files rest on the same videos."""
    weights_sha256: Mapping[str, Any]
    """File of the method's weights -> the hashes that its worker noted; empty where it noted none."""
    generated_with: tuple[Mapping[str, Any], ...]
    """The distinct provenances of the videos."""
    scored_with: Mapping[str, Any]
    cells: tuple[Cell, ...]
    schema: int = SCHEMA


@dataclass(frozen=True)
class Problem:
    """What is wrong with a results file: where, what and how it is mended; a warning lets it pass."""

    severity: str
    where: str
    """`FILE: field`."""
    what: str
    fix: str


def result_of(row: Row) -> Result:
    """The results file of a row.

    Raises:
        UserError: for a row whose videos are not all scored, or were made with several settings.
    """
    if row.num_pending:
        raise UserError(f"{row.label}: {row.num_pending} videos wait for their scores", f"ffbench score {row.run.root}")
    made = [row.generations[video] for video in sorted(row.generations)]
    first = made[0]
    given = first.revision == "given"
    if not given and len({digest([one.revision, dict(one.settings)]) for one in made}) > 1:
        raise UserError(f"{row.run.root} holds several groups of settings", "keep them in folders of their own")
    meta = row.run.meta()
    weights: dict[str, set[str]] = {}
    provenances: dict[str, Mapping[str, Any]] = {}
    for one in made:
        facts = {key: value for key, value in one.provenance.items() if key not in ("notes", "video")}
        provenances.setdefault(digest(facts), facts)
        for key, value in one.provenance.get("notes", {}).items():
            if key.startswith("sha256 "):
                weights.setdefault(key.removeprefix("sha256 "), set()).add(str(value))
    return Result(
        suite=row.suite,
        protocol=row.protocol,
        method=first.method,
        revision=first.revision,
        settings={} if given else {name: _portable(value) for name, value in first.settings.items()},
        card=meta.get("card", {}),
        networks=dict(row.networks),
        missing=dict(row.missing),
        notes=row.notes,
        num_cases=len({one.case_id for one in made}),
        num_videos=row.num_made,
        num_failed=len(made) - row.num_made,
        videos_sha256=digest([[one.case_id, one.take, one.status, one.video_sha256] for one in made], 64),
        weights_sha256={name: sorted(found) for name, found in sorted(weights.items())},
        generated_with=tuple(provenances.values()),
        scored_with=meta.get("scoring", {}).get(row.protocol, {}).get("provenance", {}),
        cells=tuple(dataclasses.replace(cell, method=first.method) for cell in cells(row)),
    )


def write_results(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Write the results file of each row and its videos' file beside it; the paths of the first."""
    paths = []
    for row in map(keep, rows):
        made = result_of(row)
        path = folder / safe_name(made.suite) / safe_name(made.method) / _name(made)
        tail = f'],"schema":{made.schema}}}'
        head = to_json(dataclasses.replace(made, cells=())).removesuffix(tail)
        # a line a cell, so that a pull request shows which numbers changed
        body = ",\n".join(to_json(cell) for cell in made.cells)
        write_atomic(path.with_suffix(".jsonl"), "".join(f"{line}\n" for line in to_lines(row)).encode())
        write_atomic(path, f"{head}\n{body}\n{tail}\n".encode())
        paths.append(path)
    return paths


def read_row(path: Path) -> Row:
    """The row of a videos' file.

    Raises:
        UserError: where it cannot be read.
    """
    try:
        return from_lines(path.read_text("utf-8").splitlines(), path.parent)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path}: {error}", "write it anew: ffbench report RUN --results FOLDER") from error


def _not_of(made: Result, row: Row) -> str:
    """Where a file's cells are not those of its videos; empty where they are."""
    formed = {(cell.metric, cell.group): cell for cell in cells(row)}
    stated = {(cell.metric, cell.group): cell for cell in made.cells}
    if lacking := sorted(formed.keys() ^ stated.keys()):
        return f"cells[{lacking[0][0]} of {lacking[0][1]}] is in one of the two files alone"
    for (metric, group), cell in stated.items():
        if to_json(dataclasses.replace(formed[metric, group], method=cell.method)) != to_json(cell):
            return f"cells[{metric} of {group}] says {cell.value:g}, the videos give {formed[metric, group].value:g}"
    return ""


def find_results(places: Sequence[Path]) -> list[Path]:
    """Results files: those named, and all below the folders named.

    Raises:
        UserError: where there is none.
    """
    found = [path for place in places for path in (sorted(place.rglob("*@*-*.json")) if place.is_dir() else [place])]
    if not found:
        raise UserError(
            f"no results file below {', '.join(map(str, places))}", "ffbench report RUN --results FOLDER writes one"
        )
    return found


def check(paths: Sequence[Path]) -> list[Problem]:
    """Every problem of some results files; empty where they may be handed in."""
    return [problem for path in paths for problem in _file(path)]


def portable(text: str) -> str:
    """A text whose absolute paths keep their last three parts: the rest is one machine's."""
    return _PATH.sub(lambda found: "/".join(["...", *found[0].split("/")[1:][-3:]]), text)


def _portable(value: Scalar) -> Scalar:
    """A setting without the folders of one machine; what lay there is told by the hashes of the weights."""
    return portable(value) if isinstance(value, str) and Path(value).is_absolute() else value


def _name(made: Result) -> str:
    attempts = made.num_videos + made.num_failed
    return f"{safe_name(made.protocol)}-{digest([made.revision, dict(made.settings)], 8)}-{attempts}.json"


def _file(path: Path) -> Iterator[Problem]:
    again = "write it anew: ffbench report RUN --results FOLDER"
    try:
        made = from_json(Result, path.read_text("utf-8"))
    except (OSError, ValueError, TypeError) as error:
        yield Problem("error", str(path), str(error), again)
        return
    wanted = Path(made.suite) / made.method / _name(made)
    if path.resolve().parts[-3:] != wanted.parts:
        yield Problem("error", f"{path}: name", f"the file belongs to {wanted.as_posix()}", "move it there")
    for field, what, fix in (*_facts(made), *_counts(made)):
        yield Problem("error", f"{path}: {field}", what, fix or again)
    for number, cell in enumerate(made.cells):
        for field, what in _cell(made, cell):
            yield Problem("error", f"{path}: cells[{number}].{field}", f"{cell.metric} of {cell.group}: {what}", again)
    places = [(cell.metric, cell.group) for cell in made.cells]
    for metric, group in sorted({place for place in places if places.count(place) > 1}):
        yield Problem("error", f"{path}: cells", f"{metric} of {group} stands there twice", again)
    videos = path.with_suffix(".jsonl")
    if videos.is_file():
        try:
            differing = _not_of(made, read_row(videos))
        except UserError as error:
            yield Problem("error", str(videos), error.what, error.fix)
        else:
            if differing:
                yield Problem("error", str(videos), differing, again)
    else:
        yield Problem("warning", str(path), f"{videos.name} is not beside it: its cells cannot be formed again", again)
    for field, what, fix in _doubts(made):
        yield Problem("warning", f"{path}: {field}", what, fix)


def _facts(made: Result) -> Iterator[tuple[str, str, str]]:
    for field in ("suite", "protocol"):
        if not re.fullmatch(r"[^@]+@[^@]+", getattr(made, field)):
            yield field, f"{getattr(made, field)!r} is no name@version", ""
    if not HEX64.fullmatch(made.videos_sha256):
        yield "videos_sha256", f"{made.videos_sha256!r} is no sha256", ""
    if not made.networks:
        yield "networks", "no network is named, so nothing was measured", "ffbench score first"
    given = made.revision == "given"
    for field, facts in (("scored_with", made.scored_with), *(("generated_with", one) for one in made.generated_with)):
        lacking = [name for name in FACTS if name not in facts]
        if lacking and not (given and field == "generated_with"):
            yield field, f"the provenance lacks {', '.join(lacking)}", ""
    if not made.cells:
        yield "cells", "there is no number", ""


def _counts(made: Result) -> Iterator[tuple[str, str, str]]:
    for field in ("num_cases", "num_videos", "num_failed"):
        if getattr(made, field) < 0:
            yield field, f"{getattr(made, field)} is below zero", ""
    if made.num_cases > made.num_videos + made.num_failed:
        yield "num_cases", f"{made.num_cases} cases, but {made.num_videos + made.num_failed} attempts", ""


def _cell(made: Result, cell: Cell) -> Iterator[tuple[str, str]]:
    for field in ("suite", "protocol", "method"):
        if getattr(cell, field) != getattr(made, field):
            yield field, f"{getattr(cell, field)!r}, but the file's is {getattr(made, field)!r}"
    if cell.metric not in METRICS:
        yield "metric", "there is no such metric"
        return
    metric = METRICS[cell.metric]
    if math.isnan(cell.value) != bool(cell.reason):
        yield "value", "a number has no reason, and what is missing has one"
    elif not math.isnan(cell.value) and not metric.low <= cell.value <= metric.high:
        yield "value", f"{cell.value} lies outside {metric.low} to {metric.high}"
    if not math.isnan(cell.low) and not cell.low <= cell.value <= cell.high:
        yield "low", f"the interval {cell.low} to {cell.high} does not hold {cell.value}"
    if not (math.isnan(cell.coverage) or 0 <= cell.coverage <= 1):
        yield "coverage", f"{cell.coverage} is no share"
    counts = (cell.num_identities, cell.num_videos, cell.num_unscored, cell.num_failed)
    if min(counts) < 0 or cell.num_identities > max(cell.num_videos, 0):
        yield "num_videos", f"counts {counts} do not go together"
    total, attempts = sum(counts[1:]), made.num_videos + made.num_failed
    if total > attempts or (cell.group == "all" and total != attempts):
        yield "num_videos", f"{total} videos in sum, the file has {attempts}"


def _doubts(made: Result) -> Iterator[tuple[str, str, str]]:
    for field, facts in (("scored_with", made.scored_with), *(("generated_with", one) for one in made.generated_with)):
        if facts.get("dirty"):
            yield field, "ffbench had changes that no commit holds", "commit them and make the run anew, or say which"
    for key, value in made.settings.items():
        if isinstance(value, str) and Path(value).is_absolute():
            yield (
                f"settings.{key}",
                "a path of one machine says nothing elsewhere",
                "say in the pull request what it was",
            )
    for cell in made.cells:
        if cell.metric in METRICS and cell.version != METRICS[cell.metric].version:
            newest = METRICS[cell.metric].version
            yield (
                "cells",
                f"{cell.metric} is of version {cell.version}, ffbench has {newest}",
                "ffbench score --redo all",
            )
            return


def json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a results file, made from `Result`; the committed one is results/schema.json."""
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "ffbench results file"}
    return {**head, **_schema_of(Result)}


def _schema_of(cls: type[Any]) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    names = [field.name for field in dataclasses.fields(cls)]
    required = [f.name for f in dataclasses.fields(cls) if f.default is dataclasses.MISSING]
    properties = {name: {"const": SCHEMA} if name == "schema" else _schema(hints[name]) for name in names}
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _schema(hint: Any) -> dict[str, Any]:
    if dataclasses.is_dataclass(hint):
        return _schema_of(typing.cast(type[Any], hint))
    origin = typing.get_origin(hint)
    if origin is tuple:
        return {"type": "array", "items": _schema(typing.get_args(hint)[0])}
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [_schema(one) for one in typing.get_args(hint)]}
    if origin is not None:
        return {"type": "object", "additionalProperties": _schema(typing.get_args(hint)[1])}
    # a number that is missing is written as null
    plain = {str: "string", int: "integer", bool: "boolean", float: ["number", "null"], types.NoneType: "null"}
    return {} if hint is Any else {"type": plain[hint]}
