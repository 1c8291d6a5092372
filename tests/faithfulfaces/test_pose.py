"""The pose's crop is the paper's: the box enlarged by 1.5, nothing more."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from faithfulfaces.pose import EnlargedBoxPose, window
from ffbench.extract.pose import SixDRepNetPose, zyx_angles
from ffbench.extract.sixdrepnet import SixDRepNet


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((40, 40, 60, 80), (35, 30, 65, 90)),
        ((0, 0, 20, 20), (0, 0, 25, 25)),
        ((90, 90, 110, 110), (85, 85, 100, 100)),
        ((200, 10, 220, 30), None),
        ((np.nan, 0, 1, 1), None),
    ],
)
def test_the_window_is_enlarged_about_its_centre_and_cut_at_the_edge(
    box: tuple[float, ...], expected: tuple[int, ...] | None
) -> None:
    assert window(np.zeros((100, 100, 3), np.uint8), np.array(box, np.float32), 1.5) == expected


def test_each_edge_is_cut_at_its_own_side_of_an_oblong_image() -> None:
    box = np.array([30, 20, 70, 60], np.float32)
    assert window(np.zeros((65, 76, 3), np.uint8), box, 1.5) == (20, 10, 76, 65)
    assert window(np.zeros((200, 300, 3), np.uint8), box, 1.5) == (20, 10, 80, 70)


class Looking:
    """An estimator that answers with what it is shown: a crop's corner pixel, its box's far corner, a point."""

    id = "looking"

    def angles(
        self, images: Sequence[NDArray[np.uint8]], boxes: NDArray[np.float32], points: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        for image, box in zip(images, boxes, strict=True):
            assert box.tolist() == [0, 0, image.shape[1], image.shape[0]]
        return np.array([[i[0, 0, 0], i.shape[1], p[2, 0]] for i, p in zip(images, points, strict=True)], np.float32)


def test_each_row_sees_its_own_image_and_points_in_pixels_of_the_crop() -> None:
    images = [np.full((80, 200, 3), value, np.uint8) for value in (10, 20, 30)]
    boxes = np.array([[40, 20, 80, 60], [np.nan] * 4, [100, 10, 120, 60]], np.float32)
    points = np.arange(30, dtype=np.float32).reshape(3, 5, 2) + 50
    # the windows are (30,10,90,70) and (95,0,125,72) of x 1.5, cut at the top
    expected = [[10, 60, points[0, 2, 0] - 30], [np.nan] * 3, [30, 30, points[2, 2, 0] - 95]]
    np.testing.assert_array_equal(EnlargedBoxPose(Looking()).angles(images, boxes, points), expected)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> tuple[SixDRepNet, SixDRepNetPose]:
    """The real architecture with random weights, and ffbench's estimator on its file."""
    torch.manual_seed(0)
    net = SixDRepNet().eval()
    for conv in [module for module in net.modules() if isinstance(module, torch.nn.Conv2d)]:
        # PyTorch's own start lets the image fade on the way through 28 layers
        torch.nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    path: Path = tmp_path_factory.mktemp("net") / "net.pth"
    torch.save(net.state_dict(), path)
    return net, SixDRepNetPose(path, "0" * 64)


@torch.inference_mode()
def by_hand(net: SixDRepNet, crop: NDArray[np.uint8]) -> NDArray[np.float64]:
    """A square crop of 224 px needs no resizing: normalise, run, turn into angles."""
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    x = ((crop / 255 - mean) / std).transpose(2, 0, 1)[None].astype(np.float32)
    return zyx_angles(net(torch.from_numpy(x)).double().numpy())[0]


def test_sixdrepnet_sees_exactly_the_enlarged_box(network: tuple[SixDRepNet, SixDRepNetPose]) -> None:
    net, estimator = network
    image = np.random.default_rng(0).integers(0, 256, (400, 500, 3), np.uint8)
    # 1.5 times a side of 149.33 is 224 px
    side = 224 / 1.5
    box = np.array([[200 - side / 2, 190 - side / 2, 200 + side / 2, 190 + side / 2]], np.float32)
    angles = EnlargedBoxPose(estimator).angles([image], box, np.zeros((1, 5, 2), np.float32))[0]
    np.testing.assert_allclose(angles, by_hand(net, image[78:302, 88:312]), atol=1e-3)
    # the published demo's own margin would be a crop of 1.4
    assert np.abs(angles - estimator.angles([image], box, np.zeros((1, 5, 2), np.float32))[0]).max() > 1e-2


def test_unfit_boxes_are_nan_and_the_others_keep_their_rows(network: tuple[SixDRepNet, SixDRepNetPose]) -> None:
    pose = EnlargedBoxPose(network[1])
    image = np.random.default_rng(1).integers(0, 256, (200, 200, 3), np.uint8)
    boxes = np.array([[np.nan] * 4, [50, 50, 120, 120], [900, 900, 950, 950]], np.float32)
    angles = pose.angles([image] * 3, boxes, np.zeros((3, 5, 2), np.float32))
    assert np.isnan(angles[[0, 2]]).all() and np.isfinite(angles[1]).all()
    assert np.isnan(pose.angles([image], boxes[:1], np.zeros((1, 5, 2), np.float32))).all()
    assert pose.id == f"{network[1].id},box=1.5"
