"""`ffbench generate --method faithfulfaces` with a tiny real checkpoint and base, in the method's own process."""

from __future__ import annotations

import hashlib
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from baselines.faithfulfaces.adapter import SAMPLING, FaithfulFaces
from faithfulfaces.model import LORA, WEIGHTS, save_model
from faithfulfaces.pipeline import FaithfulFacesPipeline, Sampling
from ffbench.cards import card_gaps
from ffbench.contract import RefusedError, Request, Runtime
from ffbench.errors import UserError
from ffbench.generate import GenerateOptions, generate
from ffbench.methods import card, find
from ffbench.records import Case, Reference
from ffbench.suites import Suite
from tests.faithfulfaces import tiny_vace

RUNTIME = Runtime("cpu", "")
SIZE = {"width": 32, "height": 16, "num_frames": 5, "steps": 2, "dtype": "float32"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A base, and a checkpoint that names it."""
    root = tmp_path_factory.mktemp("faithfulfaces")
    base = tiny_vace.write(root / "base")
    config = replace(tiny_vace.CONFIG, base=str(base))
    save_model(root / "checkpoint", config, tiny_vace.parts(config, trained=True))
    return {"checkpoint": str(root / "checkpoint"), "base": str(base)}


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Suite:
    """A person twice, and a photograph of nobody."""
    folder = tmp_path_factory.mktemp("photos")
    cases = []
    for person, photo in {"ann": tiny_vace.portrait(), "nobody": tiny_vace.landscape()}.items():
        photo.save(folder / f"{person}.png")
        sha256 = hashlib.sha256((folder / f"{person}.png").read_bytes()).hexdigest()
        reference = Reference(str(folder / f"{person}.png"), sha256)
        for index, prompt in enumerate(["a person boxes", "a person turns the head"]):
            cases.append(Case("mine", "1", f"{person}-p{index}", person, (reference,), f"p{index}", prompt))
    return Suite("mine", "1", "for tests", tuple(cases[:3]))


def settings(folders: dict[str, str], name: str = "faithfulfaces", **values: object) -> dict:
    return {**find(name).settings, **SIZE, "checkpoint": folders["checkpoint"], **values}


def request(suite: Suite, index: int = 0, seed: int = 5) -> Request:
    return Request(suite.cases[index], seed, "")


def frames(folders: dict[str, str], suite: Suite, name: str = "faithfulfaces") -> np.ndarray:
    method = FaithfulFaces(settings(folders, name))
    method.load(RUNTIME)
    (output,) = method.generate([request(suite)])
    assert output.frames is not None
    return output.frames


def test_the_card_is_complete_and_its_defaults_are_the_papers() -> None:
    assert card_gaps(card("faithfulfaces")) == []
    assert set(SAMPLING.values()) == {field.name for field in fields(Sampling)}, "no option without a setting"
    own = card("faithfulfaces").settings
    assert Sampling(**{field: own[name] for name, field in SAMPLING.items()}) == Sampling()
    assert (own["width"], own["height"], own["num_frames"], own["fps"], own["steps"]) == (832, 480, 81, 16.0, 50)
    assert (own["guidance"], own["shift"], own["dtype"]) == (5.0, 16.0, "bfloat16")


def test_generate_makes_a_video_and_a_record_of_each_case(
    folders: dict[str, str], suite: Suite, tmp_path: Path
) -> None:
    chosen = tuple(f"{key}={value}" for key, value in {**SIZE, "checkpoint": folders["checkpoint"]}.items())
    summary = generate(suite, "faithfulfaces", tmp_path / "runs", GenerateOptions(settings=chosen))
    log = "\n".join(path.read_text("utf-8", "replace") for path in summary.run.root.rglob("*.log"))
    assert (summary.ok, summary.failed, summary.refused) == (2, 0, 1), log
    made = {record.case_id: record for record in summary.run.generations().values()}
    assert made["nobody-p0"].status == "refused" and "holds no face" in made["nobody-p0"].error
    videos = [made[name].video_sha256 for name in ("ann-p0", "ann-p1")]
    assert len(set(videos)) == 2
    notes = made["ann-p0"].provenance["notes"]
    for name in (WEIGHTS, LORA):
        stored = hashlib.sha256((Path(folders["checkpoint"]) / name).read_bytes()).hexdigest()
        assert notes[f"sha256 {name}"] == stored
    assert notes["reference_yaw"] > 30 and notes["faces"].startswith("mtcnn:")


def test_the_adapter_makes_what_the_pipeline_makes(folders: dict[str, str], suite: Suite) -> None:
    import torch

    pipe = FaithfulFacesPipeline.from_pretrained(folders["checkpoint"], dtype=torch.float32)
    pipe.vace.set_progress_bar_config(disable=True)
    case = suite.cases[0]
    size = {key: SIZE[key] for key in ("width", "height", "num_frames", "steps")}
    expected = pipe(Image.open(case.references[0].path), case.prompt, 5, **size)
    assert np.array_equal(frames(folders, suite), expected)


def test_every_variant_makes_another_video(folders: dict[str, str], suite: Suite) -> None:
    variants = sorted(card("faithfulfaces").variants)
    assert variants == [*(f"euler-noise-{d}" for d in (10, 15, 20, 5)), "no-aligner", "no-euler"]
    kinds = ["faithfulfaces", *(f"faithfulfaces@{name}" for name in variants)]
    assert len({frames(folders, suite, name).tobytes() for name in kinds}) == 7
    for degrees in (5, 10, 15, 20):
        assert find(f"faithfulfaces@euler-noise-{degrees}").settings["euler_noise_degrees"] == degrees


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"checkpoint": ""}, "has no checkpoint"),
        ({"checkpoint": "absent"}, "the checkpoint absent is no folder"),
        ({"base": "Wan-AI/Wan2.1-VACE-14B-diffusers"}, "the base Wan-AI/Wan2.1-VACE-14B-diffusers is no folder"),
        ({"dtype": "int8"}, "no dtype 'int8'"),
        ({"faces": "guess"}, "no faces 'guess'"),
        ({"num_frames": 80}, "num_frames = 80"),
    ],
)
def test_what_is_missing_or_wrong_names_its_setting(folders: dict[str, str], values: dict, match: str) -> None:
    with pytest.raises(UserError, match=match) as caught:
        FaithfulFaces(settings(folders, **values)).load(RUNTIME)
    key = next(iter(values))
    assert key in caught.value.fix
    assert len(str(caught.value).splitlines()) == 2


def test_the_papers_own_reader_asks_for_its_weights(
    folders: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FFBENCH_WEIGHTS", str(tmp_path))
    with pytest.raises(UserError, match="not on this machine") as caught:
        FaithfulFaces(settings(folders, faces="paper")).load(RUNTIME)
    assert "ffbench weights pull antelopev2" in caught.value.fix


def test_a_reference_without_a_face_is_refused_and_the_next_is_made(folders: dict[str, str], suite: Suite) -> None:
    method = FaithfulFaces(settings(folders, faces="weightless", base=folders["base"]))
    method.load(RUNTIME)
    with pytest.raises(RefusedError, match="holds no face"):
        list(method.generate([request(suite, 2)]))
    assert len(list(method.generate([request(suite, 1)]))) == 1
