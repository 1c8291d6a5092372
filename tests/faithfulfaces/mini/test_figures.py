from __future__ import annotations

import math
from dataclasses import fields

import numpy as np
import pytest
import torch

from faithfulfaces.aligner import PoseSharedIdentityAligner, pixels
from faithfulfaces.config import Aligner
from faithfulfaces.mini.crops import face_crops
from faithfulfaces.mini.figures import YAW_BINS, across_poses
from faithfulfaces.mini.footage import Footage
from faithfulfaces.runs import open_aligner
from ffbench.embedded import FOLDER
from ffbench.truth.labelled import Labelled, TruthSet


def test_retrieval_across_poses_is_what_a_loop_counts(frames: Footage) -> None:
    torch.manual_seed(0)
    aligner = PoseSharedIdentityAligner(Aligner(elements=32, dim=16, image_size=48, patch=16)).eval()
    found = across_poses(aligner, frames, permutations=9)
    crops, rows = face_crops(frames, 48)
    assert len(crops) == int(frames.shown.sum()) and [crop.rgb.shape for crop in crops] == [(48, 48, 3)] * len(crops)
    s = []
    for crop in crops:
        rgb = torch.from_numpy(crop.rgb.copy()).permute(2, 0, 1)[None]
        with torch.no_grad():
            s.append(aligner(pixels(rgb), torch.from_numpy(crop.euler)[None]).s_BD[0].double().numpy())
    gallery: dict[int, int] = {}
    for index, person in enumerate(rows.tolist()):
        best = gallery.setdefault(person, index)
        if sum(map(abs, crops[index].euler)) < sum(map(abs, crops[best].euler)):
            gallery[person] = index
    hits = {}
    for index, person in enumerate(rows.tolist()):
        if index not in gallery.values():
            cosine = {p: s[index] @ s[g] / np.linalg.norm(s[index]) / np.linalg.norm(s[g]) for p, g in gallery.items()}
            hits[index] = max(cosine, key=cosine.__getitem__) == person
    assert (found["people"], found["queries"], found["chance"]) == (4, len(hits), 0.25)
    assert found["rank1"] == pytest.approx(sum(hits.values()) / len(hits))
    for low, high in YAW_BINS:
        inside = [hit for index, hit in hits.items() if low <= abs(crops[index].euler[1]) < high]
        assert found[f"queries {low}-{high}"] == len(inside)
        if inside:
            assert found[f"rank1 {low}-{high}"] == pytest.approx(sum(inside) / len(inside))
        else:
            assert math.isnan(found[f"rank1 {low}-{high}"])
    assert found["winner bits"] >= 0 and 0 < found["winner p"] <= 1 and found["top ten p"] <= 1


def test_the_shipped_aligner_knows_strangers_again_in_another_pose() -> None:
    """Forty people of the split `test`, whom no network has seen; every frame is of another clip, light and dress."""
    loose = TruthSet.load().loose
    people = len(loose.seeds)
    strangers = Footage(
        **{one.name: getattr(loose, one.name) for one in fields(Labelled)},
        portraits=np.zeros((people, 0, 96, 96, 3), np.uint8),
        portrait_angles=np.zeros((people, 0, 3), np.float32),
        portrait_box=np.zeros((people, 0, 4), np.float32),
    )
    found = across_poses(open_aligner(FOLDER / "checkpoint").aligner, strangers, permutations=9)
    assert found["people"] == 40 and found["queries"] > 250
    # chance is 2.5%; docs/mini.md has what 150 people gave
    assert found["rank1"] > 0.7, found
