"""Rows of several trainings: pooled cells and paired differences against the same done by hand."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from ffbench.ablate.trainings import Trainings, difference, pooled_sheet
from ffbench.metrics import aggregate
from ffbench.metrics.crossed import crossed
from ffbench.tables.rows import Row, load_rows
from ffbench.tables.sheet import cells, valued
from tests.ffbench.scored_runs import Made, cases, make_run

PROMPTS = (("gym", "boxes in a gym"), ("stage", "sings on a stage"))


def shift(name: str, case_id: str) -> float:
    """Makes identities, and identities under a seed, differ; make_run gives all the same."""
    return 0.03 * int(case_id[3]) * (1 + 0.2 * (name[1] == "1") + 0.1 * (len(case_id) > 8))


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Row]:
    """Two trainings each of a strong and a weak method; one video of the weak one has no face."""
    place = tmp_path_factory.mktemp("trainings")
    suite = cases(place / "photos", 3, PROMPTS)
    made = {
        "a0": Made("strong", 0.8),
        "a1": Made("strong", 0.7),
        "b0": Made("weak", 0.5),
        "b1": Made("weak", 0.6, faceless=("id01-gym", "id01-stage")),
    }
    found = {}
    for name, one in made.items():
        run = make_run(place / name, one, suite)
        (row,) = load_rows(run, "standard@1")
        scores = {
            video: {
                metric: dataclasses.replace(s, value=s.value + shift(name, video[0])) if metric == "facesim_arc" else s
                for metric, s in by_metric.items()
            }
            for video, by_metric in row.scores.items()
        }  # fmt: skip
        found[name] = dataclasses.replace(row, scores=scores)
    return found


def table(row: Row, people: list[str]) -> list[float]:
    values = valued(row, "facesim_arc")
    return [
        float(np.mean([value for (case_id, _), value in values.items() if row.cases[case_id].identity_id == one]))
        for one in people
    ]


def test_a_cell_of_two_trainings_is_the_mean_over_seeds_of_identities(rows: dict[str, Row]) -> None:
    line = Trainings("strong", {0: rows["a0"], 1: rows["a1"]})
    sheet = pooled_sheet([line, Trainings("weak", {None: rows["b0"]})])
    cell = sheet.cell("strong", "facesim_arc")
    assert cell is not None
    wanted = crossed([table(rows[name], ["id00", "id01", "id02"]) for name in ("a0", "a1")])
    assert (cell.value, cell.low, cell.high) == pytest.approx(wanted[:3], rel=1e-5)
    assert (cell.num_identities, cell.num_videos, cell.num_failed) == (3, 12, 0)
    assert [line.num_made for line in sheet.lines] == [12, 6]
    assert any("rows of 2 trainings" in note for note in sheet.notes)
    # the line with one row has the cells that it would have alone
    alone = {(c.metric, c.group): c for c in cells(rows["b0"])}
    for found in (c for c in sheet.cells if c.method == "weak"):
        assert repr(dataclasses.replace(alone[found.metric, found.group], method="weak")) == repr(found)
    tagged = sheet.cell("strong", "facesim_arc", "tag:large-pose")
    assert tagged is not None
    assert tagged.num_videos == 6


def test_an_identity_without_a_number_under_one_seed_is_left_out_of_all(rows: dict[str, Row]) -> None:
    cell = pooled_sheet([Trainings("weak", {0: rows["b0"], 1: rows["b1"]})]).cell("weak", "facesim_arc")
    assert cell is not None
    wanted = crossed([table(rows[name], ["id00", "id02"]) for name in ("b0", "b1")])
    assert cell.value == pytest.approx(wanted.mean, rel=1e-5)
    assert (cell.num_identities, cell.num_videos, cell.num_unscored) == (2, 10, 2)


def test_what_one_training_lacks_is_missing_with_its_reason(rows: dict[str, Row]) -> None:
    sheet = pooled_sheet([Trainings("strong", {0: rows["a0"], 1: rows["a1"]})])
    cell = sheet.cell("strong", "facesim_cur")
    assert cell is not None
    assert math.isnan(cell.value)
    assert "curricularface" in cell.reason


def test_differences_are_paired_by_seed_and_video(rows: dict[str, Row]) -> None:
    strong = Trainings("strong", {0: rows["a0"], 1: rows["a1"]})
    weak = Trainings("weak", {1: rows["b1"], 0: rows["b0"]})
    found = difference(strong, weak, "facesim_arc")
    assert found is not None
    people = ["id00", "id02"]
    by_hand = [np.subtract(table(rows[a], people), table(rows[b], people)) for a, b in (("a0", "b0"), ("a1", "b1"))]
    wanted = crossed(by_hand)
    assert (found.value, found.low, found.high, found.p) == pytest.approx(wanted[:4], rel=1e-9)
    assert (found.num_seeds, found.num_identities, found.num_pairs) == (2, 2, 10)


def test_one_training_against_one_is_the_paired_test_of_compare(rows: dict[str, Row]) -> None:
    found = difference(Trainings("a", {0: rows["a0"]}), Trainings("b", {None: rows["b0"]}), "facesim_arc")
    assert found is not None
    one, two = valued(rows["a0"], "facesim_arc"), valued(rows["b0"], "facesim_arc")
    wanted = aggregate.paired(list(one.values()), list(two.values()), [v[0][:4] for v in one])
    assert (found.value, found.low, found.high, found.p) == pytest.approx(wanted[:4], rel=1e-12)


def test_several_trainings_against_one_row_set_each_against_it(rows: dict[str, Row]) -> None:
    found = difference(
        Trainings("a", {0: rows["a0"], 1: rows["a1"]}), Trainings("b", {None: rows["b0"]}), "facesim_arc"
    )
    assert found is not None
    assert (found.num_seeds, found.num_pairs) == (2, 12)
    nothing = Trainings("b", {2: rows["b0"], 3: rows["b1"]})
    assert difference(Trainings("a", {0: rows["a0"], 1: rows["a1"]}), nothing, "facesim_arc") is None
    assert difference(Trainings("a", {0: rows["a0"]}), Trainings("b", {0: rows["b0"]}), "facesim_cur") is None
