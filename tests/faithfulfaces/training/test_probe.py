from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from faithfulfaces.config import WEIGHTLESS_FACES, Probe, Train
from faithfulfaces.faces import Face
from faithfulfaces.learner import Learner, build
from faithfulfaces.model import load_model
from faithfulfaces.parallel import World
from faithfulfaces.pipeline import FaithfulFacesPipeline, Sampling
from faithfulfaces.recipes import debug
from faithfulfaces.shards import BLANK, ShardClips
from faithfulfaces.trainer import Trainer
from faithfulfaces.training import probe as probing
from faithfulfaces.training.facesim import FaceSim
from faithfulfaces.training.log import read_log
from faithfulfaces.training.probe import BEST, CRITERION, RESULT, GenerationProbe, decoded, load_cases, sampled
from faithfulfaces.training.release import release
from ffbench.errors import UserError
from ffbench.extract.extractor import Extractor
from ffbench.metrics.identity import facesim, missing_as_zero
from ffbench.protocols import PROTOCOLS, Protocol
from ffbench.video import Clip, Frames
from tests.faithfulfaces import encoded, ranks, tiny_vace

ALONE = World(0, 1, torch.device("cpu"), None)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_vace.write(tmp_path_factory.mktemp("base") / "vace")


@pytest.fixture(scope="module")
def folder(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    person = tiny_vace.portrait()
    return encoded.encoded(tmp_path_factory.mktemp("clips"), base, [person, person.rotate(10), person.rotate(-10)])


@pytest.fixture(scope="module")
def protocol(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Protocol]:
    made = encoded.protocol(tmp_path_factory.mktemp("networks"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PROTOCOLS, "tiny", made)  # type: ignore[arg-type]
        yield made


def with_probe(base: Path, folder: Path, **changes: object) -> Train:
    return dataclasses.replace(
        encoded.recipe(base, folder), probe=dataclasses.replace(encoded.probe(folder), **changes)
    )


def trained(config: Train) -> Learner:
    """With weights away from the zeros of LoRA's B and of the prior."""
    learner = build(config, ALONE)
    with torch.no_grad():
        for name, parameter in sorted(learner.named_parameters()):
            if parameter.requires_grad and not parameter.any():
                parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name))) * 0.3)
    return learner


@pytest.mark.parametrize("index", [0, 1])
def test_a_case_is_what_the_pipeline_makes_of_the_same_weights(
    base: Path, folder: Path, tmp_path: Path, index: int
) -> None:
    config = with_probe(base, folder)
    assert config.probe is not None
    learner = trained(config)
    cases = load_cases(folder, 2, 16)
    vae, scheduler = probing.load_vae(base), probing.load_scheduler(base)
    with torch.no_grad():
        ours = decoded(vae, sampled(learner, cases, index, config.probe, scheduler))
        other_seed = dataclasses.replace(config.probe, seed=5)
        assert (decoded(vae, sampled(learner, cases, index, other_seed, scheduler)) != ours).any()
    release(learner, tmp_path / "model", ALONE)
    pipe = FaithfulFacesPipeline.from_pretrained(
        tmp_path / "model", base=base, dtype=torch.float32, faces=WEIGHTLESS_FACES
    )
    case = cases.cases[index]
    face = Face(np.zeros(4, np.float32), case.photograph, case.crop.euler)
    sampling = Sampling(
        width=encoded.WIDTH, height=encoded.HEIGHT, num_frames=encoded.FRAMES, steps=2, guidance=3.0, flow_shift=3.0
    )
    prompt = ("a person turns the head", "a person boxes")[index]
    theirs = pipe.generate(face, prompt, index, sampling)
    assert ours.shape == (encoded.FRAMES, encoded.HEIGHT, encoded.WIDTH, 3)
    # the pipeline's LoRA is the same product in the same order; eight bits hide the rest
    assert int(np.abs(ours.astype(int) - theirs).max()) <= 1
    without = pipe.generate(face, prompt, index, dataclasses.replace(sampling, aligner=False))
    assert int(np.abs(ours.astype(int) - without).max()) > 1, "the prior shows, or this shows nothing"


def still(frames: np.ndarray) -> Clip:
    number = np.linspace(0, len(frames) - 1, 16).round().astype(np.int64)
    kept = Frames(frames[number], number, number / 16)
    return Clip({"time16": kept, "linspace16": kept}, frames.shape[2:0:-1], 16.0, len(frames), len(frames) / 16)


def test_facesim_is_what_the_benchmark_measures(protocol: Protocol) -> None:
    person = encoded.portrait()
    frames = np.stack([np.roll(person, shift, axis=1) // (1 + shift % 2) for shift in range(9)])
    frames[4] = 0
    ours = FaceSim(protocol, "arc")
    reference = ours.reference(person, "portrait")
    found, zeroed = ours.frames(reference, frames, 16)
    extractor = Extractor(protocol)
    (track,) = extractor.track([still(frames)])
    row = extractor.reference(person).embeddings["arc"][0]
    np.testing.assert_allclose(reference, row, atol=2e-6)
    assert 0 < found.num_scored < 16
    assert found.value == pytest.approx(facesim(row, track.embeddings["arc"]).value, abs=2e-6)
    assert zeroed.value == pytest.approx(missing_as_zero(row, track.embeddings["arc"]).value, abs=2e-6)
    assert ours.id.startswith("tiny@1 arc ")


def test_a_slot_that_a_protocol_lacks_is_named(protocol: Protocol) -> None:
    with pytest.raises(UserError, match="protocol tiny has no face encoder 'cur'"):
        FaceSim(protocol, "cur")


def test_a_missing_face_is_missing_and_never_wins(
    base: Path, folder: Path, protocol: Protocol, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = with_probe(base, folder)
    learner = trained(config)
    generation = GenerationProbe(config, ALONE, tmp_path)
    person = encoded.portrait()
    video = np.stack([person] * 5)
    made: list[np.ndarray] = []
    monkeypatch.setattr(probing, "decoded", lambda *_: made.pop(0))

    made[:] = [video * 0, video * 0]
    nothing = generation.measure(learner)
    assert math.isnan(nothing["probe_facesim"])
    assert (nothing[CRITERION], nothing["probe_scored"]) == (0.0, 0.0)

    made[:] = [video, video * 0]
    half = generation.measure(learner)
    # the first case's reference is this very picture, but for JPEG
    assert half["probe_facesim"] == pytest.approx(1, abs=0.01)
    assert half[CRITERION] == pytest.approx(half["probe_facesim"] / 2)
    assert half["probe_scored"] == 0.5

    made[:] = [video, video]
    both = generation.measure(learner)
    assert both["probe_scored"] == 1
    assert both[CRITERION] == pytest.approx(both["probe_facesim"])
    assert both["probe_facesim"] < half["probe_facesim"], "the second person's head is turned"


def test_the_best_model_is_kept(base: Path, folder: Path, protocol: Protocol, tmp_path: Path) -> None:
    config = with_probe(base, folder)
    learner = trained(config)
    generation = GenerationProbe(config, ALONE, tmp_path)

    def offer(step: int, value: float) -> bool:
        with torch.no_grad():
            learner.aligner.dictionary_CD.fill_(step)
        return generation.keep_best(learner, step, {CRITERION: value})

    assert [offer(1, 0.2), offer(2, 0.1), offer(3, 0.2), offer(4, 0.3)] == [True, False, False, True]
    kept = json.loads((tmp_path / BEST / RESULT).read_text("utf-8"))
    assert (kept["step"], kept[CRITERION]) == (4, 0.3)
    _, parts = load_model(tmp_path / BEST)
    assert bool((parts.aligner.dictionary_CD == 4).all())
    assert not (tmp_path / "best.new").exists()
    # a resumed run knows what it has to beat
    generation = GenerationProbe(config, ALONE, tmp_path)
    assert [offer(5, 0.3), offer(6, 0.31)] == [False, True]


def test_an_interrupted_change_of_the_best_is_finished(
    base: Path, folder: Path, protocol: Protocol, tmp_path: Path
) -> None:
    (tmp_path / "best.new").mkdir()
    config = with_probe(base, folder)
    assert GenerationProbe(config, ALONE, tmp_path).best == -math.inf
    (tmp_path / "best.new" / RESULT).write_text(json.dumps({CRITERION: 0.5}), "utf-8")
    assert GenerationProbe(config, ALONE, tmp_path).best == 0.5
    assert (tmp_path / BEST / RESULT).is_file()


def test_a_run_probes_logs_and_keeps_its_best(base: Path, folder: Path, protocol: Protocol, tmp_path: Path) -> None:
    config = dataclasses.replace(with_probe(base, folder, every=2), steps=5, log_every=4)
    Trainer(config, ShardClips(folder, 16), ALONE, tmp_path).train()
    log = read_log(tmp_path / "log.jsonl")
    assert [line["step"] for line in log] == [2, 4, 5], "probes, and the end"
    assert all(line[CRITERION] == 0 and line["probe_facesim"] is None for line in log), "random weights show no face"
    assert all(line["loss_fm"] > 0 for line in log)
    assert json.loads((tmp_path / BEST / RESULT).read_text("utf-8"))["step"] == 2
    assert load_model(tmp_path / BEST)[1].lora is not None


def test_probing_changes_nothing_in_the_training(base: Path, folder: Path, protocol: Protocol, tmp_path: Path) -> None:
    weights = []
    for name, config in (("with", with_probe(base, folder, every=1)), ("without", encoded.recipe(base, folder))):
        (tmp_path / name).mkdir()
        trainer = Trainer(dataclasses.replace(config, steps=3), ShardClips(folder, 16), ALONE, tmp_path / name)
        trainer.train()
        weights.append({name: p.detach().clone() for name, p in trainer.learner.named_parameters()})
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.slow
def test_two_processes_measure_what_one_measures_and_keep_one_model(
    base: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three cases on two ranks: one of them makes a case twice, which must not count twice."""
    (tmp_path / "base").symlink_to(base)
    (tmp_path / "clips").symlink_to(folder.parent)
    done = ranks.launch(2, "probe", str(tmp_path / "two.safetensors"))
    assert done.returncode == 0, done.stderr
    two = load_file(tmp_path / "two.safetensors")
    monkeypatch.setattr(probing, "decoded", probing.decoded)
    monkeypatch.setattr("ffbench.protocols.PROTOCOLS", dict(PROTOCOLS))
    one = ranks.probed(tmp_path, ALONE)
    assert one.keys() == two.keys() and {"probe_facesim", CRITERION, "probe_scored"} <= one.keys()
    assert float(one["probe_scored"]) == 1 and 0.3 < float(one[CRITERION]) < 0.999
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-3, atol=1e-6, msg=name)
    kept = [load_model(tmp_path / f"run{size}" / BEST)[1] for size in (1, 2)]
    for mine, theirs in zip(*(part.aligner.state_dict().values() for part in kept), strict=True):
        assert torch.equal(mine, theirs)
    assert kept[0].lora is not None and kept[1].lora is not None
    assert all(torch.equal(kept[0].lora.tensors[key], tensor) for key, tensor in kept[1].lora.tensors.items())
    for size in (1, 2):
        about = json.loads((tmp_path / f"run{size}" / BEST / RESULT).read_text("utf-8"))
        assert about["step"] == 7 and about[CRITERION] == pytest.approx(float(one[CRITERION]), rel=1e-3)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"cases": 4}, "holds 3 clips, Probe.cases is 4"),
        ({"protocol": "none"}, "there is no protocol 'none'"),
        ({"shards": "/absent"}, "/absent has no blank.safetensors"),
    ],
)
def test_what_a_probe_lacks_is_named_before_the_first_step(
    base: Path, folder: Path, protocol: Protocol, tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        GenerationProbe(with_probe(base, folder, **change), ALONE, tmp_path)


def test_an_older_encoding_and_a_faceless_reference_are_named(base: Path, protocol: Protocol, tmp_path: Path) -> None:
    made = encoded.encoded(tmp_path / "faceless", base, [tiny_vace.landscape()] * 2)
    with pytest.raises(UserError, match="case clip0 holds no face"):
        GenerationProbe(with_probe(base, made), ALONE, tmp_path)
    save_file({"blank": load_file(made / BLANK)["blank"]}, made / BLANK)
    with pytest.raises(UserError, match="with the negative prompt"):
        load_cases(made, 1, 16)


def test_the_fields_of_a_probe_are_checked() -> None:
    with pytest.raises(ValueError, match=r"Probe\.shards"):
        Probe(shards="")
    with pytest.raises(ValueError, match=r"Probe\.every"):
        Probe(shards="x", every=0)
    with pytest.raises(ValueError, match=r"Probe\.flow_shift"):
        Probe(shards="x", flow_shift=0)
    with pytest.raises(ValueError, match=r"Probe\.slot"):
        Probe(shards="x", slot="inception")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"Train\.probe needs Train\.base\.folder"):
        dataclasses.replace(debug(), probe=Probe(shards="x"))
    with pytest.raises(ValueError, match=r"Train\.probe and Train\.base"):
        GenerationProbe(debug(), ALONE, Path("x"))
