"""Step 4: records, prompts and reviews become manifest and shards (Section 3.4, "Processed Data Combination").

Everything here depends on the records and on the order of their keys alone, so it may be made again at any time.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from faithfulfaces.dataset import answers, manifest, people, quality, staging
from faithfulfaces.dataset.build import hold, read_outcomes
from faithfulfaces.dataset.caption import captions
from faithfulfaces.dataset.folder import Folder
from faithfulfaces.dataset.records import ClipRecord, Row
from faithfulfaces.dataset.settings import Settings
from faithfulfaces.shards import Sample, write_shard
from ffbench.durable import write_atomic
from ffbench.records import digest

SPLITS = ("train", "val")
PLAN = "plan.json"
"""Beside the splits: what the shards were made of."""


class Combined(NamedTuple):
    """What `combine` did."""

    rows: list[Row]
    written: int
    """Shards; 0 where they stood already."""


def combine(folder: Folder, settings: Settings) -> Combined:
    """Manifest and shards of all outcomes so far; nothing is written anew that stands already.

    Raises:
        UserError: the folder is in use, or a qualified clip's files are missing.
    """
    with hold(folder):
        rows = assigned(folder, settings)
        written = _shards(folder, [row for row in rows if row.shard], settings)
        manifest.write(folder.manifest, rows)
        return Combined(rows, written)


def assigned(folder: Folder, settings: Settings) -> list[Row]:
    """All clips by key, each with verdict, person, split, shard and prompt."""
    records = sorted(
        (clip for outcome in read_outcomes(folder).values() for clip in outcome.clips), key=lambda clip: clip.key
    )
    records = _without_duplicates(records, settings.quality.duplicate)
    refused = answers.settled(answers.read(folder.reviews), "sample")
    records = [_reviewed(record, refused.get(record.key, "")) for record in records]
    prompts = {key: said.prompt for key, said in captions(folder.captions).items() if said.status == "ok"}
    who = _identities(folder, [r for r in records if r.verdict == "qualified"], settings)
    places = dict.fromkeys(SPLITS, 0)
    rows = []
    for record in records:
        if record.verdict != "qualified":
            rows.append(Row(record))
            continue
        split = people.split_of(who[record.key], settings.samples.val, settings.samples.seed)
        shard = f"{split}/{places[split] // settings.samples.per_shard:06d}.tar"
        places[split] += 1
        rows.append(Row(record, who[record.key], split, shard, prompts.get(record.key, "")))
    return rows


def _without_duplicates(records: Sequence[ClipRecord], distance: int) -> list[ClipRecord]:
    """Clips that repeat an earlier one are rejected."""
    good = [row for row, record in enumerate(records) if record.verdict == "qualified"]
    first = quality.duplicates([records[i].phash for i in good], [records[i].source for i in good], distance)
    out = list(records)
    for row, of in zip(good, first, strict=True):
        if of >= 0:
            detail = f"the same pictures as {records[good[of]].key}"
            out[row] = dataclasses.replace(records[row], verdict="rejected", reason="duplicate", detail=detail)
    return out


def _reviewed(record: ClipRecord, said: str) -> ClipRecord:
    if record.verdict != "qualified" or said != "reject":
        return record
    return dataclasses.replace(record, verdict="rejected", reason="review", detail="reviewers rejected it")


def _identities(folder: Folder, records: Sequence[ClipRecord], settings: Settings) -> dict[str, str]:
    """Key -> person: by faces where there is a recogniser, else all clips of one source are one person."""
    keys = [record.key for record in records]
    if settings.networks.embedder and keys:
        means = np.stack([people.mean_direction(staging.read_embeddings(folder.clip(key))) for key in keys])
        groups = people.grouped(means, settings.people.same)
        return dict(zip(keys, people.names(keys, groups), strict=True))
    return {record.key: record.key.rpartition("-")[0] for record in records}


def _shards(folder: Folder, rows: Sequence[Row], settings: Settings) -> int:
    """Write the shards of the rows, unless those that stand were made of the same."""
    made_of = digest([[r.record.key, r.record.source_sha256, r.identity, r.shard, r.prompt] for r in rows], 32)
    root = folder.root / "shards"
    plan, wanted = root / PLAN, sorted({row.shard for row in rows})
    stands = plan.is_file() and json.loads(plan.read_text("utf-8"))["made_of"] == made_of
    if stands and all((root / name).is_file() for name in wanted):
        return 0
    plan.unlink(missing_ok=True)
    for split in SPLITS:
        folder.shards(split).mkdir(parents=True, exist_ok=True)
        for old in folder.shards(split).glob("*.tar*"):
            if f"{split}/{old.name}" not in wanted:
                old.unlink()
    for name in wanted:
        write_shard(root / name, _samples(folder, [row for row in rows if row.shard == name]))
    write_atomic(plan, (json.dumps({"made_of": made_of, "shards": wanted}, indent=1) + "\n").encode())
    return len(wanted)


def _samples(folder: Folder, rows: Sequence[Row]) -> Iterator[Sample]:
    for row in rows:
        clip: Path = folder.clip(row.record.key)
        about: dict[str, Any] = staging.read_about(clip)
        provenance = {
            "source": row.record.source,
            "source_sha256": row.record.source_sha256,
            "start": row.record.start,
            "first": row.record.first,
            "fps": about["fps"],
            "variation": row.record.variation,
            "crops": [crop["frame"] for crop in about["crops"]],
        }
        yield Sample(
            key=row.record.key,
            identity=row.identity,
            prompt=row.prompt,
            crops=[staging.read_bytes(clip, crop["name"]) for crop in about["crops"]],
            euler=[tuple(crop["euler"]) for crop in about["crops"]],
            reference=about["reference"],
            files={
                "mp4": staging.read_bytes(clip, staging.VIDEO),
                "provenance": json.dumps(provenance, ensure_ascii=False).encode(),
            },
        )
