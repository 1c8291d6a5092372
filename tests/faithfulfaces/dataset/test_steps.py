"""The steps' pure parts against plain forms."""

import itertools
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage import data, filters

from faithfulfaces.dataset import checks, frames, people, pose, quality
from faithfulfaces.dataset.detect import Track, refused
from faithfulfaces.dataset.records import ClipRecord, Outcome
from faithfulfaces.dataset.settings import Quality, Settings, Subject, Video, load
from faithfulfaces.dataset.sources import clip_key, find
from ffbench.errors import UserError

ANGLES = np.random.default_rng(0).uniform(-60, 60, (40, 3))


def test_variation_is_equation_8() -> None:
    expected = sum(max(ANGLES[:, i]) - min(ANGLES[:, i]) for i in range(3))
    holes = ANGLES.copy()
    holes[[3, 9]] = np.nan
    assert pose.variation(ANGLES) == pytest.approx(expected, abs=1e-12)
    assert pose.robust_variation(ANGLES, 0.0) == pytest.approx(expected, abs=1e-12)
    assert pose.variation(holes) == pose.variation(np.delete(ANGLES, [3, 9], axis=0))
    assert np.isnan(pose.variation(np.full((4, 3), np.nan)))
    assert np.isnan(pose.robust_variation(np.zeros((0, 3))))


def test_one_bad_frame_decides_the_range_and_not_the_robust_one() -> None:
    still = np.zeros((81, 3)) + np.random.default_rng(1).normal(0, 1, (81, 3))
    bad = still.copy()
    bad[40, 1] = 80
    assert pose.variation(bad) > 80
    assert pose.robust_variation(bad) < pose.robust_variation(still) + 1


def test_a_bad_frame_is_not_steady_and_a_turn_is() -> None:
    turn = np.stack([np.zeros(30), np.linspace(-80, 80, 30), np.zeros(30)], 1)
    bad = turn.copy()
    bad[10, 0] = 45
    bad[20] = np.nan
    assert pose.steady(turn).all()
    assert np.flatnonzero(~pose.steady(bad)).tolist() == [10, 20]
    alone = np.full((9, 3), np.nan)
    alone[4] = 0
    assert not pose.steady(alone).any()
    assert pose.variation(bad) == pytest.approx(205)
    assert pose.steady_variation(bad) == pytest.approx(160)
    assert np.isnan(pose.steady_variation(alone))


def test_spanning_rows_reach_the_extremes_and_begin_frontal() -> None:
    rows = pose.spanning(ANGLES, 10)
    assert len(set(rows)) == 10
    assert rows[0] == int(np.argmin(np.linalg.norm(ANGLES, axis=1)))
    assert rows[1] == int(np.argmax(np.linalg.norm(ANGLES - ANGLES[rows[0]], axis=1)))

    def least_gap(chosen: list[int]) -> float:
        return min(np.linalg.norm(ANGLES[a] - ANGLES[b]) for a, b in itertools.combinations(chosen, 2))

    chance = [least_gap(np.random.default_rng(i).permutation(40)[:10].tolist()) for i in range(50)]
    assert least_gap(rows) > max(chance)
    assert sorted(pose.spanning(ANGLES[:4], 10)) == [0, 1, 2, 3]
    assert pose.spanning(ANGLES[:0], 10) == []


@pytest.mark.parametrize("kind", ["range", "robust", "steady"])
def test_the_best_run_is_the_best_of_all(kind: str) -> None:
    subject = Subject(variation=kind, stride=1)
    angles = np.cumsum(np.random.default_rng(2).normal(0, 4, (60, 3)), axis=0)
    number = np.arange(60)
    at = pose.best_run(number, angles, 60, 16, subject)
    values = [pose.measured(angles[s : s + 16], subject) for s in range(45)]
    assert at == int(np.argmax(values))
    assert pose.best_run(number, np.full((60, 3), np.nan), 60, 16, subject) == 0
    assert pose.best_run(number, np.ones((60, 3)), 60, 16, subject) == 0


@settings(max_examples=60, deadline=None)
@given(st.integers(16, 4000), st.integers(16, 4000))
def test_the_covering_picture_covers_without_distortion(width: int, height: int) -> None:
    video = Video()
    w, h = frames.cover(width, height, video)
    assert w >= 832
    assert h >= 480
    assert w == 832 or h == 480
    assert w / width == pytest.approx(h / height, abs=1.5 / min(width, height))


@pytest.mark.parametrize(
    ("size", "reason"),
    [((832, 480), ""), ((1920, 1080), ""), ((1080, 1920), ""), ((10000, 10), "aspect"), ((200, 120), "resolution")],
)
def test_which_sizes_fit(size: tuple[int, int], reason: str) -> None:
    assert frames.unfit(*size, Video())[0] == reason


@pytest.mark.parametrize("rate", [16.0, 23.976, 25.0, 30.0, 59.94])
def test_resampled_frames_are_the_nearest_in_time(rate: float) -> None:
    times = np.arange(97) / rate + 0.3
    numbers = frames.resample(times, 16)
    wanted = 0.3 + np.arange(len(numbers)) / 16
    assert np.abs(times[numbers] - wanted).max() <= 0.5 / rate + 1e-9
    assert len(numbers) == int(97 / rate * 16 + 1e-6)
    assert frames.resample(times, 0).tolist() == list(range(97))


def test_pieces_are_shots_and_their_equal_parts() -> None:
    assert frames.pieces(100, [], 100) == [(0, 100)]
    assert frames.pieces(100, [30, 30, 0, 100], 100) == [(0, 30), (30, 100)]
    assert frames.pieces(100, [40], 30) == [(0, 20), (20, 40), (40, 70), (70, 100)]


def test_the_frame_is_placed_on_the_faces() -> None:
    video = Video()
    boxes = np.array([[100, 900, 300, 1100], [120, 950, 320, 1150]], np.float32)
    corner = frames.placed((832, 1480), boxes, video)
    assert corner == (0, 1025 - 240)
    assert frames.inside(boxes, corner, video) == 1.0
    assert frames.inside(boxes, (0, 930), video) == 0.5
    assert frames.placed((832, 1480), boxes[:0], video) == (0, 500)
    assert frames.placed((832, 1480), boxes + np.array([0, 9000, 0, 9000], np.float32), video) == (0, 1000)


def test_clarity_is_the_laplacians_variance_and_falls_with_blur() -> None:
    grey = cv2.cvtColor(data.astronaut(), cv2.COLOR_RGB2GRAY)
    expected = filters.laplace(grey.astype(np.float64))[1:-1, 1:-1].var()
    sharp = quality.clarity(data.astronaut()[None])
    # without the border, which the two treat in their own ways
    assert sharp == pytest.approx(expected, rel=0.01)
    assert quality.clarity(cv2.GaussianBlur(data.astronaut(), (9, 9), 3)[None]) < 0.1 * sharp


def bits(a: str, b: str) -> list[int]:
    return [(int(a[i : i + 16], 16) ^ int(b[i : i + 16], 16)).bit_count() for i in (0, 16, 32)]


def test_a_copy_of_another_size_and_quality_has_nearly_the_same_hash() -> None:
    picture = data.astronaut()
    small = cv2.resize(picture, (300, 260), interpolation=cv2.INTER_AREA)
    _, jpeg = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 40])
    copy = np.asarray(cv2.imdecode(jpeg, cv2.IMREAD_COLOR))
    one, two, other = (quality.clip_hash(np.stack([p] * 5)) for p in (picture, copy, data.chelsea()))
    assert max(bits(one, two)) <= 6
    assert min(bits(one, other)) > 12
    assert quality.duplicates([one, other, two], ["a", "b", "c"], 6) == [-1, -1, 0]
    # pieces of one source are no copies of each other, and -1 switches it off
    assert quality.duplicates([one, other, two], ["a", "b", "a"], 6) == [-1, -1, -1]
    assert quality.duplicates([one, one], ["a", "b"], -1) == [-1, -1]


def test_people_are_what_chains_connect() -> None:
    angle = np.radians([0, 30, 60, 200, 230, 120])
    means = np.stack([np.cos(angle), np.sin(angle)], 1).astype(np.float32)
    means = np.concatenate([means, np.full((1, 2), np.nan, np.float32)])
    assert people.grouped(means, np.cos(np.radians(31))) == [0, 0, 0, 3, 3, 5, 6]
    rows = np.array([[3, 4], [np.nan, 1]], np.float32)
    np.testing.assert_allclose(people.mean_direction(rows), [0.6, 0.8])
    assert np.isnan(people.mean_direction(rows[1:])).all()


def test_the_split_is_by_person_stable_and_of_the_asked_size() -> None:
    sides = [people.split_of(f"person{i}", 0.2, 0) for i in range(5000)]
    assert sides.count("val") / 5000 == pytest.approx(0.2, abs=0.02)
    assert sides == [people.split_of(f"person{i}", 0.2, 0) for i in range(5000)]
    assert sides != [people.split_of(f"person{i}", 0.2, 1) for i in range(5000)]


def track(faces: list[int]) -> Track:
    count = np.array(faces)
    box = np.where(count[:, None] > 0, [10.0, 10, 40, 50], np.nan).astype(np.float32)
    return Track(np.arange(len(faces)), box, np.zeros((len(faces), 5, 2), np.float32), count)


@pytest.mark.parametrize(
    ("faces", "subject", "reason"),
    [
        ([1, 1, 0], Subject(), ""),
        ([0, 0], Subject(), "no-face"),
        ([1, 2], Subject(), "faces"),
        ([1, 2], Subject(max_faces=2), ""),
        ([1, 0, 0], Subject(min_presence=0.5), "presence"),
        ([1, 1], Subject(min_face=40), "small-face"),
    ],
)
def test_step_1_refuses(faces: list[int], subject: Subject, reason: str) -> None:
    assert refused(track(faces), subject)[0] == reason


def test_a_record_survives_its_line() -> None:
    record = ClipRecord(key="k", source="s", yaw=(-3.0, 4.0), source_size=(3, 4), checks={"a": 1.0, "b": float("nan")})
    outcome = Outcome(source="s", bytes=5, clips=(record,))
    back = Outcome.from_json(json.loads(json.dumps(outcome.to_json(), allow_nan=False)))
    assert repr(back) == repr(outcome)
    with pytest.raises(TypeError):
        ClipRecord.from_json({"key": "k", "source": "s", "colour": 1})


def test_settings_are_read_strictly(tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text('[video]\nfps = 8\n[networks]\nladder = ["320"]\n')
    chosen = load(path)
    assert (chosen.video.fps, chosen.networks.ladder, chosen.subject) == (8, ("320",), Settings().subject)
    for text, words in (
        ("[film]\n", "no section 'film'"),
        ("[video]\nspeed = 1\n", "has no field 'speed'"),
        ('[video]\nshots = "some"\n', "video.shots cannot be 'some'"),
        ("[video]\nframes = true\n", "video.frames cannot be True"),
        ("[video]\nframes = 0\n", "video.frames must be greater than 0"),
        ("[video]\nwidth = 833\n", "must be even"),
        ("[samples]\nval = 1.0\n", "samples.val"),
        ('[people]\nexclude = "x"\n', "needs a recogniser"),
        ("video\n", "--settings"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=words):
            load(path)
    assert load(None) == Settings()


def test_sources_are_found_or_listed(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    for name in ("b/x.MP4", "a.webm", "note.txt"):
        (tmp_path / name).touch()
    assert [s.name for s in find(tmp_path)] == ["a.webm", "b/x.MP4"]
    listed = tmp_path / "list.txt"
    listed.write_text("# comment\nb/x.MP4\n\nmissing.mp4\n")
    assert [s.name for s in find(listed)] == ["b/x.MP4", "missing.mp4"]
    listed.write_text("a.webm\na.webm\n")
    for path, words in ((listed, "twice"), (tmp_path / "none", "no folder"), (tmp_path / "b" / "x.MP4", "no folder")):
        with pytest.raises(UserError, match=words):
            find(path)


def test_keys_are_plain_and_different() -> None:
    names = ["a/ü film.v2.mp4", "b/ü film.v2.mp4", "...mp4"]
    keys = [clip_key(name, 3) for name in names]
    assert len(set(keys)) == 3
    assert all(set(key) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") for key in keys)
    assert keys[0].endswith("-003")


def test_checks_of_ones_own_are_run_until_one_is_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine_e1.py").write_text("def bright(x):\n    return x.mean()\ndef odd(x):\n    return float('nan')\n")
    monkeypatch.syspath_prepend(tmp_path)
    pictures = np.full((4, 8, 8, 3), 100, np.uint8)
    assert checks.run((), pictures) == ({}, "", "")
    both = ("mine_e1:bright<=100", "faithfulfaces.dataset.quality:clarity>=1", "mine_e1:odd>=0")
    values, reason, detail = checks.run([checks.check(text) for text in both], pictures)
    assert (values, reason) == ({"bright": 100.0, "clarity": 0.0}, "clarity")
    assert detail == "clarity 0, at least 1 is asked for"
    assert checks.run([checks.check("mine_e1:bright<=99.5")], pictures)[1] == "bright"
    assert checks.run([checks.check("mine_e1:odd<=0")], pictures)[1] == "odd"
    for text in ("mine_e1:bright", "bright<=3", "mine_e1:bright<3", "os;x:y<=3"):
        with pytest.raises(UserError, match="is no check"):
            Settings(quality=Quality(checks=(text,)))
    for text in ("mine_e1:none<=3", "no_such_module_e1:none<=3"):
        with pytest.raises(UserError, match="none"):
            checks.check(text)
