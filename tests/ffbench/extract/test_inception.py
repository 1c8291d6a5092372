from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
import torchvision
from numpy.typing import NDArray
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from ffbench.errors import UserError
from ffbench.extract.inception import FidInception, TorchvisionInception

Crops = NDArray[np.uint8]


@pytest.fixture(scope="module")
def crops() -> Crops:
    noise = np.random.default_rng(0).integers(0, 256, (2, 9, 9, 3), np.uint8)
    return np.stack([np.asarray(PIL.Image.fromarray(image).resize((224, 224))) for image in noise])


@pytest.fixture(scope="module")
def torchvision_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    net = torchvision.models.inception_v3(weights=None, init_weights=False, transform_input=True, aux_logits=True)
    path = tmp_path_factory.mktemp("inception") / "torchvision.pth"
    torch.save(net.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def fid_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("fid")
    # the class wants weights before it tells its keys, so it is shown an empty dictionary and asked nevertheless
    torch.save({}, folder / "none.pth")
    kept: list[Any] = []

    class Bare(FeatureExtractorInceptionV3):
        def load_state_dict(self, state: Any, *args: Any, **more: Any) -> Any:
            kept.append(self.state_dict())

    Bare("bare", ["2048"], feature_extractor_weights_path=str(folder / "none.pth"))
    torch.save(dict(kept[0]), folder / "fid.pth")
    return folder / "fid.pth"


def test_torchvision_features_are_consisids(torchvision_file: Path, crops: Crops) -> None:
    """ConsisID's `load_image` and `get_activations`, one image at a time."""
    oracle = torchvision.models.inception_v3(weights=None, init_weights=False, transform_input=True, aux_logits=True)
    oracle.load_state_dict(torch.load(torchvision_file, weights_only=True))
    oracle.fc = torch.nn.Identity()
    oracle.eval()
    recipe = torchvision.transforms.Compose(
        [torchvision.transforms.Resize((299, 299)), torchvision.transforms.ToTensor()]
    )
    with torch.no_grad():
        expected = np.concatenate([oracle(recipe(PIL.Image.fromarray(c)).unsqueeze(0)).numpy() for c in crops])
    net = TorchvisionInception(torchvision_file, "12" * 32)
    got = net(crops)
    assert got.shape == (2, 2048)
    assert got.dtype == np.float32
    scale = np.abs(expected).max()
    np.testing.assert_allclose(got, expected, atol=1e-5 * scale)
    assert np.abs(expected[0] - expected[1]).max() > 1e-3 * scale
    assert net.id == "inception-torchvision:torchvision.pth@121212121212"


def test_fid_features_are_torch_fidelitys(fid_file: Path, crops: Crops, monkeypatch: pytest.MonkeyPatch) -> None:
    oracle = FeatureExtractorInceptionV3("oracle", ["2048"], feature_extractor_weights_path=str(fid_file))
    (expected,) = oracle(torch.from_numpy(crops).permute(0, 3, 1, 2).contiguous())

    def no_download(*_: Any, **__: Any) -> None:
        raise AssertionError("the network must come from our file")

    monkeypatch.setattr("torch_fidelity.feature_extractor_inceptionv3.load_state_dict_from_url", no_download)
    net = FidInception(fid_file, "34" * 32)
    got = net(crops)
    assert got.shape == (2, 2048)
    np.testing.assert_allclose(got, expected.numpy(), atol=1e-5 * float(expected.abs().max()))
    assert net.id == "inception-fid:fid.pth@343434343434"


@pytest.mark.parametrize("kind", [TorchvisionInception, FidInception])
def test_another_state_dict_is_refused(tmp_path: Path, kind: Any) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"other\.pth does not hold"):
        kind(tmp_path / "other.pth", "0" * 64)


class Touch:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("kind", [TorchvisionInception, FidInception])
def test_a_pickle_never_runs(tmp_path: Path, kind: Any) -> None:
    torch.save({"fc.bias": Touch(tmp_path / "ran")}, tmp_path / "evil.pth")
    with pytest.raises(UserError, match="holds no plain state dict"):
        kind(tmp_path / "evil.pth", "0" * 64)
    assert not (tmp_path / "ran").exists()


def test_other_crops_are_refused(torchvision_file: Path, fid_file: Path) -> None:
    for net in (TorchvisionInception(torchvision_file, "0" * 64), FidInception(fid_file, "0" * 64)):
        for wrong in (np.zeros((1, 299, 299, 3), np.uint8), np.zeros((1, 224, 224, 3), np.float32)):
            with pytest.raises(ValueError, match=r"InceptionV3 takes uint8 \[N,224,224,3\] RGB, not"):
                net(wrong)  # type: ignore[arg-type]
        assert net(np.zeros((0, 224, 224, 3), np.uint8)).shape == (0, 2048)
