"""Head pose: one sign convention, proven by geometry, by turned and mirrored pictures, and between estimators."""

from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from scipy.optimize import least_squares
from scipy.spatial.transform import Rotation
from skimage import data

from ffbench.errors import UserError
from ffbench.extract import pose
from ffbench.extract.detect import Detector, Mtcnn, Scrfd, detect_ladder, largest
from ffbench.extract.pose import FIVE_POINTS_3D, Ddfa, FivePoint, FsaNet, head_rotation, zyx_angles

RIGHT, UP, VIEWER = np.eye(3)
ICT_EYES = ((1507, 1542, 1537, 1528, 1518, 1511), (3742, 3751, 3756, 3721, 3725, 3732))
ICT_NOSE, ICT_MOUTH = 4857, (5708, 6213)
"""Vertices of ICT-FaceKit at the iBUG landmarks; image-left first for a head that faces the viewer."""


@pytest.fixture(scope="module")
def grid() -> np.ndarray:
    """[N,3] pitch, yaw, roll."""
    axes = np.meshgrid(np.arange(-40, 41, 20), np.arange(-80, 81, 16), np.arange(-60, 61, 30), indexing="ij")
    return np.stack([a.ravel() for a in axes], axis=1).astype(float)


def project(
    head_53: np.ndarray, angles_N3: np.ndarray, scale: float = 1.3, shift: tuple[float, ...] = (200, 150)
) -> np.ndarray:
    """[N,5,2] px: scaled orthographic, rows downwards."""
    seen = np.einsum("nij,kj->nki", head_rotation(angles_N3), head_53)[..., :2]
    return scale * seen * (1, -1) + shift


def estimate(points: np.ndarray) -> np.ndarray:
    return FivePoint().angles([], np.zeros((len(points), 4), np.float32), points.astype(np.float32))


def test_zyx_angles_are_scipys(grid: np.ndarray) -> None:
    rotation = Rotation.from_euler("ZYX", grid[:, ::-1], degrees=True)
    np.testing.assert_allclose(zyx_angles(rotation.as_matrix()), grid, atol=1e-6)
    random = Rotation.random(200, random_state=0)
    np.testing.assert_allclose(zyx_angles(random.as_matrix()), random.as_euler("ZYX", degrees=True)[:, ::-1], atol=1e-6)


def test_zyx_angles_in_gimbal_lock_rebuild_the_rotation() -> None:
    locked = Rotation.from_euler("ZYX", [[25, 90, 10], [-40, -90, 5]], degrees=True).as_matrix()
    angles = zyx_angles(locked)
    np.testing.assert_array_equal(angles[:, 2], 0)
    rebuilt = Rotation.from_euler("ZYX", angles[:, ::-1], degrees=True).as_matrix()
    np.testing.assert_allclose(rebuilt, locked, atol=1e-6)


def test_head_rotation_is_scipys_and_inverts(grid: np.ndarray) -> None:
    rotation = head_rotation(grid)
    np.testing.assert_allclose(
        rotation, Rotation.from_euler("ZYX", -grid[:, ::-1], degrees=True).as_matrix(), atol=1e-12
    )
    np.testing.assert_allclose(-zyx_angles(rotation), grid, atol=1e-6)


def test_the_convention_in_words() -> None:
    """Yaw > 0: nose to image-left. Pitch > 0: looks up. Roll > 0: clockwise, the image-left side of the head rises."""
    pitch, yaw, roll = head_rotation(np.diag([20.0, 20.0, 20.0]))
    assert (yaw @ VIEWER) @ RIGHT < -0.3
    assert (pitch @ VIEWER) @ UP > 0.3
    assert (roll @ -RIGHT) @ UP > 0.3


def test_five_points_give_back_the_angles_of_their_own_head(grid: np.ndarray) -> None:
    np.testing.assert_allclose(estimate(project(FIVE_POINTS_3D, grid)), grid, atol=0.02)


def test_five_points_do_not_depend_on_size_or_place(grid: np.ndarray) -> None:
    noisy = project(FIVE_POINTS_3D, grid) + np.random.default_rng(0).normal(0, 2, (len(grid), 5, 2))
    np.testing.assert_allclose(estimate(noisy * 7 - 900), estimate(noisy), atol=0.05)


def test_five_points_are_the_least_squares_fit() -> None:
    """SciPy's trust-region solver from the true angles finds no better one."""
    rng = np.random.default_rng(1)
    truth = np.stack([rng.uniform(-25, 25, 40), rng.uniform(-60, 60, 40), rng.uniform(-30, 30, 40)], axis=1)
    noisy = (project(FIVE_POINTS_3D, truth) + rng.normal(0, 2, (40, 5, 2))).astype(np.float32)

    def residual(x: np.ndarray, points: np.ndarray) -> np.ndarray:
        return (project(FIVE_POINTS_3D, x[None, :3], x[3], tuple(x[4:]))[0] - points).ravel()

    for angles, points, start in zip(estimate(noisy), noisy.astype(float), truth, strict=True):
        best = least_squares(residual, [*start, 1.3, 200, 150], x_scale=[10, 10, 10, 1, 10, 10], args=(points,))
        np.testing.assert_allclose(angles, best.x[:3], atol=0.2)


def test_five_points_with_noise_of_a_twentieth_of_the_eye_distance() -> None:
    rng = np.random.default_rng(2)
    truth = np.stack([rng.uniform(-25, 25, 500), rng.uniform(-60, 60, 500), rng.uniform(-30, 30, 500)], axis=1)
    error = np.abs(estimate(project(FIVE_POINTS_3D, truth, 1.0) + rng.normal(0, 65 / 20, (500, 5, 2))) - truth)
    assert (np.median(error, axis=0) < (5, 3.5, 3)).all()


def test_mirrored_points_flip_yaw_and_roll(grid: np.ndarray) -> None:
    points = project(FIVE_POINTS_3D, grid) + np.random.default_rng(3).normal(0, 2, (len(grid), 5, 2))
    mirrored = (points * (-1, 1))[:, [1, 0, 2, 4, 3]]
    np.testing.assert_allclose(estimate(mirrored), estimate(points) * (1, -1, -1), atol=0.05)


def test_unfit_points_have_no_angles() -> None:
    points = np.stack([np.full((5, 2), 3.0), np.full((5, 2), np.nan), project(FIVE_POINTS_3D, np.zeros((1, 3)))[0]])
    angles = estimate(points)
    assert np.isnan(angles[:2]).all()
    np.testing.assert_allclose(angles[2], 0, atol=0.01)
    assert estimate(np.zeros((0, 5, 2))).shape == (0, 3)


def turned(image: np.ndarray, clockwise: float) -> np.ndarray:
    height, width = image.shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), -clockwise, 1.0)
    return cv2.warpAffine(image, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)


def largest_faces(
    detector: Detector, images: list[np.ndarray], ladder: tuple[str, ...]
) -> tuple[np.ndarray, np.ndarray]:
    boxes, points = [], []
    for image in images:
        found, rung = detect_ladder(detector, image, ladder)
        assert rung
        boxes.append(found.boxes[largest(found)])
        points.append(found.points[largest(found)])
    return np.array(boxes), np.array(points)


def test_a_picture_turned_and_mirrored() -> None:
    image = data.astronaut()
    images = [image, turned(image, 20), turned(image, -20), np.ascontiguousarray(image[:, ::-1])]
    _, points = largest_faces(Mtcnn(), images, ("full", "pad25"))
    plain, clockwise, counter, mirrored = estimate(points)
    assert clockwise[2] - plain[2] == pytest.approx(20, abs=4)
    assert counter[2] - plain[2] == pytest.approx(-20, abs=4)
    np.testing.assert_allclose(mirrored, plain * (1, -1, -1), atol=5)


def mean_network(path: Path, side: int, weights: np.ndarray, bias: np.ndarray) -> Path:
    """Y = W (mean of each channel) + b, for inputs of one size."""
    tensors = [numpy_helper.from_array(a.astype(np.float32), n) for n, a in (("w", weights), ("b", bias))]
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["m"]),
        helper.make_node("Flatten", ["m"], ["f"]),
        helper.make_node("Gemm", ["f", "w", "b"], ["y"]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, side, side])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", len(bias)])
    graph = helper.make_graph(nodes, "mean", [x], [y], tensors)
    onnx.save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


@pytest.fixture
def camera_network(tmp_path: Path) -> tuple[Path, Path]:
    """A 3DDFA whose camera's first row is (1, 0, mean of blue): it turns by the blue in its crop."""
    rng = np.random.default_rng(0)
    mean, std = rng.normal(0, 1, 62), rng.uniform(0.5, 2, 62)
    weights, bias = np.zeros((3, 62)), np.zeros(62)
    weights[0, 2] = 1
    bias[[0, 5]] = 1
    path = mean_network(tmp_path / "camera.onnx", 120, weights / std, (bias - mean) / std)
    np.savez(tmp_path / "aux.npz", mean=mean.astype(np.float32), std=std.astype(np.float32))
    return path, tmp_path / "aux.npz"


def test_ddfa_crop_colour_and_camera(camera_network: tuple[Path, Path]) -> None:
    """The crop is 1.58 of the box and 0.14 lower; blue comes first; the camera's rows give the rotation."""
    path, aux = camera_network
    estimator = Ddfa(path, aux, "fedcba9876543210")
    assert estimator.id.startswith("3ddfa:camera.onnx@fedcba987654,aux.npz@")
    image = np.zeros((300, 300, 3), np.uint8)
    image[..., 2] = 200
    # the box 100..200 has the region 85..243 by 71..229 in rows: its last row of blue is 242
    image[243:, :, 2], image[:85, :, 2] = 0, 0
    boxes = np.array([[100, 100, 200, 200], [np.nan] * 4], np.float32)
    angles = estimator.angles([image, image], boxes, np.zeros((2, 5, 2), np.float32))
    m = (200 - 127.5) / 128
    first = np.array([1, 0, m]) / np.hypot(1, m)
    rotation = np.stack([first, UP, np.cross(first, UP)])
    nose = rotation @ VIEWER
    assert angles[0, 1] == pytest.approx(np.degrees(np.arctan2(-nose[0], nose[2])), abs=0.01)
    np.testing.assert_allclose(angles[0, [0, 2]], 0, atol=0.01)
    assert np.isnan(angles[1]).all()


def test_ddfa_refuses_other_files(camera_network: tuple[Path, Path], tmp_path: Path) -> None:
    path, aux = camera_network
    np.savez(tmp_path / "other.npz", mean=np.zeros(62))
    with pytest.raises(UserError, match=r"other\.npz holds no mean and std"):
        Ddfa(path, tmp_path / "other.npz", "0" * 64)
    (tmp_path / "cut.npz").write_bytes(aux.read_bytes()[:200])
    with pytest.raises(UserError, match=r"cut\.npz holds no mean and std"):
        Ddfa(path, tmp_path / "cut.npz", "0" * 64)
    small = mean_network(tmp_path / "small.onnx", 64, np.zeros((3, 3)), np.zeros(3))
    with pytest.raises(UserError, match="120x120"):
        Ddfa(small, aux, "0" * 64)
    with pytest.raises(UserError, match="64x64"):
        FsaNet([path], ["0" * 64])


def test_fsanet_averages_and_orders_its_angles(tmp_path: Path) -> None:
    """The networks say yaw, pitch, roll; here each is a hundred times the mean of blue, green, red."""
    one = mean_network(tmp_path / "a.onnx", 64, np.eye(3) * 100, np.zeros(3))
    two = mean_network(tmp_path / "b.onnx", 64, np.eye(3) * 100, np.array([2.0, 4.0, 6.0]))
    estimator = FsaNet([one, two], ["a" * 64, "b" * 64])
    assert estimator.id == "fsanet:a.onnx@aaaaaaaaaaaa+b.onnx@bbbbbbbbbbbb"
    image = np.full((80, 80, 3), (148, 138, 128), np.uint8)
    angles = estimator.angles([image], np.array([[20, 20, 60, 60]], np.float32), np.zeros((1, 5, 2), np.float32))
    blue, green, red = (100 * (v - 127.5) / 128 for v in (128, 138, 148))
    np.testing.assert_allclose(angles, [[green + 2, blue + 1, red + 3]], atol=1e-3)


def test_demo_crop_is_torchvisions() -> None:
    import PIL.Image
    from torchvision import transforms

    image = data.astronaut()
    published = transforms.Compose(
        [
            transforms.Resize(224),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    for box in ([170.6, 60.2, 270.9, 190.7], [-20.0, 5.0, 90.0, 333.0], [400.0, 300.0, 600.0, 420.0]):
        x1, y1, x2, y2 = (int(v) for v in box)
        wide, high = int(0.2 * (y2 - y1)), int(0.2 * (x2 - x1))
        crop = PIL.Image.fromarray(image).crop(
            (max(0, x1 - wide), max(0, y1 - high), min(512, x2 + wide), min(512, y2 + high))
        )
        np.testing.assert_allclose(pose._demo_crop(image, np.array(box)), published(crop).numpy(), atol=1e-5)
    assert pose._demo_crop(image, np.array([600.0, 0, 700, 9])) is None
    assert pose._demo_crop(image, np.array([np.nan, 0, 7, 9])) is None


def test_sixdrepnet_end_to_end_on_its_architecture(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    from ffbench.extract.sixdrepnet import SixDRepNet

    torch.manual_seed(0)
    net = SixDRepNet().eval()
    save_file(net.state_dict(), tmp_path / "net.safetensors")
    estimator = pose.SixDRepNetPose(tmp_path / "net.safetensors", "1234567890abcdef")
    assert estimator.id == "sixdrepnet:net.safetensors@1234567890ab"
    torch.save({"epoch": 3, "model_state_dict": net.state_dict()}, tmp_path / "net.pth")
    checkpoint = pose.SixDRepNetPose(tmp_path / "net.pth", "0" * 64)
    image = data.astronaut()
    boxes = np.array([[170, 60, 270, 190], [np.nan] * 4, [0, 0, 500, 500]], np.float32)
    angles = estimator.angles([image] * 3, boxes, np.zeros((3, 5, 2), np.float32))
    assert np.isnan(angles[1]).all()
    for row in (0, 2):
        with torch.inference_mode():
            rotation = net(torch.from_numpy(pose._demo_crop(image, boxes[row]))[None])[0].double().numpy()
        expected = Rotation.from_matrix(rotation).as_euler("ZYX", degrees=True)[::-1]
        np.testing.assert_allclose(angles[row], expected, atol=0.01)
    np.testing.assert_array_equal(checkpoint.angles([image] * 3, boxes, np.zeros((3, 5, 2), np.float32)), angles)
    save_file({"w": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match=r"other\.safetensors does not hold 6DRepNet"):
        pose.SixDRepNetPose(tmp_path / "other.safetensors", "0" * 64)


def test_five_points_on_heads_of_another_population(assets: Path) -> None:
    """Landmarks of ICT-FaceKit heads, turned exactly; its heads of pitch zero look 9 degrees up by our zero."""
    with np.load(assets / "mesh/ict_facekit_light.npz", allow_pickle=False) as mesh:
        neutral, deltas = mesh["neutral"], mesh["identity_delta"].astype(np.float32)
    rng = np.random.default_rng(0)
    yaw, pitch = np.arange(-60, 61, 10.0), np.arange(-25, 26, 5.0)
    slopes, errors = [], []
    for _ in range(20):
        head = neutral + np.einsum("i,ivc->vc", rng.normal(0, 1, len(deltas)), deltas)
        five = np.stack([*(head[list(eye)].mean(0) for eye in ICT_EYES), head[ICT_NOSE], *head[list(ICT_MOUTH)]])
        turned_heads = estimate(project(five, np.stack([yaw * 0, yaw, yaw * 0], 1), 10.0))[:, 1]
        nodding = estimate(project(five, np.stack([pitch, pitch * 0, pitch * 0], 1), 10.0))[:, 0]
        slopes.append((np.polyfit(yaw, turned_heads, 1)[0], np.polyfit(pitch, nodding, 1)[0]))
        errors.append(np.abs(turned_heads - yaw).mean())
    assert (np.array(slopes) > 0.4).all()
    np.testing.assert_allclose(np.mean(slopes, axis=0), 1, atol=0.25)
    assert np.mean(errors) < 4


@pytest.fixture(scope="module")
def scrfd(assets: Path) -> Scrfd:
    return Scrfd(assets / "models/insightface/models/small_y1/det_scrfd_2.5g.onnx", "0" * 64)


@pytest.fixture(scope="module")
def networks(assets: Path) -> dict[str, pose.PoseEstimator]:
    folder = assets / "models/pose"
    fsa = [folder / f"fsanet-{kind}-iter-688590.onnx" for kind in ("1x1", "var")]
    ddfa = Ddfa(folder / "3ddfa_v2_mb05_120x120.onnx", folder / "3ddfa_v2_param_mean_std.npz", "0" * 64)
    return {"3ddfa": ddfa, "fsanet": FsaNet(fsa, ["0" * 64] * 2), "five": FivePoint()}


LADDER = ("320", "640", "pad25", "128")


def test_estimators_agree_on_photographs(scrfd: Scrfd, networks: dict[str, pose.PoseEstimator], assets: Path) -> None:
    """A frontal and a profile photograph of each of 20 people, plain, mirrored and turned by 20 degrees."""
    files = [f / k / "01.jpg" for f in sorted((assets / "images/cfp").iterdir()) for k in ("frontal", "profile")]
    plain = [cv2.imread(str(file))[:, :, ::-1].copy() for file in files]
    frontal = np.array([file.parent.name == "frontal" for file in files])
    angles = {}
    for kind, images in (
        ("plain", plain),
        ("mirrored", [np.ascontiguousarray(i[:, ::-1]) for i in plain]),
        ("turned", [turned(i, 20) for i in plain]),
    ):
        faces = largest_faces(scrfd, images, LADDER)
        for name, network in networks.items():
            angles[name, kind] = network.angles(images, *faces)
    for name in networks:
        assert np.corrcoef(angles[name, "plain"][:, 1], angles[name, "mirrored"][:, 1])[0, 1] < -0.9, name
        roll = (angles[name, "turned"] - angles[name, "plain"])[frontal, 2]
        assert np.median(roll) == pytest.approx(20, abs=4), name
        assert np.median(np.abs(angles[name, "plain"][~frontal, 1])) > 40, name
        yaw, reference = angles[name, "plain"][:, 1], angles["3ddfa", "plain"][:, 1]
        assert np.corrcoef(yaw, reference)[0, 1] > 0.9, name
        nod, reference = angles[name, "plain"][frontal, 0], angles["3ddfa", "plain"][frontal, 0]
        assert np.corrcoef(nod, reference)[0, 1] > 0.4, name


@pytest.mark.slow
def test_estimators_agree_on_a_head_that_turns(
    scrfd: Scrfd, networks: dict[str, pose.PoseEstimator], assets: Path
) -> None:
    import av

    with av.open(str(assets / "videos/intel_demo/demo.mp4")) as container:
        frames = [f.to_ndarray(format="rgb24") for i, f in enumerate(container.decode(video=0)) if i % 25 == 0]
    faces = largest_faces(scrfd, frames, LADDER)
    reference = networks["3ddfa"].angles(frames, *faces)
    assert reference[:, 1].min() < -25
    assert reference[:, 1].max() > 25
    for name in ("fsanet", "five"):
        found = networks[name].angles(frames, *faces)
        assert np.corrcoef(found[:, 1], reference[:, 1])[0, 1] > 0.95, name
        assert np.corrcoef(found[:, 0], reference[:, 0])[0, 1] > 0.9, name
