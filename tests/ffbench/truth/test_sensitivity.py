"""Verdicts by their definition, frames put back where they were, and a trial on real faces with small networks."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest

from ffbench.extract.extractor import Extractor
from ffbench.protocols import get_protocol, with_networks
from ffbench.truth.examine import clip_of
from ffbench.truth.sensitivity import Subject, Trial, frames_of, judge, try_defects, with_frames
from ffbench.video import Clip, VideoError
from tests.ffbench import small_networks


@pytest.mark.parametrize(
    ("metric", "difference", "interval", "concerns", "verdict"),
    [
        ("facesim_arc", -0.2, (-0.3, -0.1), True, "seen"),
        ("facesim_arc", -0.2, (-0.3, -0.1), False, "side effect"),
        ("facesim_arc", 0.2, (0.1, 0.3), True, "rewards"),
        ("facesim_arc", 0.2, (0.1, 0.3), False, "rewards"),
        ("facesim_arc", -0.2, (-0.5, 0.1), True, "blind"),
        ("facesim_arc", 0.0, (0.0, 0.0), False, "not moved"),
        ("kid", -0.2, (-0.3, -0.1), True, "rewards"),
        ("kid", 0.2, (0.1, 0.3), True, "seen"),
        ("pose_range", 9.0, (8.0, 10.0), True, "seen"),
        ("pose_range", 9.0, (math.nan, math.nan), True, "not formed"),
    ],
)
def test_a_verdict(metric: str, difference: float, interval: tuple[float, float], concerns: bool, verdict: str) -> None:
    assert judge(metric, difference, interval, concerns) == verdict


def test_frames_of_two_samplers_are_taken_once_and_put_back() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 4, 6, 3), np.uint8)
    clip = clip_of(pixels, 8, ["linspace16", "stride16"])
    numbers, taken = frames_of(clip)
    assert numbers.tolist() == sorted({n for f in clip.frames.values() for n in f.number.tolist()})
    assert np.array_equal(taken, pixels[numbers])
    inverted = with_frames(clip, 255 - taken)
    for sampler, frames in inverted.frames.items():
        assert np.array_equal(frames.pixels, 255 - clip.frames[sampler].pixels)
        assert np.array_equal(frames.number, clip.frames[sampler].number)


def test_a_clip_in_memory_is_sampled_as_a_file_would_be() -> None:
    clip = clip_of(np.zeros((9, 4, 6, 3), np.uint8), 8, ["time16"])
    assert set(clip.frames["time16"].number.tolist()) == set(range(9))
    assert clip.size == (6, 4)
    assert clip.frames["time16"].time[-1] == pytest.approx(1.0)


def unreadable() -> Clip:
    raise VideoError("it is cut off")


def moving(image: np.ndarray, fps: float) -> Clip:
    """A face that wanders over grey: 4 frames."""
    canvas = np.full((4, 190, 190, 3), 90, np.uint8)
    for t in range(4):
        canvas[t, 10 + 3 * t : 10 + 3 * t + image.shape[0], 8 : 8 + image.shape[1]] = image
    return clip_of(canvas, fps, ["time16"])


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Trial:
    faces = [face[:150, :150] for face in small_networks.people()[:3]]
    protocol = with_networks(get_protocol("basic"), small_networks.write_networks(tmp_path_factory.mktemp("networks")))
    blank = np.zeros((64, 64, 3), np.uint8)
    subjects = [
        *(Subject(f"video {i}", f"person {i}", face, "", partial(moving, face, 4.0)) for i, face in enumerate(faces)),
        Subject("no photo", "x", blank, "", partial(moving, faces[0], 4.0)),
        Subject("cut", "y", faces[0], "", unreadable),
        Subject("empty", "z", faces[0], "", partial(clip_of, np.zeros((4, 64, 64, 3), np.uint8), 4.0, ["time16"])),
    ]
    done: list[int] = []
    made = try_defects(Extractor(protocol), subjects, 0.01, lambda: done.append(1))
    assert len(done) == 5
    return made


def test_what_cannot_be_tried_is_left_out_and_named(trial: Trial) -> None:
    assert trial.notes == (
        "no photo: no face in its photograph", "cut: it is cut off", "empty: no face in the video",
    )  # fmt: skip
    assert (trial.videos, trial.identities) == (3, 3)


def test_metrics_move_as_their_definition_says(trial: Trial) -> None:
    moves = {(move.defect, move.metric): move for move in trial.moves}
    assert moves["no face 30%", "face_rate"].true == 1
    # one of four distinct frames, a quarter of the sampled ones
    assert trial.changed["no face 30%"] == pytest.approx(0.25, abs=0.07)
    assert moves["no face 30%", "face_rate"].difference == pytest.approx(-trial.changed["no face 30%"], abs=1e-9)
    assert moves["no face 30%", "face_rate"].verdict == "seen"
    swap = [moves[name, "facesim_arc"].difference for name in ("swap 10%", "swap 50%")]
    assert swap[1] < swap[0] < 0
    assert trial.changed["swap 50%"] == pytest.approx(0.5, abs=0.1)
    # a moving picture of one pose has no more range than a frozen one
    assert moves["frozen", "pose_range"].difference <= 0
    assert moves["still", "facesim_arc"].difference >= 0


def test_what_has_no_number_says_why(trial: Trial) -> None:
    for move in trial.moves:
        assert (move.verdict == "not formed") == bool(move.reason)
        assert math.isnan(move.low) == bool(move.reason)
    reasons = {move.metric: move.reason for move in trial.moves if move.reason}
    assert "100 pairs of strangers" in reasons["same_identity_rate"]
    assert reasons["kid"] == "no features of faces"
    assert "clip-vit-b-32" in reasons["clip_score"]
