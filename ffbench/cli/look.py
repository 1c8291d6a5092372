"""Commands that look at what is there: ls, show, compare, validate, doctor, truth."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ffbench.cli.options import (
    DeviceOption,
    JsonOption,
    NetworksOption,
    OutOption,
    PromptsOption,
    ProtocolOption,
    ReferencesOption,
    SuiteOption,
    VideosOption,
    place,
    places,
    protocol_of,
    say,
    suite_given,
)
from ffbench.errors import UserError

if TYPE_CHECKING:
    from ffbench.store import Run
    from ffbench.tables.results import Problem
    from ffbench.validate import Finding


def list_things(
    what: Annotated[str, typer.Argument(help="methods, suites, protocols, metrics or runs")] = "methods",
    out: OutOption = Path("runs"),
    as_json: JsonOption = False,
) -> None:
    """List methods, suites, protocols, metrics or runs."""
    rows = listing(what, out)
    if as_json:
        print(json.dumps([dict(zip(("name", "summary"), row, strict=True)) for row in rows], ensure_ascii=False))
        return
    width = max((len(name) for name, _ in rows), default=0)
    for name, summary in rows:
        print(f"{name:<{width}}  {summary}")


def show(
    key: Annotated[str, typer.Argument(help="A video (suite@version/method/case-s0), protocol, metric or method.")],
    out: OutOption = Path("runs"),
) -> None:
    """Print one thing whole: a datum's way, a recipe, a method's card."""
    from ffbench.show import show as tell

    print(tell(key, out))


def compare(
    a: Annotated[
        Path, typer.Argument(help="A run folder, or the name of a method with a run below --out.", callback=place)
    ],
    b: Annotated[Path, typer.Argument(help="Another.", callback=place)],
    out: OutOption = Path("runs"),
    protocol: Annotated[str | None, typer.Option(help="Protocol id, where runs were scored with several.")] = None,
    common_cases: Annotated[bool, typer.Option(help="Use only the cases that both share.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Paired differences of two runs, with intervals; refuses unlike runs and names what differs."""
    from ffbench.compare import compare as hold

    result = hold(_run(a, out), _run(b, out), protocol, common_cases=common_cases)
    print(json.dumps([dataclasses.asdict(row) for row in result.rows]) if as_json else result.text)


def _run(given: Path, out: Path) -> Run:
    from ffbench.store import find_runs

    # a folder of the working directory may be called as a method is, so only a run counts
    found = [run for run in find_runs(given) if run.root == given] if given.is_dir() else []
    found = found or [run for run in find_runs(out) if run.root.name == str(given)]
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(f"{given} may be {' or '.join(str(run.root) for run in found)}", "give one of these folders")
    raise UserError(f"{given} is no run, and there is none of that name below {out}", "ffbench ls runs lists them")


def validate(
    results: Annotated[
        list[Path] | None, typer.Argument(help="Results files or folders of them; checked instead of a suite.")
    ] = None,
    suite: SuiteOption = "mini",
    videos: VideosOption = None,
    references: ReferencesOption = None,
    prompts: PromptsOption = None,
    run: Annotated[
        list[Path] | None, typer.Option(help="Runs of the suite whose videos are checked too.", callback=places)
    ] = None,
    protocol: ProtocolOption = None,
    networks: NetworksOption = None,
    device: DeviceOption = "cpu",
    as_json: JsonOption = False,
) -> None:
    """Check references, prompts and videos before any GPU hour; or results files before they are handed in."""
    from ffbench.ablate.paper import check_tables
    from ffbench.store import find_runs
    from ffbench.suites import load_suite
    from ffbench.tables.results import check as check_results
    from ffbench.tables.results import find_results
    from ffbench.validate import validate as check

    if results:
        paths = find_results(results)
        problems = [*check_results(paths), *(one for place in results if place.is_dir() for one in check_tables(place))]
        raise typer.Exit(_found(problems, f"{len(paths)} results files", as_json))
    chosen = suite_given(videos, references, prompts) if videos else load_suite(suite)
    runs = [found for path in run or [] for found in find_runs(path)]
    findings = check(chosen, protocol=protocol_of(protocol, networks, chosen.name), runs=runs, device=device)
    raise typer.Exit(_found(findings, f"{chosen.name}@{chosen.version}: {len(chosen.cases)} cases", as_json))


def _found(findings: Sequence[Finding | Problem], what: str, as_json: bool) -> int:
    """Print findings; 1 where one of them is an error."""
    if as_json:
        print(json.dumps([dataclasses.asdict(finding) for finding in findings], ensure_ascii=False))
    for finding in [] if as_json else findings:
        print(f"{finding.severity}: {finding.where}: {finding.what}\n       {finding.fix}")
    errors = sum(finding.severity == "error" for finding in findings)
    say(f"{what}, {errors} errors, {len(findings) - errors} warnings")
    return 1 if errors else 0


def doctor(
    protocol: Annotated[
        str | None, typer.Option(help="The protocol whose weights must be here; by default only those of mini must.")
    ] = None,
    networks: NetworksOption = None,
    out: OutOption = Path("runs"),
    device: DeviceOption = "cpu",
    as_json: JsonOption = False,
) -> None:
    """Check packages, GPU, ONNX Runtime, weights and disk, and say how to mend each."""
    from ffbench.doctor import examine

    asked = protocol_of(protocol or "standard", networks) if protocol or networks else None
    checks = examine(asked, out, device)
    if as_json:
        print(json.dumps([dataclasses.asdict(check) for check in checks], ensure_ascii=False))
    else:
        for check in checks:
            print(f"{check.name:<14} {check.status:<8} {check.detail}")
            if check.fix:
                print(f"{'':<24}{check.fix}")
    raise typer.Exit(1 if any(check.status == "problem" for check in checks) else 0)


def truth(
    videos: VideosOption = None,
    references: ReferencesOption = None,
    prompts: PromptsOption = None,
    protocol: ProtocolOption = None,
    networks: NetworksOption = None,
    out: OutOption = Path("runs"),
    device: DeviceOption = "cpu",
    as_json: JsonOption = False,
) -> None:
    """Measure the instruments where the truth is known, and the metrics under known defects."""
    from ffbench.truth import examine as stage
    from ffbench.truth.text import as_text, write

    if videos is None:
        if references or prompts:
            raise UserError("--references and --prompts belong to --videos", "add --videos, or leave them out")
        from ffbench.truth.labelled import TruthSet

        found = stage.of_embedded(TruthSet.load(), protocol_of(protocol, networks, "mini"), device)
    else:
        suite = suite_given(videos, references, prompts)
        found = stage.of_videos(suite, protocol_of(protocol, networks, suite.name), device)
    text = as_text(found)
    data = write(found, text, out / "truth", device)
    print(json.dumps(data) if as_json else text, end="\n" if as_json else "")
    say(f"files: {out / 'truth'}")


def listing(what: str, out: Path) -> list[tuple[str, str]]:
    """Names and one-line summaries of what `ffbench ls` knows.

    Raises:
        UserError: for a kind of thing that it does not know.
    """
    if what == "methods":
        from ffbench.cards import in_short
        from ffbench.methods import METHODS, card

        return [(name, in_short(card(name))) for name in sorted(METHODS)]
    if what == "suites":
        from ffbench.suites import embedded_suites

        return list(embedded_suites().items())
    if what == "protocols":
        from ffbench.protocols import PROTOCOLS

        return [(one.id, one.summary) for one in PROTOCOLS.values()]
    if what == "metrics":
        from ffbench.metrics.catalog import METRICS

        return [(name, f"{one.title}: {one.summary}") for name, one in METRICS.items()]
    if what == "runs":
        from ffbench.store import find_runs

        found = []
        for one in find_runs(out):
            states = [generation.status for generation in one.generations().values()]
            found.append((str(one.root), ", ".join(f"{states.count(s)} {s}" for s in ("ok", "failed", "refused"))))
        return found
    raise UserError(f"there is no list of {what!r}", "ffbench ls methods | suites | protocols | metrics | runs")
