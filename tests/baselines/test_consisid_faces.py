"""ConsisID's reading of a face: diffusers' own code on tiny real networks, against a plain statement of it."""

from __future__ import annotations

import hashlib
import sys
import types
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from insightface.app import FaceAnalysis
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import resize

from baselines.consisid import faces, files
from ffbench.contract import RefusedError
from ffbench.errors import UserError
from ffbench.methods import card
from tests.ffbench.extract.test_detect import red_finder
from tests.ffbench.small_networks import write_recogniser

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
UTILS = "diffusers.pipelines.consisid.consisid_utils"


class Helper:
    """facexlib's aligner by form: a face is what is redder than 200, cut out and scaled to 512 px."""

    def __init__(self, device: str, model_rootpath: str, face_size: int, **_: Any) -> None:
        self.device, self.root, self.size = device, model_rootpath, face_size
        self.face_det, self.face_parse = torch.nn.Identity(), torch.nn.Identity()

    def clean_all(self) -> None:
        self.cropped_faces, self.all_landmarks_5 = [], []

    def read_image(self, image_bgr: np.ndarray) -> None:
        self.image = image_bgr

    def get_face_landmarks_5(self, only_center_face: bool) -> None:
        assert only_center_face
        rows, columns = np.nonzero(self.image[..., 2] > 200)
        if len(rows):
            self.box = (slice(rows.min() - 8, rows.max() + 9), slice(columns.min() - 8, columns.max() + 9))
            self.all_landmarks_5 = [np.array([[rows.min(), columns.min()]] * 5)]

    def align_warp_face(self) -> None:
        if self.all_landmarks_5:
            whole = (self.size, self.size)
            self.cropped_faces = [cv2.resize(self.image[self.box], whole, interpolation=cv2.INTER_NEAREST)]


class Parser(torch.nn.Module):
    """BiSeNet by form: 19 classes a pixel, of which green ones are cloth (16) and all others skin (1)."""

    def forward(self, normalised_13HW: torch.Tensor) -> tuple[torch.Tensor, None]:
        green = normalised_13HW[:, 1] * 0.224 + 0.456 > 0.5
        logits = torch.zeros(1, 19, *normalised_13HW.shape[2:])
        logits[:, 1], logits[:, 16] = (~green).float(), green.float()
        return logits, None


class Tower(torch.nn.Module):
    """EVA-CLIP's image tower by form: 14 px of picture, a feature of 6 and three hidden layers."""

    image_size, image_mean, image_std = 14, MEAN, STD

    def __init__(self) -> None:
        super().__init__()
        self.dense = torch.nn.Linear(3 * 14 * 14, 6)

    def forward(
        self, x: torch.Tensor, return_all_features: bool, return_hidden: bool, shuffle: bool
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        assert (return_all_features, return_hidden, shuffle) == (False, True, False)
        feature = self.dense(x.flatten(1))
        return feature, [feature.sin() * factor for factor in (1, 2, 3)]


@pytest.fixture
def tower(monkeypatch: pytest.MonkeyPatch) -> Iterator[Tower]:
    """diffusers' face code, importable: the two packages that it asks for bring networks alone, and these are small."""
    torch.manual_seed(0)
    tower, opened = Tower(), []
    contents: dict[str, dict[str, Any]] = {
        "facexlib": {},
        "facexlib.parsing": {"init_parsing_model": lambda **_: Parser()},
        "facexlib.utils": {},
        "facexlib.utils.face_restoration_helper": {"FaceRestoreHelper": Helper},
        "consisid_eva_clip": {
            "create_model_and_transforms": lambda name, path, **_: (
                opened.append(path) or types.SimpleNamespace(visual=tower), None, None,
            )
        },
        "consisid_eva_clip.constants": {"OPENAI_DATASET_MEAN": None, "OPENAI_DATASET_STD": None},
    }  # fmt: skip
    for name, content in contents.items():
        module = types.ModuleType(name)
        module.__spec__ = ModuleSpec(name, None)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, UTILS, raising=False)
    yield tower
    sys.modules.pop(UTILS, None)


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model's folder: antelopev2 with a detector of red squares and a random recogniser, the rest by name alone."""
    encoder = tmp_path / "model/face_encoder"
    (encoder / "models/antelopev2").mkdir(parents=True)
    for name in files.FILES:
        (encoder / name).write_bytes(name.encode())
    red_finder(encoder / "models/antelopev2/scrfd_10g_bnkps.onnx")
    write_recogniser(encoder / "models/antelopev2/glintr100.onnx", 0)
    pins = {name: hashlib.sha256((encoder / name).read_bytes()).hexdigest() for name in files.FILES}
    monkeypatch.setattr(files, "FILES", pins)
    return tmp_path / "model"


def photograph(path: Path, red: int = 255) -> Path:
    """A red face of 3 px on blue beside something green, different in every direction and colour."""
    picture = np.zeros((96, 128, 3), np.uint8)
    picture[..., 2] = np.linspace(20, 120, 128)
    picture[40:43, 24:27] = (red, 0, 40)
    picture[36:48, 29:33] = (10, 180, 90)
    Image.fromarray(picture).save(path)
    return path


pytestmark = [
    # of insightface, which asks ONNX Runtime and scikit-image so
    pytest.mark.filterwarnings("ignore:Specified provider 'CUDAExecutionProvider':UserWarning"),
    pytest.mark.filterwarnings("ignore:.estimate. is deprecated:FutureWarning"),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_face_is_what_the_plain_statement_says(tower: Tower, model: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    path = photograph(tmp_path / "face.png")
    opened = faces.open_faces(files.verify(model, ""), "cpu:0", dtype)
    found = opened.read(str(path))

    analysis = FaceAnalysis("antelopev2", str(model / "face_encoder"), providers=["CPUExecutionProvider"])
    analysis.prepare(ctx_id=-1, det_size=(640, 640))
    # insightface wants BGR
    (face,) = analysis.get(np.ascontiguousarray(np.asarray(Image.open(path))[..., ::-1]))
    picture = np.asarray(Image.open(path), np.float64)
    aligned = cv2.resize(picture[32:51, 16:35], (512, 512), interpolation=cv2.INTER_NEAREST) / 255
    cloth = aligned[..., 1:2] > 0.5
    coloured = np.where(cloth, 1, aligned)
    grey = np.where(cloth, 1, (aligned @ [0.299, 0.587, 0.114])[..., None].repeat(3, 2))
    small = resize(torch.from_numpy(grey).permute(2, 0, 1)[None].float(), 14, InterpolationMode.BICUBIC)
    normalised = (small[0].permute(1, 2, 0).numpy() - MEAN) / STD
    weight, bias = (p.detach().double().numpy() for p in (tower.dense.weight, tower.dense.bias))
    feature = weight @ normalised.transpose(2, 0, 1).ravel() + bias

    loose = 1e-4 if dtype == torch.float32 else 0.02  # bfloat16 has 8 bits
    assert found.id_cond.dtype == dtype and not found.id_cond.requires_grad
    arc, eva = np.split(found.id_cond[0].double().numpy(), [16])
    np.testing.assert_allclose(arc, face.embedding, rtol=1e-2, atol=1e-3)
    np.testing.assert_allclose(eva, feature / np.linalg.norm(feature), atol=loose)
    assert np.abs(eva - feature).max() > 0.1, "the feature is no unit vector by chance"
    assert [layer.dtype for layer in found.id_vit_hidden] == [dtype] * 3
    for factor, layer in enumerate(found.id_vit_hidden, 1):
        assert not layer.requires_grad
        np.testing.assert_allclose(layer[0].double().numpy(), np.sin(feature) * factor, atol=10 * loose)
    assert found.image.size == (512, 512) and found.image.mode == "RGB"
    assert np.abs(np.asarray(found.image) - coloured * 255).max() <= 1
    np.testing.assert_allclose(found.points, face.kps)
    assert face.kps[0, 0] < face.kps[1, 0], "the eye that is left in the picture comes first"


def test_the_networks_are_opened_where_they_are_and_go_to_the_device(tower: Tower, model: Path) -> None:
    opened = faces.open_faces(files.verify(model, ""), "cpu:0", torch.bfloat16)
    helper = opened._networks[0]
    assert isinstance(helper, Helper) and isinstance(helper.face_parse, Parser)
    assert (helper.device, helper.root, helper.size) == ("cpu:0", str(model / "face_encoder"), 512)
    assert tower.dense.weight.dtype == torch.bfloat16


@pytest.mark.parametrize("red", [0, 190], ids=["neither detector", "insightface alone"])
def test_a_photograph_without_a_face_is_refused(tower: Tower, model: Path, tmp_path: Path, red: int) -> None:
    path = photograph(tmp_path / "nobody.png", red)
    with pytest.raises(RefusedError, match="no face"):
        faces.open_faces(files.verify(model, ""), "cpu", torch.float32).read(str(path))


def test_the_rest_of_antelopev2_is_checked_and_strangers_are_not_opened(tower: Tower, model: Path) -> None:
    name = "models/antelopev2/genderage.onnx"
    write_recogniser(model / "face_encoder" / name, 3)
    refused(r"genderage\.onnx has sha256 .*, not 4fde69b1c810", model)
    (model / "face_encoder" / name).unlink()
    # sorted before glintr100.onnx, FaceAnalysis would take it for the recogniser
    write_recogniser(model / "face_encoder/models/antelopev2/a.onnx", 3)
    refused(r"a\.onnx is no part of antelopev2", model)


def refused(match: str, model: Path, pins: str = "") -> UserError:
    """What `verify` says, in two lines."""
    with pytest.raises(UserError, match=match) as caught:
        files.verify(model, pins)
    assert len(str(caught.value).splitlines()) == 2
    return caught.value


def test_missing_packages_and_files_are_named(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files.importlib.util, "find_spec", lambda name: None if name == "facexlib" else object())
    assert "pip install facexlib" in refused("not installed: facexlib", model).fix
    monkeypatch.setattr(files.importlib.util, "find_spec", lambda name: object())
    first = next(iter(files.FILES))
    (model / "face_encoder" / first).unlink()
    refused(rf"{first} is not on this machine", model)


def test_files_that_upstream_would_unpickle_are_the_published_ones(tower: Tower, model: Path) -> None:
    for name in files.FILES:
        # each file in turn is not what it should be
        kept = (model / "face_encoder" / name).read_bytes()
        (model / "face_encoder" / name).write_bytes(kept + b"\n")
        refused(rf"{name} has sha256 [0-9a-f]{{12}}, not {files.FILES[name][:12]}", model)
        (model / "face_encoder" / name).write_bytes(kept)
    assert files.verify(model, "") == (model, False)


def sums(model: Path, *lines: str) -> str:
    """Write a list into face_encoder/; its sha256."""
    text = "".join(f"{line}\n" for line in lines).encode()
    (model / "face_encoder/SHA256SUMS").write_bytes(text)
    return hashlib.sha256(text).hexdigest()


def sha256(model: Path, name: str) -> str:
    return hashlib.sha256((model / "face_encoder" / name).read_bytes()).hexdigest()


def test_a_user_vouches_for_networks_of_another_make_by_the_hash_of_their_list(
    tower: Tower, model: Path, tmp_path: Path
) -> None:
    arc, parser = "models/antelopev2/glintr100.onnx", "parsing_bisenet.pth"
    write_recogniser(model / "face_encoder" / arc, 7)
    line = f"{sha256(model, arc)}  ./{arc}"
    pins = sums(model, line)
    refused("glintr100.onnx has sha256", model)
    assert files.verify(model, pins) == (model, False)
    last = "1" if line[63] == "0" else "0"
    refused(rf"glintr100.onnx has sha256 {line[:12]}", model, sums(model, f"{line[:63]}{last}{line[64:]}"))
    assert sums(model, line) == pins
    photo = str(photograph(tmp_path / "face.png"))
    other = faces.open_faces(files.verify(model, pins), "cpu", torch.float32).read(photo)
    write_recogniser(model / "face_encoder" / arc, 0)
    first = faces.open_faces(files.verify(model, ""), "cpu", torch.float32).read(photo)
    assert not torch.allclose(first.id_cond[:, :16], other.id_cond[:, :16])
    # the list names one file alone, which has changed again; the others stay under the published hashes
    refused(rf"glintr100.onnx has sha256 .*, not {line[:12]}", model, pins)
    write_recogniser(model / "face_encoder" / arc, 7)
    (model / "face_encoder" / parser).write_bytes(b"other")
    refused(rf"{parser} has sha256 .*, not {files.FILES[parser][:12]}", model, pins)
    # binary mode of sha256sum, and EVA-CLIP too
    (model / "face_encoder" / files.TOWER).write_bytes(b"tuned")
    names = (arc, parser, files.TOWER)
    assert files.verify(model, sums(model, *(f"{sha256(model, name)} *{name}" for name in names))) == (model, True)
    # what lies beside the published files has to be theirs, listed or not
    write_recogniser(model / "face_encoder/models/antelopev2/a.onnx", 3)
    refused("a.onnx is no part", model, sha256(model, "SHA256SUMS"))


def test_a_list_counts_only_under_the_hash_that_the_user_gave(tower: Tower, model: Path) -> None:
    name = next(iter(files.FILES))
    refused("SHA256SUMS, which pins=aaaa.* stands for, is not there", model, "a" * 64)
    good = f"{files.FILES[name]}  {name}"
    found = sums(model, good)
    error = refused(rf"SHA256SUMS has sha256 {found[:12]}, not aaaaaaaaaaaa", model, "a" * 64)
    assert found in error.fix
    refused("pins = 'SHA256SUMS' is no sha256", model, "SHA256SUMS")
    refused(f"pins = '{found.upper()}' is no sha256", model, found.upper())
    for bad in (f"{files.FILES[name]}  ../{name}", f"{files.FILES[name][:-1]}  {name}", f"sha256 {name}", ""):
        refused("SHA256SUMS: .* is no sha256 of", model, sums(model, good, bad))


def test_own_weights_of_eva_clip_leave_no_gap(tower: Tower, model: Path) -> None:
    path = model / "face_encoder" / files.TOWER
    weights = {f"visual.{name}": tensor for name, tensor in tower.state_dict().items()}
    torch.save({f"module.{name}": tensor for name, tensor in weights.items()}, path)
    verified = files.verify(model, sums(model, f"{sha256(model, files.TOWER)}  {files.TOWER}"))
    faces.open_faces(verified, "cpu", torch.float32)
    del weights["visual.dense.bias"]
    torch.save(weights, path)
    with pytest.raises(UserError, match=r"lacks visual\.dense\.bias and 0 more"):
        faces.open_faces(verified, "cpu", torch.float32)


def test_the_card_names_the_hashes_that_are_checked() -> None:
    named = {
        weight.name.rpartition("face_encoder/")[2].partition(" ")[0]: weight.sha256
        for weight in card("consisid").weights
    }
    pins = files.FILES | files.COMPANIONS
    assert {name: named.get(name) for name in pins} == pins


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (IndexError("list index out of range"), RefusedError),
        (RuntimeError("facexlib align face fail"), RefusedError),
        (RuntimeError("CUDA error: out of memory"), RuntimeError),
    ],
)
def test_upstreams_ways_to_say_no_face_are_one(
    error: Exception, raised: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    # the module itself cannot be imported without packages that are no dependencies of ours
    upstream = types.ModuleType("consisid_utils")
    upstream.process_face_embeddings_infer = fail  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "diffusers.pipelines.consisid.consisid_utils", upstream)
    with pytest.raises(raised):
        faces.FaceModels((None,) * 6, "cpu", torch.float32).read("x.png")
