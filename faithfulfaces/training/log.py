"""The training log: one JSON object a line, always; TensorBoard beside it where that is installed."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LOG = "log.jsonl"


class TrainingLog:
    """Appends to DIR/log.jsonl; a resumed run first drops the lines after its checkpoint, so each step is there once.

    Args:
        folder: of the run.
        step: of the checkpoint that training goes on from; 0 for a new run.
        tensorboard: also write DIR/tensorboard.
    """

    def __init__(self, folder: Path, step: int, *, tensorboard: bool = False) -> None:
        self.path = folder / LOG
        kept = [line for line in _lines(self.path) if json.loads(line)["step"] <= step]
        self.path.write_text("".join(kept), "utf-8")
        self._board: Any = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """One line. A number that is not finite becomes null: JSON knows no NaN."""
        finite = {k: v if math.isfinite(v) else None for k, v in values.items()}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step} | finite) + "\n")
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush TensorBoard."""
        if self._board is not None:
            self._board.close()


def read_log(path: Path) -> list[dict[str, Any]]:
    """All whole lines of a log, in order."""
    return [json.loads(line) for line in _lines(path)]


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        return []
    # a killed run may leave half a line
    return [line for line in path.read_text("utf-8").splitlines(keepends=True) if line.endswith("\n")]
