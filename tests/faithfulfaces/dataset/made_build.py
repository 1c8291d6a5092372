"""A build folder as `data build` leaves it, of drawn people and made-up angles: quick, and known exactly."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from faithfulfaces.dataset import journal, pose, staging
from faithfulfaces.dataset.build import check_settings
from faithfulfaces.dataset.folder import Folder
from faithfulfaces.dataset.records import ClipRecord, Outcome
from faithfulfaces.dataset.settings import Quality, Settings, Video
from faithfulfaces.dataset.sources import clip_key
from ffbench.video import write_mp4
from tests.ffbench.paths import PROMPTS

PEOPLE = PROMPTS.parent / "ffbench" / "embedded" / "people"
SETTINGS = Settings(video=Video(width=208, height=120, fps=10, frames=20), quality=Quality(duplicate=-1))
FPS, LONG, FIRST = 20, 60, 5
"""Of the sources: frames a second, frames; and the sample's first frame at the standard rate."""
YAWS = {"turns": 150.0, "nods": 20.0, "still": 15.0, "talks": 40.0, "spins": 170.0, "smiles": 8.0}
"""Range of each clip's yaw, degrees; beyond 100 it qualifies."""


def source_frames(number: int) -> NDArray[np.uint8]:
    """uint8 [LONG,120,208,3]: a drawn face that moves to the right, a column a frame."""
    person = Image.open(PEOPLE / f"person{number:02d}-frontal.png").convert("RGB").resize((96, 96))
    frames = []
    for i in range(LONG):
        picture = Image.new("RGB", (208, 120), (40 + 20 * number, 70, 90))
        picture.paste(person, (20 + i, 12))
        frames.append(np.asarray(picture))
    return np.stack(frames)


def angles_of(number: int, yaw: float) -> NDArray[np.float32]:
    """[30,3] pitch, yaw, roll; without a face in the last but three."""
    turn = np.linspace(-0.5, 0.5, LONG * 10 // FPS)
    out = np.stack([8 * np.sin(6 * turn + number), yaw * turn * 30 / 19, 5 * np.cos(5 * turn)], axis=1)
    out[-9] = np.nan
    return out.astype(np.float32)


def make_build(root: Path, videos: Path) -> list[ClipRecord]:
    """Write a build of six clips into `root` and their sources into `videos`; two qualify."""
    folder = Folder(root)
    root.mkdir(parents=True)
    videos.mkdir(parents=True)
    check_settings(folder, SETTINGS)
    records = []
    for number, (name, yaw) in enumerate(YAWS.items()):
        frames, angles = source_frames(number), angles_of(number, yaw)
        write_mp4(videos / f"{name}.mp4", frames, FPS)
        standard = frames[::2]
        box = np.array([[20 + 2 * i + 18, 20, 20 + 2 * i + 78, 90] for i in range(len(standard))], np.float32)
        box[np.isnan(angles).any(1)] = np.nan
        window = slice(FIRST, FIRST + SETTINGS.video.frames)
        good = "qualified" if yaw > 100 else "rejected"
        record = ClipRecord(
            key=clip_key(f"{name}.mp4", 0), source=f"{name}.mp4", source_size=(208, 120), source_fps=float(FPS),
            start=0.0, seconds=3.0, frames=30, verdict=good, reason="" if good == "qualified" else "still",
            detail="" if good == "qualified" else "the pose varies too little", first=FIRST,
            variation=round(pose.variation(angles[window]), 3),
        )  # fmt: skip
        track = folder.track(record.key)
        track.parent.mkdir(exist_ok=True)
        number_T = np.arange(len(standard))
        np.savez_compressed(track, number=number_T, box=box, angles=angles)
        if good == "qualified":
            shown = FIRST + np.flatnonzero(np.isfinite(angles[window]).all(1))
            rows = shown[pose.spanning(angles[shown], 10)]
            made = staging.Staged(
                record.key, standard[window], list(standard[rows]), box[rows], angles[rows], number_T[rows], None
            )
            staging.stage(folder.clip(record.key), made, SETTINGS.video.fps, SETTINGS)
        journal.append(folder.journal, Outcome(source=record.source, bytes=1, clips=(record,)).to_json())
        records.append(record)
    # one that never got as far as the pose is nobody's work
    lost = dataclasses.replace(records[0], key="lost-0", source="lost.mp4", verdict="failed", variation=float("nan"))
    journal.append(folder.journal, Outcome(source="lost.mp4", bytes=1, clips=(lost,)).to_json())
    return records
