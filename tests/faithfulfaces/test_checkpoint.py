from __future__ import annotations

import dataclasses
import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from faithfulfaces import checkpoint, recipes
from faithfulfaces.config import Train
from faithfulfaces.model import load_model
from faithfulfaces.parallel import World
from faithfulfaces.runs import run
from faithfulfaces.training.log import TrainingLog, read_log
from ffbench.errors import UserError
from tests.faithfulfaces import ranks

ALONE = World(0, 1, torch.device("cpu"), None)


def stored(folder: Path, step: int) -> dict[str, torch.Tensor]:
    """Every tensor of a checkpoint, shard by shard."""
    path = folder / "checkpoints" / f"step_{step:07d}"
    assert (path / checkpoint.MARKER).is_file()
    return {f"{f.name}:{k}": t for f in sorted(path.glob("*.safetensors")) for k, t in load_file(f).items()}


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


LOSSES = ("step", "loss_fm", "loss_pia", "grad_norm", "lr", "temperature")


def curve(folder: Path) -> list[list[Any]]:
    return [[line[name] for name in LOSSES] for line in read_log(folder / "log.jsonl")]


def test_six_steps_are_three_and_a_kill_and_three(tmp_path: Path) -> None:
    killed = ranks.launch(1, "killed", str(tmp_path / "killed"))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert [line["step"] for line in read_log(tmp_path / "killed/log.jsonl")] == [1, 2, 3, 4]
    run(ranks.six_steps(), tmp_path / "killed", resume=True)
    run(ranks.six_steps(), tmp_path / "whole")
    assert_same(stored(tmp_path / "killed", 6), stored(tmp_path / "whole", 6))
    assert curve(tmp_path / "killed") == curve(tmp_path / "whole")
    assert [row[0] for row in curve(tmp_path / "whole")] == [1, 2, 3, 4, 5, 6]


@pytest.mark.slow
def test_two_ranks_are_killed_resume_and_refuse_one(tmp_path: Path) -> None:
    assert ranks.launch(2, "killed", str(tmp_path / "killed")).returncode != 0
    with pytest.raises(UserError, match="written by 2 processes, this run has 1"):
        run(ranks.six_steps(), tmp_path / "killed", resume=True)
    for folder in ("killed", "whole"):
        resumed = ranks.launch(2, "resumed", str(tmp_path / folder))
        assert resumed.returncode == 0, resumed.stderr
    assert_same(stored(tmp_path / "killed", 6), stored(tmp_path / "whole", 6))
    assert curve(tmp_path / "killed") == curve(tmp_path / "whole")
    models = [load_file(tmp_path / folder / "model/model.safetensors") for folder in ("killed", "whole")]
    assert_same(*models)


def test_only_what_learns_is_stored(tmp_path: Path) -> None:
    run(dataclasses.replace(ranks.six_steps(), steps=1), tmp_path)
    names = {name.partition(":")[2] for name in stored(tmp_path, 1)}
    model = {name.removeprefix("model.") for name in names if name.startswith("model.")}
    assert all(name.startswith(("aligner.", "prior.", "temperature.")) or ".lora_" in name for name in model)
    assert "noise.0" in names
    moments = {f"optimizer.{name}.{key}" for name in model for key in ("step", "exp_avg", "exp_avg_sq")}
    assert names == moments | {f"model.{name}" for name in model} | {"noise.0"}


def test_a_finished_run_leaves_the_model_that_the_pipeline_reads(tmp_path: Path) -> None:
    config = dataclasses.replace(ranks.six_steps(), steps=2)
    run(config, tmp_path)
    about, parts = load_model(tmp_path / "model")
    assert (about.aligner, about.injection) == (config.aligner, config.injection)
    last = {name.partition(":model.")[2]: t for name, t in stored(tmp_path, 2).items() if ":model." in name}
    for part, module in (("aligner", parts.aligner), ("prior", parts.prior)):
        for name, parameter in module.named_parameters():
            assert torch.equal(parameter, last[f"{part}.{name}"]), name
    assert parts.lora is not None
    for name, tensor in parts.lora.tensors.items():
        trained = last[f"transformer.{name.replace('.weight', '.default.weight')}"]
        assert torch.equal(tensor.float(), trained), name


def aligner_only() -> Train:
    debug = recipes.debug()
    return dataclasses.replace(debug, base=None, lora=None, steps=2, checkpoint=checkpoint_every(1))


def checkpoint_every(steps: int, keep: int = 3) -> Any:
    return dataclasses.replace(recipes.debug().checkpoint, every=steps, keep=keep)


def test_an_interrupted_checkpoint_is_never_read_and_the_oldest_go(tmp_path: Path) -> None:
    config = dataclasses.replace(aligner_only(), steps=4, checkpoint=checkpoint_every(1, keep=2))
    run(config, tmp_path)
    folder = tmp_path / "checkpoints"
    assert [path.name for path in checkpoint.complete(folder)] == ["step_0000003", "step_0000004"]
    assert sorted(path.name for path in folder.iterdir()) == ["step_0000003", "step_0000004"]
    (folder / "step_0000004" / checkpoint.MARKER).unlink()
    newest = checkpoint.newest(folder, ALONE)
    assert newest is not None
    assert newest.name == "step_0000003"


def test_another_shape_is_refused_by_its_field(tmp_path: Path) -> None:
    run(aligner_only(), tmp_path)
    wider = dataclasses.replace(aligner_only().aligner, elements=65)
    with pytest.raises(UserError, match=r"aligner.elements: 64 there, 65 here"):
        run(dataclasses.replace(aligner_only(), aligner=wider), tmp_path, resume=True)
    assert json.loads((tmp_path / "config.json").read_text())["aligner"]["elements"] == 64


def test_a_loader_of_another_batch_is_refused_with_both_numbers(tmp_path: Path) -> None:
    run(aligner_only(), tmp_path)
    data = dataclasses.replace(aligner_only().data, pair_batch=6)
    with pytest.raises(UserError, match="batch 8, this run has 6"):
        run(dataclasses.replace(aligner_only(), data=data), tmp_path, resume=True)


def test_a_tensor_of_other_shape_in_the_file_is_refused(tmp_path: Path) -> None:
    run(aligner_only(), tmp_path)
    path = next((tmp_path / "checkpoints/step_0000002").glob("*.safetensors"))
    tensors = load_file(path)
    tensors["model.aligner.dictionary_CD"] = torch.zeros(3, 3)
    save_file(tensors, path)
    with pytest.raises(UserError, match="does not fit this model"):
        run(aligner_only(), tmp_path, resume=True)


def test_a_folder_with_a_run_is_not_overwritten(tmp_path: Path) -> None:
    run(aligner_only(), tmp_path)
    with pytest.raises(UserError, match="holds a run already"):
        run(aligner_only(), tmp_path)


def test_more_steps_go_on_where_the_run_ended(tmp_path: Path) -> None:
    run(aligner_only(), tmp_path)
    run(dataclasses.replace(aligner_only(), steps=3), tmp_path, resume=True)
    assert [line["step"] for line in read_log(tmp_path / "log.jsonl")] == [1, 2, 3]


def test_the_log_keeps_whole_lines_and_writes_null_for_nan(tmp_path: Path) -> None:
    log = TrainingLog(tmp_path, 0)
    log.write(1, {"loss": 2.0, "broken": float("nan")})
    log.write(2, {"loss": 1.0})
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 3, "lo')
    assert read_log(tmp_path / "log.jsonl") == [
        {"step": 1, "loss": 2.0, "broken": None},
        {"step": 2, "loss": 1.0},
    ]
    TrainingLog(tmp_path, 1)
    assert [line["step"] for line in read_log(tmp_path / "log.jsonl")] == [1]
