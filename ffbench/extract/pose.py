"""Head pose from crops or from five points, all in one sign convention.

Pitch, yaw and roll in degrees, seen in the image: **yaw > 0** turns the nose towards the image's left edge,
**pitch > 0** looks up, **roll > 0** turns the head clockwise, so that the image-left eye is the higher one. These are
the signs of 300W-LP and of the paper's Fig. 7. With axes x right, y up, z to the viewer, the head's rotation is
Rz(-roll) Ry(-yaw) Rx(-pitch).
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from ffbench.errors import UserError
from ffbench.extract.align import crop_box, enlarge

Image = NDArray[np.uint8]
Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]


class PoseEstimator(Protocol):
    """Estimates the angles of faces; `id` names the network with the first 12 digits of its weights' sha256."""

    id: str

    def angles(self, images: Sequence[Image], boxes: Floats, points: Floats) -> Floats:
        """[N,3] pitch, yaw, roll in degrees; NaN where a box or points are unfit.

        Args:
            images: N of uint8 [H,W,3] RGB, one a face.
            boxes: [N,4] xyxy px.
            points: [N,5,2] px in the order of `FaceTrack.points`.
        """
        ...


def zyx_angles(rotation_N33: NDArray[np.floating]) -> Doubles:
    """[N,3] degrees (x, y, z) of R = Rz(z) Ry(y) Rx(x), y in -90..90; z is 0 where y is +-90 and leaves it free."""
    R = np.asarray(rotation_N33, np.float64)
    cos_y = np.hypot(R[:, 0, 0], R[:, 1, 0])
    locked = cos_y < 1e-6
    x = np.where(locked, np.arctan2(-R[:, 1, 2], R[:, 1, 1]), np.arctan2(R[:, 2, 1], R[:, 2, 2]))
    z = np.where(locked, 0.0, np.arctan2(R[:, 1, 0], R[:, 0, 0]))
    return np.asarray(np.degrees(np.stack([x, np.arctan2(-R[:, 2, 0], cos_y), z], axis=1)), np.float64)


def head_rotation(angles_N3: NDArray[np.floating]) -> Doubles:
    """[N,3,3] rotation of the head (x right, y up, z to the viewer) of [N,3] pitch, yaw, roll in degrees."""
    (px, yx, rx), (py, yy, ry) = (f(-np.radians(np.asarray(angles_N3, np.float64).T)) for f in (np.cos, np.sin))
    zero, one = np.zeros_like(px), np.ones_like(px)

    def matrix(*rows: Sequence[Doubles]) -> Doubles:
        return np.stack([np.stack(row, -1) for row in rows], -2)

    about_x = matrix((one, zero, zero), (zero, px, -py), (zero, py, px))
    about_y = matrix((yx, zero, yy), (zero, one, zero), (-yy, zero, yx))
    about_z = matrix((rx, -ry, zero), (ry, rx, zero), (zero, zero, one))
    return np.asarray(about_z @ about_y @ about_x, np.float64)


FIVE_POINTS_3D: Doubles = np.array(
    [[-32.5, 0.0, 0.0], [32.5, 0.0, 0.0], [0.0, -36.0, 36.0], [-29.0, -68.0, 0.0], [29.0, -68.0, 0.0]]
)
"""[5,3] mm, axes as above: what detectors mark as eyes, nose and mouth corners on an average head of pitch zero.

Least squares (structure from motion) over the points that SCRFD finds on 240 photographs of 20 people within 70 degrees
of yaw, with 3DDFA_V2's rotations, made symmetric, rounded to half a millimetre at 65 mm between the eyes. Fitting each
half of the people alone moves no coordinate by more than 3 mm.
"""


class FivePoint:
    """Head pose from five points and a generic head: coarse, but it needs no weights.

    Minimises the squared distance between the points and a scaled orthographic projection of `FIVE_POINTS_3D` by
    Levenberg-Marquardt, from the affine solution. Perspective and the person's own shape are ignored.
    """

    id = "five-point:1"

    def angles(self, images: Sequence[Image], boxes: Floats, points: Floats) -> Floats:
        """See `PoseEstimator`; only the points are read."""
        points_N52 = np.asarray(points, np.float64)
        out_N3 = np.full((len(points_N52), 3), np.nan, np.float32)
        centred = points_N52 - points_N52.mean(1, keepdims=True)
        size = np.sqrt(np.square(centred).sum((1, 2)))
        with np.errstate(invalid="ignore"):
            fit = np.isfinite(size) & (size > 1e-3)
        if fit.any():
            # image rows grow downwards, the convention's y upwards; unit size keeps the damping independent of px
            flat = centred[fit] / size[fit, None, None] * (1, -1)
            out_N3[fit] = -zyx_angles(_fit_rotation(flat))
        return out_N3


def _fit_rotation(flat_N52: Doubles, steps: int = 30) -> Doubles:
    """[N,3,3] rotations whose scaled orthographic projection of the generic head is nearest to centred points."""
    model_53 = FIVE_POINTS_3D - FIVE_POINTS_3D.mean(0)
    model_53 = model_53 / np.linalg.norm(model_53)
    affine_N23 = np.einsum("nkd,ek->nde", flat_N52, np.linalg.pinv(model_53))
    u, stretch, vt = np.linalg.svd(affine_N23, full_matrices=False)
    rows_N23 = u @ vt
    rotation = np.concatenate([rows_N23, np.cross(rows_N23[:, 0], rows_N23[:, 1])[:, None]], axis=1)
    scale = stretch.mean(1)
    damping = np.full(len(flat_N52), 1e-3)
    error, system = _residual(rotation, scale, model_53, flat_N52)
    for _ in range(steps):
        jacobian_NR4, residual_NR = system
        normal = jacobian_NR4.transpose(0, 2, 1) @ jacobian_NR4
        gradient = np.einsum("nrp,nr->np", jacobian_NR4, residual_NR)
        step = np.linalg.solve(normal + damping[:, None, None] * np.eye(4), -gradient[..., None])[..., 0]
        trial = _turn(step[:, :3]) @ rotation, scale + step[:, 3]
        trial_error, trial_system = _residual(*trial, model_53, flat_N52)
        better = trial_error < error
        rotation = np.where(better[:, None, None], trial[0], rotation)
        scale, error = np.where(better, trial[1], scale), np.where(better, trial_error, error)
        system = (
            np.where(better[:, None, None], trial_system[0], system[0]),
            np.where(better[:, None], trial_system[1], system[1]),
        )
        damping = np.where(better, damping * 0.3, damping * 4)
    return rotation


def _residual(
    rotation: Doubles, scale: Doubles, model_53: Doubles, flat_N52: Doubles
) -> tuple[Doubles, tuple[Doubles, Doubles]]:
    """Squared error [N], and the Jacobian [N,10,4] (turn about x, y, z, then scale) with the residual [N,10]."""
    x, y, z = np.moveaxis(np.einsum("nij,kj->nki", rotation, model_53), -1, 0)
    s = scale[:, None]
    residual = s[..., None] * np.stack([x, y], -1) - flat_N52
    zero = np.zeros_like(x)
    # a small turn w moves a point p by w x p
    by = [(zero, -s * z), (s * z, zero), (-s * y, s * x), (x, y)]
    jacobian = np.stack([np.stack(pair, -1).reshape(len(scale), -1) for pair in by], -1)
    flat = residual.reshape(len(scale), -1)
    return np.square(flat).sum(1), (jacobian, flat)


def _turn(vector_N3: Doubles) -> Doubles:
    """[N,3,3] rotations about [N,3] vectors by their length in radians (Rodrigues)."""
    angle = np.linalg.norm(vector_N3, axis=1)[:, None, None]
    axis = vector_N3 / np.maximum(angle[:, 0], 1e-12)
    a, b, c = axis.T
    zero = np.zeros_like(a)
    cross = np.stack([zero, -c, b, c, zero, -a, -b, a, zero], -1).reshape(-1, 3, 3)
    return np.asarray(np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * (cross @ cross), np.float64)


class Ddfa:
    """3DDFA_V2 (Guo et al., ECCV 2020): an ONNX network for 62 face parameters, twelve of them a camera matrix.

    Args:
        path: the network, input [N,3,120,120].
        aux: npz of `mean` and `std` [62] that undo the parameters' normalisation.
        sha256: of the network, for the id.
        device: `cpu`, `cuda` or `cuda:N`.

    Raises:
        UserError: a file that is not such a network or such a table.
    """

    def __init__(self, path: Path, aux: Path, sha256: str, device: str = "cpu") -> None:
        from ffbench.extract.sessions import onnx_session

        self._session = onnx_session(path, device)
        if list(self._session.get_inputs()[0].shape[1:]) != [3, 120, 120]:
            raise UserError(f"{path} is no 3DDFA_V2 network: it does not take 120x120 px", "check the file")
        try:
            with aux.open("rb") as stream, np.load(stream, allow_pickle=False) as table:
                self._mean, self._std = table["mean"][:12], table["std"][:12]
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise UserError(f"{aux} holds no mean and std of 3DDFA_V2", "give the npz as option aux") from error
        aux_sha256 = hashlib.sha256(aux.read_bytes()).hexdigest()
        self.id = f"3ddfa:{path.name}@{sha256[:12]},{aux.name}@{aux_sha256[:12]}"

    def angles(self, images: Sequence[Image], boxes: Floats, points: Floats) -> Floats:
        """See `PoseEstimator`; the published crop: 1.58 of the box's mean side, 0.14 lower, black outside."""
        regions = []
        for x1, y1, x2, y2 in np.asarray(boxes, np.float64):
            side = (x2 - x1 + y2 - y1) / 2
            x, y, half = (x1 + x2) / 2, (y1 + y2) / 2 + side * 0.14, int(side * 1.58) / 2 if np.isfinite(side) else 0
            regions.append(np.array([x - half, y - half, x + half, y + half]))
        return _run_crops(self._camera_angles, images, regions, 120)

    def _camera_angles(self, blob: Floats) -> Doubles:
        output = self._session.run(None, {self._session.get_inputs()[0].name: blob})[0]
        camera_N34 = (output[:, :12] * self._std + self._mean).reshape(-1, 3, 4).astype(np.float64)
        first, second = (camera_N34[:, i, :3] for i in (0, 1))
        first = first / np.linalg.norm(first, axis=1, keepdims=True)
        second = second / np.linalg.norm(second, axis=1, keepdims=True)
        return -zyx_angles(np.stack([first, second, np.cross(first, second)], axis=1))


FSA_MARGIN = 1.4
"""Its own detector draws looser boxes than SCRFD: with this factor its frontal yaw is 2.4 degrees from 3DDFA's in the
mean of 199 photographs, with the bare box 5.8."""


class FsaNet:
    """FSA-Net (Yang et al., CVPR 2019) as one or several ONNX networks whose outputs are averaged.

    Args:
        paths: networks of input [1,3,64,64] and output yaw, pitch, roll in degrees.
        sha256: one a path, for the id.
        device: `cpu`, `cuda` or `cuda:N`.
    """

    def __init__(self, paths: Sequence[Path], sha256: Sequence[str], device: str = "cpu") -> None:
        from ffbench.extract.sessions import onnx_session

        self._sessions = [onnx_session(path, device) for path in paths]
        for path, session in zip(paths, self._sessions, strict=True):
            if list(session.get_inputs()[0].shape[1:]) != [3, 64, 64]:
                raise UserError(f"{path} is no FSA-Net: it does not take 64x64 px", "check the file")
        self.id = "fsanet:" + "+".join(f"{p.name}@{s[:12]}" for p, s in zip(paths, sha256, strict=True))

    def angles(self, images: Sequence[Image], boxes: Floats, points: Floats) -> Floats:
        """See `PoseEstimator`; the enlarged box is stretched to the input."""
        return _run_crops(self._mean_angles, images, [enlarge(box, FSA_MARGIN) for box in boxes], 64)

    def _mean_angles(self, blob: Floats) -> Doubles:
        # the published files fix the batch at one
        rows = [
            np.mean([s.run(None, {s.get_inputs()[0].name: blob[i : i + 1]})[0][0] for s in self._sessions], axis=0)
            for i in range(len(blob))
        ]
        return np.array(rows, np.float64)[:, [1, 0, 2]]


def _run_crops(
    network: Callable[[Floats], Doubles], images: Sequence[Image], regions: Sequence[NDArray[np.floating]], size: int
) -> Floats:
    """[N,3] of a network that takes BGR crops in about -1..1; NaN where a region has no pixel of its image."""
    out_N3 = np.full((len(images), 3), np.nan, np.float32)
    crops, rows = [], []
    for row, (image, region) in enumerate(zip(images, regions, strict=True)):
        try:
            crops.append(crop_box(image, region, size))
        except ValueError:
            continue
        rows.append(row)
    if rows:
        blob_N3HW = (np.stack(crops)[..., ::-1].astype(np.float32) - 127.5) / 128
        out_N3[rows] = network(np.ascontiguousarray(blob_N3HW.transpose(0, 3, 1, 2)))
    return out_N3


class SixDRepNetPose:
    """6DRepNet on the published demo's crop: the box with a fifth of its sides as margin, cut at the image's edge.

    Args:
        path: the published checkpoint, bare or under `model_state_dict`, or the same tensors as safetensors.
        sha256: of that file, for the id.
        device: a PyTorch device.

    Raises:
        UserError: a file whose keys or shapes are not 6DRepNet's.
    """

    def __init__(self, path: Path, sha256: str, device: str = "cpu") -> None:
        from ffbench.extract.loading import load_strict, torch_device
        from ffbench.extract.sixdrepnet import SixDRepNet
        from ffbench.weights import load_state_dict

        self._device = torch_device(device)
        net = load_strict(SixDRepNet(), load_state_dict(path), path, "6DRepNet")
        self._net = net.to(self._device)
        self.id = f"sixdrepnet:{path.name}@{sha256[:12]}"

    def angles(self, images: Sequence[Image], boxes: Floats, points: Floats) -> Floats:
        """See `PoseEstimator`."""
        from ffbench.extract.loading import in_chunks

        out_N3 = np.full((len(images), 3), np.nan, np.float32)
        pairs = [(i, _demo_crop(image, box)) for i, (image, box) in enumerate(zip(images, boxes, strict=True))]
        fit = [(i, crop) for i, crop in pairs if crop is not None]
        if fit:
            rows, crops = zip(*fit, strict=True)
            out_N3[list(rows)] = in_chunks(self._run, np.stack(crops), self._device)
        return out_N3

    def _run(self, crops_N3SS: Floats) -> Floats:
        import torch

        from ffbench.extract.loading import inference

        with inference():
            rotation = self._net(torch.from_numpy(crops_N3SS).to(self._device))
        return zyx_angles(rotation.double().cpu().numpy()).astype(np.float32)


def _demo_crop(image: Image, box: NDArray[np.floating]) -> Floats | None:
    """[3,224,224] RGB with ImageNet's normalisation, or None without a pixel to crop."""
    if not np.isfinite(box).all():
        return None
    x1, y1, x2, y2 = (int(v) for v in box)
    # the demo swaps width and height here; faces are near enough to square, and its numbers are the published ones
    margin_x, margin_y = int(0.2 * abs(y2 - y1)), int(0.2 * abs(x2 - x1))
    crop = image[max(0, y1 - margin_y) : max(0, y2 + margin_y), max(0, x1 - margin_x) : max(0, x2 + margin_x)]
    height, width = crop.shape[:2]
    if not height or not width:
        return None
    short = min(height, width)
    size = (int(224 * width / short), int(224 * height / short))
    resized = np.asarray(PIL.Image.fromarray(crop).resize(size, PIL.Image.Resampling.BILINEAR), np.float32) / 255
    top, left = round((size[1] - 224) / 2), round((size[0] - 224) / 2)
    normal = (resized[top : top + 224, left : left + 224] - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    return np.ascontiguousarray(normal.transpose(2, 0, 1), np.float32)
