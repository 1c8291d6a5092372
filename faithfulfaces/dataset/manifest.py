"""The manifest: what became of every clip and why, one Parquet row a clip."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from faithfulfaces.dataset.records import ClipRecord, Row
from ffbench.durable import write_atomic
from ffbench.errors import UserError

PAIRS = {"source_size": ("source_width", "source_height")} | {
    name: (f"{name}_least", f"{name}_greatest") for name in ("pitch", "yaw", "roll")
}


def write(path: Path, rows: Sequence[Row]) -> None:
    """Write the table, whole or not at all; the same rows give the same bytes.

    Raises:
        UserError: pyarrow is not installed.
    """
    pyarrow, parquet = _arrow()
    flats = [flat(row) for row in rows]
    names = list(dict.fromkeys(name for one in flats for name in one))
    # a check that a clip did not reach
    columns = {name: [one.get(name, float("nan")) for one in flats] for name in names}
    table = pyarrow.table(columns) if columns else pyarrow.table({"key": pyarrow.array([], pyarrow.string())})
    stream = io.BytesIO()
    parquet.write_table(table, stream)
    write_atomic(path, stream.getvalue())


def read(path: Path) -> list[dict[str, Any]]:
    """Rows of a manifest.

    Raises:
        UserError: pyarrow is not installed, or the file is no Parquet table.
    """
    pyarrow, parquet = _arrow()
    if not path.is_file():
        raise UserError(f"{path.parent} holds no manifest", "run `faithfulfaces data build` or `data combine` first")
    try:
        rows: list[dict[str, Any]] = parquet.read_table(path).to_pylist()
    except (OSError, pyarrow.ArrowInvalid) as error:
        raise UserError(f"{path}: {error}", "faithfulfaces data combine writes it anew") from error
    return rows


def flat(row: Row) -> dict[str, Any]:
    """Columns of a clip: pairs become two, checks `check_NAME` each."""
    out: dict[str, Any] = {}
    for field in dataclasses.fields(ClipRecord):
        value = getattr(row.record, field.name)
        if field.name in PAIRS:
            out |= dict(zip(PAIRS[field.name], value, strict=True))
        elif field.name == "checks":
            out |= {f"check_{name}": measured for name, measured in value.items()}
        else:
            out[field.name] = value
    return out | {"identity": row.identity, "split": row.split, "shard": row.shard, "prompt": row.prompt}


def _arrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UserError("manifests need pyarrow, which is not installed", "pip install 'ffbench[data]'") from error
    return pyarrow, pyarrow.parquet
