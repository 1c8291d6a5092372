"""`faithfulfaces analyse`: an aligner and shards in, Figures 6, 7 and 10 out, as pictures, JSON and CSV."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from faithfulfaces import figures
from faithfulfaces.aligner import PoseSharedIdentityAligner
from faithfulfaces.analysis import (
    DictionaryReport,
    Faces,
    IdentityMap,
    LossCurve,
    choose_faces,
    identity_features,
    look_at_dictionary,
    loss_curve,
    map_identities,
    read_faces,
)
from faithfulfaces.data import Clips
from faithfulfaces.dictionary import GROUPS, pose_groups
from faithfulfaces.log import read_log
from faithfulfaces.runs import open_aligner
from faithfulfaces.shards import ShardClips
from ffbench.errors import UserError

FORMAT = 1
REPORT = "analysis.json"
EXAMPLES = 3
"""Faces of each pose group in the picture of the dictionary."""


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
    identities: list[IdentityMap]
    loss: LossCurve | None
    missing: dict[str, str] = field(default_factory=dict)
    """Picture that was not made -> why."""


def analyse(folder: Path, shards: Path, out: Path, options: Options) -> Analysis:
    """Look into the aligner of a run or checkpoint with the faces of shards, and write what is seen to a folder.

    Shards of people that it was not trained on show what it learned; of others, what it remembers.

    Raises:
        UserError: a folder that holds no aligner or no shards.
    """
    trained = open_aligner(folder)
    clips = ShardClips(shards, trained.aligner.config.image_size)
    faces = read_faces(trained.aligner, clips, options.faces, options.seed)
    out.mkdir(parents=True, exist_ok=True)
    missing: dict[str, str] = {}
    dictionary = look_at_dictionary(faces, trained.aligner.config.elements, options.permutations, options.seed)
    if dictionary.table:
        figures.save(figures.draw_dictionary(dictionary, _examples(clips, faces, options.seed)), out / "dictionary")
    else:
        missing["dictionary"] = f"none of {dictionary.faces} faces belongs to a pose group"
    identities = _identities(trained.aligner, clips, faces, options, missing)
    if identities:
        figures.save(figures.draw_identities(identities), out / "identities")
    loss = None
    if trained.log is None:
        missing["loss"] = f"there is no log.jsonl in {folder}"
    else:
        loss = loss_curve(read_log(trained.log))
        figures.save(figures.draw_loss(loss), out / "loss")
    made = Analysis(str(trained.source), options, dictionary, identities, loss, missing)
    _write(made, out)
    return made


def to_json(analysis: Analysis) -> dict[str, Any]:
    """What `analysis.json` holds; a number that is not finite is null."""
    plain: dict[str, Any] = _finite({"format": FORMAT, **asdict(analysis)})
    return plain


def _identities(
    aligner: PoseSharedIdentityAligner, clips: Clips, faces: Faces, options: Options, missing: dict[str, str]
) -> list[IdentityMap]:
    try:
        rows = choose_faces(faces, options.people, options.poses, options.seed)
    except UserError as error:
        missing["identities"] = f"{error.what}: {error.fix}"
        return []
    crops = [clips.crop(*faces.places[row]) for row in rows]
    return map_identities(faces, rows, identity_features(aligner, crops))


def _examples(clips: Clips, faces: Faces, seed: int) -> dict[str, list[NDArray[np.uint8]]]:
    groups_N = pose_groups(faces.euler_N3)
    order = np.random.default_rng((seed, 8)).permutation(len(groups_N))
    rows_of = {name: order[groups_N[order] == i].tolist() for i, name in enumerate(GROUPS)}
    count = min([EXAMPLES, *(len(rows) for rows in rows_of.values() if rows)])
    return {
        name: [clips.crop(*faces.places[row]).rgb for row in rows[:count]] for name, rows in rows_of.items() if rows
    }


def _write(analysis: Analysis, out: Path) -> None:
    (out / REPORT).write_text(json.dumps(to_json(analysis), indent=1, allow_nan=False) + "\n", "utf-8")
    rows = [
        (group.group, group.faces, group.people, kind, rank, one.element, one.share, one.elsewhere)
        for group in analysis.dictionary.groups
        for kind, listed in (("most activated", group.elements), ("most particular", group.particular))
        for rank, one in enumerate(listed, 1)
    ]
    head = ("group", "faces", "people", "list", "rank", "element", "share", "elsewhere")
    _write_csv(out / "dictionary.csv", head, rows)
    points = [(one.of, p.identity, p.pitch, p.yaw, p.roll, p.x, p.y) for one in analysis.identities for p in one.points]
    _write_csv(out / "identities.csv", ("features", "identity", "pitch", "yaw", "roll", "x", "y"), points)
    if analysis.loss is not None:
        flow = analysis.loss.loss_fm or [math.nan] * len(analysis.loss.steps)
        _write_csv(
            out / "loss.csv", ("step", "loss_pia", "loss_fm"),
            zip(analysis.loss.steps, analysis.loss.loss_pia, flow, strict=True),
        )  # fmt: skip


def _write_csv(path: Path, head: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
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
