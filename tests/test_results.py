"""The paper's tables as data, and measured ones, which follow from the records beside them."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from ffbench.ablate.paper import form_tables
from ffbench.tables.results import check, find_results

PUBLISHED = Path(__file__).parents[1] / "results" / "published"
ROWS = {1: 11, 2: 3, 3: 6, 4: 3, 5: 6, 6: 5}


def table(number: int) -> pd.DataFrame:
    return pd.read_csv(PUBLISHED / f"table{number}.csv")


@pytest.mark.parametrize("number", ROWS)
def test_every_cell_is_there(number: int) -> None:
    data = table(number)
    assert len(data) == ROWS[number]
    assert not data.isna().any().any()
    assert data[["facesim_cur", "facesim_arc"]].apply(lambda column: column.between(0.1, 0.6)).all().all()


def test_the_full_model_is_one_and_the_same_in_every_table() -> None:
    columns = ["facesim_cur", "facesim_arc", "fid", "clip_score"]
    wanted = table(1).set_index("method").loc["FaithfulFaces", columns].to_list()
    for number, key, value in ((2, "euler_embedding", "yes"), (3, "dictionary_elements", 4096), (4, "pooling", "max")):
        assert table(number).set_index(key).loc[value, columns].to_numpy().ravel()[:4].tolist() == wanted
    assert table(6).iloc[0][columns].to_list() == wanted


def test_table_5_has_the_drops_that_the_paper_prints() -> None:
    data = table(5).pivot(index="method", columns="view", values=["facesim_cur", "facesim_arc"])
    drops = {
        name: [
            round(100 * (1 - row[metric, "non-frontal"] / row[metric, "frontal"]), 2)
            for metric in ("facesim_cur", "facesim_arc")
        ]
        for name, row in data.iterrows()
    }
    assert drops["Phantom"] == [50.85, 50.34]
    assert drops["FaithfulFaces without aligner"] == [54.91, 53.43]
    assert drops["FaithfulFaces"] == [24.82, 24.9]


MEASURED = sorted(path.parent for path in PUBLISHED.parent.glob("*@*/tables.json"))


@pytest.mark.parametrize("place", MEASURED, ids=lambda place: place.name)
def test_committed_tables_are_formed_again_byte_for_byte(place: Path) -> None:
    formed = form_tables(place)
    assert formed
    for name, text in formed.items():
        assert (place / name).read_bytes() == text.encode(), name
    tables = {path.name for path in place.glob("table[1-6].*")}
    assert tables == set(formed), "no table without its records"


@pytest.mark.parametrize("place", MEASURED, ids=lambda place: place.name)
def test_committed_results_files_pass(place: Path) -> None:
    assert [one for one in check(find_results([place])) if one.severity == "error"] == []
    text = "".join(path.read_text("utf-8") for path in place.rglob("*") if path.suffix in (".json", ".jsonl", ".md"))
    for folder in ("/home/", "/root/", "/tmp/", "/work/"):
        assert folder not in text, f"{place.name} names a folder of one machine"
