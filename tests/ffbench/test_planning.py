from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from ffbench import planning
from ffbench.cards import for_suite, override
from ffbench.cli.plan import print_generation, print_scoring
from ffbench.generate import GenerateOptions
from ffbench.methods import find
from ffbench.planning import Forecast, of_scores, of_videos, paced
from ffbench.protocols import get_protocol
from ffbench.records import Generation
from ffbench.score import ScoreOptions
from ffbench.store import Run, run_folder
from ffbench.suites import load_suite
from tests.ffbench.scored_runs import Made, cases, make_run

CARD = for_suite(find("still"), "mini")
SETTINGS = override(CARD, ())
VIDEO = Generation("c", "s", "1", "still", CARD.revision, SETTINGS, 0, 0, "ok", "v.mp4", "x", seconds=2.0)


def write(run: Run, *records: Generation) -> Run:
    with run.lock():
        run.append_generations([replace(one, seed=number) for number, one in enumerate(records)])
    return run


def test_a_line_says_time_workers_price_and_source() -> None:
    forecast = Forecast(600, 12.0, "measured")
    assert forecast.line() == "about 2:00:00 (measured)"
    assert forecast.line(4, 2.5) == "about 30:00 with 4 workers, $5.00 at $2.5 an hour (measured)"
    assert Forecast(600, math.nan, "no idea").line() == "unknown: no idea"
    assert Forecast(0, 12.0, "measured").line() == "nothing is left"


def test_the_mean_of_ok_videos_with_these_settings_counts(tmp_path: Path) -> None:
    other = replace(VIDEO, settings={**SETTINGS, "fps": 99.0}, seconds=50.0)
    failed = replace(VIDEO, status="failed", seconds=70.0)
    run = write(run_folder(tmp_path, "s", "1", "still"), VIDEO, replace(VIDEO, seconds=4.0), other, failed)
    found = of_videos(CARD, SETTINGS, 10, run, tmp_path)
    assert (found.left, found.seconds) == (10, 3.0)
    assert "the mean of 2 made here" in found.source


def test_other_suites_tell_where_this_one_cannot(tmp_path: Path) -> None:
    write(run_folder(tmp_path, "s", "1", "still"), VIDEO)
    write(run_folder(tmp_path, "s", "1", "sway"), replace(VIDEO, method="sway", seconds=90.0))
    found = of_videos(CARD, SETTINGS, 1, run_folder(tmp_path, "t", "1", "still"), tmp_path)
    assert found.seconds == 2.0
    assert "on other suites" in found.source


def test_counted_work_stands_in_for_what_nobody_measured(tmp_path: Path) -> None:
    card = find("vace")
    run = run_folder(tmp_path, "s", "1", "vace")
    full = of_videos(card, card.settings, 600, run, tmp_path)
    # 2 x 14.5 G weights x 34,320 tokens, and attention of 48 layers 5,120 wide, twice a step, at 0.4 x 989 TFLOP/s
    by_hand = 100 * (2 * 14.5e9 * 34320 + 4 * 48 * 5120 * 34320 * (34320 + 512)) / (0.4 * 989e12)
    assert full.seconds == pytest.approx(by_hand, rel=0.03)
    assert "an assumption" in full.source
    half = of_videos(card, {**card.settings, "steps": 25}, 600, run, tmp_path)
    assert half.seconds == pytest.approx(full.seconds / 2, rel=0.05)
    small = of_videos(card, {**card.settings, "width": 480}, 600, run, tmp_path)
    assert math.isnan(small.seconds)
    assert "--limit 1" in small.source


def test_every_open_method_with_a_network_has_its_work_counted() -> None:
    counted = {one["method"] for one in json.loads(planning.WORK.read_text())}
    assert counted == {
        "vace", "vace@1.3b", "faithfulfaces", "phantom", "standin", "concat_id", "skyreels_a2", "magref", "consisid",
        "hunyuancustom",
    }  # fmt: skip


def test_paces_add_up(tmp_path: Path) -> None:
    run = run_folder(tmp_path, "s", "1", "still")
    assert math.isnan(of_scores(5, "mini@1", run, tmp_path).seconds)
    run.root.mkdir(parents=True)
    run.change_meta(lambda meta: paced(meta, "mini@1", 3, 6.0))
    run.change_meta(lambda meta: paced(meta, "mini@1", 1, 6.0))
    assert of_scores(5, "mini@1", run, tmp_path) == Forecast(5, 3.0, "3 s a video, the mean of 4 scored here")
    assert math.isnan(of_scores(5, "standard@1", run, tmp_path).seconds)
    write(run)
    (run.root / "generations.jsonl").touch()
    elsewhere = of_scores(5, "mini@1", run_folder(tmp_path, "t", "1", "still"), tmp_path)
    assert elsewhere.source.endswith("scored in other runs")


def test_dry_runs_print_what_is_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    suite = load_suite("mini")
    print_generation(["still", "still", "vace"], suite, tmp_path, GenerateOptions(limit=4))
    out = capsys.readouterr().out
    assert out.count("still: 4 videos to make, 0 done") == 1
    assert "  time unknown: no video with these settings is measured" in out
    print_generation(["kling"], suite, tmp_path, GenerateOptions(limit=4))
    assert "  time" not in capsys.readouterr().out
    print_generation(["still"], suite, tmp_path, GenerateOptions(limit=4), as_json=True)
    assert json.loads(capsys.readouterr().out)["left"] == 4
    people = cases(tmp_path / "photos")
    run = make_run(tmp_path, Made("m", 0.5), people)
    options = ScoreOptions(get_protocol("standard"))
    run.change_meta(lambda meta: paced(meta, options.protocol.id, 2, 5.0))
    # their scores wait for weights that are missing, so they are not done
    print_scoring([run], tmp_path, options, hour_price=3600.0)
    assert "3 videos to score with standard@1, 0 done\n  time about 00:08, $7.50" in capsys.readouterr().out
    print_scoring([run], tmp_path, options, as_json=True)
    assert json.loads(capsys.readouterr().out)["seconds_a_video"] == 2.5
