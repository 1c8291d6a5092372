from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from ffbench import progress
from ffbench.progress import bar, clock, facts, track

COLOUR = re.compile(r"\x1b\[(?:\d+;)*(?:3[0-8]|9[0-7])[;m]")


def test_facts_name_count_rate_time_left_and_failures() -> None:
    # at 2 a second, 188 to go take 94 s
    assert facts(412, 600, "video", 2.0, 3) == "412/600  2.0 video/s  01:34 left  failed 3"


def test_a_slow_rate_is_given_as_seconds_a_unit() -> None:
    assert "200 s/video" in facts(1, 3, "video", 0.005, 0)


def test_the_last_line_says_how_long_it_took() -> None:
    assert facts(600, 600, "video", 0.16, 0, took=3725.0) == "600/600  0.2 video/s  1:02:05 in all  failed 0"


def test_bytes_are_shown_in_mb_and_without_failures() -> None:
    assert facts(5_000_000, 10_000_000, "B", 2.5e6, 0) == "5.0/10.0 MB  2.5 MB/s  00:02 left"


def test_no_rate_before_any_work_and_no_time_left_without_a_total() -> None:
    assert facts(0, 10, "video", 0.0, 0) == "0/10  failed 0"
    assert facts(4, None, "video", 2.0, 0) == "4  2.0 video/s  failed 0"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "00:00"), (59.6, "01:00"), (3599, "59:59"), (3600, "1:00:00"), (-1, "00:00")]
)
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_without_a_terminal_only_the_last_line_of_short_work(capfd: pytest.CaptureFixture[str]) -> None:
    with bar("score", 3, "video") as shown:
        shown.advance()
        shown.advance(2, failed=1)
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("score     3/3")
    assert "failed 1" in err


def test_without_a_terminal_lines_are_sparse(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "PLAIN_SECONDS", 0.2)
    with bar("score", 1000, "video") as shown:
        begin = time.monotonic()
        while time.monotonic() - begin < 0.7:
            shown.advance()
            time.sleep(0.005)
    lines = capfd.readouterr().err.splitlines()
    assert 3 <= len(lines) <= 4  # at 0.2, 0.4, 0.6 s and the last
    assert "left" in lines[0]
    assert "in all" in lines[-1]


def test_a_failing_block_still_leaves_its_last_line(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ZeroDivisionError), bar("score", 3, "video") as shown:
        shown.advance()
        raise ZeroDivisionError
    assert "1/3" in capfd.readouterr().err


def test_units_of_an_earlier_run_do_not_count_into_the_rate(capfd: pytest.CaptureFixture[str]) -> None:
    with bar("pull", 10_000_000_000, "B", done=9_000_000_000) as shown:
        time.sleep(0.1)
        shown.advance(1_000_000)
    rate = float(capfd.readouterr().err.split("MB  ")[1].split(" MB/s")[0])
    assert rate <= 10.0


def test_a_restart_further_on_does_not_count_into_the_rate(capfd: pytest.CaptureFixture[str]) -> None:
    with bar("pull", None, "B") as shown:
        shown.restart(9_000_000_000, 10_000_000_000)
        time.sleep(0.1)
        shown.advance(1_000_000)
    err = capfd.readouterr().err
    assert "9001.0/10000.0 MB" in err
    assert float(err.split("MB  ")[1].split(" MB/s")[0]) <= 10.0


def test_restart_sets_the_count_back(capfd: pytest.CaptureFixture[str]) -> None:
    with bar("pull", 2_000_000, "B", done=1_000_000) as shown:
        shown.restart(0)
        shown.advance(500_000)
    assert "0.5/2.0 MB" in capfd.readouterr().err


def test_track_yields_everything_and_counts(capfd: pytest.CaptureFixture[str]) -> None:
    assert list(track([1, 2, 3], "work")) == [1, 2, 3]
    assert list(track((n for n in range(2)), "work")) == [0, 1]
    first, second = capfd.readouterr().err.splitlines()
    assert "3/3" in first
    assert "2  " in second


def test_threads_lose_no_count(capfd: pytest.CaptureFixture[str]) -> None:
    with bar("score", 4000, "video") as shown:
        threads = [threading.Thread(target=lambda: [shown.advance() for _ in range(1000)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert shown.done == 4000
    capfd.readouterr()


def _on_a_terminal(env: dict[str, str]) -> tuple[str, str]:
    """What a child writes to stdout, and to a real pseudo-terminal as stderr."""
    code = (
        "import time\nfrom ffbench.progress import bar\n"
        "with bar('score', 3, 'video') as shown:\n"
        "    for _ in range(3):\n        shown.advance(); time.sleep(0.15)\n"
    )
    master, slave = pty.openpty()
    keep = {k: v for k, v in os.environ.items() if k not in {"NO_COLOR", "FORCE_COLOR", "COLORTERM"}}
    child = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=slave,
        env={**keep, "TERM": "xterm-256color", **env},
    )
    os.close(slave)
    seen = b""
    while True:
        try:
            chunk = os.read(master, 65536)
        except OSError:  # the other end is closed
            break
        if not chunk:
            break
        seen += chunk
    os.close(master)
    stdout = child.communicate()[0]
    assert child.returncode == 0
    return stdout.decode(), seen.decode()


def test_a_terminal_shows_a_bar_and_stdout_stays_clean() -> None:
    stdout, screen = _on_a_terminal({})
    assert stdout == ""
    assert "━" in screen
    assert "3/3" in screen
    assert COLOUR.search(screen)


def test_no_color_is_honoured() -> None:
    _, screen = _on_a_terminal({"NO_COLOR": "1"})
    assert "3/3" in screen
    assert not COLOUR.search(screen)


def test_a_dumb_terminal_gets_plain_lines() -> None:
    _, screen = _on_a_terminal({"TERM": "dumb"})
    assert screen.splitlines()[-1].startswith("score     3/3")
    assert "━" not in screen


def test_rich_is_not_imported_without_a_terminal() -> None:
    code = (
        "import sys\nfrom ffbench.progress import track\nlist(track([1], 'x'))\n"
        "sys.exit(any(m == 'rich' or m.startswith('rich.') for m in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], stderr=subprocess.DEVNULL, check=False).returncode == 0


_TOOL = """
import random, shutil, sys, time
out, seed, video = sys.argv[1:]
time.sleep(random.Random(int(seed)).uniform(0.06, 0.14))
shutil.copy(video, out)
"""


@pytest.mark.slow
@pytest.mark.skipif(
    not os.environ.get("FFBENCH_QUIET"), reason="needs a machine that does nothing else: FFBENCH_QUIET=1"
)
def test_the_time_left_of_a_real_run_is_right_within_a_fifth_after_the_first_tenth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A method that takes seconds to load, and whose videos take unlike times."""
    from ffbench.generate import GenerateOptions, generate
    from ffbench.suites import load_suite
    from ffbench.video import write_mp4

    count = 80
    write_mp4(tmp_path / "v.mp4", np.zeros((2, 16, 16, 3), np.uint8), 8.0)
    (tmp_path / "tool.py").write_text(_TOOL)
    argv = [sys.executable, "-S", "-E", str(tmp_path / "tool.py"), "{output}", "{seed}", str(tmp_path / "v.mp4")]
    lines: list[tuple[float, str]] = []
    monkeypatch.setattr(progress, "PLAIN_SECONDS", 0.0)
    monkeypatch.setattr(progress, "clock", lambda seconds: f"{seconds:.3f}")
    monkeypatch.setattr(progress, "note", lambda line: lines.append((time.monotonic(), line)))
    done = generate(
        load_suite("mini"), "command@slow", tmp_path, GenerateOptions((f"argv={json.dumps(argv)}",), limit=count)
    )
    assert done.ok == count
    said = [
        (at, int(found[1]), float(found[2]))
        for at, line in lines
        if (found := re.search(rf"generate +(\d+)/{count} .* ([\d.]+) left", line))
    ]
    end = said[-1][0]
    # from the first tenth on; in the last tenth a handful of videos is left, and chance alone makes a fifth
    shares = [left / (end - at) for at, number, left in said if count / 10 <= number <= count * 9 / 10]
    assert len(shares) > count / 2
    assert max(shares) < 1.2, shares
    assert min(shares) > 0.8, shares
