from __future__ import annotations

import dataclasses

import pytest
import torch

from faithfulfaces.aligner import PoseSharedIdentityAligner, pixels, pool_correlations
from faithfulfaces.config import Aligner

TINY = Aligner(elements=12, dim=8, image_size=8, patch=4, depth=0, heads=2)


def model(**changes: object) -> PoseSharedIdentityAligner:
    torch.manual_seed(0)
    return PoseSharedIdentityAligner(dataclasses.replace(TINY, **changes)).double()


@pytest.mark.parametrize("pooling", ["max", "mean", "sum"])
def test_equations_3_and_4_against_the_naive_form(pooling: str) -> None:
    aligner = model(pooling=pooling)
    crops, angles = torch.randn(3, 3, 8, 8).double(), torch.randn(3, 3).double() * 30
    s, w = aligner(crops, angles)
    e = aligner.tokens(crops, angles)
    product = torch.einsum("bld,cd->blc", e, aligner.dictionary_CD)
    want = {"max": product.amax(1), "mean": product.mean(1), "sum": product.sum(1)}[pooling]
    torch.testing.assert_close(w, want, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(s, want @ aligner.dictionary_CD, rtol=1e-10, atol=1e-12)
    assert s.shape == (3, 8)
    assert w.shape == (3, 12)


def test_gradient_of_the_whole_equals_the_naive_form() -> None:
    aligner = model(depth=1)
    crops, angles = torch.randn(2, 3, 8, 8).double(), torch.randn(2, 3).double() * 30
    parameters = list(aligner.parameters())
    mine = torch.autograd.grad(aligner(crops, angles).s_BD.square().sum(), parameters)
    w = torch.einsum("bld,cd->blc", aligner.tokens(crops, angles), aligner.dictionary_CD).amax(1)
    theirs = torch.autograd.grad((w @ aligner.dictionary_CD).square().sum(), parameters)
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


def test_tokens_are_the_patches_in_reading_order() -> None:
    aligner = model()
    with torch.no_grad():
        aligner.positions_LD.zero_()
    crops = torch.zeros(1, 3, 8, 8).double()
    crops[:, :, :4, 4:] = 1  # the second patch in reading order
    moved = (aligner.tokens(crops, torch.zeros(1, 3)) - aligner.tokens(crops * 0, torch.zeros(1, 3))).abs().sum(-1)[0]
    assert (moved > 0).tolist() == [False, True, False, False]


def test_euler_angles_matter_once_trained_and_never_without() -> None:
    aligner = model()
    assert aligner.euler is not None
    crops = torch.randn(1, 3, 8, 8).double()
    for mlp in aligner.euler.angles:
        torch.nn.init.normal_(mlp[2].weight)
    assert not torch.allclose(aligner(crops, torch.zeros(1, 3)).s_BD, aligner(crops, torch.full((1, 3), 40.0)).s_BD)
    without = model(euler=False)
    assert torch.equal(without(crops).s_BD, without(crops, torch.full((1, 3), 40.0)).s_BD)
    assert not [name for name, _ in without.named_parameters() if "euler" in name]


def test_a_block_is_torch_s_pre_norm_encoder_layer() -> None:
    aligner = model(depth=1)
    block = aligner.blocks[0]
    oracle = torch.nn.TransformerEncoderLayer(8, 2, 32, 0.0, "gelu", batch_first=True, norm_first=True).double()
    oracle.load_state_dict(
        {
            "self_attn.in_proj_weight": block.qkv.weight,
            "self_attn.in_proj_bias": block.qkv.bias,
            "self_attn.out_proj.weight": block.out.weight,
            "self_attn.out_proj.bias": block.out.bias,
            "linear1.weight": block.mlp[0].weight,
            "linear1.bias": block.mlp[0].bias,
            "linear2.weight": block.mlp[2].weight,
            "linear2.bias": block.mlp[2].bias,
            **{f"norm{i}.{n}": getattr(getattr(block, f"norm{i}"), n) for i in (1, 2) for n in ("weight", "bias")},
        }
    )
    x = torch.randn(2, 4, 8).double()
    torch.testing.assert_close(block(x), oracle(x), rtol=1e-10, atol=1e-12)


def test_bad_input_names_what_is_wrong() -> None:
    aligner = model()
    with pytest.raises(ValueError, match=r"\[B,3,8,8\]"):
        aligner(torch.zeros(1, 3, 9, 8).double(), torch.zeros(1, 3))
    with pytest.raises(ValueError, match=r"Aligner\.euler"):
        aligner(torch.zeros(1, 3, 8, 8).double())


@pytest.mark.parametrize(
    ("field", "value"),
    [("patch", 5), ("elements", 0), ("depth", -1), ("pooling", "median"), ("shortest_period", 0.0), ("dim", 0)],
)
def test_config_errors_name_the_field(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"Aligner.{field}"):
        dataclasses.replace(TINY, **{field: value})


def test_paper_size_on_the_meta_device() -> None:
    with torch.device("meta"):
        aligner = PoseSharedIdentityAligner(Aligner())
    assert aligner.config.num_tokens == 196
    assert aligner.dictionary_CD.shape == (4096, 1024)
    assert sum(p.numel() for p in aligner.parameters()) == 4096 * 1024 + 196 * 1024 + (3 * 256 + 1) * 1024 + 3 * (
        129 * 1024 + 1025 * 1024
    )


def test_pixels_run_from_minus_one_to_one() -> None:
    got = pixels(torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 3, 1, 1)).flatten()
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, torch.tensor([-1.0, -0.6, 1.0]))


def test_at_the_start_elements_have_unit_length_and_positions_are_small() -> None:
    torch.manual_seed(0)
    aligner = PoseSharedIdentityAligner(Aligner(elements=500, dim=64)).requires_grad_(False)
    assert float(aligner.dictionary_CD.square().sum(1).mean()) == pytest.approx(1, rel=0.03)
    assert float(aligner.positions_LD.std()) == pytest.approx(0.02, rel=0.05)
    assert abs(float(aligner.dictionary_CD.mean())) < 0.01


def test_every_block_takes_its_turn() -> None:
    aligner = model(depth=3)
    crops, angles = torch.randn(2, 3, 8, 8).double(), torch.zeros(2, 3)
    x = aligner.tokenizer(crops).flatten(2).transpose(1, 2) + aligner.positions_LD
    for block in aligner.blocks:
        x = block(x)
    torch.testing.assert_close(aligner.tokens(crops, angles), x, rtol=1e-10, atol=1e-12)


def test_sum_and_mean_differ_by_the_number_of_tokens() -> None:
    e, d = torch.randn(2, 5, 3).double(), torch.randn(4, 3).double()
    torch.testing.assert_close(pool_correlations(e, d, "sum"), 5 * pool_correlations(e, d, "mean"))
