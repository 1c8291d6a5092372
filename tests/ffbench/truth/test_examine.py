"""The whole command on a tiny labelled set, and on real videos with small real networks."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from ffbench.cli import app
from ffbench.extract.detect import Mtcnn
from ffbench.image import write_png
from ffbench.truth import labelled as truthset
from ffbench.truth.defects import DEFECTS
from ffbench.truth.labelled import Labelled, TruthSet
from ffbench.video import write_mp4
from tests.ffbench import small_networks

SIDE = 160


def tiny() -> TruthSet:
    """Four photographed people, three frames each, labelled by the detector itself; the last frame shows nobody."""
    faces = [cv2.resize(face[:150, :150], (SIDE, SIDE)) for face in small_networks.people()[:4]]
    found = [Mtcnn().detect(face, "full") for face in faces]
    blank = np.full((SIDE, SIDE, 3), 90, np.uint8)
    pixels = np.array([[face, np.roll(face, 4, 1), blank] for face in faces])
    box = np.array([[f.boxes[0], f.boxes[0] + [4, 0, 4, 0], f.boxes[0]] for f in found], np.float32)
    points = np.array([[f.points[0], f.points[0] + [4, 0], f.points[0]] for f in found], np.float32)
    angles = np.zeros((4, 3, 3), np.float32)
    angles[:, 1, 1], angles[:, 2, 1] = 20, 170
    seen = np.tile(np.array([0.6, 0.6, 0.0], np.float32), (4, 1))
    said = np.full((4, 3), "a person in a photograph")
    loose = Labelled(np.arange(4), pixels, said, angles, box, points, seen)
    clips = Labelled(np.arange(4, 8), pixels[:, [0, 1, 0, 1]], said[:, 0], *([np.zeros(0, np.float32)] * 3),
                     np.zeros((4, 4), np.float32))  # fmt: skip
    return TruthSet(loose, clips, np.array(faces), 8.0)


def test_the_command_on_labelled_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "truth.npz").write_bytes(tiny().to_bytes())
    monkeypatch.setattr(truthset, "FILE", tmp_path / "truth.npz")
    asked = [
        "truth",
        "--protocol",
        "basic",
        "--networks",
        str(small_networks.write_networks(tmp_path)),
        "--out",
        str(tmp_path),
    ]
    done = CliRunner().invoke(app, [*asked, "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    facts = {(fact["of"], fact["group"]): fact for fact in told["instruments"]}
    assert (facts["recall", "0-15"]["value"], facts["recall", "0-15"]["count"]) == (1, 4)
    assert facts["recall", "15-30"]["value"] == 1
    assert (facts["false", "behind"]["value"], facts["false", "behind"]["count"]) == (0, 4)
    assert facts["landmarks px", "0-15"]["value"] < 1
    assert facts["auc arc", "all"]["count"] == 8 * 7 // 2
    assert facts["recall", "60-75"]["value"] is None
    assert told["videos"] == 4
    assert {move["defect"] for move in told["defects"]} == {defect.name for defect in DEFECTS}
    assert set(told["roc"]) == {"arc", "cur"}
    assert "clip" in told["missing"]
    folder = tmp_path / "truth"
    assert {path.name for path in folder.iterdir()} == {"truth.txt", "truth.json", "instruments.png", "defects.png"}
    for name in ("instruments.png", "defects.png"):
        picture = cv2.imread(str(folder / name))
        assert picture.shape[1] > 1500
        assert picture.std() > 10
    text = (folder / "truth.txt").read_text()
    assert "finding: " in text
    assert "not formed, clip_score" in text


def test_without_the_labelled_set_the_way_out_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(truthset, "FILE", tmp_path / "absent.npz")
    done = CliRunner().invoke(app, ["truth", "--protocol", "basic", "--out", str(tmp_path)])
    assert done.exit_code == 1
    assert "cannot be read" in str(done.exception)


def test_references_alone_are_refused(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["truth", "--references", str(tmp_path)])
    assert "belong to --videos" in str(done.exception)


def test_the_users_videos_get_defects_and_no_truth(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "photos").mkdir()
    for name, face in zip("ab", small_networks.people(), strict=False):
        frame = cv2.resize(face[:150, :150], (SIDE, SIDE))
        write_mp4(tmp_path / "videos" / f"{name}.mp4", np.stack([frame, np.roll(frame, 3, 1)]), 4)
        write_png(tmp_path / "photos" / f"{name}.png", frame)
    done = CliRunner().invoke(
        app,
        ["truth", "--videos", str(tmp_path / "videos"), "--references", str(tmp_path / "photos"), "--networks",
         str(small_networks.write_networks(tmp_path)), "--out", str(tmp_path)],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    told = json.loads((tmp_path / "truth" / "truth.json").read_text())
    assert told["protocol"].startswith("basic@1~")
    assert told["instruments"] == []
    assert told["videos"] == 2
    assert not (tmp_path / "truth" / "instruments.png").exists()
    assert "Metrics under known defects: 2 videos of 2 people" in done.stdout


REAL = {
    "hinton": ("id_animator/hinton_2.gif", "id_animator/Hinton.png"),
    "lecun": ("id_animator/lecun_4.gif", "id_animator/lecun1.png"),
    "taylor": ("id_animator/taylor_4.gif", "id_animator/Taylor.png"),
}


@pytest.mark.slow
def test_real_videos_with_small_real_networks(assets: Path, tmp_path: Path) -> None:
    pack = assets / "models" / "insightface" / "models"
    pose = assets / "models" / "pose"
    networks = tmp_path / "small.toml"
    networks.write_text(
        f'[detector]\nkind = "scrfd"\nfile = "{pack}/small_y1/det_scrfd_2.5g.onnx"\nthreshold = 0.5\n'
        f'[arc]\nkind = "arcface-onnx"\nfile = "{pack}/small_y1/rec_mobilefacenet_y1.onnx"\n'
        f'[cur]\nkind = "arcface-onnx"\nfile = "{pack}/small_apache/rec_mobilefacenet_foamliu.onnx"\n'
        f'[pose]\nkind = "3ddfa"\nfile = "{pose}/3ddfa_v2_mb05_120x120.onnx"\n'
        f'aux = "{pose}/3ddfa_v2_param_mean_std.npz"\n'
    )
    from ffbench.video import read_clip

    # the fourth person turns to 64 degrees; without a photograph, its first frame stands for one
    turning = assets / "videos" / "opens2v" / "faceobj_14.mp4"
    write_png(tmp_path / "turning.png", read_clip(turning, ["linspace2"]).frames["linspace2"].pixels[0])
    rows = [(name, assets / "videos" / v, assets / "images" / p) for name, (v, p) in REAL.items()]
    table = tmp_path / "videos.csv"
    with table.open("w", newline="") as stream:
        csv.writer(stream).writerows(
            [("identity", "video", "reference"), *rows, ("turning", turning, tmp_path / "turning.png")]
        )
    done = CliRunner().invoke(
        app, ["truth", "--videos", str(table), "--protocol", "standard", "--networks", str(networks), "--out",
              str(tmp_path), "--json"],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert (told["videos"], told["left_out"]) == (4, [])
    moves = {(move["defect"], move["metric"]): move for move in told["defects"]}
    for metric in ("facesim_arc", "facesim_cur"):
        drops = [moves[f"swap {share}%", metric]["difference"] for share in (10, 30, 50)]
        assert 0 > drops[0] > drops[1] > drops[2]
        assert moves["still", metric]["difference"] > 0
    assert moves["no face 30%", "face_rate"]["verdict"] == "seen"
    assert moves["frozen", "pose_range"]["difference"] == pytest.approx(-moves["frozen", "pose_range"]["true"], abs=1)
    assert moves["still", "copy_paste"]["difference"] > 0
