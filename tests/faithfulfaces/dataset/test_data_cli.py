"""`faithfulfaces data` as it is typed."""

import csv
import io
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from faithfulfaces.cli import app
from faithfulfaces.dataset.folder import Folder
from ffbench.errors import UserError
from tests.faithfulfaces.dataset import red

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
