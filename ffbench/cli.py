"""The command line: parse, one call, print. Data goes to stdout, everything else to stderr.

Exit codes: 0 done; 1 done, but videos failed or findings stand; 2 something the user can mend (two lines); 3 a bug,
with its traceback; 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import ffbench
from ffbench.cli_more import listing, prompts_app, suites_app, weights_app
from ffbench.errors import UserError

if TYPE_CHECKING:
    from ffbench.protocols import Protocol
    from ffbench.score import ScoreSummary
    from ffbench.store import Run
    from ffbench.suites import Suite

app = typer.Typer(
    name="ffbench",
    help="How well does a text-to-video method keep a face while the head turns? generate, score, report.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    epilog="Exit codes: 0 done, 1 done but something failed, 2 mend your input, 3 a bug, 130 stopped.",
)
app.add_typer(weights_app, name="weights")
app.add_typer(prompts_app, name="prompts")
app.add_typer(suites_app, name="suites")


class Redo(enum.StrEnum):
    """Which work that was done before is done again."""

    missing = "missing"
    failed = "failed"
    all = "all"


SuiteOption = Annotated[str, typer.Option(help="Embedded suite, or a folder, CSV or JSONL of your own.")]
OutOption = Annotated[Path, typer.Option(help="Where runs are kept.")]
LimitOption = Annotated[int | None, typer.Option(min=1, help="Only so many videos; for trials.")]
DeviceOption = Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")]
ProtocolOption = Annotated[str, typer.Option(help="Recipe of measurement; ffbench ls protocols.")]
NetworksOption = Annotated[Path | None, typer.Option(help="TOML file of other measuring networks; docs/metrics.md.")]
RedoOption = Annotated[Redo, typer.Option(help="Work that is done again.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Data as JSON on stdout.")]
SetOption = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A setting of the method.")]
TakesOption = Annotated[int, typer.Option(min=1, help="Videos a case, each with a seed of its own.")]
MethodsOption = Annotated[list[str], typer.Option("--method", "-m", help="ffbench ls methods; may be repeated.")]
VideosOption = Annotated[Path | None, typer.Option(help="Your finished videos: a folder, or a CSV/JSONL of them.")]
ReferencesOption = Annotated[Path | None, typer.Option(help="Photographs for --videos: a folder or one file.")]
PromptsOption = Annotated[Path | None, typer.Option(help="Prompts for --videos: CSV, JSONL or text.")]


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
) -> None:
    if version:
        print(ffbench.__version__)
        raise typer.Exit()


@app.command()
def generate(
    method: MethodsOption,
    suite: SuiteOption = "photos",
    out: OutOption = Path("runs"),
    limit: LimitOption = None,
    takes: TakesOption = 1,
    setting: SetOption = None,
    redo: RedoOption = Redo.missing,
    device: DeviceOption = "cpu",
    as_json: JsonOption = False,
) -> None:
    """Make a suite's videos with a method. Resumable: the same command goes on."""
    from ffbench.suites import load_suite

    failed = _generate(method, load_suite(suite), out, _generate_options(limit, takes, setting, redo, device), as_json)
    _say(f"next: ffbench score --out {out}")
    raise typer.Exit(1 if failed else 0)


@app.command()
def score(
    runs: Annotated[list[Path] | None, typer.Argument(help="Run folders; all below --out if left out.")] = None,
    videos: VideosOption = None,
    references: ReferencesOption = None,
    prompts: PromptsOption = None,
    name: Annotated[str, typer.Option(help="What to call the method that made --videos.")] = "given",
    protocol: ProtocolOption = "basic",
    networks: NetworksOption = None,
    out: OutOption = Path("runs"),
    limit: LimitOption = None,
    redo: RedoOption = Redo.missing,
    device: DeviceOption = "cpu",
    dry_run: Annotated[bool, typer.Option(help="Print which video goes with which reference, and stop.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Measure videos: those of runs, or your own with --videos and --references."""
    recipe = _protocol(protocol, networks)
    if videos is None:
        found = _runs(runs, out)
    else:
        suite = _given_suite(videos, references, prompts)
        if dry_run:
            _print_pairing(suite, as_json)
            return
        found = [_given_run(suite, out, name)]
    damaged = _score(found, recipe, limit, redo, device, as_json)
    _say(f"next: ffbench report {' '.join(str(run.root) for run in found) if videos else out} --protocol {recipe.id}")
    raise typer.Exit(1 if damaged else 0)


@app.command()
def report(
    runs: Annotated[list[Path] | None, typer.Argument(help="Run folders or a folder of them.")] = None,
    protocol: Annotated[str | None, typer.Option(help="Protocol id, where runs were scored with several.")] = None,
    out: OutOption = Path("runs"),
    ci: Annotated[bool, typer.Option("--ci", help="Print 95% intervals, clustered by identity.")] = False,
    common_cases: Annotated[bool, typer.Option(help="Use only the cases that every run shares.")] = False,
    gallery: Annotated[bool, typer.Option(help="Write the page of videos and curves.")] = True,
    as_json: JsonOption = False,
) -> None:
    """Make the tables and the page."""
    from ffbench.report import ReportOptions
    from ffbench.report import report as make_report

    made = make_report(
        runs or [out], ReportOptions(protocol=protocol, intervals=ci, common_cases=common_cases, gallery=gallery)
    )
    if as_json:
        print((made.folder / "cells.json").read_text("utf-8"))
    else:
        print(made.text)
    _say(f"page: {made.folder / 'index.html'}" if gallery else f"tables: {made.folder}")


@app.command()
def run(
    method: MethodsOption,
    suite: SuiteOption = "photos",
    protocol: ProtocolOption = "basic",
    networks: NetworksOption = None,
    out: OutOption = Path("runs"),
    limit: LimitOption = None,
    takes: TakesOption = 1,
    setting: SetOption = None,
    redo: RedoOption = Redo.missing,
    device: DeviceOption = "cpu",
    ci: Annotated[bool, typer.Option("--ci", help="Print 95% intervals, clustered by identity.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Generate, score and report in one go."""
    from ffbench.store import run_folder
    from ffbench.suites import load_suite

    recipe = _protocol(protocol, networks)
    chosen = load_suite(suite)
    failed = _generate(method, chosen, out, _generate_options(limit, takes, setting, redo, device), False)
    found = [run_folder(out, chosen.name, chosen.version, one) for one in method]
    damaged = _score(found, recipe, None, redo, device, False)
    report([one.root for one in found], recipe.id, out, ci, False, True, as_json)
    raise typer.Exit(1 if failed or damaged else 0)


@app.command("ls")
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


@app.command()
def show(
    key: Annotated[str, typer.Argument(help="A video (suite@version/method/case-s0), protocol, metric or method.")],
    out: OutOption = Path("runs"),
) -> None:
    """Print one thing whole: a datum's way, a recipe, a method's card."""
    from ffbench.show import show as tell

    print(tell(key, out))


@app.command()
def compare(
    a: Annotated[Path, typer.Argument(help="A run folder.")],
    b: Annotated[Path, typer.Argument(help="Another run folder.")],
    protocol: Annotated[str | None, typer.Option(help="Protocol id, where runs were scored with several.")] = None,
    common_cases: Annotated[bool, typer.Option(help="Use only the cases that both share.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Paired differences of two runs, with intervals; refuses unlike runs and names what differs."""
    from ffbench.compare import compare as hold
    from ffbench.store import Run

    result = hold(Run(a), Run(b), protocol, common_cases=common_cases)
    print(json.dumps([dataclasses.asdict(row) for row in result.rows]) if as_json else result.text)


@app.command()
def validate(
    suite: SuiteOption = "photos",
    videos: VideosOption = None,
    references: ReferencesOption = None,
    prompts: PromptsOption = None,
    protocol: ProtocolOption = "basic",
    networks: NetworksOption = None,
    device: DeviceOption = "cpu",
    as_json: JsonOption = False,
) -> None:
    """Check references, prompts and videos before any GPU hour."""
    from ffbench.suites import load_suite
    from ffbench.validate import validate as check

    chosen = _given_suite(videos, references, prompts) if videos else load_suite(suite)
    findings = check(chosen, protocol=_protocol(protocol, networks), device=device)
    if as_json:
        print(json.dumps([dataclasses.asdict(finding) for finding in findings], ensure_ascii=False))
    for finding in [] if as_json else findings:
        print(f"{finding.severity}: {finding.where}: {finding.what}\n       {finding.fix}")
    errors = sum(finding.severity == "error" for finding in findings)
    _say(
        f"{chosen.name}@{chosen.version}: {len(chosen.cases)} cases, {errors} errors, {len(findings) - errors} warnings"
    )
    raise typer.Exit(1 if errors else 0)


@app.command()
def doctor(
    protocol: ProtocolOption = "standard",
    networks: NetworksOption = None,
    out: OutOption = Path("runs"),
    device: DeviceOption = "cpu",
    as_json: JsonOption = False,
) -> None:
    """Check packages, GPU, ONNX Runtime, weights and disk, and say how to mend each."""
    from ffbench.doctor import examine

    checks = examine(_protocol(protocol, networks), out, device)
    if as_json:
        print(json.dumps([dataclasses.asdict(check) for check in checks], ensure_ascii=False))
    else:
        for check in checks:
            print(f"{check.name:<14} {check.status:<8} {check.detail}")
            if check.fix:
                print(f"{'':<24}{check.fix}")
    raise typer.Exit(1 if any(check.status == "problem" for check in checks) else 0)


def _generate_options(limit: int | None, takes: int, setting: list[str] | None, redo: Redo, device: str) -> Any:
    from ffbench.generate import GenerateOptions

    return GenerateOptions(settings=tuple(setting or ()), takes=takes, limit=limit, redo=redo.value, device=device)


def _generate(methods: list[str], suite: Suite, out: Path, options: Any, as_json: bool) -> int:
    from ffbench.generate import generate as make

    failed = 0
    for method in methods:
        _say(f"{method} on suite {suite.name}@{suite.version}; Ctrl-C is safe: run the same command to go on")
        done = make(suite, method, out, options)
        failed += done.failed + done.refused
        line = {"ok": done.ok, "failed": done.failed, "refused": done.refused, "done_before": done.done_before}
        if as_json:
            print(json.dumps({"method": method, "run": str(done.run.root), **line}))
        _say(", ".join(f"{count} {name.replace('_', ' ')}" for name, count in line.items()) + f" -> {done.run.root}")
    return failed


def _score(runs: list[Run], protocol: Protocol, limit: int | None, redo: Redo, device: str, as_json: bool) -> int:
    from ffbench.score import ScoreOptions
    from ffbench.score import score as measure

    _say(f"protocol {protocol.id}: {protocol.summary}")
    damaged = 0
    done: ScoreSummary | None = None
    for one in runs:
        done = measure(one, ScoreOptions(protocol, device, redo.value, limit))
        damaged += done.damaged
        if as_json:
            counts = {"scored": done.scored, "done_before": done.done_before, "damaged": done.damaged}
            print(json.dumps({"run": str(one.root), **counts, "missing": dict(done.missing)}))
        _say(f"{done.scored} scored, {done.done_before} done before, {done.damaged} damaged: {one.root}")
    for slot, reason in sorted(done.missing.items()) if done else []:
        _say(f"not measured, {slot}: {reason}")
    return damaged


def _protocol(name: str, networks: Path | None) -> Protocol:
    from ffbench.protocols import get_protocol, with_networks

    recipe = get_protocol(name)
    return with_networks(recipe, networks) if networks else recipe


def _runs(paths: list[Path] | None, out: Path) -> list[Run]:
    from ffbench.store import find_runs

    found = [run for path in (paths or [out]) for run in find_runs(path)]
    if not found:
        places = ", ".join(str(path) for path in (paths or [out]))
        raise UserError(f"no run below {places}", "ffbench generate --method still makes one")
    return found


def _given_suite(videos: Path, references: Path | None, prompts: Path | None) -> Suite:
    from ffbench.suites import suite_of_videos

    return suite_of_videos(videos, references, prompts)


def _given_run(suite: Suite, out: Path, name: str) -> Run:
    from ffbench.score import given_run
    from ffbench.store import run_folder

    return given_run(run_folder(out, suite.name, suite.version, name), suite.cases, suite.given, name)


def _print_pairing(suite: Suite, as_json: bool) -> None:
    rows = [(str(suite.given[c.case_id]), c.references[0].path, c.prompt) for c in suite.cases]
    if as_json:
        print(json.dumps([dict(zip(("video", "reference", "prompt"), row, strict=True)) for row in rows]))
        return
    for video, reference, prompt in rows:
        print(f"{video}  <-  {reference}" + (f"  ({prompt[:60]})" if prompt else ""))


def _say(line: str) -> None:
    typer.echo(line, err=True)


def main() -> None:
    """Entry point: two lines for what the user can mend, a traceback and the exit code 3 for a bug."""
    try:
        app()
    except UserError as error:
        typer.echo(str(error), err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        typer.echo("stopped; run the same command to go on", err=True)
        sys.exit(130)
    except BrokenPipeError:
        # the reader of a pipe went away: nothing to say, and nothing to flush at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception:  # noqa: BLE001 - the last fence: a bug leaves with its traceback and its own exit code
        import traceback

        from ffbench.provenance import provenance

        traceback.print_exc()
        typer.echo(f"this is a bug; please report it with: {json.dumps(provenance('cpu'))}", err=True)
        sys.exit(3)
