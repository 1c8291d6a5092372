"""Progress of long work on stderr: a bar on a terminal, a sparse plain line elsewhere. stdout is never touched."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

T = TypeVar("T")
OPENING_SHARE = 50
"""The first fiftieth of the work, at most one unit of each of this many workers, does not count into the rate."""
MOST_WORKERS = 64
PLAIN_SECONDS = 30.0
"""Without a terminal a line is written at most this often, and one at the end."""


class _View(Protocol):
    def show(self, done: int, total: int | None, facts: str) -> None: ...

    def close(self, facts: str) -> None: ...


class Bar:
    """Counts work done. Made by `bar`; may be advanced from several threads."""

    def __init__(self, view: _View, total: int | None, unit: str, done: int) -> None:
        self.done = done
        self.failed = 0
        self._unit = unit
        self._view = view
        self._lock = threading.Lock()
        self._begin(done, total)

    def _begin(self, done: int, total: int | None) -> None:
        self._before = done
        self._total = total
        self._start = time.monotonic()
        self._mark: tuple[int, float] | None = None

    def advance(self, n: int = 1, *, failed: int = 0) -> None:
        """Count `n` more units done, of which `failed` did not succeed."""
        with self._lock:
            self.done += n
            self.failed += failed
            if self._mark is None and self.done - self._before >= self._opening():
                self._mark = (self.done, time.monotonic())
            self._view.show(self.done, self._total, self._facts())

    def restart(self, done: int, total: int | None = None) -> None:
        """Begin anew at `done` units, for work that starts over or learns its `total` late."""
        with self._lock:
            self.done = done
            self._begin(done, self._total if total is None else total)
            self._view.show(self.done, self._total, self._facts())

    def close(self) -> None:
        """Show the last state. `bar` calls it."""
        with self._lock:
            self._view.close(self._facts(final=True))

    def _facts(self, final: bool = False) -> str:
        now = time.monotonic()
        seconds = now - self._start
        rate = (self.done - self._before) / seconds if seconds > 0 else 0.0
        if self._mark and self.done > self._mark[0] and now > self._mark[1] and not final:
            rate = (self.done - self._mark[0]) / (now - self._mark[1])
        return facts(self.done, self._total, self._unit, rate, self.failed, took=seconds if final else None)

    def _opening(self) -> int:
        """Units after which the rate is counted: the first of each worker came with the loading of networks."""
        todo = (self._total or 0) - self._before
        return max(1, min(todo // OPENING_SHARE, MOST_WORKERS))


def facts(done: int, total: int | None, unit: str, rate: float, failed: int, took: float | None = None) -> str:
    """What stands behind a bar: done/total, rate, time left or taken, failures.

    Args:
        done: units done so far, those of an earlier run included.
        total: units in all; None where nobody knows.
        unit: name of a unit; `B` counts bytes and is printed in MB.
        rate: units a second; 0 while unknown.
        failed: units among `done` that failed.
        took: seconds the whole work took, once it is over.
    """
    scale, name = (1e6, "MB") if unit == "B" else (1.0, unit)
    digits = 1 if unit == "B" else 0
    count = f"{done / scale:.{digits}f}" + ("" if total is None else f"/{total / scale:.{digits}f}")
    parts = [f"{count} MB" if unit == "B" else count]
    if rate > 0:
        parts.append(f"{rate / scale:.1f} {name}/s" if rate / scale >= 0.1 else f"{scale / rate:.0f} s/{name}")
    if took is not None:
        parts.append(f"{clock(took)} in all")
    elif total is not None and rate > 0:
        parts.append(f"{clock((total - done) / rate)} left")
    if failed or unit != "B":
        parts.append(f"failed {failed}")
    return "  ".join(parts)


def clock(seconds: float) -> str:
    """Seconds as `mm:ss`, or `h:mm:ss` from an hour on."""
    whole = max(0, round(seconds))
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes:02d}:{rest:02d}"


def note(line: str) -> None:
    """Write one line to stderr."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


@contextmanager
def bar(label: str, total: int | None, unit: str = "item", done: int = 0) -> Iterator[Bar]:
    """Show progress while the block runs.

    Args:
        label: what is being done, one or two words.
        total: units in all; None where nobody knows.
        unit: name of a unit, singular; `B` for bytes.
        done: units that an earlier run did; they do not count into the rate.
    """
    on_terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
    view: _View = _Rich(label, total, done) if on_terminal else _Plain(label)
    shown = Bar(view, total, unit, done)
    try:
        yield shown
    finally:
        shown.close()


def track(items: Iterable[T], label: str, unit: str = "item") -> Iterator[T]:
    """Yield the items while a bar counts them."""
    with bar(label, len(items) if isinstance(items, Sized) else None, unit) as shown:
        for item in items:
            yield item
            shown.advance()


class _Plain:
    def __init__(self, label: str) -> None:
        self._label = label
        self._last = time.monotonic()

    def show(self, done: int, total: int | None, facts: str) -> None:
        now = time.monotonic()
        if now - self._last >= PLAIN_SECONDS:
            self._last = now
            note(f"{self._label:<9} {facts}")

    def close(self, facts: str) -> None:
        note(f"{self._label:<9} {facts}")


class _Rich:
    # rich honours NO_COLOR by itself
    def __init__(self, label: str, total: int | None, done: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        columns = (
            TextColumn("{task.description:<9}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[facts]}", markup=False),
        )
        self._progress: Progress = Progress(*columns, console=Console(file=sys.stderr))
        self._task: TaskID = self._progress.add_task(label, total=total, completed=done, facts="")
        self._progress.start()

    def show(self, done: int, total: int | None, facts: str) -> None:
        self._progress.update(self._task, completed=done, total=total, facts=facts)

    def close(self, facts: str) -> None:
        self._progress.update(self._task, facts=facts)
        self._progress.stop()
