from __future__ import annotations

from pathlib import Path

import numpy as np

from faithfulfaces.mini.footage import FRAMES, PORTRAIT, SIZE, Footage, mini_plan
from faithfulfaces.synthetic.captions import SCENES
from faithfulfaces.synthetic.people import SPLITS, person, split_of


def test_a_clip_and_a_portrait_of_each_person(clips: Footage) -> None:
    assert clips.pixels.shape == (6, FRAMES, SIZE, SIZE, 3)
    assert clips.portraits.shape == (6, 1, PORTRAIT, PORTRAIT, 3)
    assert clips.captions.shape == (6,)
    assert [split_of(int(seed)) for seed in clips.seeds] == ["train"] * 6
    width = clips.box[..., 2] - clips.box[..., 0]
    assert ((width > 0.2 * SIZE) & (width < 0.8 * SIZE)).all(), "the box holds the face, from any side"


def test_loose_frames_are_of_the_measuring_networks_people(frames: Footage) -> None:
    assert [split_of(int(seed)) for seed in frames.seeds] == ["measure"] * 4
    assert frames.portraits.shape[1] == 0
    assert len(set(frames.captions.reshape(-1).tolist())) > 20, "each frame is of another clip"


def test_what_is_saved_is_what_is_read(clips: Footage, tmp_path: Path) -> None:
    clips.save(tmp_path / "a" / "block.npz")
    again = Footage.load(tmp_path / "a" / "block.npz")
    for name in ("pixels", "captions", "angles", "portrait_box", "seeds"):
        assert np.array_equal(getattr(again, name), getattr(clips, name))
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["block.npz"]
    both = Footage.joined([clips, again])
    assert len(both.seeds) == 12 and np.array_equal(both.pixels[6:], clips.pixels)


def test_nine_frames_turn_smoothly_and_a_turn_ends_at_the_face() -> None:
    for scene in SCENES:
        for seed in range(3):
            yaw = np.unwrap([frame.yaw for frame in mini_plan(person(2_000_005), scene, seed).frames], period=360)
            assert np.abs(np.diff(yaw)).max() < (75 if scene == "turning" else 60)
    turn = [frame.yaw for frame in mini_plan(person(2_000_005), "turning", 1).frames]
    assert abs(turn[0]) > 100 and abs(turn[-1]) < 30


def test_shown_frames_face_the_camera(clips: Footage) -> None:
    turning = list(SCENES).index("turning")
    assert not clips.shown[turning, 0], "the clip begins at the back of the head"
    assert clips.shown[turning, -1]
    assert clips.shown.mean() > 0.6


def test_no_person_is_in_two_splits() -> None:
    """Suite, generator, measuring networks and held-out people never meet."""
    seeds = [set(range(part.start, min(part.stop, part.start + 3000))) for part in SPLITS.values()]
    assert all(not one & other for i, one in enumerate(seeds) for other in seeds[:i])
    assert all(max(a.start, b.start) >= min(a.stop, b.stop) for a in SPLITS.values() for b in SPLITS.values() if a != b)
