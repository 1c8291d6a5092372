"""Figures 6, 7 and 10 as data, from an aligner and shards."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from faithfulfaces.aligner import PoseSharedIdentityAligner
from faithfulfaces.analysis.measure import (
    Faces,
    choose_faces,
    identity_features,
    look_at_dictionary,
    loss_curve,
    map_identities,
    read_faces,
)
from faithfulfaces.config import Aligner
from faithfulfaces.data import stack
from faithfulfaces.shards import ShardClips
from ffbench.errors import UserError
from tests.faithfulfaces import crops

CONFIG = Aligner(elements=24, dim=8, image_size=16, patch=4)


@pytest.fixture(scope="module")
def aligner() -> PoseSharedIdentityAligner:
    torch.manual_seed(0)
    made = PoseSharedIdentityAligner(CONFIG).eval().requires_grad_(False)
    assert made.euler is not None
    for part in made.euler.angles:
        torch.nn.init.normal_(part[2].weight, std=0.5)
    return made


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> ShardClips:
    return ShardClips(crops.write(tmp_path_factory.mktemp("shards")), CONFIG.image_size)


@pytest.fixture(scope="module")
def faces(aligner: PoseSharedIdentityAligner, clips: ShardClips) -> Faces:
    return read_faces(aligner, clips, limit=1000)


def test_every_crop_is_read_and_encoded_as_the_aligner_does(
    faces: Faces, aligner: PoseSharedIdentityAligner, clips: ShardClips
) -> None:
    assert len(faces.places) == 54 == len(set(faces.places))
    for row in (0, 20, 53):
        clip, index = faces.places[row]
        assert faces.identities[row] == clips.identities[clip]
        assert faces.euler_N3[row].tolist() == list(crops.POSES[index])
        rgb, euler = stack([clips.crop(clip, index)])
        out = aligner(rgb.float() / 127.5 - 1, euler)
        s = (out.s_BD / out.s_BD.norm()).numpy()[0]
        assert faces.s_ND[row] == pytest.approx(s, abs=1e-5)
        assert faces.top_NK[row].tolist() == out.w_BC[0].argsort(descending=True)[:10].tolist()
    assert faces.people.tolist() == np.repeat(np.arange(6), 9).tolist()


def test_a_limit_draws_whole_clips_by_seed(aligner: PoseSharedIdentityAligner, clips: ShardClips) -> None:
    some = read_faces(aligner, clips, limit=20)
    assert len(some.places) == 18 and len(set(some.identities)) == 2
    assert some.places == read_faces(aligner, clips, limit=20).places
    others = {tuple(read_faces(aligner, clips, limit=20, seed=seed).identities) for seed in range(6)}
    assert len(others) > 1
    assert len(read_faces(aligner, clips, limit=1).places) == 9, "one clip at least"


def test_a_small_dictionary_keeps_all_its_elements(clips: ShardClips) -> None:
    few = PoseSharedIdentityAligner(Aligner(elements=3, dim=8, image_size=16, patch=4)).eval()
    assert read_faces(few, clips, limit=9).top_NK.shape == (9, 3)


def test_the_report_counts_groups_and_its_table_is_the_shares(faces: Faces) -> None:
    report = look_at_dictionary(faces, CONFIG.elements, permutations=19)
    assert [(group.group, group.faces, group.people) for group in report.groups] == [
        ("frontal", 12, 6), ("left", 12, 6), ("right", 12, 6), ("up", 12, 6), ("down", 6, 6),
    ]  # fmt: skip
    assert (report.elements, report.faces, report.ungrouped) == (24, 54, 0)
    assert len(report.columns) == 25
    rows = [row for row, (_, index) in enumerate(faces.places) if index in (2, 3)]
    for column, share in zip(report.columns, report.table["left"], strict=True):
        assert share == pytest.approx(np.mean([column in faces.top_NK[row] for row in rows]))
    assert report.winner_and_pose.faces == 54
    assert report == look_at_dictionary(faces, CONFIG.elements, permutations=19)


def test_people_of_the_map_are_drawn_and_their_faces_spread_over_yaw(faces: Faces) -> None:
    rows = choose_faces(faces, people=3, poses=3)
    names = [faces.identities[row] for row in rows]
    assert len(set(names)) == 3 and names == sorted(names)
    # the two ends and the middle of each person's nine, in order of yaw
    assert [float(faces.euler_N3[row, 1]) for row in rows] == [-60.0, 0.0, 60.0] * 3
    assert choose_faces(faces, people=3, poses=3) == rows
    assert len({tuple(choose_faces(faces, people=3, poses=3, seed=seed)) for seed in range(6)}) > 1
    assert len(choose_faces(faces)) == 6 * 8, "six people are all there are"


def test_too_few_faces_a_person_are_refused_with_numbers(faces: Faces) -> None:
    with pytest.raises(UserError, match="0 of 6 people have 10 faces") as caught:
        choose_faces(faces, poses=10)
    assert "--poses" in caught.value.fix


def test_maps_hold_the_points_and_the_silhouette_of_the_features(
    faces: Faces, aligner: PoseSharedIdentityAligner, clips: ShardClips
) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rows = choose_faces(faces, people=4, poses=6)
    features = identity_features(aligner, [clips.crop(*faces.places[row]) for row in rows])
    maps = map_identities(faces, rows, features)
    assert [one.of for one in maps] == ["pixels of the crop", "S without Euler embedding", "S"]
    assert features["S"] == pytest.approx(faces.s_ND[rows], abs=1e-5)
    names = [faces.identities[row] for row in rows]
    for one in maps:
        assert one.silhouette == pytest.approx(
            metrics.silhouette_score(features[one.of].astype(np.float64), names, metric="cosine"), abs=1e-6
        )
        plane = np.array([(p.x, p.y) for p in one.points])
        assert one.silhouette_in_plane == pytest.approx(metrics.silhouette_score(plane, names), abs=1e-6)
        assert [p.identity for p in one.points] == names
        assert [p.yaw for p in one.points] == faces.euler_N3[rows, 1].tolist()
    assert len({round(one.silhouette, 6) for one in maps}) == 3


def test_an_aligner_without_euler_embedding_has_no_such_panel(clips: ShardClips) -> None:
    bare = PoseSharedIdentityAligner(Aligner(elements=8, dim=8, image_size=16, patch=4, euler=False)).eval()
    assert list(identity_features(bare, [clips.crop(0, 0), clips.crop(1, 0)])) == ["pixels of the crop", "S"]


def test_the_curve_is_the_log_and_settles_over_its_last_tenth() -> None:
    log = [{"step": 10 * i, "loss_pia": 5.0 - 0.1 * i, "loss_fm": 1.0 + i} for i in range(40)]
    log[38]["loss_pia"] = None
    curve = loss_curve(log)
    assert curve.steps == tuple(10 * i for i in range(40))
    assert curve.loss_pia[3] == pytest.approx(4.7) and math.isnan(curve.loss_pia[38])
    assert curve.loss_fm == tuple(1.0 + i for i in range(40))
    assert curve.settled_pia == pytest.approx(np.mean([5 - 3.6, 5 - 3.7, 5 - 3.9]))


def test_a_run_without_videos_has_no_second_curve_and_one_without_pairs_none_at_all() -> None:
    assert loss_curve([{"step": 1, "loss_pia": 2.0}]).loss_fm == ()
    assert math.isnan(loss_curve([{"step": i, "loss_pia": None if i > 50 else 1.0} for i in range(100)]).settled_pia)
    for log in ([], [{"step": 1, "loss_fm": 2.0}], [{"step": 1, "loss_pia": None}]):
        with pytest.raises(UserError, match="no loss_pia"):
            loss_curve(log)


def test_shards_and_pipeline_resize_a_crop_alike(tmp_path: Path) -> None:
    """`faces.resized` is the one owner: bits that differ here would be a gap between training and sampling."""
    import io

    from PIL import Image

    from faithfulfaces.faces import resized
    from faithfulfaces.shards import Sample, write_shard

    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 70, 3), np.uint8)).save(stream, "JPEG")
    write_shard(
        tmp_path / "a.tar", [Sample(key="k", identity="a", prompt="", crops=[stream.getvalue()], euler=[(0, 0, 0)])]
    )
    whole = np.asarray(Image.open(stream).convert("RGB"))
    assert np.array_equal(ShardClips(tmp_path, 16).crop(0, 0).rgb, resized(whole, 16))
