"""What people say of clips: a log that only grows, what it settles, and how far reviewers agree.

Two questions are asked. `pose`, the criterion of Section 3.4: does the face go from frontal to profile or back, or move
far up or down? Its answers calibrate the threshold. `sample`: is this a good training sample?
"""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import RLock
from typing import NamedTuple

from faithfulfaces.dataset import journal
from ffbench.errors import UserError

QUESTIONS: Mapping[str, tuple[str, str]] = {"pose": ("qualified", "unqualified"), "sample": ("accept", "reject")}
"""The two answers to each question; an empty one takes an answer back."""
REVIEWER = re.compile(r"[^\W_](?:[\w .@-]{0,38}[\w.])?")
"""Names of reviewers."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One line of reviews.jsonl; the last of a reviewer, clip and question counts."""

    id: str
    """Made by the page; an answer that is sent twice is kept once."""
    reviewer: str
    key: str
    """The clip."""
    question: str
    value: str
    blind: bool
    """Given without having seen the angles and the verdict."""
    utc: str


class Agreement(NamedTuple):
    """Two reviewers, over the clips that both answered."""

    question: str
    reviewers: tuple[str, str]
    clips: int
    same: float
    """Share of equal answers."""
    kappa: float
    """NaN where both gave one and the same answer throughout: there is nothing to agree on by chance or otherwise."""


class Log:
    """reviews.jsonl as it grows; several threads and processes may use it at once."""

    def __init__(self, path: Path) -> None:
        self._journal = journal.Follower(path)
        self._answers: list[Answer] = []
        self._ids: set[str] = set()
        self._lock = RLock()

    def answers(self) -> list[Answer]:
        """Every answer so far, in order.

        Raises:
            UserError: for a line that is no answer.
        """
        with self._lock:
            for record in self._journal.news():
                try:
                    answer = Answer(**record)
                    if answer.value not in ("", *QUESTIONS[answer.question]):
                        raise ValueError(answer.value)
                except (TypeError, KeyError, ValueError) as error:
                    raise UserError(
                        f"{self._journal.path}:{self._journal.line} is no answer of a review",
                        "restore the file, or delete that line",
                    ) from error
                self._answers.append(answer)
                self._ids.add(answer.id)
            return list(self._answers)

    def add(self, answer: Answer) -> None:
        """Write an answer down; it is on the disk when this returns. One whose id is known already is not written."""
        with self._lock:
            self.answers()
            if answer.id not in self._ids:
                journal.append(self._journal.path, asdict(answer))
                self._ids.add(answer.id)


def read(path: Path) -> list[Answer]:
    """Every answer of a log, in order.

    Raises:
        UserError: for a line that is no answer.
    """
    return Log(path).answers()


def standing(answers: Sequence[Answer], question: str) -> dict[str, dict[str, Answer]]:
    """The answers that count: of each reviewer, by clip."""
    found: dict[str, dict[str, Answer]] = defaultdict(dict)
    for answer in answers:
        if answer.question == question:
            found[answer.reviewer][answer.key] = answer
    kept = {who: {key: a for key, a in given.items() if a.value} for who, given in sorted(found.items())}
    return {who: given for who, given in kept.items() if given}


def settled(answers: Sequence[Answer], question: str) -> dict[str, str]:
    """What most reviewers of each clip say; empty where as many say one as the other."""
    votes: dict[str, Counter[str]] = defaultdict(Counter)
    for given in standing(answers, question).values():
        for key, answer in given.items():
            votes[key][answer.value] += 1
    yes, no = QUESTIONS[question]
    return {key: "" if count[yes] == count[no] else max(count, key=count.__getitem__) for key, count in votes.items()}


def agreements(answers: Sequence[Answer]) -> list[Agreement]:
    """Every pair of reviewers with clips in common."""
    found = []
    for question in QUESTIONS:
        given = standing(answers, question)
        for one, other in itertools.combinations(given, 2):
            common = sorted(given[one].keys() & given[other].keys())
            if common:
                values = [(given[one][key].value, given[other][key].value) for key in common]
                same = sum(a == b for a, b in values) / len(values)
                found.append(Agreement(question, (one, other), len(values), same, kappa(values)))
    return found


def kappa(pairs: Sequence[tuple[str, str]]) -> float:
    """Agreement of two raters beyond chance: (p_o - p_e) / (1 - p_e) (Cohen 1960); NaN where p_e is 1.

    Args:
        pairs: what both say of each clip; at least one.
    """
    count = len(pairs)
    first, second = Counter(a for a, _ in pairs), Counter(b for _, b in pairs)
    # in whole numbers, so that equal margins cancel exactly
    chance = sum(first[value] * second[value] for value in first)
    same = count * sum(a == b for a, b in pairs)
    return float("nan") if chance == count * count else (same - chance) / (count * count - chance)


def labels_csv(answers: Sequence[Answer]) -> str:
    """The pose answers as `faithfulfaces data calibrate --labels` reads them: clip, qualified (1 or 0), reviewer."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("clip", "qualified", "reviewer"))
    for who, given in standing(answers, "pose").items():
        for key, answer in sorted(given.items()):
            writer.writerow((key, int(answer.value == QUESTIONS["pose"][0]), who))
    return text.getvalue()
