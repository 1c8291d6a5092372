"""`data build`: every source that has no outcome yet goes through the steps; then manifest, shards and card are made.

Workers look at sources in any order; what is made of the outcomes depends on the order of names alone.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout

from faithfulfaces.dataset import journal
from faithfulfaces.dataset.folder import Folder
from faithfulfaces.dataset.records import Outcome
from faithfulfaces.dataset.settings import Settings, from_table
from faithfulfaces.dataset.sources import Source
from faithfulfaces.dataset.workers import Plan, Stages, outcomes
from ffbench.durable import write_atomic
from ffbench.errors import UserError
from ffbench.progress import bar, note

AGAIN = frozenset({"crash", "timeout", "error"})
"""Reasons that another try may change."""
VERSION = 1
"""Of what the steps mean; a folder of another version is not gone on with."""


class Built(NamedTuple):
    """What a run of `build` did."""

    sources: int
    """Looked at now."""
    skipped: int
    """That an earlier run had finished."""
    failed: int
    """Among those looked at now."""


def build(plan: Plan, sources: Sequence[Source], *, retry: bool = False) -> Built:
    """Look at all sources that have no outcome, one journal line each; resumable after any kill.

    Args:
        plan: settings, folder, engine.
        sources: all of them.
        retry: look again at those that crashed, hung or met an error.

    Raises:
        UserError: the folder was built with other settings, is in use, or weights are missing.
    """
    folder = Folder(plan.root)
    try:
        folder.root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {folder.root}: {error}", "name a folder that can be written") from error
    with hold(folder):
        check_settings(folder, plan.settings)
        known = read_outcomes(folder)
        todo = [s for s in sources if _open(s, known.get(s.name), retry)]
        if not todo:
            return Built(0, len(sources), 0)
        failed = 0
        total: Stages = {}
        start = time.monotonic()
        with bar("clips", len(sources), "video", len(sources) - len(todo)) as shown:
            for done in outcomes(plan, todo):
                lost = any(clip.verdict == "failed" for clip in done.outcome.clips)
                failed += lost
                shown.advance(failed=int(lost))
                for name, (count, seconds) in done.stages.items():
                    before = total.get(name, (0, 0.0))
                    total[name] = (before[0] + count, before[1] + seconds)
        _log(folder, plan, len(todo), time.monotonic() - start, total)
        return Built(len(todo), len(sources) - len(todo), failed)


def read_outcomes(folder: Folder) -> dict[str, Outcome]:
    """Source -> its outcome, the last line of each.

    Raises:
        UserError: for a line that is no outcome; names it.
    """
    found: dict[str, Outcome] = {}
    for number, line in enumerate(journal.read(folder.journal), 1):
        try:
            outcome = Outcome.from_json(line)
        except (KeyError, TypeError) as error:
            raise UserError(
                f"{folder.journal}:{number}: no outcome of this version ({error!r})", "choose another --out"
            ) from error
        found[outcome.source] = outcome
    return found


@contextmanager
def hold(folder: Folder) -> Iterator[None]:
    """Within, no other command writes into the folder; what killed ones left half done is cleared first.

    Raises:
        UserError: another command is at it.
    """
    lock = FileLock(folder.root / ".lock", blocking=False)
    try:
        lock.acquire()
    except Timeout as error:
        raise UserError(f"another command is at work in {folder.root}", "wait for it to end") from error
    try:
        for leftover in folder.leftovers():
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        yield
    finally:
        lock.release()


def check_settings(folder: Folder, settings: Settings) -> None:
    """Write the folder's settings, or compare them with those it was begun with.

    Raises:
        UserError: they differ; names the first field.
    """
    wanted: dict[str, Any] = {"version": VERSION} | settings.to_json()
    # a run that ended before its first clip, such as for want of weights, has begun nothing
    if not folder.settings.is_file() or not folder.journal.is_file():
        write_atomic(folder.settings, (json.dumps(wanted, indent=1) + "\n").encode())
        return
    # a field that is younger than the folder has done nothing there
    found = _flat(Settings().to_json()) | _flat(read_settings(folder))
    for name, value in _flat(wanted).items():
        # what is made of the outcomes may be made again in another way
        if name.startswith("samples.") and name.removeprefix("samples.") in ("per_shard", "val", "seed"):
            continue
        if found.get(name) != value:
            raise UserError(
                f"{folder.root} was begun with {name} = {found.get(name)!r}, this call has {value!r}",
                "choose another --out: one folder holds clips of one kind",
            )


def read_settings(folder: Folder) -> dict[str, Any]:
    """Sections as they were written.

    Raises:
        UserError: the folder holds no build.
    """
    try:
        return dict(json.loads(folder.settings.read_text("utf-8")))
    except FileNotFoundError as error:
        raise UserError(f"{folder.root} holds no dataset build", "run `faithfulfaces data build` first") from error
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{folder.settings} cannot be read: {error}", "restore it, or build anew") from error


def settings_of(folder: Folder) -> Settings:
    """The settings that a folder was begun with.

    Raises:
        UserError: the folder holds no build, or one of another version.
    """
    table = {name: values for name, values in read_settings(folder).items() if name != "version"}
    return from_table(table, str(folder.settings))


def _open(source: Source, known: Outcome | None, retry: bool) -> bool:
    """Whether a source is to be looked at: it never was, its file is another, or it is to be tried again."""
    if known is None or known.bytes != _size(source.path):
        return True
    return retry and any(clip.reason in AGAIN for clip in known.clips)


def _flat(table: dict[str, Any]) -> dict[str, Any]:
    return {
        f"{section}.{name}" if isinstance(values, dict) else section: value
        for section, values in table.items()
        for name, value in (values.items() if isinstance(values, dict) else [("", values)])
    }


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _log(folder: Folder, plan: Plan, sources: int, seconds: float, stages: Stages) -> None:
    rates = {
        name: {
            "frames": count,
            "seconds": round(spent, 3),
            "frames_per_second": round(count / spent, 2) if spent else None,
        }
        for name, (count, spent) in stages.items()
    }
    journal.append(
        folder.log,
        {
            "sources": sources,
            "engine": plan.engine.kind,
            "workers": plan.engine.workers,
            "seconds": round(seconds, 3),
            "stages": rates,
        },
    )
    for name, rate in rates.items():
        note(f"{name:<9} {rate['frames']} frames  {rate['frames_per_second']} frames/s a process")
