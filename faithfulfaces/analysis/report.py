"""What `faithfulfaces analyse` found, on disk: data first, then Figures 6, 7 and 10, drawn from them alone."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from faithfulfaces.analysis import figures
from faithfulfaces.analysis.measure import DictionaryReport, IdentityMap, LossCurve
from ffbench.errors import UserError
from ffbench.figures.drawn import drawn, versions
from ffbench.figures.style import KINDS, save
from ffbench.image import ImageError, read_image
from ffbench.records import from_json

FORMAT = 1
_AGAIN = "faithfulfaces analyse RUN --shards FOLDER --out FOLDER writes it"
REPORT, FACES, INDEX = "analysis.json", "faces.png", "figures.json"


@dataclass(frozen=True, kw_only=True)
class Options:
    """How much is looked at."""

    faces: int = 20_000
    """At most, for Fig. 7."""
    people: int = 7
    """Of Fig. 6."""
    poses: int = 8
    """Faces of each of them."""
    permutations: int = 999
    seed: int = 0


@dataclass(frozen=True)
class Analysis:
    """What was found, and what was not made and why."""

    source: str
    """The file or folder that the aligner came from."""
    options: Options
    dictionary: DictionaryReport
    identities: tuple[IdentityMap, ...]
    loss: LossCurve | None
    missing: Mapping[str, str] = field(default_factory=dict)
    """Picture that was not made -> why."""


def write(found: Analysis, examples: Mapping[str, Sequence[NDArray[np.uint8]]], out: Path) -> None:
    """Write JSON, CSV, the example faces, and the pictures.

    Args:
        found: what goes into `analysis.json`.
        examples: pose group -> crops uint8 [S,S,3], the same number of each group that has faces.
        out: made where it is not there.
    """
    out.mkdir(parents=True, exist_ok=True)
    (out / REPORT).write_text(json.dumps(to_json(found), indent=1, allow_nan=False) + "\n", "utf-8")
    shown = [group.group for group in found.dictionary.groups if group.faces]
    if shown:
        Image.fromarray(np.concatenate([np.concatenate(list(examples[one]), 1) for one in shown])).save(out / FACES)
    _write_tables(found, out)
    draw(out)


def draw(folder: Path) -> list[Path]:
    """Draw all figures of a folder from its data, and note in `figures.json` with which versions; the pictures.

    PNG and PDF, of a folder that has kept but one of them that one alone.

    Raises:
        UserError: where a file is missing or damaged.
    """
    kinds = [kind for kind in KINDS if any(path.name != FACES for path in folder.glob(f"*.{kind}"))] or KINDS
    paths, noted = [], {}
    for name, figure in form_figures(folder):
        noted[name] = drawn(figure)
        paths += save(figure, folder, name, kinds)
    text = json.dumps({"made_with": versions(), "figures": noted}, indent=1)
    (folder / INDEX).write_text(f"{text}\n", "utf-8")
    return paths


def form_figures(folder: Path) -> Iterator[tuple[str, Figure]]:
    """Name and figure of all that a folder's data give: Fig. 7, 6 and 10 as far as there are data.

    Raises:
        UserError: where a file is missing or damaged.
    """
    found = read(folder)
    if found.dictionary.table:
        yield "dictionary", figures.draw_dictionary(found.dictionary, _examples(found.dictionary, folder / FACES))
    if found.identities:
        yield "identities", figures.draw_identities(found.identities)
    if found.loss:
        yield "loss", figures.draw_loss(found.loss)


def read(folder: Path) -> Analysis:
    """What `analysis.json` holds.

    Raises:
        UserError: where it is missing or damaged.
    """
    path = folder / REPORT
    if not path.is_file():
        raise UserError(f"{path} is not there", _AGAIN)
    try:
        plain = json.loads(path.read_text("utf-8"))
        if plain.pop("format") != FORMAT:
            raise ValueError(f"its format is not {FORMAT}")
        found = from_json(Analysis, json.dumps(plain))
        loss = from_json(LossCurve, json.dumps(found.loss)) if found.loss else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path}: {error}", _AGAIN) from error
    return dataclasses.replace(found, loss=loss)


def to_json(found: Analysis) -> dict[str, Any]:
    """What `analysis.json` holds; a number that is not finite is null."""
    plain: dict[str, Any] = _finite({"format": FORMAT, **asdict(found)})
    return plain


def _examples(report: DictionaryReport, path: Path) -> dict[str, list[NDArray[np.uint8]]]:
    shown = [group.group for group in report.groups if group.faces]
    try:
        sheet = read_image(path)
    except (ImageError, OSError) as error:
        raise UserError(f"{path}: {error}", _AGAIN) from error
    side, rest = divmod(sheet.shape[0], len(shown))
    if rest or not side or sheet.shape[1] % side:
        what = f"{path}: {sheet.shape[1]}x{sheet.shape[0]} pixels are no squares of {len(shown)} pose groups"
        raise UserError(what, _AGAIN)
    rows = np.split(sheet, len(shown))
    return {name: np.split(row, row.shape[1] // side, axis=1) for name, row in zip(shown, rows, strict=True)}


def _write_tables(found: Analysis, out: Path) -> None:
    rows = [
        (group.group, group.faces, group.people, kind, rank, one.element, one.share, one.elsewhere)
        for group in found.dictionary.groups
        for kind, listed in (("most activated", group.elements), ("most particular", group.particular))
        for rank, one in enumerate(listed, 1)
    ]
    head = ("group", "faces", "people", "list", "rank", "element", "share", "elsewhere")
    _write_csv(out / "dictionary.csv", head, rows)
    points = [(one.of, p.identity, p.pitch, p.yaw, p.roll, p.x, p.y) for one in found.identities for p in one.points]
    _write_csv(out / "identities.csv", ("features", "identity", "pitch", "yaw", "roll", "x", "y"), points)
    if found.loss is not None:
        flow = found.loss.loss_fm or [math.nan] * len(found.loss.steps)
        _write_csv(
            out / "loss.csv", ("step", "loss_pia", "loss_fm"),
            zip(found.loss.steps, found.loss.loss_pia, flow, strict=True),
        )  # fmt: skip


def _write_csv(path: Path, head: Collection[str], rows: Iterable[Sequence[Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(head)
        writer.writerows(["" if isinstance(v, float) and math.isnan(v) else v for v in row] for row in rows)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
