"""Low-rank adapters on VACE's query, key and value projections (paper, Section 4.1), through peft."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from peft import LoraConfig, get_peft_model_state_dict
from torch import Tensor, dtype, nn

from faithfulfaces.config import Lora
from ffbench.errors import UserError

ADAPTER = "default"
"""peft's own name of the adapter; DiffSynth writes it into its keys."""


class LoraWeights(NamedTuple):
    """An adapter apart from any model."""

    tensors: Mapping[str, Tensor]
    """`<module>.lora_A.weight` [r, in] and `<module>.lora_B.weight` [out, r]; modules are named as in diffusers."""
    alpha: float
    """The adapter adds alpha / r times B A x."""

    @property
    def rank(self) -> int:
        """The rank r."""
        return next(len(tensor) for key, tensor in self.tensors.items() if key.endswith("lora_A.weight"))


def target_modules(config: Lora) -> str:
    """The regular expression that the full names of the adapted modules match."""
    return rf"({'|'.join(config.stacks)})\.\d+\.({'|'.join(config.attentions)})\.to_[qkv]"


def inject(transformer: Any, config: Lora) -> list[str]:
    """Put fresh adapters into a `WanVACETransformer3DModel` and freeze everything else; A is Kaiming, B zero.

    Works on the meta device. The adapters take the dtype of the layers that they adapt.

    Returns:
        The names of the adapted modules.

    Raises:
        UserError: when a stack or attention of the configuration adapts nothing.
        ValueError: when adapters are in already.
    """
    transformer.add_adapter(
        LoraConfig(r=config.rank, lora_alpha=config.alpha, target_modules=target_modules(config)), adapter_name=ADAPTER
    )
    names = [key.removesuffix(".lora_A.weight") for key in state(transformer).tensors if key.endswith("lora_A.weight")]
    for stack in config.stacks:
        if not any(name.startswith(f"{stack}.") for name in names):
            raise UserError(
                f"Lora.stacks names {stack!r}, and {type(transformer).__name__} has no such blocks",
                "give a VACE transformer, or take the stack out",
            )
    return names


def state(transformer: Any) -> LoraWeights:
    """The adapter's weights as they stand in the model; the tensors share its memory.

    Raises:
        ValueError: when no adapter is in.
    """
    if ADAPTER not in getattr(transformer, "peft_config", {}):
        raise ValueError("the transformer carries no LoRA")
    tensors = get_peft_model_state_dict(transformer, adapter_name=ADAPTER)
    return LoraWeights(tensors, float(transformer.peft_config[ADAPTER].lora_alpha))


def load(transformer: Any, weights: LoraWeights, *, to: dtype | None = None) -> None:
    """Put an adapter's weights into the model, adapting the modules that they name if none are yet.

    Args:
        transformer: a `WanVACETransformer3DModel` with or without adapters.
        weights: every tensor must find its place.
        to: dtype of the adapters; by default that of the weights.

    Raises:
        UserError: naming the first keys that have no place or another shape; nothing is changed then.
    """
    tensors = {key: tensor.to(to or tensor.dtype) for key, tensor in weights.tensors.items()}
    _check_fit(transformer, weights)
    if ADAPTER not in getattr(transformer, "peft_config", {}):
        config = {"r": weights.rank, "lora_alpha": weights.alpha, "target_modules": sorted(_modules(tensors))}
        transformer.load_lora_adapter(tensors, prefix=None, adapter_name=ADAPTER, metadata=config)
    else:
        own = state(transformer)
        differing = sorted(own.tensors.keys() ^ tensors.keys())
        if differing or (own.rank, own.alpha) != (weights.rank, weights.alpha):
            raise UserError(
                f"the LoRA (rank {weights.rank}, alpha {weights.alpha:g}) is not that of the model (rank {own.rank}, "
                f"alpha {own.alpha:g}){_first(differing)}",
                "load it into a base model without adapters",
            )
    for name, parameter in transformer.named_parameters():
        key = name.replace(f".{ADAPTER}.", ".")
        if key in tensors and key != name:
            # peft casts to the adapted layer's dtype, which may be a coarser one
            parameter.data = tensors[key].to(parameter.device, copy=True)
            parameter.requires_grad_(True)


def _modules(keys: Iterable[str]) -> set[str]:
    return {key.rpartition(".lora_")[0] for key in keys}


def _check_fit(transformer: Any, weights: LoraWeights) -> None:
    places = dict(transformer.named_modules())
    unfit = []
    for key, tensor in weights.tensors.items():
        place = places.get(key.rpartition(".lora_")[0])
        layer = getattr(place, "base_layer", place)
        if not isinstance(layer, nn.Linear):
            unfit.append(key)
            continue
        wide = (weights.rank, layer.in_features) if "lora_A" in key else (layer.out_features, weights.rank)
        if tuple(tensor.shape) != wide:
            unfit.append(f"{key} {list(tensor.shape)} instead of {list(wide)}")
    if unfit:
        raise UserError(
            f"{len(unfit)} of {len(weights.tensors)} LoRA tensors do not fit {type(transformer).__name__}"
            f"{_first(unfit)}",
            "give the LoRA of this base model (14B and 1.3B differ)",
        )


def _first(names: list[str]) -> str:
    return f": {', '.join(names[:3])}{' …' if len(names) > 3 else ''}" if names else ""
