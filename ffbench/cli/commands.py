"""The command line: parse, one call, print. Data goes to stdout, everything else to stderr.

Exit codes: 0 done; 1 done, but videos failed or findings stand; 2 something the user can mend (two lines); 3 a bug,
with its traceback; 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import ffbench
from ffbench.cli import ablate as cli_ablate
from ffbench.cli import look as cli_look
from ffbench.cli.groups import methods_app, prompts_app, suites_app, weights_app
from ffbench.cli.imports import import_videos
from ffbench.cli.options import (
    AddressOption,
    CommercialOption,
    DeviceOption,
    EngineOption,
    HourPriceOption,
    JsonOption,
    LimitOption,
    MaxCostOption,
    MemoryOption,
    MethodsOption,
    NetworksOption,
    OutOption,
    PriceOption,
    PromptsOption,
    ProtocolOption,
    PublishedOption,
    Redo,
    RedoOption,
    ReferencesOption,
    RunsArgument,
    SetOption,
    ShardOption,
    SuiteOption,
    TakesOption,
    TimeoutOption,
    VideosOption,
    WorkersOption,
    engine_of,
    protocol_of,
    runs_of,
    say,
    suite_given,
)
from ffbench.cli.plan import print_generation, print_scoring
from ffbench.errors import UserError
from ffbench.exits import run_app

if TYPE_CHECKING:
    from ffbench.protocols import Protocol
    from ffbench.score import ScoreOptions
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


def _print_version(wanted: bool) -> None:
    if wanted:
        print(ffbench.__version__)
        raise typer.Exit()


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print it.")
    ] = False,
) -> None:
    pass


@app.command()
def generate(
    method: MethodsOption,
    suite: SuiteOption = "mini",
    out: OutOption = Path("runs"),
    limit: LimitOption = None,
    takes: TakesOption = 1,
    setting: SetOption = None,
    redo: RedoOption = Redo.missing,
    device: DeviceOption = "cpu",
    engine: EngineOption = None,
    workers: WorkersOption = 0,
    address: AddressOption = "",
    shard: ShardOption = None,
    timeout: TimeoutOption = 7200.0,
    memory: MemoryOption = None,
    max_cost: MaxCostOption = None,
    price: PriceOption = None,
    commercial_ok: CommercialOption = False,
    dry_run: Annotated[bool, typer.Option(help="Say what would be made, in what time, and stop.")] = False,
    hour_price: HourPriceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a suite's videos with a method. Resumable: the same command goes on."""
    from ffbench.suites import load_suite

    _refuse_research(commercial_ok)
    options = _generate_options(limit, takes, setting, redo, device, (timeout, memory), (max_cost, price))
    options = dataclasses.replace(options, engine=engine_of(engine, workers, address, device), shard=shard)
    if dry_run:
        print_generation(method, load_suite(suite), out, options, hour_price, as_json)
        return
    failed = _generate(method, load_suite(suite), out, options, as_json)
    say(f"next: ffbench score --out {out}")
    raise typer.Exit(1 if failed else 0)


@app.command()
def score(
    runs: RunsArgument = None,
    videos: VideosOption = None,
    references: ReferencesOption = None,
    prompts: PromptsOption = None,
    name: Annotated[str, typer.Option(help="What to call the method that made --videos.")] = "given",
    protocol: ProtocolOption = None,
    networks: NetworksOption = None,
    out: OutOption = Path("runs"),
    limit: LimitOption = None,
    redo: RedoOption = Redo.missing,
    device: DeviceOption = "cpu",
    engine: EngineOption = None,
    workers: WorkersOption = 0,
    address: AddressOption = "",
    shard: ShardOption = None,
    commercial_ok: CommercialOption = False,
    dry_run: Annotated[bool, typer.Option(help="Print what is left, or how --videos are paired, and stop.")] = False,
    hour_price: HourPriceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure videos: those of runs, or your own with --videos and --references."""
    from ffbench.score import ScoreOptions

    _refuse_research(commercial_ok)
    if videos is None:
        found = runs_of(runs, out)
    else:
        if shard:
            raise UserError("--shard parts a run that is there", "ffbench import the videos, then score the run")
        suite = suite_given(videos, references, prompts)
        if dry_run:
            _print_pairing(suite, as_json)
            return
        found = [_given_run(suite, out, name)]
    damaged = 0
    for recipe, group in _by_protocol(found, protocol, networks):
        options = ScoreOptions(recipe, device, redo.value, limit, engine_of(engine, workers, address, device), shard)
        if dry_run:
            print_scoring(group, out, options, hour_price, as_json)
            continue
        damaged += _score(group, options, as_json)
        places = " ".join(str(run.root) for run in group) if videos else str(out)
        say(f"next: ffbench report {places} --protocol {recipe.id}")
    raise typer.Exit(1 if damaged else 0)


@app.command()
def report(
    runs: RunsArgument = None,
    protocol: Annotated[str | None, typer.Option(help="Protocol id, where runs were scored with several.")] = None,
    out: OutOption = Path("runs"),
    ci: Annotated[bool, typer.Option("--ci", help="Print 95% intervals, clustered by identity.")] = False,
    common_cases: Annotated[bool, typer.Option(help="Use only the cases that every run shares.")] = False,
    all_metrics: Annotated[bool, typer.Option(help="A column for every metric of the protocol.")] = False,
    small_sets: Annotated[bool, typer.Option(help="Form FID below 2048 crops too (biased).")] = False,
    html: Annotated[bool, typer.Option(help="Write the page of videos and curves.")] = True,
    cases: Annotated[int, typer.Option(min=1, help="Cases with film strips on the page.")] = 40,
    with_published: PublishedOption = False,
    figures: Annotated[bool, typer.Option("--figures", help="Draw every figure, PNG and PDF.")] = False,
    figure_case: Annotated[list[str] | None, typer.Option(help="Case of grids; three by rule if left out.")] = None,
    boxes: Annotated[bool, typer.Option("--boxes", help="Face boxes in grids.")] = False,
    results: Annotated[Path | None, typer.Option(help="Write a results file of each run there.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Make the tables and the page."""
    from ffbench.report import ReportOptions
    from ffbench.report import report as make_report

    options = ReportOptions(
        protocol=protocol,
        intervals=ci,
        common_cases=common_cases,
        gallery=html,
        small_sets=small_sets,
        all_metrics=all_metrics,
        cases=cases,
        published=with_published,
        figures=figures or bool(figure_case) or boxes,
        figure_cases=tuple(figure_case or ()),
        boxes=boxes,
        results=results,
    )
    made = make_report(runs or [out], options)
    if as_json:
        print((made.folder / "cells.json").read_text("utf-8"))
    else:
        print(made.text)
    say(f"page: {made.page}" if html else f"tables: {made.folder}")
    if results:
        say(f"results: {results}; next: ffbench validate {results}")
    elif len(made.methods) > 1:
        first, second, *_ = made.methods
        say(
            f"next: ffbench compare {first} {second} --common-cases --out {out}   # is the difference more than chance?"
        )


@app.command()
def run(
    method: MethodsOption,
    suite: SuiteOption = "mini",
    protocol: ProtocolOption = None,
    networks: NetworksOption = None,
    out: OutOption = Path("runs"),
    limit: LimitOption = None,
    takes: TakesOption = 1,
    setting: SetOption = None,
    redo: RedoOption = Redo.missing,
    device: DeviceOption = "cpu",
    engine: EngineOption = None,
    workers: WorkersOption = 0,
    address: AddressOption = "",
    timeout: TimeoutOption = 7200.0,
    memory: MemoryOption = None,
    max_cost: MaxCostOption = None,
    price: PriceOption = None,
    commercial_ok: CommercialOption = False,
    ci: Annotated[bool, typer.Option("--ci", help="Print 95% intervals, clustered by identity.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Generate, score and report in one go."""
    from ffbench.score import ScoreOptions
    from ffbench.store import run_folder
    from ffbench.suites import load_suite
    from ffbench.weights import resolve

    _refuse_research(commercial_ok)
    recipe = protocol_of(protocol, networks, suite)
    if recipe.networks["detector"].weights:
        resolve(recipe.networks["detector"].weights)  # found out now, and not after hours of making videos
    chosen = load_suite(suite)
    options = _generate_options(limit, takes, setting, redo, device, (timeout, memory), (max_cost, price))
    options = dataclasses.replace(options, engine=engine_of(engine, workers, address, device))
    failed = _generate(method, chosen, out, options, False)
    found = [run_folder(out, chosen.name, chosen.version, one) for one in method]
    damaged = _score(found, ScoreOptions(recipe, device, redo.value, None, options.engine), False)
    report([one.root for one in found], protocol=recipe.id, out=out, ci=ci, as_json=as_json)
    raise typer.Exit(1 if failed or damaged else 0)


app.command("ablate")(cli_ablate.ablate)
app.command("import")(import_videos)
app.command("ls")(cli_look.list_things)
app.command("show")(cli_look.show)
app.command("compare")(cli_look.compare)
app.command("validate")(cli_look.validate)
app.command("doctor")(cli_look.doctor)
app.command("truth")(cli_look.truth)
app.add_typer(methods_app, name="methods")
app.add_typer(weights_app, name="weights")
app.add_typer(prompts_app, name="prompts")
app.add_typer(suites_app, name="suites")


def _generate_options(
    limit: int | None,
    takes: int,
    setting: list[str] | None,
    redo: Redo,
    device: str,
    supervision: tuple[float, float | None],
    money: tuple[float | None, float | None],
) -> Any:
    import math

    from ffbench.generate import GenerateOptions

    timeout, memory = supervision
    limits = (timeout, math.inf if memory is None else memory, *money)
    return GenerateOptions(tuple(setting or ()), takes, limit, redo.value, device, *limits)


def _generate(methods: list[str], suite: Suite, out: Path, options: Any, as_json: bool) -> int:
    from ffbench.generate import generate_all

    part = f", part {options.shard}" if options.shard else ""
    names = ", ".join(methods)
    say(f"{names} on suite {suite.name}@{suite.version}{part}; Ctrl-C is safe: run the same command to go on")
    failed = 0
    for method, done in zip(dict.fromkeys(methods), generate_all(suite, methods, out, options), strict=True):
        failed += done.failed + done.refused
        line = {"ok": done.ok, "failed": done.failed, "refused": done.refused, "done_before": done.done_before}
        if as_json:
            print(json.dumps({"method": method, "run": str(done.run.root), **line}))
        say(", ".join(f"{count} {name.replace('_', ' ')}" for name, count in line.items()) + f" -> {done.run.root}")
    return failed


def _by_protocol(runs: list[Run], name: str | None, networks: Path | None) -> list[tuple[Protocol, list[Run]]]:
    """Runs with the protocol that was asked for, or each with its suite's default."""
    groups: dict[str, tuple[Protocol, list[Run]]] = {}
    for one in runs:
        recipe = protocol_of(name, networks, str(one.meta().get("suite", "")))
        groups.setdefault(recipe.id, (recipe, []))[1].append(one)
    return list(groups.values())


def _score(runs: list[Run], options: ScoreOptions, as_json: bool) -> int:
    from ffbench.score import score_all

    say(f"protocol {options.protocol.id}: {options.protocol.summary}")
    finished = score_all(runs, options)
    for done in finished:
        if as_json:
            counts = {"scored": done.scored, "done_before": done.done_before, "damaged": done.damaged}
            print(json.dumps({"run": str(done.run.root), **counts, "missing": dict(done.missing)}))
        say(f"{done.scored} scored, {done.done_before} done before, {done.damaged} damaged: {done.run.root}")
    for slot, reason in sorted(finished[-1].missing.items()) if finished else []:
        say(f"not measured, {slot}: {reason}")
    return sum(done.damaged for done in finished)


def _given_run(suite: Suite, out: Path, name: str) -> Run:
    from ffbench.score import given_run
    from ffbench.store import run_folder

    return given_run(run_folder(out, suite.name, suite.version, name), suite.cases, suite.given, name)


def _refuse_research(commercial_ok: bool) -> None:
    if commercial_ok:
        # an environment variable, since workers of methods must refuse too
        os.environ["FFBENCH_COMMERCIAL_OK"] = "1"


def _print_pairing(suite: Suite, as_json: bool) -> None:
    rows = [(str(suite.given[c.case_id]), c.references[0].path, c.prompt) for c in suite.cases]
    if as_json:
        print(json.dumps([dict(zip(("video", "reference", "prompt"), row, strict=True)) for row in rows]))
        return
    for video, reference, prompt in rows:
        print(f"{video}  <-  {reference}" + (f"  ({prompt[:60]})" if prompt else ""))


def main() -> None:
    """Entry point; see `run_app` for the exit codes."""
    run_app(app, "run the same command to go on")
