"""The picture and its truth agree: signs of the angles, points on features, occlusion, symmetry, batching."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from faithfulfaces.synthetic.head import Expression
from faithfulfaces.synthetic.labels import Labels
from faithfulfaces.synthetic.people import Person, person
from faithfulfaces.synthetic.render import Rendered, make_world, march, render, to_srgb
from faithfulfaces.synthetic.scene import BACKDROPS, Blob, Frame, Setting, backdrop

BARE = next(
    p for p in map(person, range(2_000_000, 2_000_400)) if not p.glasses and p.style == "short" and p.beard == "none"
)
SIZE = 48


def draw(*frames: Frame, who: Person = BARE, setting: Setting | None = None, size: int = SIZE) -> Rendered:
    return render([who] * len(frames), frames, [setting or Setting()] * len(frames), size)


def test_yaw_pitch_and_roll_have_the_projects_signs() -> None:
    labels = draw(Frame(), Frame(yaw=30), Frame(pitch=20), Frame(roll=20)).labels
    rest, yaw, pitch, roll = labels.points
    nose_to_eyes = [p[2] - p[:2].mean(0) for p in (rest, yaw, pitch)]
    assert nose_to_eyes[1][0] < nose_to_eyes[0][0] - 2, "yaw > 0 turns the nose to image-left"
    assert nose_to_eyes[2][1] < nose_to_eyes[0][1] - 1, "pitch > 0 lifts the nose towards the eyes"
    assert roll[0, 1] < roll[1, 1] - 2, "roll > 0 raises the image-left eye"
    tilt = np.degrees(np.arctan2(*(roll[1] - roll[0])[::-1]))
    assert tilt == pytest.approx(20, abs=0.01)
    assert labels.angles.tolist() == [[0, 0, 0], [0, 30, 0], [20, 0, 0], [0, 0, 20]]


def test_points_turn_exactly_as_the_rotation_says() -> None:
    # eyes at +-x and equal depth: their distance shrinks by the cosine of the yaw
    apart = [np.ptp(p[:2, 0]) for p in draw(Frame(), Frame(yaw=40)).labels.points]
    assert apart[1] / apart[0] == pytest.approx(np.cos(np.radians(40)), abs=1e-3)


def test_points_lie_on_what_they_name() -> None:
    size = 128
    made = draw(Frame(expression=Expression(blink=-0.3)), size=size)
    spoken = draw(Frame(expression=Expression(jaw=1, blink=-0.3)), size=size).pixels[0]
    x, y = made.labels.points[0, 0].round().astype(int)
    skin = made.pixels[0, y + 14, x].astype(int)
    assert np.abs(made.pixels[0, y, x].astype(int) - skin).sum() > 60, "the eye is no skin"
    changed = np.abs(spoken.astype(int) - made.pixels[0]).sum(2) > 60
    # hair's grazing edge may differ by a pixel as the bounding sphere grows with the jaw; the face may not
    x1, _, x2, _ = made.labels.box[0].astype(int)
    rows, columns = np.nonzero(changed[:, x1:x2])
    columns += x1
    top = made.labels.box[0, 1]
    columns, rows = columns[rows > top], rows[rows > top]
    left, right = made.labels.points[0, 3:, 0]
    assert left - 25 < columns.min() and columns.max() < right + 25
    assert rows.min() > made.labels.points[0, 2, 1] - 2, "an opening jaw changes nothing above the nose"


def test_the_face_lies_in_its_box_and_the_points_too() -> None:
    labels = draw(*(Frame(yaw=y) for y in (-50, 0, 50))).labels
    for box, points in zip(labels.box, labels.points, strict=True):
        assert (points >= box[:2] - 2).all() and (points <= box[2:] + 2).all()
        assert 0.2 * SIZE < box[2] - box[0] < 0.8 * SIZE


def test_the_head_hides_its_far_side() -> None:
    labels = draw(Frame(), Frame(yaw=85), Frame(yaw=-85), Frame(yaw=180, body_yaw=180)).labels
    front, left, right, back = labels.visible
    assert front.all()
    assert not left[0] and left[1], "nose to image-left: the image-left eye is behind the nose's bridge"
    assert not right[1] and right[0]
    assert not back.any()
    assert labels.seen[0] > 0.5 > labels.seen[1] > labels.seen[3]
    assert labels.seen[3] < 0.1


def test_what_passes_in_front_hides_points_and_changes_pixels() -> None:
    glove = Blob((0.0, -0.55, 1.4), (0.5, 0.35, 0.3), (0.6, 0.02, 0.02))
    behind = Blob((0.0, -0.55, -2.4), (0.5, 0.35, 0.3), (0.6, 0.02, 0.02))
    made = draw(Frame(), Frame(blobs=(glove,)), Frame(blobs=(behind,)))
    assert made.labels.visible[1].tolist() == [True, True, False, False, False]
    assert made.labels.visible[2].all() and np.array_equal(made.pixels[0], made.pixels[2])
    x, y = made.labels.points[1, 3:].mean(0).round().astype(int)
    r, g, b = made.pixels[1, y, x].astype(int)
    assert r > 2 * g and r > 2 * b
    assert np.array_equal(made.labels.points[0], made.labels.points[1])


def test_frames_do_not_change_each_other() -> None:
    frames = [Frame(yaw=20), Frame(yaw=-40, expression=Expression(jaw=1)), Frame(zoom=1.3, shift=(0.1, 0.05))]
    people = [BARE, person(2_000_004), person(2_000_017)]
    together = render(people, frames, [Setting()] * 3, 32)
    for i in range(3):
        alone = render(people[i : i + 1], frames[i : i + 1], [Setting()], 32)
        far = np.abs(alone.pixels[0].astype(int) - together.pixels[i]) > 3
        assert far.mean() < 0.002
        assert np.allclose(alone.labels.points[0], together.labels.points[i], atol=0.02)


def test_zoom_and_shift_move_points_as_they_say() -> None:
    rest, shifted, near = draw(Frame(), Frame(shift=(0.136, 0.136)), Frame(zoom=2.0)).labels.points
    assert np.allclose(shifted - rest, [0.05 * SIZE, -0.05 * SIZE], atol=0.01)
    assert np.ptp(near[:2, 0]) == pytest.approx(2 * np.ptp(rest[:2, 0]), rel=1e-4)


def test_another_person_another_picture() -> None:
    a, b = (draw(Frame(), who=person(seed)).pixels[0].astype(int) for seed in (2_000_001, 2_000_002))
    assert np.abs(a - b).mean() > 5


def test_supersampling_softens_edges() -> None:
    hard, soft = (render([BARE], [Frame()], [Setting()], 64, samples=n).pixels[0].astype(int).sum(2) for n in (1, 3))
    fine = render([BARE], [Frame()], [Setting()], 192, samples=2).pixels[0].reshape(64, 3, 64, 3, 3).mean((1, 3)).sum(2)
    assert np.abs(soft - fine).mean() < 0.6 * np.abs(hard - fine).mean()


def test_field_is_a_safe_distance() -> None:
    # a march may step by 0.92 of the field: nothing solid lies within that of a free point
    world = make_world([BARE, person(2_000_004)], [Frame(), Frame(expression=Expression(jaw=1, smile=1))], "cpu")
    generator = torch.Generator().manual_seed(0)
    x, y, z = (torch.rand(2, 4000, generator=generator) * 2.4 - 1.2 for _ in range(3))
    distance = world.distance(x, y, z)
    toward = torch.nn.functional.normalize(torch.randn(3, 2, 4000, generator=generator), dim=0)
    reach = 0.7 * distance.clamp(min=0)
    there = world.distance(x + reach * toward[0], y + reach * toward[1], z + reach * toward[2])
    assert ((there < -0.02) & (distance > 0)).float().mean() < 0.002


def test_srgb_is_the_standard_curve() -> None:
    values = torch.linspace(0, 1, 256, dtype=torch.float64)
    linear = torch.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    assert to_srgb(linear.float()).tolist() == list(range(256))
    assert to_srgb(torch.tensor([-1.0, 2.0])).tolist() == [0, 255]


def test_every_backdrop_draws() -> None:
    pictures = [backdrop(Setting(name, seed=3), 24) for name in BACKDROPS]
    assert all(p.shape == (3, 24, 24) and bool(((p >= 0) & (p <= 1)).all()) for p in pictures)
    assert len({p.numpy().tobytes() for p in pictures}) == len(BACKDROPS)


def test_unequal_lists_are_refused() -> None:
    with pytest.raises(ValueError, match="1 people, 2 frames"):
        render([BARE], [Frame(), Frame()], [Setting()], 32)


def test_labels_concatenate_in_order() -> None:
    a, b = draw(Frame(yaw=1)).labels, draw(Frame(yaw=2)).labels
    assert Labels.concatenate([a, b]).angles[:, 1].tolist() == [1, 2]


def test_nothing_sticks_out_of_the_bounding_volumes() -> None:
    # whatever a ray from far in front really touches lies behind the volumes' front and before their back
    seeds = (2_000_004, 2_000_015, 2_000_000, 2_000_003, 2_000_016, 2_000_022)
    wide = Expression(jaw=1)
    frames = [Frame(pitch=20), Frame(expression=wide), Frame(yaw=60), Frame(), Frame(roll=30), Frame(yaw=180)]
    world = make_world([person(s) for s in seeds], frames, "cpu")
    line = torch.linspace(-1.3, 1.3, 60)
    y, x = (g.reshape(1, -1).expand(6, -1) for g in torch.meshgrid(line - 0.16, line, indexing="ij"))
    z = march(world, (x, y), (torch.full_like(x, 1.9), torch.full_like(x, -1.9)), 0.005)
    touched = torch.isfinite(z) & (world.distance(x, y, z.clamp(min=-3)) < 0.006)
    start, end = world.bounds(x, y)
    assert touched.float().mean() > 0.3
    assert not (touched & ((z > start + 0.01) | (z < end - 0.01))).any()
