"""The paper's tables as data, and measured ones, which follow from the records beside them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure

from faithfulfaces.analysis import report
from ffbench.ablate.paper import form_tables
from ffbench.figures import archive, style
from ffbench.figures.drawn import drawn, versions
from ffbench.tables.document import document
from ffbench.tables.results import check, find_results

RESULTS = Path(__file__).parents[1] / "results"
PUBLISHED = RESULTS / "published"
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


DRAWN = sorted(path.parent for path in RESULTS.glob("*@*/**/figures.json"))
MEASURED = sorted(path.parent for path in RESULTS.glob("*@*/tables.json"))


@pytest.mark.parametrize("place", MEASURED, ids=lambda place: place.name)
def test_committed_tables_are_formed_again_byte_for_byte(place: Path) -> None:
    formed = form_tables(place)
    assert formed
    for name, text in formed.items():
        assert (place / name).read_bytes() == text.encode(), name
    tables = {path.name for path in place.glob("table[1-6].*")}
    assert tables == set(formed), "no table without its records"


def test_one_document_takes_in_all_six_tables() -> None:
    text = (RESULTS / "tables.tex").read_text("utf-8")
    names = [f"mini{'-views' if number == 5 else ''}@1/table{number}.tex" for number in ROWS]
    assert text == document(names)
    assert all((RESULTS / name).is_file() for name in names)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no LaTeX here")
def test_the_document_of_all_six_tables_compiles(tmp_path: Path) -> None:
    argv = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", f"-output-directory={tmp_path}", "tables.tex"]
    done = subprocess.run(argv, cwd=RESULTS, check=False, capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stdout[-1500:]
    assert (tmp_path / "tables.pdf").read_bytes().startswith(b"%PDF")
    assert re.findall(r"Overfull \\hbox.*|Missing character.*", done.stdout) == []


def formed_figures(folder: Path) -> Iterator[tuple[str, Figure, int]]:
    """Name, figure and dots per inch of every figure of a folder with a `figures.json`."""
    if folder.name == "figures":
        yield from ((name, figure, archive.DPI) for name, figure in archive.form_figures(folder.parent))
    else:
        yield from ((name, figure, style.DPI) for name, figure in report.form_figures(folder))


@pytest.mark.parametrize("folder", DRAWN, ids=lambda folder: "/".join(folder.parts[-2:]))
def test_committed_figures_are_drawn_again_byte_for_byte(folder: Path, tmp_path: Path) -> None:
    index = json.loads((folder / "figures.json").read_text("utf-8"))
    known = {name: one if isinstance(one, str) else one["drawn"] for name, one in index["figures"].items()}
    pictures = {path.stem for path in folder.glob("*.png")} - {"faces"}
    assert pictures == set(known), "no picture without its data"
    same = index["made_with"] == versions()
    for name, figure, dpi in formed_figures(folder):
        assert drawn(figure) == known.pop(name), name
        if same:
            (path,) = style.save(figure, tmp_path, name, ("png",), dpi)
            assert path.read_bytes() == (folder / path.name).read_bytes(), name
    assert not known
    if not same:
        pytest.skip(
            f"what is drawn is equal; bytes are not compared: made with {index['made_with']}, here {versions()}"
        )


def test_every_figure_of_the_paper_that_can_be_measured_is_there() -> None:
    names = {name for folder in DRAWN for name in json.loads((folder / "figures.json").read_text("utf-8"))["figures"]}
    stems = {re.sub(r"-person\d+.*", "", name) for name in names}
    # Fig. 5 and 12 to 16, 9, 11, 8, 7, 6, 10, and those of this project
    assert stems == {
        *("grid", "ablation", "views", "dictionary-size", "dictionary", "identities", "loss"),
        *("facesim_cur-by-yaw", "facesim_arc-by-yaw", "pose-coverage", "over-time", "forest"),
    }


@pytest.mark.parametrize("place", MEASURED, ids=lambda place: place.name)
def test_committed_results_files_pass(place: Path) -> None:
    assert [one for one in check(find_results([place])) if one.severity == "error"] == []
    text = "".join(path.read_text("utf-8") for path in place.rglob("*") if path.suffix in (".json", ".jsonl", ".md"))
    for folder in ("/home/", "/root/", "/tmp/", "/work/"):
        assert folder not in text, f"{place.name} names a folder of one machine"
