"""`faithfulfaces analyse` as a user types it, on tiny real files."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from faithfulfaces import recipes
from faithfulfaces.analysis import report
from faithfulfaces.config import Checkpoint, Data, Train
from faithfulfaces.mini import footage
from faithfulfaces.mini.crops import face_crops
from faithfulfaces.runs import open_aligner
from faithfulfaces.shards import ShardClips
from faithfulfaces.trainer import Trainer
from ffbench.errors import UserError
from tests.faithfulfaces import crops
from tests.faithfulfaces.commands import Command, refused


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, shards: Path) -> Path:
    """A run of the aligner alone, stopped after its second checkpoint: no model folder."""
    folder = tmp_path_factory.mktemp("run")
    debug = recipes.debug()
    config = Train(
        name="aligner", steps=4, aligner=debug.aligner, optim=debug.optim, log_every=1,
        data=Data(shards=str(shards), pair_batch=8, workers=1), checkpoint=Checkpoint(every=2),
    )  # fmt: skip
    from faithfulfaces.parallel import World

    clips = ShardClips(shards, config.aligner.image_size)
    Trainer(config, clips, World(0, 1, torch.device("cpu"), None), folder).train()
    (folder / "config.json").write_text(json.dumps(dataclasses.asdict(config)))
    return folder


def test_a_run_is_looked_into(command: Command, run: Path, shards: Path, tmp_path: Path) -> None:
    result = command("analyse", run, "--shards", shards, "--out", tmp_path / "a", "--permutations", 19, "--json")
    assert result.code == 0, result.err
    names = {f"{stem}.{end}" for stem in ("dictionary", "identities", "loss") for end in ("png", "pdf", "csv")}
    assert {path.name for path in (tmp_path / "a").iterdir()} == names | {"analysis.json", "faces.png", "figures.json"}
    found = json.loads(result.out)
    assert found == json.loads((tmp_path / "a/analysis.json").read_text())
    assert found["source"] == str(run / "checkpoints/step_0000004") and found["missing"] == {}
    assert [group["faces"] for group in found["dictionary"]["groups"]] == [18, 18, 18, 18, 9]
    assert found["dictionary"]["winner_and_pose"]["permutations"] == 19
    assert found["loss"]["steps"] == [1, 2, 3, 4] and found["loss"]["loss_fm"] == []
    assert [len(one["points"]) for one in found["identities"]] == [56, 56, 56]
    with (tmp_path / "a/dictionary.csv").open() as file:
        rows = list(csv.DictReader(file))
    often = [row for row in rows if row["group"] == "left" and row["list"] == "most activated"]
    assert [int(row["element"]) for row in often] == [
        item["element"] for item in found["dictionary"]["groups"][1]["elements"]
    ]
    assert len((tmp_path / "a/identities.csv").read_text().splitlines()) == 1 + 3 * 56
    told = command("analyse", run, "--shards", shards, "--out", tmp_path / "b", "--permutations", 19)
    assert "bits over 81 faces of 9 people" in told.out and "S: silhouette of 7 people" in told.out
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_pictures_are_drawn_anew_from_their_data(command: Command, run: Path, shards: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert command("analyse", run, "--shards", shards, "--out", out, "--permutations", 19).code == 0
    for path in out.glob("*.pdf"):
        path.unlink()
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    for name in ("dictionary.png", "identities.png", "loss.png", "figures.json"):
        (out / name).write_bytes(b"old")
    assert command("analyse", out).out.split() == [
        str(out / f"{one}.png") for one in ("dictionary", "identities", "loss")
    ]
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    drawn = dict(report.form_figures(out))["dictionary"].axes[0].images[0].get_array()
    with Image.open(out / "faces.png") as faces:
        assert np.array_equal(np.asarray(drawn), np.asarray(faces)), "the example faces, each in its place"
    for name, damage, words in (
        ("faces.png", b"", "faces.png"),
        ("analysis.json", b"{", "analysis.json"),
        ("analysis.json", before["analysis.json"].replace(b'"format": 1', b'"format": 2'), "its format is not 1"),
    ):
        (out / name).write_bytes(damage)
        refused(command("analyse", out), words)
        (out / name).write_bytes(before[name])
    with Image.open(out / "faces.png") as faces:
        faces.crop((0, 0, faces.width - 1, faces.height)).save(out / "faces.png")
    refused(command("analyse", out), "no squares of 5 pose groups")
    refused(command("analyse", run, "--shards", shards), "--shards and --out go together")


def test_footage_of_strangers_is_looked_at(command: Command, run: Path, tmp_path: Path) -> None:
    size = open_aligner(run).aligner.config.image_size
    people = footage.loose("test", 0, count=3)
    people.save(tmp_path / "footage/test_0000.npz")
    footage.loose("train", 0, count=1).save(tmp_path / "footage/train_0000.npz")
    result = command(
        "analyse",
        run,
        "--shards",
        tmp_path / "footage",
        "--out",
        tmp_path / "out",
        "--poses",
        4,
        "--permutations",
        9,
        "--json",
    )
    assert result.code == 0, result.err
    found = json.loads(result.out)
    crops, rows = face_crops(people, size)
    assert found["dictionary"]["faces"] == len(crops) == int(people.shown.sum())
    assert {point["identity"] for point in found["identities"][0]["points"]} == {
        str(people.seeds[row]) for row in np.unique(rows) if (rows == row).sum() >= 4
    }
    (tmp_path / "footage/test_0000.npz").write_bytes(b"PK")
    refused(
        command("analyse", run, "--shards", tmp_path / "footage", "--out", tmp_path / "b"),
        "test_0000.npz",
        "cannot be read",
    )


def test_the_aligner_of_a_run_is_the_one_that_was_trained(run: Path) -> None:
    newest = open_aligner(run)
    step = run / "checkpoints/step_0000002"
    older = open_aligner(step)
    assert (newest.log, older.log, older.source) == (run / "log.jsonl", None, step)
    for opened in (newest, older):
        stored: dict[str, torch.Tensor] = {}
        for file in opened.source.rglob("*.safetensors"):
            stored |= {k.removeprefix("model.aligner."): t for k, t in load_file(file).items()}
        state = opened.aligner.state_dict()
        assert all(torch.equal(stored[name], tensor) for name, tensor in state.items())
        assert not any(parameter.requires_grad for parameter in opened.aligner.parameters())
    assert not torch.equal(newest.aligner.dictionary_CD, older.aligner.dictionary_CD)


def test_a_checkpoint_has_no_loss_and_few_crops_make_no_map(
    command: Command, world: Path, shards: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    result = command("analyse", world / "checkpoint", "--shards", shards, "--out", out, "--poses", 10)
    assert result.code == 0
    assert "no loss.png: there is no log.jsonl" in result.err
    assert "no identities.png: 0 of 9 people have 10 faces" in result.err
    found = json.loads((out / "analysis.json").read_text())
    assert found["loss"] is None and found["identities"] == [] and found["missing"].keys() == {"loss", "identities"}
    assert not list(out.glob("loss.*")) and not list(out.glob("identities.p*"))


def test_bad_input_of_analyse_is_two_lines(command: Command, run: Path, shards: Path, tmp_path: Path) -> None:
    to = ("--shards", shards, "--out", tmp_path / "out")
    refused(command("analyse", tmp_path / "none", *to), "none")
    refused(command("analyse", run, "--shards", tmp_path, "--out", tmp_path / "out"), "no shards", str(tmp_path))
    refused(command("analyse", run), "analysis.json is not there", "--shards")
    refused(command("analyse", run, *to, "--seed", -1), "--seed")
    copy = tmp_path / "copy/checkpoints/step_0000004"
    copy.mkdir(parents=True)
    for file in (run / "checkpoints/step_0000004").iterdir():
        if file.is_file():
            (copy / file.name).write_bytes(file.read_bytes())
    marker = copy / "complete.json"
    about = json.loads(marker.read_text())
    for change, words in (
        ({"elements": 65}, "does not fit this model"),
        ({"elements": 0}, "complete.json cannot be read"),
        ({"speed": 1}, "complete.json cannot be read"),
    ):
        aligner = about["config"]["aligner"] | change
        marker.write_text(json.dumps(about | {"config": about["config"] | {"aligner": aligner}}))
        refused(command("analyse", tmp_path / "copy", *to), words)
    marker.write_text(json.dumps(about | {"config": about["config"] | {"aligner": None}}))
    refused(command("analyse", tmp_path / "copy", *to), "was trained without an aligner")
    assert not (tmp_path / "out").exists()


def test_a_shard_with_a_missing_crop_is_named(command: Command, run: Path, tmp_path: Path) -> None:
    import tarfile

    crops.write(tmp_path, people=3)
    with tarfile.open(tmp_path / "00000.tar") as tar:
        kept = [(member, tar.extractfile(member)) for member in tar if member.name != "clip001.crop002.jpg"]
        with tarfile.open(tmp_path / "part.partial", "w") as out:
            for member, data in kept:
                out.addfile(member, data)
    (tmp_path / "part.partial").replace(tmp_path / "00000.tar")
    result = command("analyse", run, "--shards", tmp_path, "--out", tmp_path / "out")
    refused(result, "shard 00000.tar, sample clip001", "clip001.crop002.jpg is missing")


def test_broken_weights_are_no_aligner(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "step_0000004"
    copy.mkdir()
    for file in (run / "checkpoints/step_0000004").iterdir():
        if file.suffix == ".safetensors":
            tensors = load_file(file)
            if "model.aligner.dictionary_CD" in tensors:
                tensors["model.aligner.dictionary_CD"][3] = float("nan")
            from safetensors import safe_open

            with safe_open(file, "pt") as opened:
                save_file(tensors, copy / file.name, metadata=opened.metadata())
        elif file.is_file():
            (copy / file.name).write_bytes(file.read_bytes())
    with pytest.raises(UserError, match="dictionary_CD holds values that are not finite"):
        open_aligner(copy)
