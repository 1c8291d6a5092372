"""The statistics card of a build: what came in, what was taken, what was refused and why."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from faithfulfaces.dataset import staging, tracks
from faithfulfaces.dataset.folder import Folder
from faithfulfaces.dataset.records import Row
from ffbench.durable import write_atomic

ANGLES = ("pitch", "yaw", "roll")
EDGES = tuple(range(-90, 91, 15))
"""Of the histograms, degrees; angles beyond count in the outer bins."""


def card(folder: Folder, rows: Sequence[Row]) -> dict[str, Any]:
    """Numbers of a build.

    Pose histograms: `before` counts every face of every clip whose pose was told, `after` every face of the qualified
    clips, `crops` the crops in the shards.
    """
    good = [row for row in rows if row.shard]
    posed = [row.record.key for row in rows if np.isfinite(row.record.variation)]
    return {
        "sources": len({row.record.source for row in rows}),
        "clips": len(rows),
        "qualified": len(good),
        "refused": dict(sorted(Counter(row.record.reason for row in rows if not row.shard).items())),
        "clips_by_split": dict(sorted(Counter(row.split for row in good).items())),
        "people_by_split": {
            split: len({row.identity for row in good if row.split == split}) for split in ("train", "val")
        },
        "without_prompt": sum(not row.prompt for row in good),
        "seconds": {
            "all": _spread(row.record.seconds for row in rows),
            "qualified": _spread(r.record.seconds for r in good),
        },
        "variation": {
            "posed": _spread(row.record.variation for row in rows),
            "qualified": _spread(row.record.variation for row in good),
        },
        "variation_robust": {
            "posed": _spread(row.record.variation_robust for row in rows),
            "qualified": _spread(row.record.variation_robust for row in good),
        },
        "pose_edges": list(EDGES),
        "pose_before": _histograms(_track_angles(folder, posed)),
        "pose_after": _histograms(_track_angles(folder, [row.record.key for row in good])),
        "pose_crops": _histograms(_crop_angles(folder, [row.record.key for row in good])),
    }


def write_card(folder: Folder, rows: Sequence[Row]) -> dict[str, Any]:
    """Write card.json and return it."""
    made = card(folder, rows)
    write_atomic(folder.card, (json.dumps(made, indent=1) + "\n").encode())
    return made


def _spread(values: Iterable[float]) -> dict[str, float | int | None]:
    known = np.array([value for value in values if np.isfinite(value)])
    if not len(known):
        return {"clips": 0, "least": None, "median": None, "greatest": None}
    low, middle, high = np.quantile(known, (0, 0.5, 1))
    return {"clips": len(known), "least": round(low, 3), "median": round(middle, 3), "greatest": round(high, 3)}


def _histograms(angles: Iterable[np.ndarray[Any, np.dtype[np.float32]]]) -> dict[str, list[int]]:
    counts = np.zeros((3, len(EDGES) - 1), int)
    for part_N3 in angles:
        known = part_N3[np.isfinite(part_N3).all(1)]
        for axis in range(3):
            counts[axis] += np.histogram(np.clip(known[:, axis], EDGES[0], EDGES[-1]), EDGES)[0]
    return dict(zip(ANGLES, counts.tolist(), strict=True))


def _track_angles(folder: Folder, keys: Iterable[str]) -> Iterable[np.ndarray[Any, np.dtype[np.float32]]]:
    for key in keys:
        yield tracks.load(folder, key).angles


def _crop_angles(folder: Folder, keys: Iterable[str]) -> Iterable[np.ndarray[Any, np.dtype[np.float32]]]:
    for key in keys:
        crops = staging.read_about(folder.clip(key))["crops"]
        yield np.array([crop["euler"] for crop in crops], np.float32).reshape(-1, 3)
