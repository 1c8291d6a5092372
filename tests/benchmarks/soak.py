"""Soak test: faults at random moments while a suite is generated; every case must end in one record.

    python tests/benchmarks/soak.py [--faults 50] [--seed 1]

Each round makes the videos of 40 cases with the control `impostor` through the real command, with two workers: as
processes of this machine, every other time in two shards at once; as actors of a real Ray cluster of three nodes (a
head and two that work); or into a bucket of a real S3 server, through a line that can be cut. While it runs, a random
fault is done to it:

    worker killed      SIGKILL to an engine's worker
    method killed      SIGKILL to a method's process
    command killed     SIGKILL to the command; in each of the three places
    disk full          the size of files of all its processes limited (RLIMIT_FSIZE)
    Ray node killed    SIGKILL to all processes of a node; another node comes for it
    network dropped    no connection to the S3 server, those that stand are cut, for up to 25 seconds

After every fault, and at the end, is checked what must hold:

- every whole line is a record, no key stands twice, and each `ok` record's video is there with its sha256; in the
  bucket also, where each piece of records has the hash that its name says;
- nobody of the killed command's processes lives on;
- at the end every case has a record, those that are `ok` equal an undisturbed run's, no line stands twice, none is left
  in a worker's file, and no scratch.

A round whose check fails ends the test, and the table is not printed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

sys.path.extend(str(Path(__file__).resolve().parents[1] / "ffbench" / name) for name in ("", "engine"))

import numpy as np
from clusters import Nodes, nodes
from PIL import Image
from s3server import Line, s3_server

from ffbench.records import Generation, from_json

METHOD = "impostor"
CASES = 40
PATIENCE = 600.0
LOCAL = ("worker killed", "method killed", "command killed", "disk full")
RAY = ("Ray node killed", "command killed, on Ray")
BUCKET = ("network dropped", "command killed, on a bucket")
FAULTS = (*LOCAL, *RAY, *BUCKET)


class Round:
    """One folder, the commands that write to it, and what must hold of it."""

    faults = LOCAL
    codes = (0, 1)

    def __init__(self, folder: Path, photos: Path, shards: int = 1) -> None:
        self.out = folder / "runs"
        self.photos = photos
        self.engine = ["--out", str(self.out), "--engine", "local"]
        self.env = dict(os.environ)
        self.parts = [f"{part}/{shards}" for part in range(1, shards + 1)] if shards > 1 else [""]
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.log = folder / "log"

    @property
    def root(self) -> Path:
        """The run folder; its name holds the suite's version, which is made from the photographs."""
        return next(self.out.glob(f"*/{METHOD}"), self.out)

    def start(self, part: str) -> None:
        argv = [sys.executable, "-c", "from ffbench.cli import main; main()", "generate", "-m", METHOD]
        argv += ["--suite", str(self.photos), *self.engine]
        argv += ["--workers", "2", "--set", "width=96", "--set", "height=80", "--set", "num_frames=5"]
        argv += ["--shard", part] if part else []
        with self.log.open("ab") as log:
            self.running[part] = subprocess.Popen(argv, stdout=log, stderr=log, env=self.env)

    def lines(self) -> list[bytes]:
        return [line for path in self.root.glob("generations*.jsonl") for line in whole(path)]

    def records(self) -> dict[str, Generation]:
        # a line that is put from a worker's file into the run's just now stands in both
        found = [from_json(Generation, line.decode()) for line in {*self.lines()}]
        keys = Counter(record.key for record in found)
        assert max(keys.values(), default=1) == 1, f"twice: {[key for key, count in keys.items() if count > 1]}"
        return {record.key: record for record in found}

    def check(self) -> None:
        for record in self.records().values():
            if record.status == "ok":
                video = self.root / record.video
                assert hashlib.sha256(video.read_bytes()).hexdigest() == record.video_sha256, record.handle
            else:
                assert re.search(r"killed by SIGKILL|actor died", record.error), record.error

    def finish(self) -> None:
        """Run every part to its end."""
        for part in self.parts:
            if self.running.get(part) is None or self.running[part].wait(timeout=PATIENCE) != 0:
                self.start(part)
        for part in self.parts:
            code = self.running[part].wait(timeout=PATIENCE)
            assert code in (0, 1), (code, self.log.read_text()[-2000:])
        lines = self.lines()
        assert len(lines) == len({*lines}), "lines twice"
        assert not [*self.root.glob("generations*.w*.jsonl")], "records that were left in workers' files"

    def strike(self, fault: str, running: subprocess.Popen[bytes], chance: random.Random) -> bool:
        """Do a fault to a running command; whether it could be done."""
        workers = children(running.pid)
        try:
            if fault == "worker killed" and workers:
                os.kill(chance.choice(workers), signal.SIGKILL)
            elif fault == "method killed" and (methods := [one for worker in workers for one in children(worker)]):
                os.kill(chance.choice(methods), signal.SIGKILL)
            elif fault.startswith("command killed"):
                every = below(running.pid)
                running.send_signal(signal.SIGKILL)
                running.wait()
                until(lambda: all(map(gone, every)), "processes of a killed command")
            elif fault == "disk full":
                return fill_disk(running, chance)
            else:
                return False
        except ProcessLookupError:
            return False
        return True


class RayRound(Round):
    """The same on a Ray cluster that outlives it."""

    faults = RAY

    def __init__(self, folder: Path, photos: Path, cluster: Nodes) -> None:
        super().__init__(folder, photos)
        self.engine = ["--out", str(self.out), "--engine", "ray", "--address", cluster.address]
        self.cluster = cluster

    def strike(self, fault: str, running: subprocess.Popen[bytes], chance: random.Random) -> bool:
        if fault == "Ray node killed":
            self.cluster.kill()
            self.cluster.add()
            return True
        methods = [pid for pid in below(os.getpid()) if "ffbench.worker" in command_of(pid)]
        done = super().strike(fault, running, chance)
        until(lambda: all(map(gone, methods)), "methods below the actors of a killed command")
        return done


class BucketRound(Round):
    """The same into a bucket, through a line that can be cut; the records are read from both ends."""

    faults = BUCKET

    def __init__(self, folder: Path, photos: Path, server: str, line: Line) -> None:
        super().__init__(folder, photos)
        import boto3

        self.line = line
        self.client = boto3.client("s3", endpoint_url=server)
        self.bucket = folder.name
        self.client.create_bucket(Bucket=self.bucket)
        self.engine = ["--out", f"s3://{self.bucket}/runs", "--engine", "local"]
        self.env |= {"FFBENCH_MIRROR": str(folder / "cache"), "AWS_ENDPOINT_URL": line.address}

    @property
    def root(self) -> Path:
        return next((self.out.parent / "cache").glob(f"*/0/*/{METHOD}"), self.out)

    def strike(self, fault: str, running: subprocess.Popen[bytes], chance: random.Random) -> bool:
        if fault != "network dropped":
            return super().strike(fault, running, chance)
        self.line.down = True
        try:
            time.sleep(chance.uniform(0.5, 25))
        finally:
            self.line.down = False
        return True

    def check(self) -> None:
        super().check()
        prefix = "runs/"
        found = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
        names = [one["Key"] for page in found for one in page.get("Contents", [])]
        lines: set[bytes] = set()
        for name in (name for name in names if "/generations.jsonl.parts/" in name):
            data = self._read(name)
            assert hashlib.sha256(data).hexdigest()[:16] == name.rpartition("-")[2].removesuffix(".jsonl"), name
            lines.update(data.splitlines())
        records = [from_json(Generation, line.decode()) for line in lines]
        assert len({record.key for record in records}) == len(records), "twice in the bucket"
        for record in records:
            if record.status == "ok":
                (video,) = (name for name in names if name.endswith(f"/{METHOD}/{record.video}"))
                assert hashlib.sha256(self._read(video)).hexdigest() == record.video_sha256, record.handle
        self.stored = len(records)

    def finish(self) -> None:
        super().finish()
        self.check()
        assert self.stored == CASES, f"{self.stored} records in the bucket"

    def _read(self, name: str) -> bytes:
        return bytes(self.client.get_object(Bucket=self.bucket, Key=name)["Body"].read())


def fill_disk(running: subprocess.Popen[bytes], chance: random.Random) -> bool:
    limit = chance.choice([100, 2000, 6000])
    for pid in (running.pid, *below(running.pid)):
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    code = running.wait(timeout=PATIENCE)
    # 1 also where the error could not be printed: the log of this test is a file too
    assert code in (0, 1, 2), code
    return code != 0


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


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def disturb(one: Round, faults: list[str], most: int, chance: random.Random) -> Counter[str]:
    """Run a round with up to `most` of the faults that wait, and take those away that were done."""
    done: Counter[str] = Counter()
    for part in one.parts:
        one.start(part)
    for _ in range(most):
        fault = next((name for name in reversed(faults) if name in one.faults), "")
        if not fault:
            break
        part = chance.choice(one.parts)
        running = one.running[part]
        goal = len(one.lines()) + chance.randrange(1, 8)
        until(lambda goal=goal, running=running: len(one.lines()) >= goal or running.poll() is not None, "progress")
        time.sleep(chance.uniform(0, 0.1))
        if running.poll() is None and one.strike(fault, running, chance):
            faults.remove(fault)
            done[fault] += 1
        one.check()
        if running.poll() not in (None, 0):
            one.start(part)
    one.finish()
    one.check()
    return done


def people(folder: Path) -> Path:
    """Photographs of nobody, for so many cases."""
    photos = folder / "people"
    photos.mkdir()
    for number in range(CASES // 20):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 30, 3), np.uint8)
        Image.fromarray(pixels).save(photos / f"id{number}.png")
    return photos


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
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        photos = people(place)
        straight = Round(place, photos)
        straight.finish()
        expected = {key: record.video_sha256 for key, record in straight.records().items()}
        assert len(expected) == CASES
        shutil.rmtree(straight.out)
        cluster = stack.enter_context(nodes())
        for _ in range(2):
            cluster.add()
        os.environ |= {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_DEFAULT_REGION": "us-east-1"}
        server = stack.enter_context(s3_server())
        line = Line(server)
        rounds = 0
        while faults:
            rounds += 1
            folder = place / f"round-{rounds}"
            folder.mkdir()
            made_by: list[Callable[[], Round]] = [
                lambda folder=folder: Round(folder, photos),
                lambda folder=folder: Round(folder, photos, 2),
                lambda folder=folder: RayRound(folder, photos, cluster),
                lambda folder=folder: BucketRound(folder, photos, server, line),
            ]
            waiting = [
                make for make, kinds in zip(made_by, (LOCAL, LOCAL, RAY, BUCKET), strict=True) if {*kinds} & {*faults}
            ]
            one = waiting[rounds % len(waiting)]()
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
        print(f"| {fault} | {survived[fault]} | 0 | 0 | 0 |")  # every round was checked, or nothing is printed
    minutes = (time.monotonic() - began) / 60
    print(f"\n{rounds} rounds of {CASES} cases, records: {dict(statuses)}, {minutes:.1f} minutes, seed {given.seed}")


if __name__ == "__main__":
    main()
