"""Networks from folders: every weight of the file is used and every weight of the network comes from the file.

diffusers and transformers only warn about a weight that is missing, and go on with a random one.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ffbench.errors import UserError

LIBRARIES = ("diffusers", "transformers", "faithfulfaces")
"""Whose classes a folder's model_index.json may name; a folder is data and must not choose what else is imported."""
DAMAGE = (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError)
"""What the loaders raise on a file that is absent, cut off or of other shapes, and on a name that is no network's."""


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        UserError: no such file, or no JSON object.
    """
    try:
        data = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise UserError(f"{path} is missing", "download the folder whole, in diffusers' layout") from error
    except ValueError as error:
        raise UserError(f"{path} is no JSON: {error}", "restore the file of the published folder") from error
    if not isinstance(data, dict):
        raise UserError(f"{path} holds no JSON object", "restore the file of the published folder")
    return data


def expect(folder: Path, part: str, wanted: Mapping[str, Any], setting: str = "base") -> dict[str, Any]:
    """The config.json of a part, if it says what a method is built on.

    Args:
        folder: in diffusers' layout.
        part: subfolder, such as `transformer`.
        wanted: key of config.json -> the value that it must have.
        setting: the setting that named the folder, for the message.

    Raises:
        UserError: naming the first key that differs, and the setting.
    """
    if not folder.is_dir():
        raise UserError(f"the {setting} {folder} is no folder", f"--set {setting}=FOLDER in diffusers' layout")
    config = read_json(folder / part / "config.json")
    for key, value in wanted.items():
        if config.get(key) != value:
            raise UserError(
                f"{folder / part / 'config.json'} says {key} = {config.get(key)!r}, this method needs {value!r}",
                f"--set {setting}=FOLDER of the weights that the card names",
            )
    return config


def load_part(folder: Path, part: str, dtype: torch.dtype, cls: type | None = None) -> Any:
    """One network of a folder in diffusers' layout: on the CPU, frozen, in evaluation mode, complete.

    Args:
        folder: with model_index.json, which names the class of each part.
        part: subfolder, such as `vae`.
        dtype: of the weights, but for the modules that diffusers keeps in float32.
        cls: the class; by default the one that model_index.json names.

    Raises:
        UserError: a missing or damaged file, a class of a library not in `LIBRARIES`, or weights that do not fit.
    """
    cls = cls or named_class(folder, part)
    key = "dtype" if cls.__module__.startswith("transformers.") else "torch_dtype"
    options = {key: dtype, "local_files_only": True, "use_safetensors": True, "output_loading_info": True}
    try:
        network, info = cls.from_pretrained(folder / part, **options)
    except Exception as error:
        if not isinstance(error, DAMAGE) and type(error).__name__ != "SafetensorError":
            raise
        raise UserError(f"{folder / part} cannot be loaded: {line(error)}", "download it again, whole") from error
    refuse_gaps(folder / part, info["missing_keys"], info["unexpected_keys"])
    if info.get("mismatched_keys"):
        raise UserError(f"{folder / part}: shapes differ: {sorted(info['mismatched_keys'])[:2]}", "download it again")
    return network.eval().requires_grad_(False)


def named_class(folder: Path, part: str) -> Any:
    """The class that model_index.json names for a part.

    Raises:
        UserError: none is named, or one of a library that a folder may not choose.
    """
    index = folder / "model_index.json"
    entry = read_json(index).get(part)
    if not (isinstance(entry, list) and len(entry) == 2 and all(isinstance(item, str) for item in entry)):
        raise UserError(f"{index} names no class for {part}", "give a folder in diffusers' layout")
    library, name = entry
    if library.partition(".")[0] not in LIBRARIES:
        raise UserError(f"{index}: {part} is {library}.{name}", f"only classes of {', '.join(LIBRARIES)} are loaded")
    try:
        return getattr(importlib.import_module(library), name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"{index}: {part} is {library}.{name}: {line(error)}", "install what holds it") from error


def refuse_gaps(source: Path, missing: Any, unexpected: Any) -> None:
    """Raise UserError unless both are empty: keys that the file lacks, and keys that the network lacks."""
    for what, keys in (("lacks", sorted(missing)), ("holds what the network has no place for:", sorted(unexpected))):
        if keys:
            raise UserError(
                f"{source} {what} {keys[0]} and {len(keys) - 1} more", "give the weights that the card names"
            )


def load_transformer(folder: Path, dtype: torch.dtype, cls: type | None = None) -> nn.Module:
    """The transformer of a folder in diffusers' layout; norms, modulation and time embedding in float32.

    Its shards may also be those that Wan's authors publish, in their own key layout, put beside config.json.

    Args:
        folder: with transformer/.
        dtype: of the large weights.
        cls: `WanTransformer3DModel` unless another is given.

    Raises:
        UserError: as `load_part` and `load_original`.
    """
    from diffusers import WanTransformer3DModel

    cls = cls or WanTransformer3DModel
    if _is_original(folder / "transformer"):
        return load_original(folder / "transformer", folder, dtype, cls)
    network: nn.Module = load_part(folder, "transformer", dtype, cls)
    return network


def load_original(checkpoint: Path, config: Path, dtype: torch.dtype, cls: type | None = None) -> nn.Module:
    """A transformer from shards (or one file) in Wan's own key layout.

    Args:
        checkpoint: a file of tensors, or a folder of safetensors.
        config: folder in diffusers' layout whose transformer/config.json describes the network.
        dtype: as `load_part`; the float32 modules are taken from the stored values before anything is rounded.
        cls: `WanTransformer3DModel` unless another is given.

    Raises:
        UserError: no shards, or keys or shapes that do not fit.
    """
    return from_original(merged(checkpoint), checkpoint, config, dtype, cls)


def from_original(
    stored: dict[str, torch.Tensor], checkpoint: Path, config: Path, dtype: torch.dtype, cls: Any = None
) -> nn.Module:
    """As `load_original`, of tensors that were read already; `checkpoint` is for messages."""
    from diffusers import WanTransformer3DModel

    cls = cls or WanTransformer3DModel
    expected = expected_keys(cls, config)
    renamed = _renamed(stored)
    refuse_gaps(checkpoint, expected - renamed, renamed - expected)
    try:
        network = cls.from_single_file(stored, config=str(config), subfolder="transformer", local_files_only=True)
    except DAMAGE as error:
        raise UserError(
            f"{checkpoint} does not fit {config}: {line(error)}", "give the folder it belongs to"
        ) from error
    return cast(network, dtype).eval().requires_grad_(False)


def _is_original(folder: Path) -> bool:
    """Whether one of a folder's safetensors holds `head.modulation`, which diffusers calls `scale_shift_table`."""
    from safetensors import SafetensorError, safe_open

    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, "pt") as tensors:
                if "head.modulation" in tensors.keys():  # noqa: SIM118 - it is no dictionary
                    return True
        except (OSError, SafetensorError):
            return False  # whoever loads it says what is wrong
    return False


def merged(checkpoint: Path) -> dict[str, torch.Tensor]:
    """All tensors of one file, or of all safetensors files of a folder.

    Raises:
        UserError: no such file, a damaged one, or a tensor that two of them hold.
    """
    files = sorted(checkpoint.glob("*.safetensors")) if checkpoint.is_dir() else [checkpoint]
    if not files:
        raise UserError(f"{checkpoint} holds no safetensors", "give the folder of the shards, or one file")
    tensors: dict[str, torch.Tensor] = {}
    for file in files:
        shard = read_tensors(file)
        twice = tensors.keys() & shard.keys()
        if twice:
            raise UserError(f"{file} holds {min(twice)} again", "leave the shards of one checkpoint in the folder")
        tensors.update(shard)
    return tensors


def read_tensors(file: Path) -> dict[str, torch.Tensor]:
    """Tensors of a safetensors file, or of a PyTorch file that holds a dictionary of them and nothing to run.

    A PyTorch file may hold it as `state_dict`, as trainers write it.

    Raises:
        UserError: no such file, a damaged one, or one that holds something else.
    """
    import pickle

    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if file.suffix == ".safetensors":
            return dict(load_file(file))
        held = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise UserError(f"{file} cannot be read: {line(error)}", "download it again") from error
    if isinstance(held, dict) and isinstance(held.get("state_dict"), dict):
        held = held["state_dict"]
    if not (isinstance(held, dict) and all(isinstance(tensor, torch.Tensor) for tensor in held.values())):
        raise UserError(f"{file} is no dictionary of tensors", "give the file that the card names")
    return held


def expected_keys(cls: Any, config: Path) -> set[str]:
    """Keys of a network of diffusers as config/transformer/config.json describes it; nothing is allocated."""
    with torch.device("meta"):
        return set(cls.from_config(cls.load_config(config, subfolder="transformer")).state_dict())


def _renamed(stored: Mapping[str, torch.Tensor]) -> set[str]:
    from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers

    return set(convert_wan_transformer_to_diffusers(dict(stored)))


def cast(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Cast to `dtype`, but keep in float32 what diffusers' own `from_pretrained` keeps."""
    kept = tuple(getattr(network, "_keep_in_fp32_modules", None) or ())
    for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
        if tensor.is_floating_point():
            tensor.data = tensor.data.to(torch.float32 if any(part in name.split(".") for part in kept) else dtype)
    return network


def line(error: BaseException) -> str:
    """The first line of an error."""
    return (str(error).strip() or type(error).__name__).partition("\n")[0]
