from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from ffbench.errors import UserError
from ffbench.protocols import KINDS, PROTOCOLS, SLOTS, get_protocol, with_networks


def test_every_protocol_is_well_formed() -> None:
    for protocol in PROTOCOLS.values():
        assert "detector" in protocol.networks
        assert set(protocol.networks) <= set(SLOTS)
        assert all(network.kind in KINDS[slot] for slot, network in protocol.networks.items())
        assert len(set(protocol.metrics)) == len(protocol.metrics)
        assert protocol.id == f"{protocol.name}@{protocol.version}"
    assert get_protocol("consisid").networks["detector"].weights == "buffalo_l/det_10g.onnx"
    assert (get_protocol("consisid").face_sampler, get_protocol("consisid").text_sampler) == ("linspace16", "stride16")


def test_an_unknown_protocol_names_the_known() -> None:
    with pytest.raises(UserError) as caught:
        get_protocol("vbench")
    assert "standard" in caught.value.fix


def networks(folder: Path, text: str) -> Path:
    (folder / "rec.onnx").write_bytes(b"one")
    (folder / "aux.npz").write_bytes(b"two")
    file = folder / "small.toml"
    file.write_text(text)
    return file


def test_other_networks_make_another_protocol(tmp_path: Path) -> None:
    file = networks(
        tmp_path,
        '[arc]\nkind = "arcface-onnx"\nfile = "rec.onnx"\n[pose]\nkind="3ddfa"\nfile="rec.onnx"\naux="aux.npz"',
    )
    base = get_protocol("standard")
    variant = with_networks(base, file)
    assert variant.id.startswith("standard@1~")
    assert Path(variant.networks["arc"].weights) == (tmp_path / "rec.onnx").resolve()
    assert ("aux", str((tmp_path / "aux.npz").resolve())) in variant.networks["pose"].options
    assert variant.networks["cur"] == base.networks["cur"]
    assert variant.track_recipe != base.track_recipe
    (tmp_path / "rec.onnx").write_bytes(b"changed")
    assert with_networks(base, file).id != variant.id


def test_where_a_file_lies_is_no_part_of_the_id(tmp_path: Path) -> None:
    text = '[pose]\nkind="3ddfa"\nfile="rec.onnx"\naux="aux.npz"'
    made = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        made.append(with_networks(get_protocol("standard"), networks(tmp_path / name, text)))
    assert made[0].id == made[1].id
    assert made[0].track_recipe == made[1].track_recipe


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("[arcc]\nkind='arcface-onnx'", "no slot 'arcc'"),
        ("[arc]\nkind='mtcnn'", "no kind 'mtcnn'"),
        ("[arc]\nkind='arcface-onnx'\nfile='gone.onnx'", "is no file"),
        ("", "names no network"),
        ("[arc", "small.toml"),
        ("arc = 3", "no slot"),
    ],
)
def test_a_bad_networks_file_says_what_is_wrong(tmp_path: Path, text: str, word: str) -> None:
    with pytest.raises(UserError, match=word):
        with_networks(get_protocol("standard"), networks(tmp_path, text))


def test_a_missing_networks_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.toml"):
        with_networks(get_protocol("standard"), tmp_path / "none.toml")


def test_aggregation_alone_shares_tracks() -> None:
    base = get_protocol("consisid")
    assert dataclasses.replace(base, clamp=False).track_recipe == base.track_recipe
    assert dataclasses.replace(base, ladder=("320",)).track_recipe != base.track_recipe
