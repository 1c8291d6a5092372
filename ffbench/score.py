"""The second stage: videos on disk become scores. Decodes once, measures once, writes a record a metric."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ffbench.errors import UserError
from ffbench.extract.extractor import Extractor
from ffbench.extract.track import FaceTrack
from ffbench.image import ImageError, read_image
from ffbench.measure import NEEDS, Scene, is_video_metric, measure
from ffbench.metrics import identity
from ffbench.metrics.catalog import METRICS
from ffbench.progress import bar
from ffbench.protocols import Protocol
from ffbench.provenance import provenance
from ffbench.records import Case, Generation, Score
from ffbench.store import Run
from ffbench.video import Clip, VideoError, read_clip

if TYPE_CHECKING:
    from ffbench.extract.clip import TextFeatures

Redo = Literal["missing", "failed", "all"]
FALSE_ACCEPT_RATE = 0.01
"""Rate at which the suite's own strangers pass the same-identity threshold."""


@dataclass(frozen=True)
class ScoreOptions:
    """How to score; nothing here but `protocol` may change a number."""

    protocol: Protocol
    device: str = "cpu"
    redo: Redo = "missing"
    """`missing`: videos without a current score; `failed`: also those whose value is NaN; `all`: everything."""
    limit: int | None = None
    batch: int = 4
    """Videos measured together."""


@dataclass(frozen=True)
class ScoreSummary:
    """What one run's scoring did."""

    run: Run
    done_before: int
    scored: int
    damaged: int
    """Videos that could not be decoded; their Generation is now `failed`, with the reason."""
    missing: Mapping[str, str] = field(default_factory=dict)
    """slot -> the weights it needs and the command that gets them."""
    timings: Mapping[str, float] = field(default_factory=dict)
    """Seconds by part."""


@dataclass(frozen=True)
class _Work:
    """What every video of a run shares."""

    run: Run
    options: ScoreOptions
    extractor: Extractor
    cases: Mapping[str, Case]
    references: Mapping[str, FaceTrack]
    """sha256 of the photograph -> its one-row track."""
    prompts: Mapping[str, tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]
    threshold: tuple[float, str]


def score(run: Run, options: ScoreOptions) -> ScoreSummary:
    """Score every ok video of a run that has no current score under the protocol.

    A killed call loses at most the batch in flight; calling again goes on.

    Raises:
        UserError: for a run without videos, a reference without a face, or missing detector weights.
    """
    with run.lock():
        todo, done = _todo(run, options)
        if not todo:
            return ScoreSummary(run, done, 0, 0, _known_missing(run, options.protocol))
        extractor = Extractor(options.protocol, options.device)
        work = _prepare(run, options, extractor)
        scored = damaged = 0
        with bar("score", len(todo), "video") as progress:
            for group in _decoded(work, todo):
                good = [(generation, clip) for generation, clip in group if not isinstance(clip, VideoError)]
                bad = [(generation, clip) for generation, clip in group if isinstance(clip, VideoError)]
                for generation, error in bad:
                    failed = dataclasses.replace(
                        generation,
                        status="failed",
                        error=str(error),
                        utc=datetime.now(UTC).isoformat(timespec="seconds"),
                    )
                    run.append_generations([failed])
                _measure_group(work, good)
                scored, damaged = scored + len(good), damaged + len(bad)
                progress.advance(len(good))
                progress.advance(len(bad), failed=len(bad))
    return ScoreSummary(run, done, scored, damaged, extractor.missing, dict(extractor.timings))


def given_run(run: Run, cases: Sequence[Case], videos: Mapping[str, Path], method: str) -> Run:
    """Register videos that the user brought as ok Generations of `method`; files stay where they are."""
    with run.lock():
        run.write_cases(cases)
        known = run.generations()
        new = []
        for case in cases:
            path = videos[case.case_id].resolve()
            sha256 = _sha256(path)
            generation = Generation(
                case_id=case.case_id,
                suite=case.suite,
                suite_version=case.suite_version,
                method=method,
                revision="given",
                settings={"video": sha256},
                seed=0,
                take=0,
                status="ok",
                video=str(path),
                video_sha256=sha256,
                utc=datetime.now(UTC).isoformat(timespec="seconds"),
            )
            before = known.get(generation.key)
            if before is None or before.video != generation.video:
                new.append(generation)
        run.append_generations(new)
        if not run.meta():
            facts = {"summary": "videos given by the user", "kind": "given"}
            named = {f"{case.suite}@{case.suite_version}" for case in cases}
            run.write_meta({"method": method, "suite": ", ".join(sorted(named)), "card": facts})
    return run


def _todo(run: Run, options: ScoreOptions) -> tuple[list[Generation], int]:
    """Videos to score and how many are already done."""
    videos = [generation for generation in run.generations().values() if generation.status == "ok"]
    if not videos and not run.generations():
        raise UserError(f"{run.root} holds no videos", "ffbench generate --method NAME makes some")
    videos = videos[: options.limit] if options.limit is not None else videos
    have = run.scores(options.protocol.id)
    metrics = [name for name in options.protocol.metrics if is_video_metric(name)]

    def current(generation: Generation) -> bool:
        for metric in metrics:
            record = have.get((generation.key, options.protocol.id, metric, METRICS[metric].version))
            if record is None or options.redo == "all":
                return False
            if record.reason and (options.redo == "failed" or record.reason.startswith(NEEDS)):
                return False
        return True

    todo = [generation for generation in videos if not current(generation)]
    return todo, len(videos) - len(todo)


def _known_missing(run: Run, protocol: Protocol) -> dict[str, str]:
    return dict(run.meta().get("scoring", {}).get(protocol.id, {}).get("missing", {}))


def _prepare(run: Run, options: ScoreOptions, extractor: Extractor) -> _Work:
    """Measure references and prompts, and write down what the numbers of this run rest on."""
    cases = run.cases()
    references: dict[str, FaceTrack] = {}
    keys: dict[str, str] = {}
    for case in cases.values():
        first = case.references[0]
        if first.sha256 not in references:
            keys[first.sha256] = extractor.track_key(first.sha256)
            references[first.sha256] = _reference(run, extractor, Path(first.path), first.sha256)
    texts = sorted({case.prompt for case in cases.values() if case.prompt})
    prompts = {}
    if texts and "clip" in options.protocol.networks and "clip" not in extractor.missing:
        features: TextFeatures = extractor.texts(texts)
        prompts = {prompt: (features.embeddings[row], extractor.long_texts(prompt)) for row, prompt in enumerate(texts)}
    meta = run.meta()
    meta.setdefault("scoring", {})[options.protocol.id] = {
        "metrics": {name: METRICS[name].version for name in options.protocol.metrics},
        "networks": dict(extractor.ids),
        "missing": dict(extractor.missing),
        "references": keys,
        "notes": list(options.protocol.notes),
        "provenance": provenance(options.device),
    }
    run.write_meta(meta)
    threshold = _threshold(cases, references)
    return _Work(run, options, extractor, cases, references, prompts, threshold)


def _reference(run: Run, extractor: Extractor, path: Path, sha256: str) -> FaceTrack:
    cache = run.track(extractor.track_key(sha256))
    if (track := _cached(cache)) is not None:
        return track
    try:
        if _sha256(path) != sha256:
            raise UserError(
                f"{path} has changed since the videos were made", "put the photograph back, or generate anew"
            )
        image = read_image(path)
    except (OSError, ImageError) as error:
        raise UserError(
            f"reference {path}: {error}", "give a readable photograph; ffbench validate checks all"
        ) from error
    track = extractor.reference(image)
    if not track.found[0]:
        rungs = ", ".join(extractor.protocol.ladder)
        raise UserError(
            f"{path} holds no face (tried {rungs})",
            "crop closer or give another photo; ffbench validate checks all references first",
        )
    track.save(cache)
    return track


def _threshold(cases: Mapping[str, Case], references: Mapping[str, FaceTrack]) -> tuple[float, str]:
    """Arc cosine that FALSE_ACCEPT_RATE of the suite's pairs of strangers exceed."""
    people = {case.identity_id: references[case.references[0].sha256] for case in cases.values()}
    rows = [track.embeddings["arc"][0] for track in people.values() if "arc" in track.embeddings]
    return identity.stranger_threshold(rows, FALSE_ACCEPT_RATE)


def _decoded(work: _Work, todo: Sequence[Generation]) -> Iterator[list[tuple[Generation, Clip | VideoError]]]:
    """Groups of videos, the next one decoding while this one is measured."""
    protocol = work.options.protocol
    samplers = sorted({protocol.face_sampler, protocol.text_sampler})
    size = work.options.batch
    # the first video alone: nothing else runs while it decodes
    groups = [todo[:1], *(todo[start : start + size] for start in range(1, len(todo), size))]

    def decode(group: Sequence[Generation]) -> list[tuple[Generation, Clip | VideoError]]:
        found: list[tuple[Generation, Clip | VideoError]] = []
        for generation in group:
            path = work.run.video(generation)
            try:
                if _sha256(path) != generation.video_sha256:
                    raise VideoError("the file has changed since it was made (sha256 differs)")
                found.append((generation, read_clip(path, samplers)))
            except FileNotFoundError:
                found.append((generation, VideoError("the file is gone")))
            except VideoError as error:
                found.append((generation, error))
        return found

    with ThreadPoolExecutor(1) as pool:
        ahead: Future[list[tuple[Generation, Clip | VideoError]]] = pool.submit(decode, groups[0])
        for following in [*groups[1:], None]:
            group = ahead.result()
            if following is not None:
                ahead = pool.submit(decode, following)
            yield group


def _measure_group(work: _Work, group: Sequence[tuple[Generation, Clip]]) -> None:
    """Track what is not cached, then append the scores of every video of the group in one write."""
    keys = [work.extractor.track_key(generation.video_sha256) for generation, _ in group]
    tracks = [_cached(work.run.track(key)) for key in keys]
    fresh = [i for i, track in enumerate(tracks) if track is None]
    for i, made in zip(fresh, work.extractor.track([group[i][1] for i in fresh]), strict=True):
        made.save(work.run.track(keys[i]))
        tracks[i] = made
    records: list[Score] = []
    for (generation, _), key, track in zip(group, keys, tracks, strict=True):
        if track is not None:
            records.extend(_scores(work, generation, key, track))
    work.run.append_scores(records)


def _scores(work: _Work, generation: Generation, key: str, track: FaceTrack) -> list[Score]:
    protocol = work.options.protocol
    case = work.cases[generation.case_id]
    prompt = work.prompts.get(case.prompt)
    scene = Scene(
        protocol=protocol,
        track=track,
        reference=work.references[case.references[0].sha256],
        prompt=None if prompt is None else prompt[0],
        sentences=None if prompt is None else prompt[1],
        no_prompt="the case has no prompt",
        threshold=work.threshold,
    )
    records = []
    for metric in protocol.metrics:
        if not is_video_metric(metric):
            continue
        measured = measure(metric, scene)
        records.append(
            Score(
                generation=generation.key,
                track=key,
                protocol=protocol.id,
                metric=metric,
                version=METRICS[metric].version,
                value=measured.value,
                reason=measured.reason,
                num_frames=len(track.clip_number) if metric.startswith("clip_") else len(track.number),
                num_scored=measured.num_scored,
                per_frame=measured.per_frame,
            )
        )
    return records


def _cached(path: Path) -> FaceTrack | None:
    """A cached track, or None where there is none or it cannot be read (then it is made anew)."""
    try:
        return FaceTrack.load(path) if path.is_file() else None
    except ValueError:
        return None


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
