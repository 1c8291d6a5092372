"""A document of all six tables compiles, and nothing in it stands out of its line; without LaTeX it is parsed."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from ffbench.tables import render
from ffbench.tables.document import document
from ffbench.tables.published import CAPTIONS, VIEWS, beside, published_table

LATEX = shutil.which("pdflatex")


def six_tables(folder: Path) -> list[str]:
    """Tables 1 to 6 as they are laid out with the paper's columns, with what people may put into names."""
    names = []
    for number in CAPTIONS:
        published = published_table(number)
        metrics = [f"{one} {view}" for one in ("FaceSim-Cur", "FaceSim-Arc") for view in VIEWS] if number == 5 else []
        heads = [*(metrics or ("FaceSim-Cur", "FaceSim-Arc", "KID", "CLIPScore")), "faces", "N"]
        columns = (render.Heading("Methods"), *(render.Heading(head, head != "N") for head in heads))
        labels = [row.method or row.name for row in published.rows]
        labels[0] += " a_b {x} & 5° ✓ 100% #1 ~^\\ “ö” 漢 ±15° µ 😀"[: 14 if number == 5 else 99]
        number_of = {5: "0.204 (↓ 24.82%)", 6: "0.204 [0.103, 0.305]"}.get(number, "0.204")
        rows = tuple(
            (render.Entry(label), *(render.Entry(number_of, rank=i % 3, note=i % 2) for i in range(len(heads))))
            for label in labels
        )
        shown = render.Table(columns, rows, (), ("no face in 3 of 40 videos",), ("100 %",), ("suite x_1", "protocol y"))
        body = render.latex(beside(shown, published, published.rows), CAPTIONS[number])
        names.append(f"table {number}.tex")
        (folder / names[-1]).write_text(body, "utf-8")
    (folder / "all.tex").write_text(document(names), "utf-8")
    return names


def test_every_environment_and_brace_is_closed(tmp_path: Path) -> None:
    for name in (*six_tables(tmp_path), "all.tex"):
        tex = (tmp_path / name).read_text("utf-8")
        assert tex.isascii() or not set(tex) - set(map(chr, range(0x180))), "pdfLaTeX has no letter for it"
        plain = re.sub(r"\\[\\{}%&#_$]", "", tex)
        depth = 0
        for char in plain:
            depth += {"{": 1, "}": -1}.get(char, 0)
            assert depth >= 0, name
        assert depth == 0, name
        opened: list[str] = []
        for kind, what in re.findall(r"\\(begin|end)\{(\w+)\}", tex):
            if kind == "begin":
                opened.append(what)
            else:
                assert opened.pop() == what, name
        assert opened == [], name
        assert plain.count("$") % 2 == 0, name
        columns = [len(found) for found in re.findall(r"\{l(r+)\}", tex)]
        body = re.sub(r"\\begin\{tabular\}\[b\].*?\\end\{tabular\}", "", tex)
        rows = re.findall(r"^  (?!\\[tmb]).*\\\\$", body, re.M)
        assert {row.replace(r"\&", "").count("&") for row in rows} <= set(columns), name


def test_a_path_that_latex_cannot_read_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot read"):
        document(["100%/table.tex"])


@pytest.mark.slow
@pytest.mark.skipif(LATEX is None, reason="no LaTeX here")
def test_the_document_compiles_and_no_line_is_too_wide(tmp_path: Path) -> None:
    six_tables(tmp_path)
    argv = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    done = subprocess.run(argv, cwd=tmp_path, check=False, capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stdout[-1500:]
    assert (tmp_path / "all.pdf").read_bytes().startswith(b"%PDF")
    assert re.findall(r"Overfull \\hbox.*", done.stdout) == []


@pytest.mark.slow
@pytest.mark.skipif(LATEX is None, reason="no LaTeX here")
def test_every_character_compiles(tmp_path: Path) -> None:
    every = "".join(map(chr, [*range(0x20, 0x250), *range(0x2000, 0x2070), 0x2713, 0x4E2D, 0x1F600]))
    lines = [render.latex_escape(every[i : i + 40]) + r"\par" for i in range(0, len(every), 40)]
    (tmp_path / "lines.tex").write_text("\n".join(lines), "utf-8")
    (tmp_path / "all.tex").write_text(document(["lines.tex"]), "utf-8")
    argv = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    done = subprocess.run(argv, cwd=tmp_path, check=False, capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stdout[-1500:]
    assert "Missing character" not in (tmp_path / "all.log").read_text("utf-8", errors="replace")
