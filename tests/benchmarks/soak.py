"""Soak test: faults at random moments while a suite is generated; every case must end in one record.

    python tests/benchmarks/soak.py [--faults 50] [--seed 1]

Each round makes the videos of 40 cases with the control `impostor` through the real command, two workers, every other
round as two shards at once. While it runs, a random fault is done to it: an engine's worker killed, a method's process
killed, the command killed, or the files of all its processes limited (`RLIMIT_FSIZE`, a full disk). After every fault,
and at the end, is checked what must hold:

- every whole line is a record, no key stands twice, and each `ok` record's video is there with its sha256;
- nobody of the killed command's processes lives on;
- at the end every case has a record, those that are `ok` equal an undisturbed run's, and no scratch is left.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ffbench.records import Generation, from_json

METHOD = "impostor"
CASES = 40
PATIENCE = 600.0
FAULTS = ("worker killed", "method killed", "command killed", "disk full")


class Round:
    """One folder, the commands that write to it, and what must hold of it."""

    def __init__(self, folder: Path, photos: Path, shards: int) -> None:
        self.out = folder / "runs"
        self.photos = photos
        self.parts = [f"{part}/{shards}" for part in range(1, shards + 1)] if shards > 1 else [""]
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.log = folder / "log"

    @property
    def root(self) -> Path:
        """The run folder; its name holds the suite's version, which is made from the photographs."""
        return next(self.out.glob(f"*/{METHOD}"), self.out)

    def start(self, part: str) -> None:
        argv = [sys.executable, "-c", "from ffbench.cli import main; main()", "generate", "-m", METHOD]
        argv += ["--suite", str(self.photos), "--out", str(self.out), "--engine", "local"]
        argv += ["--workers", "2", "--set", "width=96", "--set", "height=80", "--set", "num_frames=5"]
        argv += ["--shard", part] if part else []
        with self.log.open("ab") as log:
            self.running[part] = subprocess.Popen(argv, stdout=log, stderr=log)

    def lines(self) -> list[bytes]:
        return [line for path in self.root.glob("generations*.jsonl") for line in whole(path)]

    def records(self) -> dict[str, Generation]:
        found = [from_json(Generation, line.decode()) for line in self.lines()]
        keys = Counter(record.key for record in found)
        assert max(keys.values(), default=1) == 1, f"twice: {[key for key, count in keys.items() if count > 1]}"
        return {record.key: record for record in found}

    def check(self) -> None:
        for record in self.records().values():
            if record.status == "ok":
                video = self.root / record.video
                assert hashlib.sha256(video.read_bytes()).hexdigest() == record.video_sha256, record.handle
            else:
                assert "killed by SIGKILL" in record.error, record.error

    def finish(self) -> None:
        """Run every part to its end."""
        for part in self.parts:
            if self.running.get(part) is None or self.running[part].wait(timeout=PATIENCE) != 0:
                self.start(part)
        for part in self.parts:
            code = self.running[part].wait(timeout=PATIENCE)
            assert code in (0, 1), (code, self.log.read_text()[-2000:])


def whole(path: Path) -> list[bytes]:
    try:
        return path.read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return []  # gathered meanwhile


def children(pid: int) -> list[int]:
    try:
        found = [task.joinpath("children").read_text().split() for task in Path(f"/proc/{pid}/task").iterdir()]
    except OSError:
        return []
    return [int(child) for several in found for child in several]


def below(pid: int) -> list[int]:
    return [one for child in children(pid) for one in (child, *below(child))]


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def until(condition: Callable[[], Any], what: str) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"waited in vain: {what}"
        time.sleep(0.01)


def strike(fault: str, running: subprocess.Popen[bytes], chance: random.Random) -> bool:
    """Do a fault to a running command; whether it could be done."""
    workers = children(running.pid)
    try:
        if fault == "worker killed" and workers:
            os.kill(chance.choice(workers), signal.SIGKILL)
        elif fault == "method killed" and (methods := [one for worker in workers for one in children(worker)]):
            os.kill(chance.choice(methods), signal.SIGKILL)
        elif fault == "command killed":
            every = below(running.pid)
            running.send_signal(signal.SIGKILL)
            running.wait()
            until(lambda: all(map(gone, every)), "processes of a killed command")
        elif fault == "disk full":
            limit = chance.choice([100, 2000, 6000])
            for pid in (running.pid, *below(running.pid)):
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
            code = running.wait(timeout=PATIENCE)
            # 1 also where the error could not be printed: the log of this test is a file too
            assert code in (0, 1, 2), code
            return code != 0
        else:
            return False
    except ProcessLookupError:
        return False
    return True


def disturb(one: Round, faults: list[str], most: int, chance: random.Random) -> Counter[str]:
    """Run a round with up to `most` of the faults that wait, and take those away that were done."""
    done: Counter[str] = Counter()
    for part in one.parts:
        one.start(part)
    for _ in range(most):
        if not faults:
            break
        part = chance.choice(one.parts)
        running = one.running[part]
        goal = len(one.lines()) + chance.randrange(1, 8)
        until(lambda goal=goal, running=running: len(one.lines()) >= goal or running.poll() is not None, "progress")
        time.sleep(chance.uniform(0, 0.1))
        if running.poll() is None and strike(faults[-1], running, chance):
            done[faults.pop()] += 1
        one.check()
        if running.poll() not in (None, 0):
            one.start(part)
    one.finish()
    one.check()
    return done


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--faults", type=int, default=50)
    options.add_argument("--seed", type=int, default=1)
    given = options.parse_args()
    chance = random.Random(given.seed)
    faults = [FAULTS[number % len(FAULTS)] for number in range(given.faults)]
    chance.shuffle(faults)
    survived: Counter[str] = Counter()
    statuses: Counter[str] = Counter()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        photos = Path(place, "people")
        photos.mkdir()
        for number in range(CASES // 20):
            pixels = np.random.default_rng(number).integers(0, 256, (40, 30, 3), np.uint8)
            Image.fromarray(pixels).save(photos / f"id{number}.png")
        straight = Round(Path(place), photos, 1)
        straight.finish()
        expected = {key: record.video_sha256 for key, record in straight.records().items()}
        assert len(expected) == CASES
        shutil.rmtree(straight.out)
        rounds = 0
        while faults:
            rounds += 1
            folder = Path(place, f"round-{rounds}")
            folder.mkdir()
            one = Round(folder, photos, 1 + rounds % 2)
            survived += disturb(one, faults, 6, chance)
            made = one.records()
            differ = set(made) ^ set(expected)
            assert not differ, f"cases without a record: {len(differ)}; {one.log.read_text()[-3000:]}"
            assert all(record.video_sha256 in ("", expected[key]) for key, record in made.items())
            assert not [path for path in one.root.rglob(".part-*") if path.is_dir() and len(one.parts) == 1]
            statuses.update(record.status for record in made.values())
            print(f"round {rounds}: {json.dumps(survived)}", file=sys.stderr, flush=True)
            shutil.rmtree(folder)
    print("| fault | times | cases without a record | records twice | damaged files read |\n|---|---|---|---|---|")
    for fault in FAULTS:
        print(f"| {fault} | {survived[fault]} | 0 | 0 | 0 |")
    minutes = (time.monotonic() - began) / 60
    print(f"\n{rounds} rounds of {CASES} cases, records: {dict(statuses)}, {minutes:.1f} minutes, seed {given.seed}")


if __name__ == "__main__":
    main()
