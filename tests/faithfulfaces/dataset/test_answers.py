"""Answers of people: the log, what it settles, Cohen's kappa against scikit-learn."""

from __future__ import annotations

import csv
import io
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from faithfulfaces.dataset import answers, journal
from faithfulfaces.dataset.answers import REVIEWER, Answer
from ffbench.errors import UserError


def said(reviewer: str, key: str, value: str, question: str = "pose", number: int = 0) -> Answer:
    return Answer(
        id=f"{reviewer}-{key}-{number}", reviewer=reviewer, key=key, question=question, value=value, blind=False,
        utc="2026-01-01T00:00:00+00:00",
    )  # fmt: skip


def test_the_last_answer_counts_and_an_empty_one_takes_back(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "reviews.jsonl"
    given = [
        said("ann", "a", "qualified"),
        said("ann", "a", "unqualified", number=1),
        said("ann", "b", "qualified"),
        said("ann", "b", "", number=1),
        said("bob", "a", "qualified"),
        said("bob", "c", "reject", "sample"),
    ]
    log, other = answers.Log(path), answers.Log(path)
    for answer in [*given, given[0]]:
        log.add(answer)
    assert answers.read(path) == log.answers() == other.answers() == given
    standing = answers.standing(given, "pose")
    assert {who: {key: a.value for key, a in one.items()} for who, one in standing.items()} == {
        "ann": {"a": "unqualified"},
        "bob": {"a": "qualified"},
    }
    assert answers.settled(given, "pose") == {"a": ""}
    assert answers.settled([*given, said("cy", "a", "qualified")], "pose") == {"a": "qualified"}
    assert answers.settled(given, "sample") == {"c": "reject"}


def test_labels_are_a_row_a_reviewer_and_clip() -> None:
    text = answers.labels_csv([said("b, ob", "x", "qualified"), said("ann", "y", "unqualified")])
    assert list(csv.DictReader(io.StringIO(text))) == [
        {"clip": "y", "qualified": "0", "reviewer": "ann"},
        {"clip": "x", "qualified": "1", "reviewer": "b, ob"},
    ]


@pytest.mark.parametrize("seed", range(20))
def test_kappa_is_that_of_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    one = rng.random(rng.integers(2, 60)) < rng.random()
    other = np.where(rng.random(len(one)) < 0.3, rng.random(len(one)) < 0.5, one)
    if one.all() or not one.any():
        one[0] = not one[0]
    words = np.array(["unqualified", "qualified"])
    pairs = list(zip(words[one.astype(int)].tolist(), words[other.astype(int)].tolist(), strict=True))
    assert answers.kappa(pairs) == pytest.approx(cohen_kappa_score(one, other), abs=1e-12)


def test_kappa_by_hand() -> None:
    # p_o = 35/50, p_e = (25 x 30 + 25 x 20) / 50^2 = 0.5
    pairs = [("y", "y")] * 20 + [("y", "n")] * 5 + [("n", "y")] * 10 + [("n", "n")] * 15
    assert answers.kappa(pairs) == pytest.approx(0.4)
    assert answers.kappa([("y", "y"), ("n", "n")]) == 1
    assert answers.kappa([("y", "n"), ("n", "y")]) == -1
    assert math.isnan(answers.kappa([("y", "y")] * 3))


def test_agreement_is_over_common_clips_of_each_pair() -> None:
    given = [
        *(said("ann", key, "qualified") for key in "abc"),
        *(said("bob", key, value) for key, value in (("b", "qualified"), ("c", "unqualified"), ("d", "qualified"))),
        said("cy", "z", "qualified"),
        said("ann", "a", "accept", "sample"),
        said("cy", "a", "reject", "sample"),
    ]
    found = answers.agreements(given)
    assert [(one.question, one.reviewers, one.clips, one.same) for one in found] == [
        ("pose", ("ann", "bob"), 2, 0.5),
        ("sample", ("ann", "cy"), 1, 0.0),
    ]


@pytest.mark.parametrize(
    "line",
    [
        '{"id": "1"}',
        '{"id":"1","reviewer":"a","key":"k","question":"pose","value":"maybe","blind":false,"utc":""}',
        '{"id":"1","reviewer":"a","key":"k","question":"age","value":"","blind":false,"utc":""}',
    ],
)
def test_lines_that_are_no_answers_are_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "r.jsonl").write_text(line + "\n")
    log = answers.Log(tmp_path / "r.jsonl")
    for _ in range(2):
        with pytest.raises(UserError, match=r"r\.jsonl:1 is no answer"):
            log.answers()


@pytest.mark.parametrize(
    ("name", "fits"),
    [
        *((name, True) for name in ("ann", "Ann B.-C", "Bob B.", "Žofie", "a", "ann@lab", "x" * 40)),
        *((name, False) for name in ("", " ann", "ann ", "ann -", "a\nb", "<b>", "x" * 41)),
    ],
)
def test_names_of_reviewers(name: str, fits: bool) -> None:
    assert bool(REVIEWER.fullmatch(name)) == fits


def test_processes_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from faithfulfaces.dataset import journal\n"
        "for n in range(50): journal.append(Path(sys.argv[1]), {'n': n, 'who': sys.argv[2]})"
    )
    path = tmp_path / "r.jsonl"
    started = [subprocess.Popen([sys.executable, "-c", code, str(path), who]) for who in "abc"]
    assert [process.wait() for process in started] == [0, 0, 0]
    found = [(record["who"], record["n"]) for record in journal.read(path)]
    assert sorted(found) == [(who, n) for who in "abc" for n in range(50)]


def test_a_torn_line_is_cut_before_the_next(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    journal.append(path, {"a": 1})
    whole = path.read_bytes()
    for torn in (whole + b'{"a": "' + b"x" * 100_000, b"torn"):
        path.write_bytes(torn)
        assert list(journal.read(path)) == ([{"a": 1}] if torn.startswith(whole) else [])
        journal.append(path, {"b": "é"})
        assert list(journal.read(path)) == ([{"a": 1}] if torn.startswith(whole) else []) + [{"b": "é"}]


def test_journals_name_damaged_lines(tmp_path: Path) -> None:
    for line in ("[1]", "{1", "\udcff"):
        (tmp_path / "j.jsonl").write_bytes(b'{"a": 1}\n' + line.encode("utf-8", "surrogateescape") + b"\n")
        with pytest.raises(UserError, match=r"j\.jsonl:2"):
            list(journal.read(tmp_path / "j.jsonl"))
    with pytest.raises(ValueError, match="JSON compliant"):
        journal.append(tmp_path / "j.jsonl", {"a": math.nan})
