"""Ablations through real runs of the controls, measured by real small networks."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from ffbench.ablate import CONFIG, AblateOptions, Ablation, Variant, ablate, ablation
from ffbench.ablate_table import drop
from ffbench.cli import app
from ffbench.errors import UserError
from ffbench.generate import GenerateOptions
from ffbench.methods import find
from ffbench.protocols import Protocol, get_protocol, with_networks
from ffbench.published import published_table
from ffbench.store import Run
from ffbench.suites import Suite, load_suite
from tests.ffbench import small_networks

LIMIT = 6


@dataclasses.dataclass(frozen=True)
class World:
    """Table 5 of two controls, as the command line made it."""

    out: Path
    networks: Path
    suite: Suite
    protocol: Protocol
    stdout: str
    exit_code: int


@pytest.fixture(scope="module", autouse=True)
def no_weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FFBENCH_WEIGHTS", str(tmp_path_factory.mktemp("no-weights")))
        yield


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    place = tmp_path_factory.mktemp("ablate")
    networks = small_networks.write_networks(place)
    words = ["ablate", "table5", "-m", "still", "-m", "sway", "--limit", str(LIMIT), "--out", str(place / "runs")]
    words += ["--protocol", "basic", "--networks", str(networks), "--with-published"]
    done = CliRunner().invoke(app, words)
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    protocol = with_networks(get_protocol("basic"), networks)
    return World(place / "runs", networks, load_suite("mini-views"), protocol, done.stdout, done.exit_code)


def options(world: World, **more: object) -> AblateOptions:
    return AblateOptions(world.protocol, world.out, GenerateOptions(limit=LIMIT), **more)  # type: ignore[arg-type]


def by_view(world: World, method: str, metric: str) -> dict[str, list[float]]:
    """Scores of a run, straight from its records."""
    run = Run(world.out / f"mini-views@{world.suite.version}" / method)
    cases, generations = run.cases(), run.generations()
    found: dict[str, list[float]] = {"frontal": [], "non-frontal": []}
    for score in run.scores().values():
        if score.metric == metric and not math.isnan(score.value):
            found[cases[generations[score.generation].case_id].references[0].view].append(score.value)
    return found


def test_table_5_shows_each_view_and_the_drop_between_them(world: World) -> None:
    assert world.exit_code == 0
    head, *rows = world.stdout.splitlines()
    assert re.split(r"\s{3,}", head)[:5] == [
        "Methods", "FaceSim-Cur frontal ↑", "FaceSim-Cur non-frontal ↑", "FaceSim-Arc frontal ↑",
        "FaceSim-Arc non-frontal ↑",
    ]  # fmt: skip
    for method in ("still", "sway"):
        scores = by_view(world, method, "facesim_arc")
        assert [len(values) for values in scores.values()] == [LIMIT // 2, LIMIT // 2], "a limit leaves whole pairs"
        frontal, other = (float(np.mean(values)) for values in scores.values())
        row = next(row for row in rows if row.startswith(method))
        cells = re.split(r"\s{3,}", row.replace("*", "").replace("_", ""))
        assert cells[3] == f"{frontal:.3f}"
        percent = 100 * (frontal - other) / frontal
        assert cells[4] == f"{other:.3f} ({'↓' if percent >= 0 else '↑'} {abs(percent):.2f}%)"
        assert f"{method}, non-frontal minus frontal: FaceSim-Arc {other - frontal:+.4f}" in world.stdout


def test_published_rows_follow_and_are_not_mixed_in(world: World) -> None:
    rows = world.stdout.splitlines()
    (phantom,) = [row for row in rows if row.startswith("phantom")]
    assert phantom.split()[-4:] == ["_0.470_", "_0.231_", "_0.435_", "_0.216_"]
    assert phantom.count("—") == 6
    assert "Table 5 of the paper" in world.stdout


def test_a_second_call_reuses_runs_and_prints_the_same_files(world: World) -> None:
    folder = world.out / f"mini-views@{world.suite.version}" / "ablate-table5"
    # scores for which weights were missing are tried again, so scores.jsonl may grow
    watched = [*folder.iterdir(), *world.out.glob("*/*/generations.jsonl"), *world.out.glob("*/*/videos/*.mp4")]
    before = {path: path.read_bytes() for path in watched}
    assert len(before) == 4 + 2 + 2 * LIMIT
    made = ablate(ablation("table5", ["still", "sway"]), world.suite, options(world, published=True))
    assert {path: path.read_bytes() for path in watched} == before
    assert made.text == world.stdout.rstrip("\n")


def test_rows_stand_in_the_papers_order_and_what_is_not_there_says_why(world: World) -> None:
    variants = (
        Variant(("128",), "", "", ("elements", 128)),
        Variant(("4096",), "4096", "sway"),
        Variant(("8192",), "8192", "still"),
        Variant(("999",), "", "no-such-method"),
    )
    # mini-views as table5 orders it, so that the runs that are there are the ones that are needed
    suite = dataclasses.replace(world.suite, cases=pairs_first(world.suite))
    made = ablate(Ablation("table3", variants, base=1), suite, options(world, published=True, intervals=True))
    rows = made.text.splitlines()
    assert [re.split(r"\s{3,}", row)[0] for row in rows[:6]] == [
        "Dictionary Elements",
        "128",
        "4096",
        "8192",
        "999",
        "1024",
    ]
    assert made.num_missing == 2
    assert rows[1].count("—") >= 6
    assert "no checkpoint with elements=128 was given; faithfulfaces train --recipe" in made.text
    assert "there is no method 'no-such-method'" in made.text
    still, sway = (
        np.mean([v for values in by_view(world, m, "facesim_cur").values() for v in values]) for m in ("still", "sway")
    )
    (line,) = [row for row in rows if row.startswith("note: 8192 minus 4096: FaceSim-Cur")]
    assert f"{still - sway:+.4f} [" in line
    assert "3 identities" in line or "identities, 6 pairs" in line
    assert "-0.007" in line  # the paper's 0.561 - 0.568
    assert rows[2].split()[-4:] == ["**0.568**", "**0.542**", "**164.24**", "**33.93**"]


def pairs_first(suite: Suite) -> tuple:  # type: ignore[type-arg]
    from ffbench.ablate import _by_pairs

    return _by_pairs(suite).cases


def test_nothing_at_all_is_an_error_with_its_remedy(world: World) -> None:
    with pytest.raises(UserError, match="no checkpoint with pooling=sum was given") as caught:
        ablate(Ablation("table4", (ablation("table4").variants[0],)), world.suite, options(world))
    assert "Aligner(pooling='sum')" in caught.value.fix
    assert "ffbench ablate table4 --checkpoint FOLDER/model" in caught.value.fix


@pytest.mark.parametrize("name", ["table2", "table3", "table4", "table5", "table6"])
def test_rows_are_the_papers_and_name_methods_that_exist(name: str) -> None:
    what = ablation(name)
    published = published_table(int(name[-1]))
    assert [one.published for one in what.variants] == [row.name for row in published.rows]
    for one in what.variants:
        assert one.method or one.wants
        assert not one.method or find(one.method)
    full = published.named(what.variants[what.base].published)
    assert next(iter(full.values.values())) in ("0.568", "0.544")


def test_checkpoints_find_their_rows_by_what_they_say(tmp_path: Path) -> None:
    def checkpoint(name: str, **aligner: object) -> Path:
        (tmp_path / name).mkdir()
        (tmp_path / name / CONFIG).write_text(json.dumps({"aligner": {"elements": 512, "pooling": "max", **aligner}}))
        return tmp_path / name

    small, large, again = (checkpoint(n, elements=e) for n, e in (("a", 512), ("b", 1024), ("c", 1024)))
    rows = {one.names[0]: one for one in ablation("table3", checkpoints=[small, large, again]).variants}
    assert list(rows) == ["1024", "2048", "4096", "8192", "16384", "32768", "512", "1024 (c)"]
    assert (rows["1024"].checkpoint, rows["1024"].method) == (str(large), "faithfulfaces")
    assert (rows["1024 (c)"].checkpoint, rows["1024 (c)"].published) == (str(again), "1024")
    assert (rows["512"].checkpoint, rows["512"].published) == (str(small), "")
    assert not rows["2048"].method
    mean = checkpoint("d", pooling="mean")
    (row,) = [one for one in ablation("table4", checkpoints=[mean]).variants if one.checkpoint]
    assert (row.names, row.checkpoint) == (("Mean Pooling",), str(mean))
    plain = checkpoint("e", euler=False)
    (row,) = [one for one in ablation("table2", checkpoints=[plain]).variants if one.checkpoint]
    assert (row.names, row.method) == (("✓", "×"), "faithfulfaces")
    with pytest.raises(UserError, match="the rows of table6 share one checkpoint"):
        ablation("table6", checkpoints=[plain])
    with pytest.raises(UserError, match=r"config\.json is no checkpoint's"):
        ablation("table3", checkpoints=[tmp_path])
    with pytest.raises(UserError, match="euler None belongs to no row of table2"):
        ablation("table2", checkpoints=[small])


def test_wrong_words_are_answered_in_two_lines() -> None:
    with pytest.raises(UserError, match="there is no ablation 'table1'"):
        ablation("table1")
    with pytest.raises(UserError, match="variants of faithfulfaces, not methods"):
        ablation("table2", ["still"])


@pytest.mark.parametrize("row", published_table(5).rows, ids=lambda row: row.name)
def test_the_drop_is_the_one_that_the_paper_prints(row: object) -> None:
    printed = {
        "Phantom": ("↓ 50.85%", "↓ 50.34%"),
        "FaithfulFaces without aligner": ("↓ 54.91%", "↓ 53.43%"),
        "FaithfulFaces": ("↓ 24.82%", "↓ 24.90%"),
    }
    values = {key: float(value) for key, value in row.values.items()}  # type: ignore[attr-defined]
    for metric, wanted in zip(("facesim_cur", "facesim_arc"), printed[row.name], strict=True):  # type: ignore[attr-defined]
        assert drop(values[metric, "frontal"], values[metric, "non-frontal"]) == wanted


def test_a_drop_without_meaning_is_not_printed() -> None:
    assert drop(0.0, 0.2) == drop(-0.1, 0.2) == drop(math.nan, 0.2) == drop(0.5, math.nan) == ""
    assert drop(0.5, 0.6) == "↑ 20.00%"
