"""Figures that go with the tables of an ablation, from runs with videos."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from ffbench.ablate.figures import write_figures
from ffbench.ablate.study import HEADS
from ffbench.figures.archive import check_figures, read_index
from ffbench.figures.write import FigureOptions
from ffbench.tables.render import json_sheet
from ffbench.tables.rows import Row, load_rows
from ffbench.tables.sheet import sheet
from tests.ffbench.scored_runs import Made, cases, make_run

CASE = "id01-gym-frontal"
OF_CASES = {f"{kind}-{CASE}-s0" for kind in ("grid", "views", "over-time")}
LABELS = {"table2": ("✓ / ✓", "✓ / ×"), "table3": ("128", "512")}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    root = tmp_path_factory.mktemp("ablated")
    suite = [
        dataclasses.replace(case, case_id=f"{case.case_id}-{view}", tags=(view,))
        for case in cases(root / "photos", 2)
        for view in ("frontal", "non-frontal")
    ]
    runs = [make_run(root / "runs", made, suite, with_videos=True) for made in (Made("a", 0.8), Made("b", 0.5))]
    return [row for run in runs for row in load_rows(run, "standard@1")]


@pytest.mark.parametrize(
    ("table", "names"),
    [
        ("table1", {"facesim_arc-by-yaw", "forest", "pose-coverage", *OF_CASES}),
        ("table2", {f"ablation-{CASE}-s0"}),
        ("table3", {"dictionary-size"}),
        ("table4", set()),
        ("table5", {f"views-{CASE}-s0"}),
        ("table6", set()),
    ],
)
def test_each_table_has_its_figures(table: str, names: set[str], rows: list[Row], tmp_path: Path) -> None:
    labels = LABELS.get(table, ("a", "b"))
    named = [dataclasses.replace(row, label=label) for row, label in zip(rows, labels, strict=True)]
    made = sheet(named)
    place = tmp_path / "results/tiny@1"
    place.mkdir(parents=True)
    (place / f"{table}.json").write_text(json_sheet(made), "utf-8")
    options = FigureOptions((CASE,), boxes=True, published=True)
    write_figures((table, HEADS[table]), made, named, options, [tmp_path / "out", place])
    assert {path.stem for path in (tmp_path / "out/figures").glob("*.pdf")} == names
    assert {path.stem for path in (place / "figures").glob("*.png")} == names
    assert set(read_index(place)[1]) == names
    assert check_figures(tmp_path / "results") == []
    if table == "table2":
        kept = read_index(place)[1][f"ablation-{CASE}-s0"]
        assert kept.note == "rows: Identity Aligner / Euler Embedding, one training each"
