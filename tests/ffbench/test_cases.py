from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ffbench.errors import UserError
from ffbench.records import Reference
from ffbench.suites.cases import Identity, Prompt, Suite, cache_folder, cross, limit_cases, make_suite, reference
from tests.ffbench.paths import photo


def person(name: str, sha256: str = "", label: str = "", view: str = "") -> Identity:
    return Identity(name, (Reference(f"/{name}.png", sha256 or name, view),), label)


def text(name: str, words: str = "") -> Prompt:
    return Prompt(name, "speech", "", words or f"the text of {name}", ("expression",))


def suite_of(people: int, prompts: int) -> Suite:
    pairs = cross([person(f"p{i}") for i in range(people)], [text(f"t{i}") for i in range(prompts)])
    return make_suite("s", "1", "", pairs)


def test_a_case_carries_its_scene_tags_and_view() -> None:
    suite = make_suite("s", "1", "sum", [(person("p", "aa", "frontal", "frontal"), text("t"))])
    (case,) = suite.cases
    assert (case.case_id, case.identity_id, case.prompt_id) == ("p-frontal-t", "p", "t")
    assert case.tags == ("speech", "expression", "frontal")
    assert (case.suite, case.suite_version, case.subject) == ("s", "1", "person")


@given(st.integers(1, 9), st.integers(1, 25), st.integers(1, 250))
def test_a_limit_takes_every_identity_before_a_second_prompt(people: int, prompts: int, limit: int) -> None:
    suite = suite_of(people, prompts)
    assert len({case.case_id for case in suite.cases}) == people * prompts
    cases = limit_cases(suite, limit).cases
    assert len(cases) == min(limit, people * prompts)
    counts = Counter(case.identity_id for case in cases)
    assert len(counts) == min(limit, people)
    assert max(counts.values()) - min(counts.values()) <= 1
    first = cases[: min(people, prompts)]
    assert len({case.prompt_id for case in first}) == len(first)


def test_a_limit_keeps_name_version_and_the_given_videos_of_its_cases() -> None:
    suite = suite_of(2, 2)
    given_videos = {case.case_id: Path(case.case_id) for case in suite.cases}
    less = limit_cases(Suite("s", "1", "", suite.cases, given_videos), 3)
    assert (less.name, less.version) == ("s", "1")
    assert set(less.given) == {case.case_id for case in less.cases}
    assert limit_cases(less, None) is less
    with pytest.raises(UserError, match="--limit 0"):
        limit_cases(suite, 0)


def test_the_version_follows_the_content_alone() -> None:
    def version(people: list[Identity], prompts: list[Prompt]) -> str:
        return make_suite("s", "*", "", cross(people, prompts)).version

    a, b, t, u = person("a"), person("b"), text("t"), text("u")
    first = version([a, b], [t, u])
    assert first == version([b, a], [u, t])
    assert make_suite("s", "1-*", "", cross([a, b], [t, u])).version == f"1-{first}"
    moved = Identity("a", (Reference("/elsewhere/a.png", "a"),))
    assert version([moved, b], [t, u]) == first
    others = [
        version([a], [t, u]),
        version([person("a", "other photo"), b], [t, u]),
        version([person("a", view="frontal"), b], [t, u]),
        version([a, b], [t, text("u", "other text")]),
        version([a, b], [t, text("v", "the text of u")]),
    ]
    assert len({first, *others}) == 6


def test_pairs_that_run_together_are_refused() -> None:
    with pytest.raises(UserError, match=r"'a' with 'b-c' and 'a-b' with 'c' are both the case 'a-b-c'"):
        make_suite("s", "1", "", [(person("a"), text("b-c")), (person("a-b"), text("c"))])


def test_a_reference_has_its_absolute_path_and_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photo(tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)
    one = reference(Path("a.png"), "frontal")
    assert one.path == str(tmp_path / "a.png")
    assert len(one.sha256) == 64
    with pytest.raises(UserError, match="cannot be read"):
        reference(Path("b.png"))


def test_the_cache_can_be_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FFBENCH_CACHE", str(tmp_path / "here"))
    assert cache_folder() == tmp_path / "here"
    monkeypatch.delenv("FFBENCH_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "ffbench"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder().name == "ffbench"
