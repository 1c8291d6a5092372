"""Sources go to the workers of an engine one by one; one that kills its worker, or hangs, costs that source."""

from __future__ import annotations

import dataclasses
import signal
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from faithfulfaces.dataset import journal
from faithfulfaces.dataset.folder import Folder
from faithfulfaces.dataset.records import ClipRecord, Outcome
from faithfulfaces.dataset.settings import Settings
from faithfulfaces.dataset.sources import Source, clip_key
from ffbench.engine import Engine, Job, Result, Task, open_pool
from ffbench.errors import UserError

if TYPE_CHECKING:
    from faithfulfaces.dataset.clip import Analyst

Stages = dict[str, tuple[int, float]]
WORKER = "faithfulfaces.dataset.workers:ClipWorker"
ONE = Engine("local", workers=1)
"""Never `here`: a crash would cost the build."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is done, and where."""

    settings: Settings
    root: Path
    """Of the build; on a cluster every machine sees it, and the videos, under the same path."""
    engine: Engine = ONE
    timeout: float = 1800.0
    """Seconds after which a source counts as hanging."""


class Done(NamedTuple):
    """A source's outcome, and (frames, seconds) of each stage."""

    outcome: Outcome
    stages: Stages


class ClipWorker:
    """Opens the networks once, then looks at source after source. See `ffbench.engine.Worker`.

    An outcome is in the journal, and on the disk, before it is handed back.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._analyst: Analyst | None = None

    def open(self) -> None:
        """Load the networks; each runs on one thread, since clips run side by side."""
        import cv2

        from faithfulfaces.dataset.clip import Analyst
        from faithfulfaces.dataset.instruments import open_instruments

        plan = self._plan
        if plan.engine.device == "cpu":
            cv2.setNumThreads(1)
        self._analyst = Analyst(plan.settings, open_instruments(plan.settings, plan.engine.device), Folder(plan.root))

    def do(self, source: Source) -> Done:
        """Look at one source; a process that hangs in it is ended by SIGALRM, even inside a decoder."""
        assert self._analyst is not None
        self._analyst.timing.clear()
        signal.setitimer(signal.ITIMER_REAL, self._plan.timeout)
        try:
            done = Done(self._analyst.outcome(source), self._analyst.timing.stages())
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        journal.append(Folder(self._plan.root).journal, done.outcome.to_json())
        return done

    def close(self) -> None:
        """Let go of the networks."""
        self._analyst = None


def outcomes(plan: Plan, sources: Sequence[Source]) -> Iterator[Done]:
    """Outcomes of all sources in the order in which they are done; each is in the journal.

    A source whose process dies or hangs is tried once more in a new process, since memory may have been short by
    another's fault; after the second death it is a failed record.

    Raises:
        UserError: what the processes need is missing, or the disk is full: nothing can be done for any source.
    """
    lines = Folder(plan.root).journal
    news, written = journal.Follower(lines), {}
    deque(news.news(), maxlen=0)  # of earlier commands

    def finished(source: Source) -> Done | None:
        for line in news.news():
            outcome = Outcome.from_json(line)
            written[outcome.source] = outcome
        return Done(written[source.name], {}) if source.name in written else None

    job = Job(
        WORKER,
        dataclasses.replace(plan, root=plan.root.absolute()),
        [Task(source._replace(path=source.path.absolute())) for source in sources],
        gpus=int(plan.engine.device == "cuda"),
        finished=finished,
        deadly=True,
    )
    with open_pool(plan.engine) as pool:
        try:
            for result in pool.run([job]):
                done = _lost(sources[result.task], result) if result.error else result.value
                if result.error:
                    journal.append(lines, done.outcome.to_json())
                yield done
        except OSError as error:
            raise UserError(f"{plan.root} cannot be written: {error}", "make room; the same command goes on") from error


def _lost(source: Source, result: Result) -> Done:
    """The record of a source that raised, or that cost two workers."""
    reason, detail = "error", result.error
    if result.lost:
        # a cluster may not say by which signal a worker died; then a hang counts as a crash
        reason = "timeout" if signal.SIGALRM.name in result.error else "crash"
        detail = f"two workers died over it; the last: {result.error}"
    size = source.path.stat().st_size if source.path.is_file() else 0
    record = ClipRecord(
        key=clip_key(source.name, 0), source=source.name, source_bytes=size, reason=reason, detail=detail[:500]
    )
    return Done(Outcome(source=source.name, bytes=size, clips=(record,)), {})
