from __future__ import annotations

import csv
import dataclasses
import io
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ffbench.cli import app
from ffbench.errors import UserError
from ffbench.methods import METHODS, find
from ffbench.records import Case
from ffbench.report import ReportOptions, report
from ffbench.tables import render
from ffbench.tables.published import (
    METRIC_OF,
    VIEWS,
    beside,
    fitting,
    folder,
    published_table,
)
from tests.ffbench.scored_runs import Made, cases, make_run

FOUR = ["facesim_cur", "facesim_arc", "fid", "clip_score"]
FULL = ["0.568", "0.542", "164.24", "33.93"]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    suite = cases(tmp_path / "photos", 3)
    for made in (Made("vace", 0.6), Made("faithfulfaces", 0.8), Made("own", 0.5), Made("still", 0.9, kind="control")):
        make_run(tmp_path / "runs", made, suite)
    return tmp_path / "runs"


def split(row: str) -> list[str]:
    """Cells of a row of Markdown."""
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]]


def line(text: str, start: str) -> str:
    return next(one for one in text.splitlines() if one.startswith(start))


@pytest.mark.parametrize("number", range(1, 7))
def test_every_cell_of_the_files_is_in_a_row_and_a_method_of_a_row_exists(number: int) -> None:
    with (folder() / f"table{number}.csv").open(newline="", encoding="utf-8") as stream:
        printed = [line[column] for line in csv.DictReader(stream) for column in METRIC_OF if column in line]
    table = published_table(number)
    assert sorted(value for row in table.rows for value in row.values.values()) == sorted(printed)
    for row in table.rows:
        assert row.method or number in (3, 4)
        assert not row.method or find(row.method).name == row.method


def test_table_1_as_the_paper_prints_it() -> None:
    table = published_table(1)
    assert [row.name for row in table.rows] == [
        "Vidu", "Kling", "ConsisID", "VACE-14B", "HunyuanCustom", "Stand-In", "Phantom-14B", "Concat-ID-Wan",
        "SkyReels-A2", "MAGREF", "FaithfulFaces",
    ]  # fmt: skip
    assert {row.method for row in table.rows} <= set(METHODS)
    assert list(table.columns) == [(column, "all") for column in FOUR]
    assert list(table.rows[-1].values.values()) == FULL
    assert table.rows[1].values["fid", "all"] == "194.80"


PRINTED = """
Vidu           0.293 0.278 234.65 30.08
Kling          0.447 0.416 194.80 33.06
ConsisID       0.365 0.350 205.03 30.29
VACE-14B       0.403 0.382 191.02 31.83
HunyuanCustom  0.453 0.432 187.32 31.36
Stand-In       0.415 0.395 196.21 30.38
Phantom-14B    0.484 0.456 214.99 29.67
Concat-ID-Wan  0.408 0.387 189.55 31.49
SkyReels-A2    0.410 0.384 237.29 28.10
MAGREF         0.417 0.392 207.69 31.13
FaithfulFaces  0.568 0.542 164.24 33.93
"""
"""Table 1 of the paper, typed from it and from no file of this project."""


def test_table_1_rendered_again_has_the_papers_cells_and_marks() -> None:
    empty = render.Table((render.Heading("Methods"),), (), (), (), (), ())
    made = beside(empty, published_table(1), [])
    assert [cell.strip() for cell in render.markdown(made).splitlines()[0].split("|")[1:-1]] == [
        "Methods", "published FaceSim-Cur ↑", "published FaceSim-Arc ↑", "published FID ↓", "published CLIPScore ↑",
    ]  # fmt: skip
    wanted = [row.split() for row in PRINTED.strip().splitlines()]
    columns = [[float(row[i]) for row in wanted] for i in range(1, 5)]
    best = [(max, max, min, max)[i](column) for i, column in enumerate(columns)]
    second = [sorted(column, reverse=i != 2)[1] for i, column in enumerate(columns)]
    forms = (render.markdown(made).splitlines()[2:], re.findall(r"^  (?!\\)(.*) \\\\$", render.latex(made), re.M)[1:])
    for rows, split_at, bold, under in (
        (forms[0], r"(?<!\\)\|", r"\*\*(.*)\*\*", r"<u>(.*)</u>"),
        (forms[1], "&", r"\\textbf{(.*)}", r"\\underline{(.*)}"),
    ):
        for row, (name, *numbers) in zip(rows, wanted, strict=False):
            cells = [cell.strip() for cell in re.split(split_at, row)]
            shown = cells[-5:-1] if cells[-1] == "" else cells[-4:]
            for i, (cell, number) in enumerate(zip(shown, numbers, strict=True)):
                mark = bold if float(number) == best[i] else under if float(number) == second[i] else "(.*)"
                found = re.fullmatch(mark, cell)
                assert found and found[1] == number, (name, cell)


def test_the_rows_of_the_other_tables_are_the_methods_they_mean() -> None:
    assert [(row.name, row.method) for row in published_table(2).rows] == [
        ("yes/yes", "faithfulfaces"),
        ("yes/no", "faithfulfaces@no-euler"),
        ("no/no", "faithfulfaces@no-aligner"),
    ]
    assert [row.name for row in published_table(3).rows] == ["1024", "2048", "4096", "8192", "16384", "32768"]
    assert published_table(4).named("mean").values["clip_score", "all"] == "33.84"
    views = published_table(5)
    assert list(views.columns) == [(column, view) for column in FOUR[:2] for view in VIEWS]
    row = views.row("phantom")
    assert row is not None
    assert [row.values[key] for key in views.columns] == ["0.470", "0.231", "0.435", "0.216"]
    assert [row.method for row in published_table(6).rows][1:] == [
        f"faithfulfaces@euler-noise-{n}" for n in (5, 10, 15, 20)
    ]


@pytest.mark.parametrize(
    ("methods", "suite", "number"),
    [
        (["faithfulfaces"], "paper@1", 1),
        (["faithfulfaces", "vace"], "mini@1", 1),
        (["faithfulfaces", "faithfulfaces@no-euler"], "mini@1", 2),
        ([f"faithfulfaces@{name}" for name in ("euler-noise-5", "no-euler", "euler-noise-20")], "mini@1", 6),
        (["faithfulfaces", "vace"], "mini-views@1", 5),
        (["phantom"], "nonfrontal@*", 5),
        (["still", "own"], "mini@1", None),
    ],
)  # fmt: skip
def test_the_table_that_fits(methods: list[str], suite: str, number: int | None) -> None:
    found = fitting(methods, suite)
    assert (found and found.number) == number


def test_published_numbers_stand_in_columns_of_their_own(out: Path) -> None:
    plain = report([out], ReportOptions(gallery=False))
    before = (plain.folder / "table.md").read_text("utf-8")
    made = report([out], ReportOptions(gallery=False, published=True))
    text = (made.folder / "table.md").read_text("utf-8")
    cells = split(line(text, "| faithfulfaces"))
    measured = split(line(before, "| faithfulfaces"))
    # what was measured stands as it stood, footnotes too
    assert cells[: len(measured)] == measured
    assert cells[len(measured) :] == [f"**{number}**" for number in FULL]
    heads = split(text.splitlines()[0])
    assert heads[-4:] == [f"published {name}" for name in ("FaceSim-Cur ↑", "FaceSim-Arc ↑", "FID ↓", "CLIPScore ↑")]
    # every row is as wide as the head: a row of the paper that was not measured, one that the paper lacks, a control
    for start in ("| kling", "| own", "| still"):
        assert len(split(line(text, start))) == len(heads)
    assert line(text, "| kling").count("—") == len(heads) - 5
    assert line(text, "| own").count("—<sup>") >= 4
    assert text.count("0.484") == 1  # Phantom's, second best of the paper
    assert "<u>0.484</u>" in text
    assert "Table 1 of the paper" in text
    assert "they belong to protocol consisid and suite paper and were not measured here" in text
    assert "vace = VACE-14B" in text
    assert "not in Table 1 of the paper" in text


def test_all_forms_of_the_table_hold_the_published_columns(out: Path) -> None:
    made = report([out], ReportOptions(published=True))
    assert "published FaceSim-Cur" in made.text.splitlines()[0]
    tex = (made.folder / "table.tex").read_text("utf-8")
    rows = re.findall(r"^  (?!\\)(.*) \\\\$", tex, re.M)
    assert {row.count("&") for row in rows} == {len(re.findall(r"\{l(r+)\}", tex)[0])}
    assert r"\underline{0.484}" in tex
    html = (made.folder / "index.html").read_text("utf-8")
    assert "published FaceSim-Cur" in html
    assert "VACE-14B" in html
    assert "published" not in (made.folder / "cells.json").read_text("utf-8")


def test_csv_names_table_and_row_and_leaves_measured_values_alone(out: Path) -> None:
    folder = report([out], ReportOptions(gallery=False)).folder
    before = list(csv.DictReader(io.StringIO((folder / "table.csv").read_text("utf-8"))))
    report([out], ReportOptions(gallery=False, published=True))
    lines = list(csv.DictReader(io.StringIO((folder / "table.csv").read_text("utf-8"))))
    extra = ("published", "published_table", "published_row")
    assert [{k: v for k, v in one.items() if k not in extra} for one in lines[: len(before)]] == before
    (one,) = [one for one in lines if (one["method"], one["metric"], one["group"]) == ("vace", "facesim_arc", "all")]
    assert [one[name] for name in extra] == ["0.382", "1", "VACE-14B"]
    shown = [one for one in lines if one["published"]]
    assert len(shown) == 44
    (one,) = [one for one in shown if (one["published_row"], one["metric"]) == ("MAGREF", "face_feature_distance")]
    assert (one["value"], one["published"], one["reason"]) == ("", "207.69", "not measured here")


def test_without_a_method_of_the_paper_there_is_nothing_to_show(tmp_path: Path) -> None:
    suite = cases(tmp_path / "photos", 2)
    make_run(tmp_path / "runs", Made("own", 0.5), suite)
    with pytest.raises(UserError, match="no table of the paper for suite tiny@1 holds any of: own"):
        report([tmp_path / "runs"], ReportOptions(gallery=False, published=True))


def test_table_5_beside_the_views_of_a_suite(tmp_path: Path) -> None:
    suite: list[Case] = []
    for one in cases(tmp_path / "photos", 3):
        for view in VIEWS:
            photo = dataclasses.replace(one.references[0], view=view)
            suite.append(
                dataclasses.replace(
                    one, suite="mini-views", case_id=f"{one.case_id}-{view}", references=(photo,), tags=(view,)
                )
            )
    make_run(tmp_path / "runs", Made("faithfulfaces", 0.8), suite)
    made = report([tmp_path / "runs"], ReportOptions(gallery=False, published=True))
    text = (made.folder / "table.md").read_text("utf-8")
    cells = split(line(text, "| faithfulfaces |"))
    assert cells[-4:] == ["**0.544**", "**0.409**", "**0.522**", "**0.392**"]
    assert "published FaceSim-Arc non-frontal" in text
    with (made.folder / "table.csv").open(newline="") as stream:
        lines = [one for one in csv.DictReader(stream) if one["published"] and one["method"] == "faithfulfaces"]
    assert {(one["group"], one["metric"], one["published"]) for one in lines} == {
        ("tag:frontal", "facesim_cur", "0.544"),
        ("tag:frontal", "facesim_arc", "0.522"),
        ("tag:non-frontal", "facesim_cur", "0.409"),
        ("tag:non-frontal", "facesim_arc", "0.392"),
    }


def test_a_row_whose_name_ends_with_its_settings_is_the_same_method() -> None:
    one = render.Entry
    shown = render.Table((render.Heading(""),), ((one("vace [steps=4]"),),), (), (), (), ())
    table = published_table(1)
    made = beside(shown, table, [table.row("vace")])
    assert [entry.text for entry in made.methods[0]][1:] == ["0.403", "0.382", "191.02", "31.83"]
    assert len(made.methods) == 11


def test_the_option_of_the_command_line(out: Path) -> None:
    done = CliRunner().invoke(app, ["report", str(out), "--no-html", "--with-published"])
    assert done.exit_code == 0
    assert "published FaceSim-Cur" in done.stdout


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("pdflatex"), reason="no LaTeX here")
@pytest.mark.parametrize("number", range(1, 7))
def test_every_table_compiles(number: int, tmp_path: Path) -> None:
    one = render.Entry
    heads = (render.Heading("✓ / ×"), render.Heading("FaceSim-Cur", True))
    shown = render.Table(heads, ((one("a_b & 5° ✓"), one("0.5 (↓ 2.00%)", 1)),), (), (), ("100 %",), ("suite x",))
    body = render.latex(beside(shown, published_table(number), [None]), f"Table {number}")
    head = r"\documentclass{article}\usepackage[T1]{fontenc}\usepackage[utf8]{inputenc}\usepackage{booktabs}"
    (tmp_path / "t.tex").write_text(rf"{head}\begin{{document}}{body}\end{{document}}", "utf-8")
    argv = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"]
    done = subprocess.run(argv, cwd=tmp_path, check=False, capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stdout[-1500:]
    assert (tmp_path / "t.pdf").read_bytes().startswith(b"%PDF")
