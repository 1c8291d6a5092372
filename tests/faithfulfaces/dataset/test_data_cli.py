"""`faithfulfaces data` as it is typed."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from typer.testing import CliRunner

from faithfulfaces.cli import app
from faithfulfaces.dataset import answers, manifest, staging
from faithfulfaces.dataset.folder import Folder
from faithfulfaces.dataset.records import ClipRecord, Row
from ffbench.errors import UserError
from ffbench.video import write_mp4
from tests.faithfulfaces.dataset import red
from tests.faithfulfaces.dataset.made_build import make_build
from tests.faithfulfaces.dataset.test_people import green_reader, person

pytest.importorskip("pyarrow")
pytest.importorskip("scenedetect")


def call(*words: object) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["data", *map(str, words)])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.stdout, done.stderr


def test_from_videos_to_a_calibrated_threshold(tmp_path: Path) -> None:
    videos, out, table = tmp_path / "videos", tmp_path / "out", tmp_path / "settings.json"
    videos.mkdir()
    for index, span in enumerate((10, 40, 60, 100, 120, 150)):
        red.film(videos / f"{index}.mp4", red.TURN * span / 150, texture=index)
    table.write_text(json.dumps(red.settings(tmp_path).to_json()))
    code, _, said = call("build", "--videos", videos, "--out", out, "--settings", table, "--workers", 2)
    assert code == 0
    assert "looked at 6 videos (0 failed); 0 were done already" in said
    assert "3 of 6 clips qualified; 2 shards written" in said
    assert json.loads(call("stats", out)[1])["refused"] == {"still": 3}
    assert call("verify", out, "--videos", videos)[:2] == (0, "")

    # people call the last two qualified: 16 of 24 frames show 65 and 78 and 98 degrees
    rows = list(csv.DictReader(io.StringIO(call("sample", out, "--count", 6)[1])))
    labels = tmp_path / "labels.csv"
    with labels.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(row | {"qualified": int(row["source"] in ("4.mp4", "5.mp4"))} for row in rows)
    for words in ((), ("--measure", "robust"), ("--measure", "steady")):
        picture = tmp_path / "roc.svg"
        made = json.loads(call("calibrate", out, "--labels", labels, "--picture", picture, *words)[1])
        assert (made["clips"], made["qualified"], made["auc"]) == (6, 2, 1.0)
        assert made["precision"] == made["recall"] == 1.0
        assert picture.stat().st_size > 5000
        if not words:
            assert made["threshold"] == pytest.approx((100 + 120) / 2 * 15 / 23, abs=2)

    (out / "shards" / "train" / "000000.tar").unlink()
    code, found, _ = call("verify", out, "--quick")
    assert code == 1
    assert found.count("is in no shard") == 2
    assert "1 shards" not in call("combine", out)[2]
    assert call("verify", out)[0] == 0


def test_copies_and_people_of_the_suite_stay_out(tmp_path: Path) -> None:
    """A film again with noise and another name, and a film of somebody whose photograph is given."""
    videos, photos, out, table = (tmp_path / name for name in ("videos", "photos", "out", "settings.json"))
    videos.mkdir()
    photos.mkdir()
    write_mp4(videos / "guest.mp4", person(110, 1), 16)
    write_mp4(videos / "host.mp4", person(0, 2), 16)
    noise = np.random.default_rng(0).integers(-6, 7, (24, 128, 128, 1))
    write_mp4(videos / "host-again.mp4", np.clip(person(0, 2) + noise, 0, 255).astype(np.uint8), 16)
    PIL.Image.fromarray(person(111, 9)[11]).save(photos / "suite.png")
    chosen = red.settings(tmp_path).to_json()
    chosen["networks"] |= {"embedder": "arcface-onnx", "embedder_weights": str(green_reader(tmp_path / "green.onnx"))}
    chosen["people"] = {"same": 0.95, "exclude": str(photos), "exclude_cosine": 0.95}
    table.write_text(json.dumps(chosen))
    assert call("build", "--videos", videos, "--out", out, "--settings", table)[0] == 0
    rows = {row["source"]: row for row in manifest.read(Folder(out).manifest)}
    assert {name: row["reason"] for name, row in rows.items()} == {
        "guest.mp4": "excluded",
        "host.mp4": "",
        "host-again.mp4": "duplicate",
    }
    assert rows["guest.mp4"]["excluded_like"] == "suite.png"
    assert rows["host-again.mp4"]["detail"].endswith(rows["host.mp4"]["key"])
    assert json.loads(call("stats", out)[1])["refused"] == {"duplicate": 1, "excluded": 1}


def test_what_is_wrong_with_the_input_is_said_in_two_lines(tmp_path: Path) -> None:
    videos, out, table = tmp_path / "videos", tmp_path / "out", tmp_path / "settings.toml"
    videos.mkdir()
    with pytest.raises(UserError, match="holds no video"):
        call("build", "--videos", videos, "--out", out)
    listed = tmp_path / "list.txt"
    listed.write_bytes(b"\xff\xfe\x00a")
    with pytest.raises(UserError, match=r"list\.txt"):
        call("build", "--videos", listed, "--out", out)
    table.write_text("[subject]\nthreshold = nan\n")
    red.film(videos / "a.mp4")
    with pytest.raises(UserError, match=r"subject\.threshold must lie in 0\.\.1080, got nan"):
        call("build", "--videos", videos, "--out", out, "--settings", table)
    listed = tmp_path / "list.json"
    listed.write_text("[1]")
    with pytest.raises(UserError, match=r"list\.json holds no table"):
        call("build", "--videos", videos, "--out", out, "--settings", listed)
    with pytest.raises(UserError, match="--address is the address of a Ray cluster"):
        call("build", "--videos", videos, "--out", out, "--address", "auto")
    assert not out.exists()
    out.write_text("a file")
    with pytest.raises(UserError, match=r"--out .*File exists"):
        call("build", "--videos", videos, "--out", out)


def test_labels_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    out, labels = Folder(tmp_path), tmp_path / "labels.csv"
    manifest.write(out.manifest, [Row(ClipRecord(key="a-000", source="a.mp4", variation=100.0))])
    for written, words in (
        (b"\xff\xfe\x00", "labels.csv"),
        (b"clip,qualified\na-000,perhaps\n", r"labels\.csv:2: .*'perhaps' is neither"),
        (b"name,good\na,1\n", r"labels\.csv:2: no clip"),
        (b"clip,qualified\na-000,1\n", "nothing to part"),
        (b"clip,qualified\nb-000,1\n", "nothing to part"),
        # how long a field may be is one setting for the whole process
        (b"clip,qualified\n" + b"x" * 200_000 + b",1\n", r"labels\.csv|nothing to part"),
        (b"", "nothing to part"),
    ):
        labels.write_bytes(written)
        with pytest.raises(UserError, match=words):
            call("calibrate", tmp_path, "--labels", labels)
    with pytest.raises(UserError, match=r"none\.csv"):
        call("calibrate", tmp_path, "--labels", tmp_path / "none.csv")


def test_places_that_cannot_be_written_or_read_are_named(tmp_path: Path) -> None:
    made = make_build(tmp_path / "set", tmp_path / "videos")
    folder, labels = Folder(tmp_path / "set"), tmp_path / "labels.csv"
    manifest.write(folder.manifest, [Row(record) for record in made])
    labels.write_text("clip,qualified\n" + "".join(f"{r.key},{int(r.variation > 100)}\n" for r in made))
    words = ("calibrate", folder.root, "--labels", labels, "--picture")
    with pytest.raises(UserError, match=r"neither \.svg nor \.png"):
        call(*words, tmp_path / "roc.gift")
    with pytest.raises(UserError, match=r"--picture .*No such file"):
        call(*words, tmp_path / "none" / "roc.svg")
    answers.Log(folder.reviews).add(
        answers.Answer(id="1", reviewer="ann", key=made[0].key, question="pose", value="qualified", blind=True, utc="")
    )
    with pytest.raises(UserError, match=r"--out .*No such file"):
        call("labels", folder.root, "--out", tmp_path / "none" / "labels.csv")
    for ask in (("verify", folder.root, "--quick"), ("review", folder.root, "--show", "all")):
        with pytest.raises(UserError, match=r"--videos .*none is not there"):
            call(*ask, "--videos", tmp_path / "none")
    folder.settings.write_text("[1]")
    for ask in (("combine", folder.root), ("review", folder.root)):
        with pytest.raises(UserError, match=r"settings\.json cannot be read"):
            call(*ask)


def test_files_of_a_build_that_are_gone_or_damaged_are_named(tmp_path: Path) -> None:
    made = next(r for r in make_build(tmp_path / "set", tmp_path / "videos") if r.verdict == "qualified")
    folder = Folder(tmp_path / "set")
    film, track, embeddings = folder.clip(made.key) / "video.mp4", folder.track(made.key), tmp_path / "embeddings.npy"
    whole = film.read_bytes()
    film.unlink()
    with pytest.raises(UserError, match=f"clip {made.key}: "):
        call("combine", folder.root)
    film.write_bytes(whole)
    for written in (track.read_bytes()[:200], b""):
        track.write_bytes(written)
        with pytest.raises(UserError, match=f"the track of {made.key} is damaged"):
            call("combine", folder.root)
    with pytest.raises(UserError, match=f"clip {tmp_path.name}: "):
        staging.read_embeddings(tmp_path)
    for written in (b"", b"damaged"):
        embeddings.write_bytes(written)
        with pytest.raises(UserError, match=f"clip {tmp_path.name}: "):
            staging.read_embeddings(tmp_path)


@pytest.mark.parametrize("words", [("stats",), ("verify",), ("sample",), ("combine",)])
def test_an_empty_folder_is_told(tmp_path: Path, words: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match=str(tmp_path)):
        call(*words, tmp_path)


def test_missing_weights_are_told_once_and_nothing_is_recorded(tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    videos.mkdir()
    red.film(videos / "a.mp4")
    table = tmp_path / "settings.toml"
    table.write_text(f'[networks]\ndetector_weights = "{tmp_path / "none.onnx"}"\n')
    with pytest.raises(UserError, match=r"none\.onnx"):
        call("build", "--videos", videos, "--out", tmp_path / "out", "--settings", table)
    assert not Folder(tmp_path / "out").journal.exists()
    # other settings may be tried there, since no clip has been looked at
    table.write_text(f'[networks]\ndetector_weights = "{tmp_path / "other.onnx"}"\n')
    with pytest.raises(UserError, match=r"other\.onnx") as caught:
        call("build", "--videos", videos, "--out", tmp_path / "out", "--settings", table)
    assert "begun" not in caught.value.what
