from __future__ import annotations

import dataclasses
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ffbench.records import (
    Case,
    Cell,
    Generation,
    Reference,
    Score,
    derive_seed,
    digest,
    from_json,
    generation_key,
    to_json,
)

CASE = Case("mini", "1", "ann-boxing", "ann", (Reference("/x/ann.png", "ab", "frontal"),), "boxing", 'a "b"\n../ 🥊')
GENERATION = Generation(
    "ann-boxing", "mini", "1", "still", "1", {"width": 64, "shift": 3.0, "dtype": "bf16"}, 7, 0, "ok"
)


def test_records_survive_the_disk() -> None:
    for record in (CASE, GENERATION, Score("g", "t", "standard@1", "facesim_arc", 1, 0.5, "", 3, 2, (0.4, 0.6))):
        assert from_json(type(record), to_json(record)) == record


def test_nan_is_null_and_comes_back_with_its_reason() -> None:
    score = Score("g", "t", "standard@1", "facesim_arc", 1, math.nan, "no face", 2, 0, (math.nan, 0.5))
    line = to_json(score)
    assert "NaN" not in line
    back = from_json(Score, line)
    assert math.isnan(back.value)
    assert math.isnan(back.per_frame[0])
    assert back.reason == "no face"
    cell = Cell("s", "p", "m", "k", 1, "all", math.nan, math.nan, math.nan, 0, 0, 1, 2, math.nan, "nothing")
    assert math.isnan(from_json(Cell, to_json(cell)).low)


@pytest.mark.parametrize(("value", "reason"), [(math.nan, ""), (0.3, "no face")])
def test_a_missing_score_has_a_reason_and_a_number_has_none(value: float, reason: str) -> None:
    with pytest.raises(ValueError, match="reason"):
        Score("g", "t", "p", "m", 1, value, reason)


def test_infinity_is_refused() -> None:
    with pytest.raises(ValueError, match="infinite"):
        to_json(dataclasses.replace(GENERATION, seconds=math.inf))


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"colour": "red"}, "unknown fields"),
        ({"seed": None}, "seed"),
        ({"seed": True}, "seed"),
        ({"status": "fine"}, "status"),
        ({"schema": 2}, "schema"),
        ({"settings": []}, "settings"),
        ({"method": 3}, "method"),
    ],
)
def test_reading_is_strict(change: dict[str, object], word: str) -> None:
    data = json.loads(to_json(GENERATION)) | change
    with pytest.raises(ValueError, match=word):
        from_json(Generation, json.dumps(data))


def test_missing_fields_and_other_shapes_are_refused() -> None:
    data = json.loads(to_json(CASE))
    del data["prompt"]
    with pytest.raises(ValueError, match="missing fields"):
        from_json(Case, json.dumps(data))
    with pytest.raises(ValueError, match="expected an object"):
        from_json(Case, "[]")
    with pytest.raises(ValueError, match="references"):
        from_json(Case, json.dumps(json.loads(to_json(CASE)) | {"references": ["x"]}))


def test_the_key_holds_what_the_video_depends_on_and_nothing_else() -> None:
    changes: dict[str, object] = {
        "case_id": "bob-boxing",
        "suite_version": "2",
        "method": "sway",
        "revision": "2",
        "seed": 8,
        "settings": {"width": 32, "shift": 3.0, "dtype": "bf16"},
    }
    for name, value in changes.items():
        assert dataclasses.replace(GENERATION, **{name: value}).key != GENERATION.key, name  # type: ignore[arg-type]
    same = dataclasses.replace(GENERATION, seconds=3.0, provenance={"gpu": "x"}, utc="now", status="failed", error="e")
    assert same.key == GENERATION.key
    assert GENERATION.key == generation_key("mini", "1", "ann-boxing", "still", "1", GENERATION.settings, 7)
    reordered = dataclasses.replace(GENERATION, settings=dict(reversed(list(GENERATION.settings.items()))))
    assert reordered.key == GENERATION.key
    assert GENERATION.handle == "mini@1/still/ann-boxing-s0"


def test_seeds_are_shared_by_methods_and_differ_between_takes() -> None:
    seeds = {derive_seed("mini", case, take) for case in ("a", "b", "c") for take in range(50)}
    assert len(seeds) == 150
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert derive_seed("mini", "a", 0) == derive_seed("mini", "a", 0)


@given(st.text(), st.text())
def test_digest_tells_fields_apart(a: str, b: str) -> None:
    assert (digest([a, b]) == digest([a + b, ""])) == (b == "")
    assert len(digest(a)) == 16


@given(st.text(max_size=3000))
def test_any_prompt_survives(prompt: str) -> None:
    case = dataclasses.replace(CASE, prompt=prompt.encode("utf-8", "ignore").decode())
    line = to_json(case)
    assert "\n" not in line
    assert from_json(Case, line) == case
