"""Where a dataset build keeps what: the one owner of its file names.

OUT/settings.json        what the folder was built with
OUT/journal.jsonl        one line a source video, appended while running
OUT/manifest.parquet     one row a clip: what became of it and why
OUT/log.jsonl            throughput, one line a command
OUT/tracks/KEY.npz       faces and angles of every frame, of clips that passed detection
OUT/clips/KEY/           of clips that qualified: video.mp4, crop000.jpg ..., sample.json
OUT/previews/KEY/        the same of rejected clips, made small by the review page when somebody looks
OUT/captions.jsonl       prompts: {"key", "prompt", ...}; the last line of a key counts
OUT/reviews.jsonl        people's answers, appended by the review page
OUT/.review              the secret in the page's address, for its owner alone
OUT/shards/{train,val}/  000000.tar ... for the trainer
OUT/card.json            statistics
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Folder:
    """Paths of one build.

    Args:
        root: its `--out`.
    """

    root: Path

    @property
    def settings(self) -> Path:
        """JSON of `Settings` and the networks' ids."""
        return self.root / "settings.json"

    @property
    def journal(self) -> Path:
        """JSONL of `Outcome`."""
        return self.root / "journal.jsonl"

    @property
    def manifest(self) -> Path:
        """Parquet, a row a clip in the order of keys."""
        return self.root / "manifest.parquet"

    @property
    def log(self) -> Path:
        """JSONL of throughput."""
        return self.root / "log.jsonl"

    @property
    def captions(self) -> Path:
        """JSONL of prompts."""
        return self.root / "captions.jsonl"

    @property
    def reviews(self) -> Path:
        """JSONL of people's answers."""
        return self.root / "reviews.jsonl"

    @property
    def secret(self) -> Path:
        """The secret in the review page's address."""
        return self.root / ".review"

    @property
    def card(self) -> Path:
        """JSON of the statistics."""
        return self.root / "card.json"

    def track(self, key: str) -> Path:
        """Npz of a clip that passed detection."""
        return self.root / "tracks" / f"{key}.npz"

    def clip(self, key: str) -> Path:
        """Folder of a qualified clip: `video.mp4`, `crop000.jpg` ..., `sample.json`."""
        return self.root / "clips" / key

    def leftovers(self) -> Iterator[Path]:
        """What writers that were killed left half done; previews are not meant: the review page makes them unheld."""
        for place in (self.root, self.root / "tracks", self.root / "clips", self.root / "shards"):
            yield from place.glob(".part-*")

    def preview(self, key: str) -> Path:
        """Folder of a rejected clip that a reviewer has looked at; the files of `clip`."""
        return self.root / "previews" / key

    def shards(self, split: str) -> Path:
        """Folder of the shards of `train` or `val`."""
        return self.root / "shards" / split
