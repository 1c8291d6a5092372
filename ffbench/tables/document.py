"""A LaTeX document of several tables: each is a file of its own, taken in as it is."""

from __future__ import annotations

from collections.abc import Sequence

PACKAGES = ("[T1]{fontenc}", "[utf8]{inputenc}", "{booktabs}", "{graphicx}", "[landscape,margin=1.8cm]{geometry}")


def document(inputs: Sequence[str]) -> str:
    r"""A document that compiles with pdflatex in the folder that the inputs are relative to.

    Args:
        inputs: paths with `/`, such as `../ablate-table5/table.tex`; spaces are allowed, `%`, `#` and braces are not.

    Raises:
        ValueError: for a path that LaTeX cannot read.
    """
    if bad := [path for path in inputs if set(path) & set('%#{}~"\\')]:
        raise ValueError(f"LaTeX cannot read the path {bad[0]!r}")
    lines = [
        r"\documentclass{article}",
        *(rf"\usepackage{package}" for package in PACKAGES),
        # a table a page would leave most of it white
        r"\renewcommand{\topfraction}{0.95}\renewcommand{\floatpagefraction}{0.7}\setcounter{topnumber}{6}",
        r"\begin{document}",
        *(rf'\input{{"{path}"}}' for path in inputs),
        r"\end{document}",
    ]
    return "\n".join(lines) + "\n"
