"""Inception features of face crops: torchvision's network, as ConsisID uses it, and that of FID proper."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from ffbench.errors import UserError
from ffbench.extract.loading import check_crops, fold_norms, in_chunks, inference, load_strict, torch_device
from ffbench.weights import load_state_dict

Crops = NDArray[np.uint8]
Floats = NDArray[np.float32]
FEATURES = 2048


class FeatureNet(Protocol):
    """A network of image features; `id` names it with the first 12 digits of its weights' sha256."""

    id: str

    def __call__(self, crops: Crops) -> Floats:
        """[N,2048] from uint8 [N,224,224,3] RGB.

        Raises:
            ValueError: crops of another type or shape.
        """
        ...


class TorchvisionInception:
    """Torchvision's ImageNet InceptionV3 (Szegedy et al., CVPR 2016) without classifier, as in ConsisID's script.

    A crop is resized to 299 px as a PIL image (bilinear, rounded to whole values) and scaled to 0..1; the change of
    range that torchvision applies inside the network with pretrained weights (`transform_input`) stays on.

    Args:
        path: torchvision's published state dict.
        sha256: of that file, for the id.
        device: a PyTorch device.

    Raises:
        UserError: a file that does not hold that network.
    """

    def __init__(self, path: Path, sha256: str, device: str = "cpu") -> None:
        import torch
        from torchvision.models import inception_v3

        self._device = torch_device(device)
        # the auxiliary classifier is in the published file, but inference never reaches it
        net: Any = inception_v3(weights=None, init_weights=False, transform_input=True, aux_logits=True)
        net = load_strict(net, load_state_dict(path), path, "torchvision's InceptionV3")
        net.fc = torch.nn.Identity()
        self._net = fold_norms(net).to(self._device, memory_format=torch.channels_last)
        self.id = f"inception-torchvision:{path.name}@{sha256[:12]}"

    def __call__(self, crops: Crops) -> Floats:
        """See `FeatureNet`."""
        check_crops(crops, 224, "InceptionV3")
        return in_chunks(self._run, crops, self._device) if len(crops) else np.zeros((0, FEATURES), np.float32)

    def _run(self, crops: Crops) -> Floats:
        import torch

        bilinear = PIL.Image.Resampling.BILINEAR
        large = np.stack([np.asarray(PIL.Image.fromarray(crop).resize((299, 299), bilinear)) for crop in crops])
        with inference():
            x = torch.from_numpy(large).to(self._device).permute(0, 3, 1, 2).float().div_(255)
            return np.asarray(self._net(x).cpu().numpy(), np.float32)


class FidInception:
    """The InceptionV3 of FID (Heusel et al., NeurIPS 2017), in torch-fidelity's port with TensorFlow's resizing.

    Args:
        path: torch-fidelity's published state dict.
        sha256: of that file, for the id.
        device: a PyTorch device.

    Raises:
        UserError: a file that does not hold that network.
    """

    def __init__(self, path: Path, sha256: str, device: str = "cpu") -> None:
        import torch
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        self._device = torch_device(device)
        # the class unpickles whatever it is given; these bytes were made here, from tensors that were loaded safely
        stream = io.BytesIO()
        torch.save(dict(load_state_dict(path)), stream)
        stream.seek(0)
        try:
            net: Any = FeatureExtractorInceptionV3("fid", ["2048"], feature_extractor_weights_path=stream)
        except RuntimeError as error:
            raise UserError(
                f"{path} does not hold FID's InceptionV3: {' '.join(str(error).split())[:200]}",
                "give the published weights, see ffbench weights ls",
            ) from error
        self._net = fold_norms(net).to(self._device, memory_format=torch.channels_last)
        self.id = f"inception-fid:{path.name}@{sha256[:12]}"

    def __call__(self, crops: Crops) -> Floats:
        """See `FeatureNet`."""
        check_crops(crops, 224, "FID's InceptionV3")
        return in_chunks(self._run, crops, self._device) if len(crops) else np.zeros((0, FEATURES), np.float32)

    def _run(self, crops: Crops) -> Floats:
        import torch

        with inference():
            (features,) = self._net(torch.from_numpy(crops).to(self._device).permute(0, 3, 1, 2))
            return np.asarray(features.cpu().numpy(), np.float32)
