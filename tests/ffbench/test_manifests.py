from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ffbench.errors import UserError
from ffbench.store import safe_name
from ffbench.suites.manifests import LONGEST_ID, Row, distinct_ids, read_table, slug, words_of


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_csv_keeps_quotes_commas_newlines_and_emoji(tmp_path: Path) -> None:
    text = 'a,b\n"says ""hi"", twice\n../line two",🙂\n'
    assert read_table(write(tmp_path / "t.csv", text), ("a", "b"), ("a",)) == [
        Row(3, {"a": 'says "hi", twice\n../line two', "b": "🙂"})
    ]


def test_csv_with_bom_crlf_and_blank_lines(tmp_path: Path) -> None:
    rows = read_table(write(tmp_path / "t.csv", b"\xef\xbb\xbfa,b\r\n\r\n1,\r\n , \r\n2,3\r\n"), ("a", "b"), ("a",))
    assert [row.values for row in rows] == [{"a": "1"}, {"a": "2", "b": "3"}]


def test_csv_splits_rows_at_line_ends_alone(tmp_path: Path) -> None:
    rows = read_table(write(tmp_path / "t.csv", "a\none\u2028line\x0bstill\n"), ("a",), ("a",))
    assert [row.values["a"] for row in rows] == ["one\u2028line\x0bstill"]


def test_jsonl_takes_numbers_and_lists(tmp_path: Path) -> None:
    lines = [{"a": 7, "tags": ["x", "y"], "other": None}, {"a": "z", "flag": True}]
    path = write(tmp_path / "t.jsonl", "\n\n".join(json.dumps(line) for line in lines))
    assert read_table(path, ("a", "tags"), ("a",)) == [Row(1, {"a": "7", "tags": "x;y"}), Row(3, {"a": "z"})]


@pytest.mark.parametrize(
    ("name", "text", "what"),
    [
        ("t.csv", b"a\n\xff\xfe\n", "not UTF-8 (byte 2)"),
        ("t.csv", "", "has no rows"),
        ("t.csv", "a,b\n", "has no rows"),
        ("t.csv", "a,b\n1,2,3\n", "t.csv:2 has 3 cells under 2 columns"),
        ("t.csv", "a,a\n1,2\n", "column 'a' twice"),
        ("t.csv", "a;b\n1;2\n", "separated by semicolons"),
        ("t.csv", 'a\n"x"y\n', "t.csv:2"),
        ("t.csv", "b\n1\n", "t.csv:2 has no 'a'"),
        ("t.csv", "a,promt\n1,2\n", "has a column 'promt'"),
        ("t.jsonl", "{}\n", "t.jsonl:1 has no 'a'"),
        ("t.jsonl", '{"a": 1}\n{oops\n', "t.jsonl:2 is no JSON"),
        ("t.jsonl", "[1]\n", "t.jsonl:1 is no JSON object"),
        ("t.jsonl", "[" * 100_000, "t.jsonl:1 is no JSON"),
        ("t.jsonl", '{"a": "\\ud800"}', "t.jsonl:1: 'a' holds a NUL or half a character"),
        ("t.jsonl", '{"a": "x\\u0000"}', "holds a NUL"),
        ("t.xlsx", "a", "is no table"),
    ],
)
def test_bad_tables_are_refused_in_two_lines(tmp_path: Path, name: str, text: str | bytes, what: str) -> None:
    with pytest.raises(UserError, match=re.escape(what)) as caught:
        read_table(write(tmp_path / name, text), ("a", "b", "prompt"), ("a",))
    assert len(str(caught.value).splitlines()) == 2
    assert str(tmp_path / name) in caught.value.what


def test_a_table_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        read_table(tmp_path / "gone.csv", ("a",), ("a",))


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("Anna Böhm", "anna-bohm"),
        ("../../etc/passwd", "etc-passwd"),
        ("a.b_c", "a-b-c"),
        ("--x--", "x"),
        ("ID 07", "id-07"),
        ("ﬁne", "fine"),
    ],
)
def test_slugs(name: str, made: str) -> None:
    assert slug(name) == made


@given(st.text(min_size=1, max_size=300).filter(str.strip))
def test_every_name_has_a_safe_id(name: str) -> None:
    made = slug(name)
    assert re.fullmatch(r"[a-z0-9][a-z0-9-]*", made)
    assert len(made) <= LONGEST_ID
    assert safe_name(made) == made
    assert slug(name) == made


def test_names_without_latin_letters_stay_apart() -> None:
    assert len({slug(name) for name in ("李明", "王芳", "🙂", "🙃", "…")}) == 5
    # one letter written in two ways is one name
    assert slug("\u00e9\u4e00") == slug("e\u0301\u4e00")


def test_long_names_stay_apart() -> None:
    assert slug("a" * 100) != slug("a" * 101)
    assert len(slug("a" * 100)) == LONGEST_ID
    assert "--" not in slug("ab-" * 100)


def test_ids_that_meet_are_refused_with_both_names() -> None:
    with pytest.raises(UserError, match=r"'Anna B' and 'anna-b' both have the id 'anna-b'"):
        distinct_ids(["Anna B", "x", "anna-b"], "identities")
    assert distinct_ids(["Anna", "B C"], "identities") == {"Anna": "anna", "B C": "b-c"}


def test_an_empty_name_is_refused() -> None:
    with pytest.raises(UserError, match="empty"):
        slug("  ")


def test_words_of_a_cell() -> None:
    assert words_of("a; b,c  d;") == ("a", "b", "c", "d")
