"""Stand-In and Concat-ID with a detector and a parser of the user's own, through the command line."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import SegformerConfig, SegformerForSemanticSegmentation, SegformerImageProcessor

from ffbench.errors import UserError
from ffbench.records import Reference
from tests.baselines import tiny_consisid, tiny_wan
from tests.baselines.test_standin import low_rank
from tests.ffbench.extract.test_detect import red_finder

METHODS = ("standin", "concat_id")
DETECTOR, BISENET = "antelopev2/scrfd_10g_bnkps.onnx", "facexlib/parsing_bisenet.pth"

pytestmark = [
    # of insightface, which asks scikit-image so
    pytest.mark.filterwarnings("ignore:.*estimate.*:FutureWarning"),
]


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A weights folder whose detector finds what is red and whose parsers take everything for skin."""
    folder = tmp_path / "weights"
    for part in ("antelopev2", "facexlib"):
        (folder / part).mkdir(parents=True)
    red_finder(folder / DETECTOR)
    monkeypatch.setenv("FFBENCH_WEIGHTS", str(folder))
    return folder


def files(method: str, weights: Path, root: Path) -> dict[str, Any]:
    """The method's own weights and its parser; its settings, without pins."""
    network = tiny_wan.write(root / "base", image=False)["transformer"]
    if method == "standin":
        bisenet = pytest.importorskip("facexlib.parsing.bisenet", exc_type=ImportError)
        parser = bisenet.BiSeNet(num_class=19)
        with torch.no_grad():
            parser.conv_out.conv_out.weight[1].fill_(1)
        torch.save(parser.state_dict(), weights / BISENET)
        torch.save(low_rank(), root / "standin.ckpt")
        return {"base": root / "base", "checkpoint": root / "standin.ckpt"}
    torch.manual_seed(0)
    segformer = SegformerForSemanticSegmentation(
        SegformerConfig(hidden_sizes=[8] * 4, decoder_hidden_size=8, num_attention_heads=[1] * 4, num_labels=19)
    )
    with torch.no_grad():
        segformer.decode_head.classifier.bias[1] = 100
    segformer.save_pretrained(weights / "jonathandinu/face-parsing")
    SegformerImageProcessor(size={"height": 64, "width": 64}).save_pretrained(weights / "jonathandinu/face-parsing")
    torch.save(tiny_wan.write_original(root / "original", network), root / "first_stage.pt")
    return {"base": root / "base", "checkpoint": root / "first_stage.pt"}


def pinned(weights: Path, *names: str) -> str:
    """The sha256 of a list of files in the weights folder."""
    lines = [f"{hashlib.sha256((weights / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
    (weights / "SHA256SUMS").write_text("".join(lines))
    return hashlib.sha256((weights / "SHA256SUMS").read_bytes()).hexdigest()


@pytest.mark.parametrize("method", METHODS)
def test_the_face_is_found_and_cut_by_networks_that_the_user_vouches_for(
    method: str, weights: Path, tmp_path: Path
) -> None:
    folders = files(method, weights, tmp_path)
    people = []
    for seed, name in enumerate(["ann", "bob"]):
        tiny_consisid.portrait(tmp_path / f"{name}.png", seed=seed, face=name == "ann")
        people.append(Reference(str(tmp_path / f"{name}.png"), ""))
    pins = pinned(weights, *([DETECTOR, BISENET] if method == "standin" else [DETECTOR]))
    ann = tiny_wan.generated(method, tmp_path, people[0], {**folders, "pins": pins}, people[1])
    assert ann.provenance["notes"]["reference_face"] == "largest" and ann.settings["reference"] == "face"
    (run,) = (tmp_path / "runs").glob(f"*/{method}")
    assert "none: whole photograph" in (run / "generations.jsonl").read_text(), "bob's picture has nothing red"


@pytest.mark.parametrize("method", METHODS)
def test_without_the_users_word_they_are_not_opened(
    method: str, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = files(method, weights, tmp_path)
    pins = pinned(weights, DETECTOR)
    monkeypatch.chdir(weights)

    def refused(match: str, said: str) -> None:
        with pytest.raises(UserError, match=match) as caught:
            tiny_wan.loaded(method, folders, pins=said)
        assert len(str(caught.value).splitlines()) == 2

    refused("scrfd_10g_bnkps.onnx has sha256 .*, not 5838f7fe0536", "")
    refused("SHA256SUMS has sha256", "0" * 64)
    if method == "standin":
        refused("parsing_bisenet.pth has sha256 .*, not 468e13ca13a9", pins)
    with (weights / DETECTOR).open("ab") as stream:
        stream.write(b"\n")
    refused("scrfd_10g_bnkps.onnx has sha256", pins)
    (weights / DETECTOR).unlink()
    refused("scrfd_10g_bnkps.onnx is not on this machine", pins)
