"""Results folders: rows survive on disk as records, and tables are formed from those alone, byte for byte."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ffbench.ablate.paper import INDEX, check_tables, form_tables, render_again, write_table
from ffbench.ablate.table import Line, Made
from ffbench.ablate.trainings import Trainings
from ffbench.cli import app
from ffbench.errors import UserError
from ffbench.records import to_json
from ffbench.tables.archive import from_lines, keep, to_lines
from ffbench.tables.results import read_row
from ffbench.tables.rows import Row, load_rows
from ffbench.tables.sheet import cells
from tests.ffbench import scored_runs
from tests.ffbench.tables.test_results import with_provenance


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Row]:
    place = tmp_path_factory.mktemp("paper")
    suite = scored_runs.cases(place / "photos", 3)
    made = {
        "ours": scored_runs.Made("faithfulfaces", 0.8, faceless=("id02-gym",)),
        "again": scored_runs.Made("faithfulfaces", 0.7),
        "vace": scored_runs.Made("vace", 0.5, failed=("id01-gym",)),
        "still": scored_runs.Made("still", 0.9, turn=2, kind="control"),
    }
    found = {}
    for name, one in made.items():
        run = with_provenance(scored_runs.make_run(place / name, one, suite))
        if name == "again":
            # another checkpoint: other settings, so a file of its own
            with run.lock():
                scores = list(run.scores().values())
                old = list(run.generations().values())
                (run.root / "generations.jsonl").unlink()
                (run.root / "scores.jsonl").unlink()
                new = [dataclasses.replace(g, settings={**g.settings, "checkpoint": "/home/me/b/seed-1/model"})
                       for g in old]  # fmt: skip
                keys = {g.key: n.key for g, n in zip(old, new, strict=True)}
                run.append_generations(new)
                run.append_scores(dataclasses.replace(s, generation=keys[s.generation]) for s in scores)
        (found[name],) = load_rows(run, "standard@1")
    return found


@pytest.fixture
def folder(rows: dict[str, Row], tmp_path: Path) -> Path:
    """Table 1 of three methods and Table 2 of two trainings, as a results folder."""
    labels = {"faithfulfaces": "ours", "vace": "vace", "still": "still"}
    lines = tuple(Line((label,), "FaithfulFaces" if label == "faithfulfaces" else "", label, "") for label in labels)
    singles = tuple(
        Trainings(label, {None: dataclasses.replace(rows[name], label=label)}) for label, name in labels.items()
    )
    write_table(Made("table1", ("Methods",), lines, singles, "faithfulfaces"), True, True, tmp_path)
    both = Trainings("✓ / ✓", {0: rows["ours"], 1: rows["again"]})
    absent = Line(("✓", "×"), "yes/no", "", "no checkpoint was given")
    heads = ("Identity Aligner", "Euler Embedding")
    made = Made("table2", heads, (Line(("✓", "✓"), "yes/yes", "✓ / ✓", ""), absent), (both,), "✓ / ✓", ("a note",))
    write_table(made, False, False, tmp_path)
    return tmp_path


def test_a_kept_row_comes_back_with_the_same_cells(rows: dict[str, Row], tmp_path: Path) -> None:
    for row in rows.values():
        back = from_lines(list(to_lines(keep(row))), tmp_path)
        assert [to_json(cell) for cell in cells(back)] == [to_json(cell) for cell in cells(keep(row))]
        live = {(cell.metric, cell.group): cell for cell in cells(row)}
        assert live.keys() == {(cell.metric, cell.group) for cell in cells(back)}
        for cell in cells(back):
            stated = pytest.approx(live[cell.metric, cell.group].value, rel=1e-5, abs=1e-6, nan_ok=True)
            assert cell.value == stated
            assert cell.num_videos == live[cell.metric, cell.group].num_videos
    assert any(cell.group.startswith("yaw:") and cell.num_videos for cell in cells(back))
    assert back.control


def test_a_part_of_a_kept_row_has_no_number_of_the_whole(rows: dict[str, Row]) -> None:
    row = keep(rows["ours"])
    part = row.only(frozenset([("id00-gym", 0)]))
    assert part.kept is not None
    assert part.kept.sets == {}
    assert {video for means in part.kept.pose.values() for video in means} == {("id00-gym", 0)}
    with pytest.raises(ValueError, match="keep"):
        next(to_lines(rows["ours"]))


def test_tables_are_formed_from_the_folder_alone(folder: Path, tmp_path: Path) -> None:
    place = folder / "tiny@1"
    formed = form_tables(place)
    assert sorted(formed) == [f"table{n}{end}" for n in (1, 2) for end in (".csv", ".json", ".md", ".tex")]
    for name, text in formed.items():
        assert (place / name).read_bytes() == text.encode()
    shown = formed["table1.md"].splitlines()
    assert shown[0].startswith("| Methods | ")
    assert any(line.startswith("| still (control) |") for line in shown)
    assert any(line.startswith("FaceSim-Arc by |yaw|") for line in shown)
    assert "published FaceSim-Arc" in shown[0]
    two = formed["table2.md"]
    assert "| ✓ | × | —" in two
    assert "no checkpoint was given" in two
    assert "Note: a note" in two
    assert "rows of 2 trainings" in two
    # no path of this machine, neither of the run nor of the checkpoint
    everything = "".join(path.read_text("utf-8") for path in folder.rglob("*.json*"))
    assert "/home/me" not in everything
    assert ".../b/seed-1/model" in everything
    assert str(folder) not in everything


def test_validate_tells_a_changed_table_record_and_cell(folder: Path) -> None:
    assert check_tables(folder) == []
    runner = CliRunner()
    done = runner.invoke(app, ["validate", str(folder)])
    assert (done.exit_code, done.stdout) == (0, "")
    place = folder / "tiny@1"
    table = place / "table1.md"
    whole = table.read_text("utf-8")
    table.write_text(whole.replace("FaceSim", "FaceSimm", 1))
    (problem,) = check_tables(folder)
    assert problem.where == str(table)
    assert "is not what the records beside it give" in problem.what
    assert runner.invoke(app, ["validate", str(folder)]).exit_code == 1
    table.unlink()
    assert "is missing" in check_tables(folder)[0].what
    done = runner.invoke(app, ["ablate", "render", "--results", str(folder)])
    assert str(table) in done.stdout.splitlines()
    assert table.read_text("utf-8") == whole
    assert check_tables(folder) == []
    with pytest.raises(UserError, match=r"no tables\.json below"):
        render_again(place / "vace")
    videos = next(place.glob("vace/*.jsonl"))
    lines = videos.read_text("utf-8").splitlines(keepends=True)
    data = json.loads(lines[1])
    assert data["status"] == "ok"
    data["values"] = [value and value + 0.001 for value in data["values"]]
    videos.write_text("".join([lines[0], json.dumps(data) + "\n", *lines[2:]]))
    done = runner.invoke(app, ["validate", str(folder)])
    assert done.exit_code == 1
    assert "the videos give" in done.stdout
    assert f"{place / 'table1.csv'}: is not what the records beside it give" in done.stdout
    videos.write_text("".join([lines[0], "{}\n", *lines[2:]]))
    with pytest.raises(UserError, match="missing fields"):
        read_row(videos)
    shutil.rmtree(place / "vace")
    assert "No such file" in check_tables(folder)[0].what
    (place / INDEX).write_text("[1]")
    with pytest.raises(UserError, match=r"tables\.json"):
        form_tables(place)


def test_a_table_that_is_made_again_replaces_its_own_files_alone(folder: Path, rows: dict[str, Row]) -> None:
    place = folder / "tiny@1"
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    line = Line(("✓", "✓"), "yes/yes", "✓ / ✓", "")
    made = Made("table2", ("Identity Aligner", "Euler Embedding"), (line,),
                (Trainings("✓ / ✓", {None: rows["ours"]}),), "✓ / ✓")  # fmt: skip
    write_table(made, False, False, folder)
    changed = {path.name for path, content in before.items() if path.read_bytes() != content}
    assert changed == {INDEX, "table2.csv", "table2.json", "table2.md", "table2.tex"}
