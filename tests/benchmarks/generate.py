"""What the toolkit costs beside the pipeline that it runs, and how often the text encoder runs.

    python tests/benchmarks/generate.py [--videos N] [--steps N] [--all] [--json FILE]

`ffbench.generate` makes videos of the suite `mini` with the embedded VACE, in the worker process as for a user. The
adapter is the product's own; a subclass notes what no record holds: the time of each call of diffusers' pipeline and
the forward calls of the text encoder and the autoencoder, counted by hooks.

    overhead   wall   from the first request's arrival in the worker to the end of `generate`, less the time in the
                      pipeline (face crop, frames to the host, mp4, hashes, records), over the time in the pipeline
               cpu    the same in seconds of processors: those of the worker outside the pipeline and all of the host's,
                      preparation included, over those in the pipeline. A loaded machine does not change it
    start             from the call of `generate` to that arrival: imports, loading, photographs; once a run

A pipeline of published size takes minutes a video; the embedded one takes as long as `--steps` makes it, and seconds
a video are printed beside the ratio. `--all` makes all 600 videos at the suite's own settings instead, for the counts.
What is done once a run (imports at the first video, preparation) is in the ratio, so few videos make it larger.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from ffbench import methods
from ffbench.generate import GenerateOptions, generate
from ffbench.suites import load_suite

ADAPTER = '''
import time
from dataclasses import replace

from baselines.vace.adapter import Vace


class Timed(Vace):
    """The product's adapter, with a clock around its pipeline and hooks on two of its networks."""

    def load(self, runtime):
        super().load(runtime)
        self.seconds, self.cpu, self.text, self.encoded = 0.0, 0.0, 0, 0
        self._prompts.encoder.register_forward_hook(self.count_text)
        encode = self._pipe.vae.encode
        self._pipe.vae.encode = lambda *args, **options: self.count_encode() or encode(*args, **options)
        self.began, self._pipe = None, Clock(self._pipe, self)

    def count_text(self, *_):
        self.text += 1

    def count_encode(self):
        self.encoded += 1

    def generate(self, requests):
        self.began = self.began or (time.monotonic(), time.process_time())
        for output in super().generate(requests):
            outside = time.process_time() - self.began[1] - self.cpu
            notes = {"pipeline": self.seconds, "cpu": self.cpu, "outside": outside, "began": self.began[0]}
            notes |= {"text": self.text, "encoded": self.encoded}
            yield replace(output, notes={**output.notes, **notes})


class Clock:
    def __init__(self, pipe, owner):
        self.pipe, self.owner = pipe, owner

    def __call__(self, **options):
        begin = time.monotonic(), time.process_time()
        try:
            return self.pipe(**options)
        finally:
            self.owner.seconds += time.monotonic() - begin[0]
            self.owner.cpu += time.process_time() - begin[1]
'''


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=24)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--all", action="store_true", help="all videos of the suite, at its own settings")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    chosen = () if given.all else (f"steps={given.steps}", "guidance=5.0")
    with tempfile.TemporaryDirectory() as folder:
        facts = measure(Path(folder), None if given.all else given.videos, chosen)
    print(json.dumps(facts, indent=2))
    if given.json:
        given.json.write_text(json.dumps(facts, indent=2) + "\n")


def measure(folder: Path, videos: int | None, settings: tuple[str, ...]) -> dict[str, Any]:
    """Make the videos and hold the run's wall clock against what the adapter noted.

    Raises:
        RuntimeError: a video is missing.
    """
    package = folder / "site" / "timed_vace"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "adapter.py").write_text(ADAPTER)
    (package / "card.toml").write_bytes((methods.card("vace").folder / "card.toml").read_bytes())
    sys.path.insert(0, str(package.parent))
    methods.METHODS = {**methods.METHODS, "timed_vace": "timed_vace.adapter:Timed"}
    suite = load_suite("mini")
    if videos:
        # a case of each person in turn, so that a few videos are not all of one
        spread = sorted(suite.cases, key=lambda case: (case.prompt_id, case.identity_id))
        suite = replace(suite, cases=tuple(spread[:videos]))
    begin, cpu = time.monotonic(), time.process_time()  # the first is one clock for all processes of a machine
    summary = generate(suite, "timed_vace", folder / "runs", GenerateOptions(settings=settings))
    end, cpu = time.monotonic(), time.process_time() - cpu
    records = list(summary.run.generations().values())
    if summary.ok != len(suite.cases):
        raise RuntimeError(f"{summary.ok} of {len(suite.cases)} videos: {[one.error for one in records if one.error]}")
    last = max((one.provenance["notes"] for one in records), key=lambda notes: notes["pipeline"])
    toolkit = {"wall": end - last["began"] - last["pipeline"], "cpu": cpu + last["outside"]}
    pipeline = {"wall": last["pipeline"], "cpu": last["cpu"]}
    return {
        "videos": len(records),
        "people": len({case.identity_id for case in suite.cases}),
        "prompts": len({case.prompt for case in suite.cases}),
        "settings": {key: records[0].settings[key] for key in ("width", "height", "num_frames", "steps", "guidance")},
        "pipeline s a video": {key: round(value / len(records), 3) for key, value in pipeline.items()},
        "toolkit s a video": {key: round(value / len(records), 3) for key, value in toolkit.items()},
        "overhead": {key: round(toolkit[key] / pipeline[key], 4) for key in pipeline},
        "start s": round(last["began"] - begin, 2),
        "text encoder runs": last["text"],
        "autoencoder encodings": last["encoded"],
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
    }


if __name__ == "__main__":
    main()
