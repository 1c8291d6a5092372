"""One thing whole: a datum's way from the case to its scores, a protocol's recipe, a metric, a method's card."""

from __future__ import annotations

import difflib
import math
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ffbench import offload
from ffbench.errors import UserError
from ffbench.extract.track import FaceTrack
from ffbench.metrics.catalog import METRICS
from ffbench.protocols import PROTOCOLS, Protocol
from ffbench.records import Case, Generation, Score, digest
from ffbench.store import Run, find_runs

if TYPE_CHECKING:
    from ffbench.cards import Card, Price

_PREFIX = re.compile(r"[0-9a-f]{4,16}")
_BARS = "▁▂▃▄▅▆▇█"
_INDENT = 12
_WIDTH = 120


def show(key: str, root: Path) -> str:
    """Everything about what `key` names.

    Args:
        key: a handle (`suite@version/method/case-s0`), the first digits of a generation key, a protocol, a metric or a
            method.
        root: folder below which runs are looked for.

    Raises:
        UserError: if nothing, or more than one thing, goes by that name.
    """
    if "/" not in key:
        pages = [_protocol(one) for one in PROTOCOLS.values() if key in (one.name, one.id)]
        pages += [_metric(metric) for metric, info in METRICS.items() if key in (metric, info.title)]
        # `consisid` is a protocol and a method, `consisid@1` the protocol alone
        if not (pages and "@" in key) and (card := _method(key)) is not None:
            pages.append(_card(card))
        if pages:
            return "\n\n".join(pages)
    found = [
        (run, generation)
        for run in find_runs(root)
        for generation in run.generations().values()
        if key == generation.handle or (_PREFIX.fullmatch(key) and generation.key.startswith(key))
    ]
    if len(found) > 1:
        keys = ", ".join(f"{generation.key} ({run.root})" for run, generation in found[:5])
        raise UserError(f"{key} fits {len(found)} videos: {keys}", "give the first digits of one key")
    if not found:
        raise UserError(f"nothing is called {key!r}", _nearest(key, root))
    return datum(*found[0])


def datum(run: Run, generation: Generation) -> str:
    """The way of one video: case, generation, then track and scores under each protocol."""
    case = run.cases().get(generation.case_id)
    parts = [f"{generation.handle}  (key {generation.key}, {run.root})", *_case(case, generation)]
    parts += _generation(generation)
    by_protocol: dict[str, list[Score]] = {}
    for score in run.scores().values():
        if score.generation == generation.key:
            by_protocol.setdefault(score.protocol, []).append(score)
    for protocol, scores in sorted(by_protocol.items()):
        path = run.track(scores[0].track)
        track = FaceTrack.load(path) if path.is_file() else None
        parts += _track(protocol, scores[0].track, track)
        parts += _scores(scores, run.meta().get("scoring", {}).get(protocol, {}))
    if generation.status == "ok" and not by_protocol:
        parts += _field("scores", ["none yet: ffbench score"])
    return "\n".join(parts)


def _field(name: str, lines: Sequence[str]) -> list[str]:
    wrapped = [part for line in lines for part in textwrap.wrap(line, _WIDTH, subsequent_indent="  ") or [""]]
    return [f"{name if i == 0 else '':<{_INDENT}}{line}" for i, line in enumerate(wrapped)]


def _case(case: Case | None, generation: Generation) -> list[str]:
    if case is None:
        return _field("case", [f"{generation.case_id}: cases.jsonl does not hold it"])
    views = ", ".join(f"{ref.sha256[:8]}…{' ' + ref.view if ref.view else ''} {ref.path}" for ref in case.references)
    lines = [f"{case.identity_id} x {case.prompt_id or '(no prompt)'}", f"reference {views}"]
    if case.prompt:
        lines.append(f'"{" ".join(case.prompt.split())}"')
    if case.tags:
        lines.append(f"tags {', '.join(case.tags)}")
    return _field("case", lines)


def _generation(generation: Generation) -> list[str]:
    settings = ", ".join(f"{name}={value}" for name, value in sorted(generation.settings.items()))
    head: list[str] = [generation.status]
    if not math.isnan(generation.seconds):
        head.append(f"{generation.seconds:.1f} s")
    if not math.isnan(generation.peak_gib):
        head.append(f"peak {generation.peak_gib:.1f} GiB")
    head += [f"revision {generation.revision}", f"seed {generation.seed} (hash of the case and take {generation.take})"]
    lines = [", ".join(head), f"settings {digest(dict(generation.settings), 8)}…: {settings or 'none'}"]
    if generation.video:
        lines.append(f"video {generation.video_sha256[:8]}… {generation.video}")
    if generation.error:
        lines.append(f"error: {generation.error}")
    facts = [f"{name} {value}" for name, value in _flat(generation.provenance)]
    if facts or generation.utc:
        lines.append(", ".join([generation.utc, *facts]).strip(", "))
    return _field("generation", lines)


def _flat(facts: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in facts.items():
        if isinstance(value, Mapping):
            yield from _flat(value, prefix if name == "packages" else f"{prefix}{name}.")
        elif value not in ("", None):
            yield f"{prefix}{name}", value


def _track(protocol: str, key: str, track: FaceTrack | None) -> list[str]:
    if track is None:
        return _field("track", [f"{key} under {protocol}: the file is not kept with this run"])
    total, faces = len(track.number), int(track.found.sum())
    without = [str(number) for number in track.number[~track.found].tolist()]
    when = f" from {track.time[0]:.2f} to {track.time[-1]:.2f} s" if total else ""
    head = f"{total} frames sampled{when}, faces in {faces}"
    head += f" (none in frame {', '.join(without)})" if without and faces else ""
    lines = [f"{head}; {track.size[0]}x{track.size[1]} px, under {protocol}, key {key[:8]}…"]
    for name, column in (("pitch", 0), ("yaw", 1), ("roll", 2)):
        angles = track.angles[:, column]
        if np.isfinite(angles).any():
            lines.append(f"{name:<5} {np.nanmin(angles):+.0f}..{np.nanmax(angles):+.0f} degrees")
    steps = sorted({step for step in track.step if step})
    if steps:
        lines.append("found at " + ", ".join(f"{step} ({track.step.count(step)})" for step in steps))
    if int(track.num_faces.max(initial=0)) > 1:
        lines.append(f"up to {int(track.num_faces.max())} faces in a frame; the largest is measured")
    return _field("track", lines)


def _scores(scores: Sequence[Score], facts: Mapping[str, Any]) -> list[str]:
    titles = {
        score.metric: METRICS[score.metric].title if score.metric in METRICS else score.metric for score in scores
    }
    width = max((len(titles[score.metric]) for score in scores if not math.isnan(score.value)), default=0)
    lines = []
    unscored: dict[str, list[str]] = {}
    for score in scores:
        head = f"{titles[score.metric]:<{width}}  "
        if math.isnan(score.value):
            unscored.setdefault(score.reason, []).append(titles[score.metric])
            continue
        places = METRICS[score.metric].decimals if score.metric in METRICS else 3
        count = f"{score.num_scored} of {score.num_frames}"
        lines.append(f"{head}{score.value:.{places}f}  {count}  {_spark(score.per_frame)}".rstrip())
    lines += [f"not scored: {', '.join(names)}: {reason}" for reason, names in unscored.items()]
    networks = facts.get("networks", {})
    if networks:
        lines.append("networks " + ", ".join(f"{slot} {networks[slot]}" for slot in sorted(networks)))
    return _field("scores", lines)


def _spark(values: Sequence[float]) -> str:
    """Per-frame values as bars between their least and largest; a dot where a frame has none."""
    known = [value for value in values if not math.isnan(value)]
    if not known or min(known) == max(known):
        return ""
    low, span = min(known), max(known) - min(known)
    bars = "".join("·" if math.isnan(v) else _BARS[round((v - low) / span * (len(_BARS) - 1))] for v in values)
    return f"{bars}  {min(known):.2f}..{max(known):.2f}"


def _protocol(protocol: Protocol) -> str:
    lines = [f"{protocol.id}: {protocol.summary}"]
    lines += _field("frames", [f"faces {protocol.face_sampler}, text {protocol.text_sampler}"])
    lines += _field("detection", [" -> ".join(protocol.ladder)])
    lines += _field(
        "networks",
        [
            " ".join([f"{slot}: {net.kind}", net.weights, *(f"{name}={value}" for name, value in net.options)]).rstrip()
            for slot, net in protocol.networks.items()
        ],
    )
    rules = {
        "cosines clamped at 0": protocol.clamp,
        "zeros dropped from the mean": protocol.drop_zeros,
        "a faceless video counts as 0": protocol.faceless_as_zero,
        "CLIP sees BGR": protocol.clip_colour == "bgr",
    }
    lines += _field("rules", [rule for rule, holds in rules.items() if holds] or ["raw cosines, missing is missing"])
    lines += _field(
        "metrics", [f"{metric} v{METRICS[metric].version}: {METRICS[metric].title}" for metric in protocol.metrics]
    )
    return "\n".join(lines + _field("notes", protocol.notes))


def _metric(metric: str) -> str:
    info = METRICS[metric]
    better = {True: "higher is better", False: "lower is better", None: "neither direction is better"}
    lines = [
        f"{metric} version {info.version}: {info.title}; {better[info.higher_is_better]}; a value per {info.level}"
    ]
    lines += _field("what", [info.summary])
    lines += _field("needs", [", ".join(info.needs) or "nothing"])
    return "\n".join(lines + _field("protocols", [p.id for p in PROTOCOLS.values() if metric in p.metrics] or ["none"]))


def _method(name: str) -> Card | None:
    from ffbench.methods import find, names

    return find(name) if name.partition("@")[0] in names() else None


def _card(card: Card) -> str:
    lines = [f"{card.name} ({card.kind}, revision {card.revision}): {card.summary}"]
    facts = {
        "paper": card.paper,
        "code": " ".join([card.repository, card.commit]).strip(),
        "licence": card.licence,
        "reference": card.preprocessing,
        "dropped": card.dropped,
    }
    for name, value in facts.items():
        lines += _field(name, [value] if value else [])
    base = card.name.partition("@")[0]
    lines += _field("settings", [f"{name} = {value!r}" for name, value in card.settings.items()])
    lines += _field("variants", [f"{base}@{v}: {_pairs(changes)}" for v, changes in card.variants.items()])
    lines += _field("suites", [f"{suite}...: {_pairs(changes)}" for suite, changes in card.suites.items()])
    lines += _field("weights", [f"{w.name} {w.revision} sha256 {w.sha256} {w.licence}".rstrip() for w in card.weights])
    lines += _field("memory", [f"{m.gib:g} GiB: {m.configuration} ({m.source})" for m in card.memory])
    lines += _field("offload", [offload.plan(card.parts)] if card.parts else [])
    lines += _field("price", [_price(price) for price in card.price])
    lines += _field("differs", list(card.deviations))
    runs_in = "this one" if card.environment == "embedded" else f"its own, Python {card.python}, {card.environment}"
    return "\n".join([*lines, *_field("environment", [runs_in])])


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} = {value!r}" for name, value in values.items())


def _price(price: Price) -> str:
    usd = f"${price.usd:g} a video" if isinstance(price.usd, float) else f"a video: {price.usd}"
    unit = f", ${price.unit_usd:g} a {price.unit}" if isinstance(price.unit_usd, float) else ""
    when = "".join(f", {key}={value}" for key, value in price.when.items())
    return f"{usd}{unit}{when} ({price.date}: {price.source})"


def _nearest(key: str, root: Path) -> str:
    from ffbench.methods import names

    handles = [generation.handle for run in find_runs(root) for generation in run.generations().values()]
    close = difflib.get_close_matches(key, [*handles, *PROTOCOLS, *METRICS, *names()], n=3, cutoff=0.5)
    return f"did you mean {' or '.join(close)}?" if close else "ffbench ls runs | methods | metrics | protocols"
