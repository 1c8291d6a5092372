"""The controls do what their names say, on real pixels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from baselines.impostor.adapter import Impostor
from baselines.still.adapter import GREY, Still, fit, letterbox
from baselines.sway.adapter import CENTRE, MAX_AMPLITUDE, SPREAD, Sway, bump, path_of_camera, warp
from ffbench.contract import Method, Request, Runtime
from ffbench.errors import UserError
from ffbench.records import Case, Reference

SETTINGS = {"width": 96, "height": 64, "num_frames": 9, "fps": 8.0, "amplitude": 0.05, "rendered": False}


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Three smooth, textured pictures: portrait, landscape and one single pixel."""
    folder = tmp_path_factory.mktemp("photographs")
    paths = {}
    for name, size in {"ann": (60, 90), "bob": (300, 100), "cy": (1, 1)}.items():
        rng = np.random.default_rng(len(paths))
        coarse = rng.integers(0, 256, (6, 6, 3), np.uint8)
        Image.fromarray(cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC)).save(folder / f"{name}.png")
        paths[name] = str(folder / f"{name}.png")
    return paths


def request(photographs: Mapping[str, str], name: str) -> Request:
    return Request(Case("s", "1", name, name, (Reference(photographs[name], "0" * 64),), "p", "a prompt"), 1, "")


def videos(method: Method, photographs: Mapping[str, str], names: Sequence[str]) -> list[np.ndarray]:
    method.load(Runtime("cpu", "", photographs))
    made = [output.frames for output in method.generate([request(photographs, name) for name in names])]
    assert all(frames is not None and frames.dtype == np.uint8 for frames in made)
    return made  # type: ignore[return-value]


@pytest.mark.parametrize("name", ["ann", "bob", "cy"])
def test_still_shows_the_whole_reference_and_nothing_else(photographs: dict[str, str], name: str) -> None:
    (frames,) = videos(Still(SETTINGS), photographs, [name])
    assert frames.shape == (9, 64, 96, 3) and np.ptp(frames, axis=0).max() == 0
    with Image.open(photographs[name]) as image:
        picture = np.asarray(image)
    height, width = {"ann": (64, 43), "bob": (32, 96), "cy": (64, 64)}[name]
    y, x = (64 - height) // 2, (96 - width) // 2
    inside = frames[0, y : y + height, x : x + width]
    method = cv2.INTER_AREA if name in ("ann", "bob") else cv2.INTER_CUBIC
    assert np.array_equal(inside, cv2.resize(picture, (width, height), interpolation=method))
    outside = np.ones((64, 96), bool)
    outside[y : y + height, x : x + width] = False
    assert (frames[0][outside] == GREY).all()


def test_fit_never_exceeds_its_box() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        height, width = rng.integers(1, 3000, 2)
        box = tuple(int(side) for side in rng.integers(2, 200, 2))
        fitted = fit(np.zeros((height, width, 3), np.uint8), box)  # type: ignore[arg-type]
        assert fitted.shape[1] <= box[0] and fitted.shape[0] <= box[1]
        assert fitted.shape[1] == box[0] or fitted.shape[0] == box[1]
        letterbox(fitted, box)  # type: ignore[arg-type]


def test_sway_moves_smoothly_and_ends_where_it_began(photographs: dict[str, str]) -> None:
    frames = videos(Sway({**SETTINGS, "num_frames": 48}), photographs, ["ann"])[0].astype(int)
    steps = np.abs(np.diff(frames, axis=0, append=frames[:1])).mean((1, 2, 3))
    assert steps.min() > 0.02 and steps.max() < 3 * steps.mean()
    assert np.abs(frames - frames[0]).mean((1, 2, 3)).max() > 2 * steps.max()


def test_without_amplitude_sway_is_still(photographs: dict[str, str]) -> None:
    still, sway = Still(SETTINGS), Sway({**SETTINGS, "amplitude": 0.0})
    assert np.array_equal(videos(still, photographs, ["ann"])[0], videos(sway, photographs, ["ann"])[0])


def test_parallax_moves_the_near_one_way_and_the_far_the_other() -> None:
    height, width = 101, 201
    depth = bump(height, width)
    ramp = np.repeat(np.linspace(0, 250, width).astype(np.uint8)[None, :, None], height, 0).repeat(3, 2)
    moved = warp(ramp, depth, (10.0, 0.0), 1.0).astype(int)
    middle = (int(CENTRE[1] * height), int(CENTRE[0] * width))
    per_pixel = 250 / (width - 1)
    assert moved[middle][0] - int(ramp[middle][0]) == pytest.approx(5 * per_pixel, abs=1.5)
    assert moved[5, 60, 0] - int(ramp[5, 60, 0]) == pytest.approx(10 * (depth[5, 60] - 0.5) * per_pixel, abs=1.5)
    bump_there = math.exp(-(((60.5 / 201 - 0.5) ** 2 + (5.5 / 101 - 0.45) ** 2) / 2 / 0.28**2))
    assert depth[5, 60] == pytest.approx(bump_there, abs=1e-6) and bump_there < 0.5
    assert depth.max() <= 1 and depth[middle] == pytest.approx(1, abs=0.01)


def test_the_warp_never_folds() -> None:
    # monotone lookup: each row's source columns must increase for the largest shift that is allowed
    width = 400
    depth = bump(300, width)
    source = np.arange(width) / (1 + 2 * MAX_AMPLITUDE) + MAX_AMPLITUDE * width * (depth - 0.5)
    assert np.diff(source, axis=1).min() > 0
    assert MAX_AMPLITUDE * 0.61 / SPREAD < 1


def test_the_camera_closes_its_path() -> None:
    path = np.array(path_of_camera(16, 0.04))
    assert np.abs(path.mean(0)).max() < 1e-12 and path[0] == pytest.approx((0, 0))
    assert np.abs(path[:, 0]).max() == pytest.approx(0.04) and np.abs(path[:, 1]).max() == pytest.approx(0.04 / 3)


@pytest.mark.parametrize("amplitude", [-0.01, 0.11, float("nan")])
def test_an_amplitude_that_folds_is_refused(amplitude: float) -> None:
    with pytest.raises(UserError, match="amplitude"):
        Sway({**SETTINGS, "amplitude": amplitude})


def test_impostor_always_shows_somebody_else_and_everybody_once(photographs: dict[str, str]) -> None:
    impostor = Impostor(SETTINGS)
    impostor.load(Runtime("cpu", "", photographs))
    outputs = list(impostor.generate([request(photographs, name) for name in photographs]))
    shown = [output.notes["shown_identity"] for output in outputs]
    assert shown == ["bob", "cy", "ann"]
    truth = dict(zip(photographs, videos(Sway(SETTINGS), photographs, list(photographs)), strict=True))
    for output, name in zip(outputs, shown, strict=True):
        assert np.array_equal(output.frames, truth[str(name)])


def test_impostor_needs_two_people(photographs: dict[str, str]) -> None:
    with pytest.raises(UserError, match="at least 2 identities, the suite has 1"):
        Impostor(SETTINGS).load(Runtime("cpu", "", {"ann": photographs["ann"]}))


def test_a_real_face_is_still_found_while_it_sways(assets: Path) -> None:
    detector = cv2.FaceDetectorYN.create(str(assets / "models/detect/yunet_s_640_640.onnx"), "", (480, 480), 0.8)
    settings = {**SETTINGS, "width": 480, "height": 480, "num_frames": 8}
    for person in ("451", "460", "470"):
        path = sorted((assets / "images/cfp" / person / "frontal").iterdir())[0]
        for frame in Sway(settings).frames(str(path)):
            _, faces = detector.detect(np.ascontiguousarray(frame[..., ::-1]))
            assert faces is not None and len(faces) == 1
