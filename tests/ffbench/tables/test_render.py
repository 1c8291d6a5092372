from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from ffbench.records import Cell, from_json
from ffbench.tables import render
from ffbench.tables.render import Entry, Heading, Table
from ffbench.tables.sheet import Line, Sheet

NASTY = r"a_b & 50% of #1 {x} $y$ ~z ^w \input{/etc/passwd} <script>alert('1')</script> |p| [l](u) `c` 'é' *b*"


def cell(method: str, metric: str, value: float, group: str = "all", reason: str = "") -> Cell:
    low, high = value - 0.01, value + 0.01
    return Cell("s@1", "standard@1", method, metric, 1, group, value, low, high, 3, 6, 0, 0, 0.9, reason)


def sheet(values: dict[str, dict[str, float]], controls: tuple[str, ...] = (), notes: tuple[str, ...] = ()) -> Sheet:
    metrics = tuple(dict.fromkeys(metric for row in values.values() for metric in row))
    return Sheet(
        "s@1",
        "standard@1",
        metrics,
        ("arc x#1",),
        tuple(Line(label, label in controls, 6, 0) for label in values),
        notes,
        tuple(
            cell(
                label,
                metric,
                value,
                reason=f"{metric} is not here: ffbench weights pull x" if math.isnan(value) else "",
            )
            for label, row in values.items()
            for metric, value in row.items()
        ),
    )


def row(table: Table, label: str) -> dict[str, Entry]:
    (found,) = [one for one in (*table.methods, *table.controls) if one[0].text == label]
    return {heading.title: entry for heading, entry in zip(table.columns, found, strict=True)}


def test_best_and_second_are_marked_among_methods_and_controls_stand_apart() -> None:
    made = sheet(
        {
            "a": {"facesim_arc": 0.5, "fid": 30.0, "pose_range": 10.0},
            "b": {"facesim_arc": 0.6, "fid": 20.0, "pose_range": 30.0},
            "c": {"facesim_arc": 0.4, "fid": 10.0, "pose_range": 20.0},
            "still": {"facesim_arc": 0.9, "fid": 1.0, "pose_range": 0.0},
        },
        controls=("still",),
    )
    table = render.table(made, made.metrics)
    assert [one[0].text for one in table.methods] == ["b", "a", "c"]
    assert [one[0].text for one in table.controls] == ["still (control)"]
    ranks = {label: [row(table, label)[t].rank for t in ("FaceSim-Arc", "FID", "pose range")] for label in "abc"}
    # higher is better, lower is better, and a metric that only describes
    assert ranks == {"a": [2, 0, 0], "b": [1, 2, 0], "c": [0, 1, 0]}
    assert row(table, "still (control)")["FaceSim-Arc"].rank == 0
    assert [heading.title + heading.arrow for heading in table.columns] == [
        "", "FaceSim-Arc ↑", "FID ↓", "pose range", "faces", "N",
    ]  # fmt: skip
    assert row(table, "a")["pose range"].text == "10°"


def test_numbers_that_print_alike_rank_alike_and_one_method_alone_has_no_rank() -> None:
    made = sheet({"a": {"facesim_arc": 0.50004}, "b": {"facesim_arc": 0.50001}, "c": {"facesim_arc": 0.3}})
    table = render.table(made, ["facesim_arc"])
    assert [row(table, label)["FaceSim-Arc"].rank for label in "abc"] == [1, 1, 2]
    alone = render.table(sheet({"a": {"facesim_arc": 0.5}}), ["facesim_arc"])
    assert row(alone, "a")["FaceSim-Arc"].rank == 0
    assert render._shown(-0.00001, "facesim_arc") == "0.000"


def test_missing_numbers_are_dashes_with_one_footnote_a_reason() -> None:
    nan = math.nan
    made = sheet({"a": {"facesim_arc": nan, "clip_score": 31.5}, "b": {"facesim_arc": nan, "clip_score": 30.0}})
    table = render.table(made, made.metrics)
    entries = [row(table, label)["FaceSim-Arc"] for label in "ab"]
    assert [(entry.text, entry.note) for entry in entries] == [("—", 1), ("—", 1)]
    assert table.footnotes == ("FaceSim-Arc: facesim_arc is not here: ffbench weights pull x",)
    both = sheet({"a": {"facesim_arc": 0.5}})
    cells = [cell("a", metric, nan, reason="no   face") for metric in ("facesim_arc", "pose_range")]
    shared = render.table(dataclasses.replace(both, cells=tuple(cells)), ["facesim_arc", "pose_range"])
    assert shared.footnotes == ("FaceSim-Arc, pose range: no face",)
    assert [entry.note for entry in shared.methods[0][1:3]] == [1, 1]
    # the first column that has numbers orders the rows
    assert [one[0].text for one in table.methods] == ["a", "b"]
    assert row(render.table(made, ["kid"]), "a")["KID"].note == 1


def test_failed_videos_are_counted_at_n() -> None:
    made = sheet({"a": {"facesim_arc": 0.5}})
    made = dataclasses.replace(made, lines=(Line("a", False, 4, 2),))
    table = render.table(made, made.metrics)
    assert (row(table, "a")["N"].text, table.footnotes) == ("4/6", ("a: 2 of 6 videos failed",))


def test_columns_fall_back_to_what_has_numbers() -> None:
    values = {"facesim_arc": 0.5, "fid": math.nan, "kid": 0.1, "facesim_arc_yaw45": math.nan}
    assert render.main_metrics(sheet({"a": values})) == ["facesim_arc", "kid", "facesim_arc_yaw45"]
    assert render.main_metrics(sheet({"a": {**values, "fid": 12.0}}))[1] == "fid"


def test_intervals_are_printed_on_request() -> None:
    made = sheet({"a": {"facesim_arc": 0.5}})
    assert row(render.table(made, made.metrics, intervals=True), "a")["FaceSim-Arc"].text == "0.500 [0.490, 0.510]"
    assert "--ci" not in render.text(render.table(made, made.metrics, intervals=True))


def test_text_is_aligned_with_wide_letters_and_colour() -> None:
    made = sheet(
        {"方法": {"facesim_arc": 0.5}, "b": {"facesim_arc": 0.6}, "c": {"facesim_arc": 0.1}}, notes=("a note",)
    )
    table = render.table(made, made.metrics)
    lines = render.text(table).splitlines()
    ends = [
        render._width(line[: line.index(mark) + len(mark)])
        for line, mark in zip(lines[1:3], ("0.600**", "0.500_"), strict=True)
    ]
    assert ends[0] == ends[1]
    assert lines[-4] == "note: a note"
    assert "suite s@1 · protocol standard@1" in lines[-3]
    assert lines[-2] == "networks: arc x#1"
    assert "compare only with others of suite s@1 and protocol standard@1" in lines[-1]
    painted = render.text(table, ansi=True)
    assert "\x1b[1m0.600\x1b[0m" in painted
    assert "\x1b[4m0.500\x1b[0m" in painted
    bare = re.sub(r"\x1b\[\d+m", "", painted).splitlines()
    assert len({render._width(line) for line in bare[:4]}) == 1


def nasty() -> Table:
    made = sheet(
        {NASTY: {"facesim_arc": 0.5, "facesim_arc_yaw45": math.nan}, "b": {"facesim_arc": 0.6}}, notes=(NASTY,)
    )
    return render.table(made, made.metrics)


def test_markdown_keeps_its_columns_whatever_the_names_are() -> None:
    lines = render.markdown(nasty()).splitlines()
    rows = [line for line in lines if line.startswith("|")]
    # a bar that is not escaped would open another column
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in rows} == {6}
    assert "<script" not in "".join(lines)
    assert "**0.600**" in rows[2]
    assert "<u>0.500</u>" in rows[3]


def test_latex_is_escaped_and_balanced() -> None:
    tex = render.latex(nasty(), caption=NASTY)
    bare = re.sub(r"\\([{}$&#%_\\])", "", tex)
    assert bare.count("{") == bare.count("}")
    assert not re.search(r"[#%~^]|(?<!begin)\\input", bare.replace(r"$^\circ$", ""))
    body = [line for line in tex.splitlines() if line.startswith("  ") and "&" in line]
    assert {len(re.findall(r"(?<!\\)&", line)) for line in body} == {4}
    assert r"FaceSim-Arc $\uparrow$" in tex
    assert r"\textbf{0.600}" in tex
    assert r"\underline{0.500}" in tex


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex on this machine")
def test_latex_compiles(tmp_path: Path) -> None:
    source = r"\documentclass{article}\usepackage{booktabs}\usepackage[T1]{fontenc}\begin{document}"
    (tmp_path / "t.tex").write_text(source + "\n" + render.latex(nasty(), caption=NASTY) + r"\end{document}", "utf-8")
    done = subprocess.run(
        ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "t.tex"],
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout.decode(errors="replace")[-2000:]


def test_csv_reads_back_with_pandas() -> None:
    import pandas as pd

    made = sheet({NASTY: {"facesim_arc": 0.5, "fid": math.nan}})
    frame = pd.read_csv(io.StringIO(render.csv_cells(made)))
    assert list(frame["method"]) == [NASTY, NASTY]
    assert frame["value"][0] == 0.5
    assert frame["value"].isna().tolist() == [False, True]
    assert frame["reason"][1] == "fid is not here: ffbench weights pull x"
    assert len(next(csv.reader(io.StringIO(render.csv_cells(made))))) == len(frame.columns)


def test_json_is_strict_and_reads_back() -> None:
    made = sheet({NASTY: {"facesim_arc": 0.5, "fid": math.nan}}, notes=(NASTY,))
    written = render.json_sheet(made)
    json.loads(written, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    again = from_json(Sheet, written)
    assert render.json_sheet(again) == written
    assert render.markdown(render.table(again, again.metrics)) == render.markdown(render.table(made, made.metrics))


def test_bins_and_tags_become_columns() -> None:
    cells = (
        cell("a", "facesim_arc", 0.7, "yaw:0-15"),
        cell("a", "facesim_arc", math.nan, "yaw:15-30", "nothing there"),
    )
    made = dataclasses.replace(
        sheet({"a": {"facesim_arc": 0.5}}), cells=(*cells, cell("a", "facesim_arc", 0.6, "tag:gym"))
    )
    table = render.pose_table(made, "facesim_arc")
    assert table.columns == (Heading(""), Heading("0-15°", True), Heading("15-30°", True))
    assert [entry.text for entry in table.methods[0]] == ["a", "0.700", "—"]
    assert table.footnotes == ("nothing there",)
    assert [heading.title for heading in render.tag_table(made, "facesim_arc").columns] == ["", "gym"]
