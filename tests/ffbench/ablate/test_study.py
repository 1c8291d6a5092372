"""Ablations through real runs of the controls, measured by real small networks."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from ffbench.ablate.checkpoints import ABOUT, CONFIG, find_checkpoints
from ffbench.ablate.paper import form_tables
from ffbench.ablate.study import AblateOptions, Ablation, Variant, _switched_off, ablate, ablation
from ffbench.ablate.table import drop
from ffbench.cli import app
from ffbench.errors import UserError
from ffbench.generate import GenerateOptions
from ffbench.methods import find
from ffbench.protocols import Protocol, get_protocol, with_networks
from ffbench.store import Run
from ffbench.suites import Suite, load_suite
from ffbench.tables.published import published_table
from ffbench.tables.results import check, find_results
from tests.ffbench import small_networks

pytestmark = pytest.mark.usefixtures("no_weights")
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


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    place = tmp_path_factory.mktemp("ablate")
    networks = small_networks.write_networks(place)
    words = ["ablate", "table5", "-m", "still", "-m", "sway", "--limit", str(LIMIT), "--out", str(place / "runs")]
    words += ["--protocol", "basic", "--networks", str(networks), "--with-published"]
    words += ["--results", str(place / "results")]
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


def test_the_results_folder_holds_the_table_and_the_records_that_it_follows_from(world: World) -> None:
    place = world.out.parent / "results" / f"mini-views@{world.suite.version}"
    shown = world.out / place.name / "ablate-table5"
    pairs = {"table5.md": "table.md", "table5.tex": "table.tex", "table5.csv": "table.csv", "table5.json": "cells.json"}
    assert form_tables(place) == {name: (shown / same).read_text("utf-8") for name, same in pairs.items()}
    assert {path.parent.name for path in place.rglob("*.jsonl")} == {"still", "sway"}
    assert [one for one in check(find_results([place])) if one.severity == "error"] == []
    assert CliRunner().invoke(app, ["validate", str(place.parent)]).exit_code == 0


def test_figures_are_drawn_beside_the_table_and_kept_with_their_data(world: World) -> None:
    place = world.out.parent / "results" / f"mini-views@{world.suite.version}"
    case = world.suite.cases[0].case_id
    words = ["ablate", "table5", "-m", "still", "-m", "sway", "--limit", str(LIMIT), "--out", str(world.out)]
    words += ["--protocol", "basic", "--networks", str(world.networks), "--with-published", "--boxes"]
    assert CliRunner().invoke(app, [*words, "--results", str(place.parent), "--figure-case", case]).exit_code == 0
    picture = place / f"figures/views-{case}-s0.png"
    assert picture.is_file()
    assert (world.out / place.name / f"ablate-table5/figures/views-{case}-s0.pdf").is_file()
    assert CliRunner().invoke(app, ["validate", str(place.parent)]).exit_code == 0
    drawn = picture.read_bytes()
    picture.unlink()
    told = CliRunner().invoke(app, ["validate", str(place.parent)])
    assert told.exit_code == 1
    assert "is missing" in told.output
    assert str(picture) in CliRunner().invoke(app, ["ablate", "render", "--results", str(place.parent)]).output
    assert picture.read_bytes() == drawn


def test_a_second_call_reuses_runs_and_prints_the_same_files(world: World) -> None:
    folder = world.out / f"mini-views@{world.suite.version}" / "ablate-table5"
    # scores for which weights were missing are tried again, so scores.jsonl may grow
    watched = [*folder.glob("*.*"), *world.out.glob("*/*/generations.jsonl"), *world.out.glob("*/*/videos/*.mp4")]
    before = {path: path.read_bytes() for path in watched}
    assert len(before) == 4 + 2 + 2 * LIMIT
    made = ablate(ablation("table5", ["still", "sway"]), world.suite, options(world, published=True))
    assert {path: path.read_bytes() for path in watched} == before
    assert made.text == world.stdout.rstrip("\n")


def test_rows_stand_in_the_papers_order_and_what_is_not_there_says_why(world: World) -> None:
    variants = (
        Variant(("128",), "", "", (("elements", 128),)),
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
    from ffbench.ablate.study import _by_pairs

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
        assert one.method or one.wants is not None
        assert not one.method or find(one.method)
    full = published.named(what.variants[what.base].published)
    assert next(iter(full.values.values())) in ("0.568", "0.544")


def checkpoint(place: Path, name: str, seed: int = 0, alone: bool = False, **aligner: object) -> Path:
    folder = place / name
    folder.mkdir(parents=True)
    whole = None if alone else {"elements": 512, "pooling": "max", "euler": True, "dim": 192, **aligner}
    about = {"aligner": whole, "injection": "add", "format": 1, "seed": seed}
    (folder / CONFIG).write_text(json.dumps(about))
    (folder / "model.safetensors").write_bytes(name.encode())
    return folder


def test_checkpoints_find_their_rows_by_what_they_say(tmp_path: Path) -> None:
    small, large, again = (checkpoint(tmp_path, n, e, elements=e) for n, e in (("a", 512), ("b", 1024), ("c", 512)))
    rows = {one.names[0]: one for one in ablation("table3", checkpoints=[small, large, again]).variants}
    # most have 512 elements, so those stand where the paper's 4096 stand
    assert list(rows) == ["128", "256", "512", "1024", "2048", "4096"]
    assert [one.published for one in rows.values()] == ["1024", "2048", "4096", "8192", "16384", "32768"]
    assert [one.folder for one in rows["512"].checkpoints] == [small, again]
    assert [one.folder for one in rows["1024"].checkpoints] == [large]
    what = ablation("table3", checkpoints=[small, large, again])
    assert what.variants[what.base].names == ("512",)
    assert "divided by 8" in what.notes[0]
    assert not ablation("table3", checkpoints=[checkpoint(tmp_path, "p", elements=4096)]).notes
    mean = checkpoint(tmp_path, "d", pooling="mean")
    (row,) = [one for one in ablation("table4", checkpoints=[mean]).variants if one.checkpoints]
    assert (row.names, row.checkpoints[0].folder) == (("Mean Pooling",), mean)
    plain, none = checkpoint(tmp_path, "e", euler=False), checkpoint(tmp_path, "f", alone=True)
    rows = {one.names: one for one in ablation("table2", checkpoints=[plain, none, small]).variants}
    assert {names: [c.folder.name for c in one.checkpoints] for names, one in rows.items()} == {
        ("✓", "✓"): ["a"],
        ("✓", "×"): ["e"],
        ("×", "×"): ["f"],
    }
    with pytest.raises(UserError, match=r"config\.json is no checkpoint's"):
        ablation("table3", checkpoints=[tmp_path])
    with pytest.raises(UserError, match="euler False belongs to no row of table4"):
        ablation("table4", checkpoints=[plain])
    with pytest.raises(UserError, match="no row of table1 takes a checkpoint"):
        ablation("table1", checkpoints=[plain])


def test_a_folder_of_trainings_gives_each_table_what_is_its_own(tmp_path: Path) -> None:
    for seed in range(3):
        kinds: dict[str, dict[str, object]] = {
            "full": {},
            "no-euler": {"euler": False},
            "no-aligner": {"alone": True},
            "pooling-sum": {"pooling": "sum"},
            "elements-1024": {"elements": 1024},
        }
        for name, parts in kinds.items():
            checkpoint(tmp_path / "variants" / name, f"seed-{seed}/model", seed, **parts)
    # neither a training's own config nor a half-written checkpoint is one
    checkpoint(tmp_path / "variants/full", "seed-3/model.part", 3)
    (tmp_path / "variants/full/seed-0/run").mkdir()
    (tmp_path / "variants/full/seed-0/run" / CONFIG).write_text(json.dumps({"aligner": {}, "steps": 3}))

    def found(table: str) -> dict[str, int]:
        rows = ablation(table, among=[tmp_path]).variants
        return {" ".join(one.names): len(one.checkpoints) for one in rows}

    assert found("table2") == {"✓ ✓": 3, "✓ ×": 3, "× ×": 3}
    assert found("table3") == {"128": 0, "256": 0, "512": 3, "1024": 3, "2048": 0, "4096": 0}
    assert found("table4") == {"Sum Pooling": 3, "Mean Pooling": 0, "Max Pooling": 3}
    assert found("table5") == {"phantom": 0, "faithfulfaces@no-aligner": 3, "faithfulfaces": 3}
    assert set(found("table6").values()) == {3}
    mean = ablation("table4", among=[tmp_path]).variants[1]
    assert not mean.method, "the embedded checkpoint is of another base"
    with pytest.raises(UserError, match="no checkpoint below"):
        ablation("table2", among=[tmp_path / "variants/full/seed-0/run"])


def small_phantom(place: Path, number: int, **about: object) -> Path:
    folder = place / f"seed-{number}/model"
    (folder / "transformer").mkdir(parents=True)
    (folder / ABOUT).write_text(json.dumps({"method": "phantom", "seed": number, "steps": 1, **about}))
    (folder / "transformer" / CONFIG).write_text(json.dumps({"num_layers": 6}))
    (folder / "transformer/diffusion_pytorch_model.safetensors").write_bytes(bytes([number]))
    return folder


def test_a_small_phantom_is_the_first_row_of_table_5_and_no_other(tmp_path: Path) -> None:
    """Found beside the variants, below its own folder, and once where both are given."""
    models = [small_phantom(tmp_path / "phantom", seed) for seed in range(2)]
    small_phantom(tmp_path / "phantom", 2).rename(tmp_path / "phantom/seed-2/model.part")
    checkpoint(tmp_path / "variants/full", "seed-0/model")

    def found(table: str, *among: Path) -> dict[str, tuple[str, list[Path]]]:
        rows = ablation(table, among=among).variants
        return {" ".join(one.names): (one.method, [c.folder for c in one.checkpoints]) for one in rows}

    for among in ((tmp_path,), (tmp_path, tmp_path / "phantom"), (tmp_path / "variants", tmp_path / "phantom")):
        rows = found("table5", *among)
        assert rows["phantom"] == ("phantom", models)
        assert rows["faithfulfaces"][1] == [tmp_path / "variants/full/seed-0/model"]
        assert rows["faithfulfaces@no-aligner"] == ("", []), "the embedded checkpoint is of another base"
    assert not any(set(folders) & set(models) for _, folders in found("table2", tmp_path).values())
    alone = found("table5", tmp_path / "phantom")
    assert alone["phantom"][1] == models
    assert alone["faithfulfaces"] == ("faithfulfaces", []), "a Phantom says nothing of the reference model's base"
    assert found("table5", tmp_path / "variants")["phantom"] == ("phantom", [])
    assert ablation("table5", checkpoints=models[:1]).variants[0].checkpoints[0].folder == models[0]
    with pytest.raises(UserError, match="method 'phantom' belongs to no row of table2"):
        ablation("table2", checkpoints=models[:1])
    one, two = find_checkpoints(tmp_path / "phantom")
    assert one.settings == (f"base={models[0]}", f"checkpoint={models[0]}") and (one.seed, two.seed) == (0, 1)
    assert one.content() != two.content(), "trained anew, its videos are made anew"


@pytest.mark.parametrize("about", [{"method": "magref"}, {"seed": None}, {"seed": "0"}, {"seed": True}])
def test_a_folder_that_is_no_small_phantom_is_refused_in_two_lines(tmp_path: Path, about: dict[str, object]) -> None:
    small_phantom(tmp_path, 0, **about)
    with pytest.raises(UserError, match=rf"{ABOUT} is not what `faithfulfaces mini phantom` writes") as caught:
        ablation("table5", among=[tmp_path])
    assert len(str(caught.value).splitlines()) == 2


def test_without_a_small_phantom_its_row_says_what_builds_one(world: World) -> None:
    what = ablation("table5")
    assert "switched off" not in " ".join(_switched_off(dataclasses.replace(what, variants=what.variants[:1])))
    with pytest.raises(UserError, match="phantom has no base and no checkpoint of the mini world's size") as caught:
        ablate(dataclasses.replace(what, variants=what.variants[:1], base=0), world.suite, options(world))
    assert caught.value.fix.startswith("faithfulfaces mini phantom --out FOLDER builds them")


def test_two_checkpoints_of_one_seed_are_not_two_trainings(world: World, tmp_path: Path) -> None:
    given = [checkpoint(tmp_path, name, 4) for name in ("one", "two")]
    what = ablation("table2", checkpoints=given)
    (row,) = [one for one in what.variants if one.checkpoints]
    with pytest.raises(UserError, match="2 checkpoints are not told apart by their seeds"):
        ablate(dataclasses.replace(what, variants=(row,), base=0), world.suite, options(world))


def test_wrong_words_are_answered_in_two_lines() -> None:
    with pytest.raises(UserError, match="there is no ablation 'table7'"):
        ablation("table7")
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
