"""The third stage: scored runs become tables and a page."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ffbench.durable import write_atomic
from ffbench.errors import UserError
from ffbench.store import Run, find_runs
from ffbench.tables import published, render
from ffbench.tables.document import document
from ffbench.tables.frames import frames_csv, read_frames
from ffbench.tables.published import PublishedTable
from ffbench.tables.results import write_results
from ffbench.tables.rows import Row, alike, distinct_labels, load_rows, pick_protocol
from ffbench.tables.sheet import BINNED, Sheet, sheet


@dataclass(frozen=True)
class ReportOptions:
    """What to report, and how."""

    protocol: str | None = None
    """Protocol id or name; None where the runs are scored with one."""
    intervals: bool = False
    common_cases: bool = False
    gallery: bool = True
    small_sets: bool = False
    """Form FID below 2048 crops or references too."""
    all_metrics: bool = False
    """A column for every metric of the protocol."""
    cases: int = 40
    """Cases with film strips on the page."""
    published: bool = False
    """The paper's numbers beside the measured ones, in columns of their own."""
    figures: bool = False
    """Every figure as PNG and PDF."""
    figure_cases: tuple[str, ...] = ()
    """Cases of grids and strips over time; the worst, the median and the best if empty."""
    boxes: bool = False
    """Face boxes in grids."""
    results: Path | None = None
    """Where a results file of each run goes, to be handed in; none if None."""
    folder: Path | None = None
    """Where the tables go; `report/` beside the runs if None."""


@dataclass(frozen=True)
class Report:
    """What was made: the text for the terminal, and the folder of the files."""

    text: str
    folder: Path
    page: str = ""
    """The page's path and size; empty where none was asked for."""
    methods: tuple[str, ...] = ()
    """Names of the rows that are no controls, as the table orders them."""


def report(places: Sequence[Path], options: ReportOptions) -> Report:
    """Write `table.md`, `table.tex`, `table.csv`, `cells.json`, `frames.csv`, `tables.tex` and `index.html`.

    `tables.tex` is a LaTeX document of `table.tex` and of the ablations that lie beside the report.

    Args:
        places: run folders, or folders of them; runs found inside a folder that are not scored yet are left out and
            named under the table, one that is named itself must be scored.
        options: see ReportOptions.

    Raises:
        UserError: where there is nothing to report, several suites or protocols, rows that may not stand together, or
            none of them in the paper where its numbers are wanted.
    """
    runs = _runs(places)
    protocol = pick_protocol(runs, options.protocol)
    named = {place.resolve() for place in places}
    rows: list[Row] = []
    left_out = []
    for run in runs:
        try:
            rows.extend(load_rows(run, protocol))
        except UserError as error:
            if run.root.resolve() in named or protocol in run.meta().get("scoring", {}):
                raise
            left_out.append(f"{run.root.name} is not in the table: {error.fix}")
    ordered = sorted(distinct_labels(rows), key=lambda row: (row.control, row.label))
    rows, shared = alike(ordered, options.common_cases)
    if options.results:
        if shared:
            raise UserError(
                "a results file holds a whole run, not shared cases", "leave --common-cases or --results out"
            )
        write_results(rows, options.results)
    waiting = [f"{row.label}: {row.num_pending} videos wait for ffbench score" for row in rows if row.num_pending]
    made = sheet(rows, [*([shared] if shared else []), *waiting, *left_out], options.small_sets)
    folder = options.folder or _suite_folder(runs) / "report"
    paper = _published(made) if options.published else None
    files = table_files(made, options.intervals, options.all_metrics, paper)
    files["frames.csv"] = frames_csv(rows)
    ablated = sorted(path.parent.name for path in folder.parent.glob("ablate-table[2-6]/table.tex"))
    files["tables.tex"] = document(["table.tex", *(f"../{name}/table.tex" for name in ablated)])
    for name, content in files.items():
        write_atomic(folder / name, content.encode())
    if options.figures:
        from ffbench.figures.write import FigureOptions, write_figures, write_sizes

        chosen = FigureOptions(options.figure_cases, options.boxes)
        write_figures(made, read_frames(files["frames.csv"]), rows, folder / "figures", chosen)
        write_sizes(folder.parent / "ablate-table3" / "cells.json", folder / "figures", options.published)
    told = ""
    if options.gallery:
        from ffbench.page.write import Gallery, write_page

        page = write_page(Gallery(made, rows, folder, options.cases, paper))
        told = f"{page.path} ({page.size / 1e6:.1f} MB, {page.num_cases} cases, {page.num_videos} videos)"
    methods = tuple(row.label for row in rows if not row.control)
    return Report(_terminal(made, options, paper), folder, told, methods)


def table_files(
    made: Sheet, intervals: bool = False, all_metrics: bool = False, paper: PublishedTable | None = None
) -> dict[str, str]:
    """The tables of a sheet by file name; the same sheet gives the same bytes."""
    metrics = list(made.metrics) if all_metrics else render.main_metrics(made)
    main = render.table(made, metrics, intervals)
    if paper:
        main = published.with_published(main, paper)
    parts = [render.markdown(main)]
    for metric in _binned(made):
        parts.append(f"\n{render.title(metric)} by |yaw|\n\n" + render.markdown(render.pose_table(made, metric)))
    return {
        "table.md": "".join(parts),
        "table.tex": render.latex(main, f"Results on suite {made.suite} under protocol {made.protocol}"),
        "table.csv": published.csv_cells(made, paper) if paper else render.csv_cells(made),
        "cells.json": render.json_sheet(made),
    }


def _binned(made: Sheet) -> list[str]:
    """FaceSim metrics that have a number in some bin of yaw."""
    return [
        metric
        for metric in BINNED
        if any(cell.metric == metric and cell.group.startswith("yaw:") and not cell.reason for cell in made.cells)
    ]


def _published(made: Sheet) -> PublishedTable:
    """The table of the paper that holds most of a sheet's methods."""
    methods = [published.method_of(line.label) for line in made.lines]
    paper = published.fitting(methods, made.suite)
    if paper is None:
        raise UserError(
            f"no table of the paper for suite {made.suite} holds any of: {', '.join(methods)}",
            "leave --with-published out, or report a run of one of the paper's methods too: ffbench ls methods",
        )
    return paper


def _terminal(made: Sheet, options: ReportOptions, paper: PublishedTable | None) -> str:
    ansi = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    metrics = list(made.metrics) if options.all_metrics else render.main_metrics(made)
    main = render.table(made, metrics, options.intervals)
    parts = [render.text(published.with_published(main, paper) if paper else main, ansi)]
    for metric in _binned(made)[:1]:
        bins = dataclasses.replace(render.pose_table(made, metric, "yaw", options.intervals), notes=(), source=())
        parts.append(f"{render.title(metric)} by |yaw|\n{render.text(bins, ansi)}")
    return "\n\n".join(parts)


def _runs(places: Sequence[Path]) -> list[Run]:
    runs = {run.root.resolve(): run for place in places for run in find_runs(place)}
    if not runs:
        raise UserError(
            f"no run below {', '.join(str(place) for place in places)}", "ffbench generate --method still makes one"
        )
    suites = {_suite(run): run.root.parent for run in runs.values()}
    if len(suites) > 1 and len(places) == 1:
        raise UserError(
            f"{places[0]} holds runs of several suites: {', '.join(sorted(suites))}",
            f"report them apart: ffbench report {suites[min(suites)]}",
        )
    return list(runs.values())


def _suite(run: Run) -> str:
    for generation in run.generations().values():
        return f"{generation.suite}@{generation.suite_version}"
    return ""


def _suite_folder(runs: Sequence[Run]) -> Path:
    return runs[0].root.parent
