"""Which networks stay on a GPU together: at the edges, as the user wishes, and as the doctor says it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from ffbench import doctor, offload
from ffbench.cards import Card
from ffbench.errors import UserError
from ffbench.methods import METHODS, card, find
from ffbench.offload import ROOM_GIB, level, plan

SIZES = (30.0, 10.0, 0.5)


@pytest.mark.parametrize(
    ("gpu", "expected"),
    [
        (ROOM_GIB + 40.5, "together"),
        (ROOM_GIB + 40.4, "turns"),
        (ROOM_GIB + 30.0, "turns"),
        (ROOM_GIB + 29.9, "too small"),
    ],
)
def test_the_level_changes_where_the_sums_do(gpu: float, expected: str) -> None:
    assert level(SIZES, gpu) == expected


def test_the_plan_is_the_rule_in_words() -> None:
    said = plan({"transformer": 30.0, "text": 10.0})
    assert said == "transformer 30, text 10 GiB; with 24 to work in together from 64 GiB, in turns from 54"
    assert level((30.0, 10.0), 64.0) == "together" and level((30.0, 10.0), 63.9) == "turns"
    assert level((30.0, 10.0), 54.0) == "turns" and level((30.0, 10.0), 53.9) == "too small"


def test_only_two_wishes_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(offload.VARIABLE, raising=False)
    assert offload.wish() == ""
    for wish in ("always", "never"):
        monkeypatch.setenv(offload.VARIABLE, wish)
        assert offload.wish() == wish
    monkeypatch.setenv(offload.VARIABLE, "sometimes")
    with pytest.raises(UserError, match="FFBENCH_OFFLOAD=sometimes is neither"):
        offload.wish()


def gib(network: torch.nn.Module, size: int) -> float:
    return sum(parameter.numel() for parameter in network.parameters()) * size / 2**30


def test_the_cards_sizes_are_those_of_the_real_configurations() -> None:
    from diffusers import AutoencoderKLWan, WanTransformer3DModel, WanVACETransformer3DModel
    from transformers import CLIPVisionConfig, CLIPVisionModel, UMT5Config, UMT5EncoderModel

    shape = {"d_model": 4096, "d_ff": 10240, "num_layers": 24, "num_heads": 64, "d_kv": 64, "vocab_size": 256384}
    clip = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 16}
    with torch.device("meta"):
        plain = gib(WanTransformer3DModel(), 2)
        shown = gib(WanTransformer3DModel(in_channels=36, image_dim=1280, added_kv_proj_dim=5120), 2)
        small = gib(WanTransformer3DModel(num_attention_heads=12, ffn_dim=8960, num_layers=30), 2)
        vace = gib(WanVACETransformer3DModel(), 2)
        text = gib(UMT5EncoderModel(UMT5Config(feed_forward_proj="gated-gelu", **shape)), 2)
        image = gib(CLIPVisionModel(CLIPVisionConfig(patch_size=14, **clip)), 4)
        codec = gib(AutoencoderKLWan(), 4)
    own = {"phantom": plain, "magref": shown, "skyreels_a2": shown, "concat_id": small, "vace": vace}
    # the low-rank weights of q, k and v at rank 128, in float32
    own["standin"] = plain + 40 * 3 * 2 * 128 * 5120 * 4 / 2**30
    for name, transformer in own.items():
        wanted = {"transformer": transformer, "text_encoder": text, "autoencoder": codec}
        if "image_encoder" in card(name).parts:
            wanted["image_encoder"] = image
        assert dict(card(name).parts) == pytest.approx(wanted, abs=0.06), name


def test_another_base_has_no_sizes() -> None:
    assert find("vace").parts and not find("vace@1.3b").parts and find("concat_id@first-stage").parts


def gpu(monkeypatch: pytest.MonkeyPatch, *memories: float) -> list[doctor.Check]:
    """What the doctor says of GPUs of these sizes."""
    cards = [SimpleNamespace(total_memory=int(size * 2**30), name="a GPU") for size in memories]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(cards))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(cards))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: cards[index])
    monkeypatch.delenv(offload.VARIABLE, raising=False)
    return doctor._offload()


def sized() -> list[Card]:
    return [one for one in map(card, METHODS) if one.parts]


@pytest.mark.parametrize("memory", [16.0, 24.0, 40.0, 48.0, 64.0, 80.0, 139.0])
def test_the_doctor_names_every_method_once_under_the_level_that_its_adapter_takes(
    monkeypatch: pytest.MonkeyPatch, memory: float
) -> None:
    from baselines.wan.networks import fits

    checks = gpu(monkeypatch, memory)
    said = {
        name: check.detail.partition(":")[0] for check in checks for name in check.detail.split(": ")[1].split(", ")
    }
    assert said.keys() == {one.name for one in sized()}
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (0, int(memory * 2**30)))
    for one in sized():
        with torch.device("meta"):
            networks = [
                torch.nn.Linear(1, int(size * 2**29), bias=False).to(torch.bfloat16) for size in one.parts.values()
            ]
        assert fits("cuda:0", networks) == (said[one.name] == "together"), one.name
    assert all(check.status == "ok" or "larger GPU" in check.fix for check in checks)


def test_the_doctor_without_a_gpu_with_two_and_with_a_wish(monkeypatch: pytest.MonkeyPatch) -> None:
    (check,) = gpu(monkeypatch)
    totals = sorted(sum(one.parts.values()) + ROOM_GIB for one in sized())
    assert check.status == "note" and f"{totals[0]:.0f} to {totals[-1]:.0f} GiB" in check.detail
    assert {check.name for check in gpu(monkeypatch, 24.0, 80.0)} == {"gpu 0", "gpu 1"}
    monkeypatch.setenv(offload.VARIABLE, "always")
    (check,) = doctor._offload()
    assert check.detail.startswith("FFBENCH_OFFLOAD=always: networks go onto a GPU in turns")
    monkeypatch.setenv(offload.VARIABLE, "perhaps")
    (check,) = doctor._offload()
    assert check.status == "problem" and check.fix
