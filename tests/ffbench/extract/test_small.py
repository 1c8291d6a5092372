"""The embedded measuring networks, on people that they have never seen and whose truth is known."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from faithfulfaces.mini import footage
from faithfulfaces.mini.footage import Footage
from ffbench.embedded import FOLDER
from ffbench.extract import small
from ffbench.extract.align import align
from ffbench.extract.networks import open_networks
from ffbench.metrics.verification import auc
from ffbench.protocols import get_protocol


@pytest.fixture(scope="module")
def strangers() -> Footage:
    """Eight people of the split `test`, nine loose frames each."""
    return footage.loose("test", 40, count=8)


def crops(frames: Footage) -> tuple[np.ndarray, np.ndarray]:
    where = list(zip(*np.nonzero(frames.shown), strict=True))
    made = np.stack([align(frames.pixels[i, t], frames.points[i, t], 112) for i, t in where])
    return made, np.array([i for i, _ in where])


@pytest.mark.parametrize("name", ["arc", "cur"])
def test_strangers_are_told_apart(strangers: Footage, name: str) -> None:
    faces, rows = crops(strangers)
    found = small.SmallEmbedder(name)(faces)
    assert found.shape == (len(faces), small.EMBEDDING)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
    cosine, same = found @ found.T, rows[:, None] == rows
    upper = np.triu(np.ones_like(same), 1).astype(bool)
    assert auc(cosine[upper & same], cosine[upper & ~same]) > 0.97


def test_arc_and_cur_are_two_networks(strangers: Footage) -> None:
    faces, _ = crops(strangers)
    one, two = (small.SmallEmbedder(name)(faces) for name in ("arc", "cur"))
    assert np.abs((one * two).sum(1)).mean() < 0.5


def test_angles_follow_the_truth(strangers: Footage) -> None:
    where = list(zip(*np.nonzero(strangers.shown), strict=True))
    images = [strangers.pixels[i, t] for i, t in where]
    boxes = np.stack([strangers.box[i, t] for i, t in where])
    found = small.SmallPose().angles(images, boxes, np.zeros((len(where), 5, 2), np.float32))
    truth = np.stack([strangers.angles[i, t] for i, t in where])
    assert np.abs(found - truth).mean() < 5
    assert np.corrcoef(found[:, 1], truth[:, 1])[0, 1] > 0.97
    assert small.SmallPose().angles([], np.zeros((0, 4), np.float32), np.zeros((0, 5, 2), np.float32)).shape == (0, 3)


def test_a_frame_is_nearer_to_its_own_caption_than_to_most(strangers: Footage) -> None:
    net = small.SmallClip()
    images = net.images(strangers.pixels.reshape(-1, 64, 64, 3))
    texts = net.texts([str(text) for text in strangers.captions.reshape(-1)])
    assert not texts.truncated.any() and (texts.num_tokens > 5).all()
    cosine = images @ texts.embeddings.T
    rank = (cosine > np.diag(cosine)[:, None]).sum(1)
    assert np.median(rank) <= 3, "of 72 captions"
    assert not np.allclose(net.images(strangers.pixels[0, :1], "bgr"), images[:1])


def test_prompts_of_unknown_words_and_long_ones_are_embedded() -> None:
    net = small.SmallClip()
    assert np.isfinite(net.texts(["qwertz", ""]).embeddings).all()
    assert net.texts([]).embeddings.shape == (0, small.JOINT)
    assert len(net.long_texts("A person boxes in a gym. Zzz qqq. Red gloves!")) == 2
    assert len(net.long_texts("zzz. qqq.")) == 1


def test_features_tell_people_apart_and_have_64_dimensions(strangers: Footage) -> None:
    faces, rows = crops(strangers)
    large = np.stack([np.kron(face, np.ones((2, 2, 1), np.uint8)) for face in faces])
    found = small.SmallFeatures()(large)
    assert found.shape == (len(faces), small.FEATURES)
    means = np.stack([found[rows == i].mean(0) for i in np.unique(rows)])
    assert means.var(0).mean() > 0.3 * found.var(0).mean()
    assert small.SmallFeatures()(np.zeros((0, 224, 224, 3), np.uint8)).shape == (0, small.FEATURES)


@pytest.mark.parametrize("shape", [(1, 64, 64, 3), (1, 112, 112, 4)])
def test_other_crops_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="112,112,3"):
        small.SmallEmbedder("arc")(np.zeros(shape, np.uint8))
    with pytest.raises(ValueError, match="RGB"):
        small.SmallClip().images(np.zeros((1, 64, 64), np.uint8))


def test_every_embedded_file_is_small_and_the_whole_too() -> None:
    for path in FOLDER.glob("*.safetensors"):
        assert path.stat().st_size <= 2_000_000, path.name
        assert all(value.dtype == torch.float16 for value in load_file(path).values())
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) <= 40_000_000


def test_no_embedded_text_names_the_machine_that_made_it() -> None:
    texts = [path for path in FOLDER.rglob("*") if path.suffix in (".json", ".txt", ".md")]
    assert len(texts) >= 8
    for path in texts:
        assert not re.search(r'"/|_name_or_path|/work|/home|/tmp', path.read_text("utf-8")), path


def test_the_figures_shipped_are_of_many_strangers() -> None:
    figures = json.loads((FOLDER / "figures.json").read_text())
    assert figures["arc"]["people"] >= 100 and figures["arc"]["auc"] > 0.97 and figures["cur"]["auc"] > 0.97
    assert figures["pose"]["yaw"] < 5


def test_the_protocol_opens_them_all_and_names_their_bytes() -> None:
    found = open_networks(get_protocol("mini"), "cpu")
    assert not found.missing
    wanted = {"arc": "arc", "cur": "cur", "pose": "pose", "fid_inception": "features", "clip": "clip"}
    for slot, name in wanted.items():
        assert found.ids[slot].startswith(f"mini-{name}@")
