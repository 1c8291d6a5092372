"""Rows of a table: the records of one method on one suite under one protocol, and what makes two rows unlike."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ffbench.errors import UserError
from ffbench.extract.track import FaceTrack
from ffbench.records import Case, Cell, Generation, Scalar, Score, digest
from ffbench.store import Run

Video = tuple[str, int]
"""(case_id, take): what is paired between methods."""


@dataclass(frozen=True)
class Kept:
    """What cells want of tracks, for a row whose tracks are not there."""

    pose: Mapping[tuple[str, str], Mapping[Video, float]]
    """(metric, bin of |yaw| or |pitch|) -> each video's mean in the bin."""
    pose_reason: str
    """Why there is none."""
    sets: Mapping[str, Cell]
    """Set-level metrics: one number of all crops."""


@dataclass(frozen=True)
class Row:
    """What one method did on one suite, as one protocol measured it."""

    run: Run
    label: str
    """The method's name, with what tells it from another row of the same method."""
    control: bool
    suite: str
    """`suite@version`."""
    protocol: str
    metrics: Mapping[str, int]
    """metric id -> version, in the protocol's order."""
    networks: Mapping[str, str]
    """slot -> id of the network that measured."""
    missing: Mapping[str, str]
    """slot -> why it did not measure, with the command that mends it."""
    notes: tuple[str, ...]
    references: Mapping[str, str]
    """sha256 of a reference photograph -> key of its track."""
    cases: Mapping[str, Case]
    generations: Mapping[Video, Generation]
    """Every attempt, failures too, without the videos that still wait for their scores."""
    scores: Mapping[Video, Mapping[str, Score]]
    """Scores of the ok videos by metric id."""
    num_pending: int
    """Videos made but not scored under this protocol."""
    kept: Kept | None = None
    """Instead of tracks; None where they are read from the run."""

    @property
    def num_made(self) -> int:
        """Ok videos."""
        return sum(generation.status == "ok" for generation in self.generations.values())

    def track(self, video: Video) -> FaceTrack | None:
        """The track that the scores of a video came from; None where tracks were not kept."""
        scores = self.scores.get(video, {})
        return self._load(next(iter(scores.values())).track) if scores else None

    def reference(self, case_id: str) -> FaceTrack | None:
        """The track of a case's first reference; None where tracks were not kept."""
        return self._load(self.references.get(self.cases[case_id].references[0].sha256, ""))

    def only(self, videos: frozenset[Video]) -> Row:
        """The same row over some of its videos."""
        return dataclasses.replace(
            self,
            generations={video: item for video, item in self.generations.items() if video in videos},
            scores={video: item for video, item in self.scores.items() if video in videos},
            kept=self._kept(videos),
        )

    def _kept(self, videos: frozenset[Video]) -> Kept | None:
        if self.kept is None or videos >= self.generations.keys():
            return self.kept
        pose = {
            place: {video: mean for video, mean in found.items() if video in videos}
            for place, found in self.kept.pose.items()
        }
        # a set has one number of all: it says nothing of some
        return Kept({place: found for place, found in pose.items() if found}, self.kept.pose_reason, {})

    def _load(self, key: str) -> FaceTrack | None:
        if not key or not (path := self.run.track(key)).is_file():
            return None
        try:
            return FaceTrack.load(path)
        except ValueError as error:
            raise UserError(
                f"{path} cannot be read: {error}", f"delete it and ffbench score {self.run.root}"
            ) from error


def scored_protocols(runs: Sequence[Run]) -> list[str]:
    """Ids of the protocols that scored any of the runs, sorted."""
    return sorted({protocol for run in runs for protocol in run.meta().get("scoring", {})})


def pick_protocol(runs: Sequence[Run], name: str | None) -> str:
    """The protocol id that is meant by `name` (an id, or a bare name), or the only one there is.

    Raises:
        UserError: if nothing is scored, several fit, or none fits.
    """
    found = scored_protocols(runs)
    places = " ".join(str(run.root) for run in runs[:3]) + (" ..." if len(runs) > 3 else "")
    if not found:
        raise UserError(f"nothing is scored yet in {places}", "ffbench score")
    fit = [item for item in found if name is None or item == name or item.split("@")[0] == name]
    if not fit:
        raise UserError(
            f"no run is scored with {name}, only with {', '.join(found)}", f"ffbench score --protocol {name}"
        )
    if len(fit) > 1:
        raise UserError(f"runs are scored with several protocols: {', '.join(fit)}", f"name one: --protocol {fit[0]}")
    return fit[0]


def load_rows(run: Run, protocol: str) -> list[Row]:
    """The rows of a run: one, or one for each group of settings where a case was made with several.

    Raises:
        UserError: if the run was not scored with `protocol` (an id), or lacks its cases.
    """
    meta = run.meta()
    scoring: Mapping[str, Any] = meta.get("scoring", {})
    name = protocol.split("@")[0]
    if protocol not in scoring:
        others = ", ".join(sorted(scoring)) or "nothing"
        raise UserError(
            f"{run.root} is not scored with {protocol} (scored with: {others})",
            f"ffbench score {run.root} --protocol {name}",
        )
    facts = scoring[protocol]
    cases = run.cases()
    versions = {str(metric): int(version) for metric, version in facts["metrics"].items()}
    by_generation: dict[str, dict[str, Score]] = {}
    for score in run.scores(protocol).values():
        if versions.get(score.metric) == score.version:
            by_generation.setdefault(score.generation, {})[score.metric] = score
    rows = []
    for suffix, group in _variants(list(run.generations().values())):
        if unknown := sorted({item.case_id for item in group} - set(cases)):
            raise UserError(f"{run.root}/cases.jsonl lacks the case {unknown[0]}", "restore the file, or generate anew")
        done = [item for item in group if item.status != "ok" or item.key in by_generation]
        if not done:
            continue
        first = group[0]
        rows.append(
            Row(
                run=run,
                label=first.method + suffix,
                control=meta.get("card", {}).get("kind") == "control",
                suite=f"{first.suite}@{first.suite_version}",
                protocol=protocol,
                metrics=versions,
                networks={str(slot): str(value) for slot, value in facts.get("networks", {}).items()},
                missing={str(slot): str(value) for slot, value in facts.get("missing", {}).items()},
                notes=tuple(facts.get("notes", ())),
                references=facts.get("references", {}),
                cases=cases,
                generations={(item.case_id, item.take): item for item in done},
                scores={(item.case_id, item.take): by_generation[item.key] for item in done if item.status == "ok"},
                num_pending=len(group) - len(done),
            )
        )
    if not rows:
        raise UserError(
            f"no video of {run.root} is scored with {protocol}", f"ffbench score {run.root} --protocol {name}"
        )
    return rows


def distinct_labels(rows: Sequence[Row]) -> list[Row]:
    """The rows with the part of their path added to labels that would otherwise be equal."""
    labels = [row.label for row in rows]
    paths = [row.run.root.resolve() for row in rows]
    common = Path(os.path.commonpath(paths)) if len(paths) > 1 else Path()
    return [
        dataclasses.replace(row, label=f"{row.label} ({path.relative_to(common).as_posix()})")
        if labels.count(row.label) > 1
        else row
        for row, path in zip(rows, paths, strict=True)
    ]


def alike(rows: Sequence[Row], common_cases: bool = False) -> tuple[list[Row], str]:
    """Rows that may stand in one table, and the footnote of what was left out to make them so.

    Raises:
        UserError: naming what differs: suite version, protocol, metric version, network, a case's content, the cases.
    """
    first = rows[0]
    for other in rows[1:]:
        _refuse_unlike(first, other)
    sets = [frozenset(row.generations) for row in rows]
    shared = frozenset.intersection(*sets)
    if all(videos == shared for videos in sets):
        return list(rows), ""
    sizes = ", ".join(f"{row.label} {len(videos)}" for row, videos in zip(rows, sets, strict=True))
    if not common_cases:
        waiting = [row for row in rows if row.num_pending]
        missing = sorted(frozenset.union(*sets) - shared)[0]
        raise UserError(
            f"the rows hold different cases ({sizes} videos; not all have {missing[0]}-s{missing[1]})",
            (f"ffbench score {waiting[0].run.root} scores {waiting[0].num_pending} more, " if waiting else "finish, ")
            + f"or --common-cases uses the {len(shared)} that all share",
        )
    if not shared:
        raise UserError(f"the rows share no case ({sizes} videos)", "report them apart")
    return [row.only(shared) for row in rows], f"only the {len(shared)} videos that all rows share (of {sizes})"


def _refuse_unlike(a: Row, b: Row) -> None:
    name = b.protocol.split("@")[0]
    if a.suite != b.suite:
        raise UserError(f"{a.run.root} holds suite {a.suite} and {b.run.root} suite {b.suite}", "report them apart")
    if a.protocol != b.protocol:
        raise UserError(
            f"{a.run.root} was scored with protocol {a.protocol} and {b.run.root} with {b.protocol}",
            f"ffbench score {b.run.root} --protocol {a.protocol.split('@')[0]}, or report them apart",
        )
    for metric in a.metrics:
        if a.metrics[metric] != b.metrics.get(metric):
            raise UserError(
                f"{a.run.root} holds {metric} version {a.metrics[metric]} and {b.run.root} version "
                f"{b.metrics.get(metric, 'none')}",
                f"ffbench score {a.run.root} {b.run.root} --protocol {name} --redo all",
            )
    for slot in sorted(set(a.networks) & set(b.networks)):
        if a.networks[slot] != b.networks[slot]:
            raise UserError(
                f"{a.run.root} was measured with {slot} network {a.networks[slot]} and {b.run.root} with "
                f"{b.networks[slot]}",
                f"ffbench score {a.run.root} {b.run.root} --protocol {name} --redo all",
            )
    for case_id in sorted(set(a.cases) & set(b.cases)):
        if _content(a.cases[case_id]) != _content(b.cases[case_id]):
            raise UserError(
                f"case {case_id} has another prompt, identity or reference in {b.run.root} than in {a.run.root}",
                "report them apart, or generate both with one suite",
            )


def _content(case: Case) -> tuple[str, ...]:
    return (
        case.identity_id,
        case.prompt_id,
        case.prompt,
        case.subject,
        *(reference.sha256 for reference in case.references),
    )


def _variants(generations: Sequence[Generation]) -> list[tuple[str, list[Generation]]]:
    """Groups of one revision and settings, each with a suffix; one unnamed group where no video was made twice."""
    newest: dict[Video, Generation] = {}
    for item in generations:
        newest[item.case_id, item.take] = item
    # the settings of given videos hold each file's own hash: a later file of the same case replaces the earlier
    if len(newest) == len(generations) or all(item.revision == "given" for item in generations):
        return [("", list(newest.values()))] if newest else []
    groups: dict[str, list[Generation]] = {}
    for item in generations:
        groups.setdefault(digest([item.revision, dict(item.settings)]), []).append(item)
    heads = [group[0] for group in groups.values()]
    varied = sorted({name for head in heads for name in head.settings if len({_at(h, name) for h in heads}) > 1})
    return [(f" [{_difference(group[0], heads, varied)}]", group) for group in groups.values()]


def _at(generation: Generation, name: str) -> Scalar:
    return generation.settings.get(name)


def _difference(head: Generation, heads: Sequence[Generation], varied: Sequence[str]) -> str:
    parts = [f"{name}={_at(head, name)}" for name in varied]
    if len({item.revision for item in heads}) > 1:
        parts.insert(0, head.revision[:12])
    return " ".join(parts)
