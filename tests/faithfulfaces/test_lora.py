"""LoRA: where it sits, what it costs, and that its files mean the same to everybody."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import WanVACETransformer3DModel
from safetensors.torch import load_file, save_file

from faithfulfaces.config import Lora
from faithfulfaces.export import Style, from_style, read_lora, save_lora, to_style
from faithfulfaces.lora import LoraWeights, inject, load, state
from ffbench.errors import UserError
from tests.faithfulfaces import tiny_vace

STYLES: list[Style] = ["diffusers", "comfyui", "diffsynth"]
SMALL = Lora(rank=4, alpha=6.0)


def trained(seed: int = 0) -> WanVACETransformer3DModel:
    """A tiny transformer whose adapters are not zero."""
    torch.manual_seed(0)
    model = tiny_vace.transformer()
    inject(model, SMALL)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) / 4
    return model


def base() -> WanVACETransformer3DModel:
    torch.manual_seed(0)
    return tiny_vace.transformer()


@torch.no_grad()
def run(model: WanVACETransformer3DModel) -> torch.Tensor:
    g = torch.Generator().manual_seed(1)
    return model(
        hidden_states=torch.randn(1, 16, 3, 4, 4, generator=g),
        timestep=torch.tensor([500]),
        encoder_hidden_states=torch.randn(1, 7, 32, generator=g),
        control_hidden_states=torch.randn(1, 96, 3, 4, 4, generator=g),
        return_dict=False,
    )[0]


# --- where it sits


def test_the_14b_has_288_adapted_modules_and_377_million_trainable_parameters() -> None:
    with torch.device("meta"):
        model = WanVACETransformer3DModel()
    names = inject(model, Lora())
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    # 48 blocks x 2 attentions x 3 projections; each adds 128 x 5120 twice
    assert len(names) == 288 == 48 * 2 * 3
    assert trainable == 288 * 2 * 128 * 5120 == 377_487_360
    assert 17.3e9 < frozen < 17.4e9


def test_the_1_3b_has_270_adapted_modules() -> None:
    with torch.device("meta"):
        model = WanVACETransformer3DModel(
            num_attention_heads=12, num_layers=30, ffn_dim=8960, vace_layers=list(range(0, 30, 2))
        )
    assert len(inject(model, Lora())) == 270 == 45 * 2 * 3
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 270 * 2 * 128 * 1536 == 106_168_320


@pytest.mark.parametrize(
    ("config", "count"),
    [(Lora(rank=2), 30), (Lora(rank=2, stacks=("vace_blocks",)), 12), (Lora(rank=2, attentions=("attn1",)), 15)],
)
def test_the_fields_choose_stacks_and_attentions(config: Lora, count: int) -> None:
    model = tiny_vace.transformer()
    names = inject(model, config)
    assert len(names) == count
    assert {name.split(".")[0] for name in names} == set(config.stacks)
    assert {name.split(".")[2] for name in names} == set(config.attentions)
    assert {name.split(".")[3] for name in names} == {"to_q", "to_k", "to_v"}
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trainable == {f"{n}.lora_{m}.default.weight" for n in names for m in "AB"}


def test_fresh_adapters_change_nothing_and_trained_ones_do() -> None:
    plain = run(base())
    fresh = base()
    inject(fresh, SMALL)
    assert torch.equal(run(fresh), plain)
    assert not torch.allclose(run(trained()), plain)


def test_the_adapter_adds_alpha_over_rank_times_b_a() -> None:
    model = trained()
    layer = model.blocks[1].attn1.to_q
    x = torch.randn(5, 24)
    by_hand = layer.base_layer(x) + (x @ layer.lora_A["default"].weight.T @ layer.lora_B["default"].weight.T) * 6 / 4
    torch.testing.assert_close(layer(x), by_hand)


@pytest.mark.parametrize(
    "wrong", [{"rank": 0}, {"alpha": 0.0}, {"stacks": ()}, {"stacks": ("ffn",)}, {"attentions": ("attn1", "attn1")}]
)
def test_a_wrong_configuration_names_its_field(wrong: dict) -> None:
    with pytest.raises(ValueError, match=f"Lora.{next(iter(wrong))}"):
        Lora(**wrong)


def test_a_plain_wan_transformer_has_no_vace_stack() -> None:
    from diffusers import WanTransformer3DModel

    model = WanTransformer3DModel(num_attention_heads=2, attention_head_dim=12, num_layers=1, text_dim=8, ffn_dim=8)
    with pytest.raises(UserError, match="'vace_blocks'"):
        inject(model, SMALL)


# --- files


@pytest.mark.parametrize("style", STYLES)
def test_a_round_trip_keeps_every_bit(tmp_path: Path, style: Style) -> None:
    weights = state(trained())
    save_lora(tmp_path / "lora.safetensors", weights, style)
    back, found = read_lora(tmp_path / "lora.safetensors")
    assert found == style
    assert (back.alpha, back.rank) == (6.0, 4)
    assert back.tensors.keys() == weights.tensors.keys()
    assert all(torch.equal(back.tensors[key], weights.tensors[key]) for key in back.tensors)
    model = base()
    load(model, back)
    assert torch.equal(run(model), run(trained()))


def test_the_keys_are_those_that_the_tools_read() -> None:
    weights = state(trained())
    diffusers, comfy, diffsynth = (to_style(weights, style)[0].keys() for style in STYLES)
    assert "transformer.vace_blocks.1.attn2.to_v.lora_A.weight" in diffusers
    assert "diffusion_model.vace_blocks.1.cross_attn.v.lora_A.weight" in comfy
    assert "diffusion_model.blocks.2.self_attn.k.alpha" in comfy
    assert "vace_blocks.1.cross_attn.v.lora_A.default.weight" in diffsynth
    assert "blocks.2.self_attn.k.alpha" in diffsynth
    assert (len(diffusers), len(comfy), len(diffsynth)) == (60, 90, 90)


def test_the_wan_names_are_those_of_the_published_checkpoints() -> None:
    """diffusers' own converter from Wan's layout agrees on where each name lies."""
    from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers

    weights = state(trained())
    tensors, _ = to_style(weights, "comfyui")
    wan = {
        key.removeprefix("diffusion_model.").removesuffix(".lora_A.weight") + ".weight": tensor
        for key, tensor in tensors.items()
        if key.endswith("lora_A.weight")
    }
    converted = convert_wan_transformer_to_diffusers(wan)
    assert converted.keys() == {k.replace(".lora_A", "") for k in weights.tensors if "lora_A" in k}
    for key, tensor in converted.items():
        assert torch.equal(tensor, weights.tensors[key.replace(".weight", ".lora_A.weight")])


def test_diffusers_itself_loads_the_file_and_its_output_is_ours(tmp_path: Path) -> None:
    weights = state(trained())
    save_lora(tmp_path / "pytorch_lora_weights.safetensors", weights)
    pipe = tiny_vace.pipeline()
    pipe.transformer = base()
    pipe.load_lora_weights(tmp_path)
    assert not torch.allclose(run(pipe.transformer), run(base()))
    assert torch.equal(run(pipe.transformer), run(trained()))


@pytest.mark.parametrize("style", STYLES)
def test_an_alpha_between_whole_numbers_survives_and_tensors_are_copies(style: Style) -> None:
    weights = LoraWeights(state(trained()).tensors, 2.7)
    tensors, header = to_style(weights, style)
    assert from_style(tensors, header, "x").weights.alpha == 2.7
    before = {key: tensor.clone() for key, tensor in tensors.items()}
    for tensor in weights.tensors.values():
        tensor.zero_()
    assert all(torch.equal(tensors[key], before[key]) for key in before)


def test_kohya_words_and_a_missing_alpha_are_understood() -> None:
    weights = state(trained())
    tensors = {
        key.replace("lora_A", "lora_down").replace("lora_B", "lora_up"): tensor
        for key, tensor in to_style(weights, "comfyui")[0].items()
        if not key.endswith("alpha")
    }
    back = from_style(tensors, {}, "x").weights
    assert back.alpha == back.rank == 4
    assert all(torch.equal(back.tensors[key], weights.tensors[key]) for key in weights.tensors)


@pytest.mark.parametrize("style", STYLES)
def test_unknown_keys_are_refused_by_name(tmp_path: Path, style: Style) -> None:
    tensors, header = to_style(state(trained()), style)
    tensors["lora_te1_text_model_encoder.alpha"] = torch.tensor(1.0)
    save_file(tensors, tmp_path / "lora.safetensors", metadata=header)
    with pytest.raises(UserError, match=r"1 of .* keys .*: lora_te1_text_model_encoder\.alpha") as caught:
        read_lora(tmp_path / "lora.safetensors")
    assert str(tmp_path / "lora.safetensors") in caught.value.what


def test_broken_files_are_the_users_to_mend(tmp_path: Path) -> None:
    (tmp_path / "text.safetensors").write_text("no tensors")
    for name in ("text.safetensors", "absent.safetensors"):
        with pytest.raises(UserError, match="cannot be read"):
            read_lora(tmp_path / name)
    tensors, header = to_style(state(trained()), "diffusers")
    with pytest.raises(UserError, match="lora_adapter_metadata cannot be read"):
        from_style(tensors, {**header, "lora_adapter_metadata": "{"}, "x")
    with pytest.raises(UserError, match="no matrix with a partner"):
        from_style(dict(list(tensors.items())[1:]), header, "x")
    with pytest.raises(UserError, match="0 of 0 keys"):
        from_style({}, {}, "x")
    with pytest.raises(UserError, match="no LoRA style 'kohya'"):
        to_style(state(trained()), "kohya")  # type: ignore[arg-type]


def test_modules_of_unequal_alpha_are_refused() -> None:
    tensors, _ = to_style(state(trained()), "comfyui")
    tensors["diffusion_model.blocks.0.self_attn.q.alpha"] = torch.tensor(1.0)
    with pytest.raises(UserError, match=r"alphas \[1.0, 6.0\]"):
        from_style(tensors, {}, "x")
    del tensors["diffusion_model.blocks.0.self_attn.q.alpha"]
    with pytest.raises(UserError, match="differ between modules"):
        from_style(tensors, {}, "x")


# --- into a model


def test_a_lora_of_another_model_is_refused_and_changes_nothing() -> None:
    weights = state(trained())
    small, wide = tiny_vace.transformer(layers=3), tiny_vace.transformer(width=4)
    del small.blocks[2]
    for model in (small, wide):
        before = run(model) if model is wide else None
        with pytest.raises(UserError, match=r"LoRA tensors do not fit WanVACETransformer3DModel: .*blocks"):
            load(model, weights)
        assert "peft_config" not in vars(model)
        assert before is None or torch.equal(run(model), before)


def test_loading_into_adapted_models_needs_the_same_adapters() -> None:
    model = trained(seed=5)
    load(model, state(trained()))
    assert torch.equal(run(model), run(trained()))
    fewer = base()
    inject(fewer, Lora(rank=4, alpha=6.0, attentions=("attn1",)))
    with pytest.raises(UserError, match="is not that of the model"):
        load(fewer, state(trained()))
    louder = trained()
    with pytest.raises(UserError, match=r"rank 4, alpha 3\) is not that of the model \(rank 4, alpha 6\)"):
        load(louder, LoraWeights(state(trained()).tensors, 3.0))
    assert torch.equal(run(louder), run(trained()))


def test_adapters_keep_the_dtype_of_the_file_or_take_another() -> None:
    weights = state(trained())
    for to, expected in ((None, torch.float32), (torch.bfloat16, torch.bfloat16)):
        model = base()
        model.blocks.bfloat16()
        load(model, weights, to=to)
        assert {p.dtype for n, p in model.named_parameters() if "lora_" in n} == {expected}
        assert all(p.requires_grad == ("lora_" in n) for n, p in model.named_parameters())
        back = state(model).tensors
        assert all(torch.equal(back[key], weights.tensors[key].to(expected)) for key in back)


def test_the_model_shares_no_memory_with_what_was_loaded() -> None:
    weights, model = state(trained()), base()
    load(model, weights)
    before = run(model)
    for tensor in weights.tensors.values():
        tensor.zero_()
    assert torch.equal(run(model), before)


def test_a_model_without_adapters_has_no_state() -> None:
    with pytest.raises(ValueError, match="carries no LoRA"):
        state(base())


def test_saved_tensors_share_no_memory_with_the_model(tmp_path: Path) -> None:
    model = trained()
    save_lora(tmp_path / "a.safetensors", state(model))
    for parameter in model.parameters():
        parameter.data.zero_()
    assert load_file(tmp_path / "a.safetensors")["transformer.blocks.0.attn1.to_q.lora_B.weight"].abs().sum() > 0
    assert LoraWeights(state(model).tensors, 1.0).rank == 4
