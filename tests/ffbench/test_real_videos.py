"""Real single-person videos against the right person's photograph and everybody else's, through the command line."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ffbench.cli import app
from ffbench.extract.extractor import Extractor
from ffbench.extract.track import FaceTrack
from ffbench.image import read_image, write_png
from ffbench.metrics.identity import facesim
from ffbench.protocols import get_protocol, with_networks
from ffbench.store import find_runs
from ffbench.video import read_clip, write_mp4

PHOTOGRAPHED = {
    "hinton": ("id_animator/hinton_2.gif", "id_animator/Hinton.png"),
    "lecun": ("id_animator/lecun_4.gif", "id_animator/lecun1.png"),
    "taylor": ("id_animator/taylor_4.gif", "id_animator/Taylor.png"),
}
"""Generated videos of a published method, with the photograph that it was given."""
FILMED = (
    "intel_demo/demo.mp4",
    "opens2v/faceobj_14.mp4",
    "liveportrait/d3.mp4",
    "liveportrait/d6.mp4",
    "liveportrait/d12.mp4",
    "liveportrait/d14.mp4",
    "liveportrait/d18.mp4",
    "sadtalker/WDA_KatieHill_000.mp4",
    "consisid/81FyMPk-WIS_segment_0_243_noFacePose_0_243.mp4",
)
"""Videos without a photograph of their own: their first frame is taken out and stands for one."""


def networks(assets: Path, folder: Path) -> Path:
    models = assets / "models"
    pack = models / "insightface" / "models"
    file = folder / "small.toml"
    file.write_text(
        f'[detector]\nkind = "scrfd"\nfile = "{pack}/small_y1/det_scrfd_2.5g.onnx"\nthreshold = 0.5\n'
        f'[arc]\nkind = "arcface-onnx"\nfile = "{pack}/small_y1/rec_mobilefacenet_y1.onnx"\n'
        f'[cur]\nkind = "arcface-onnx"\nfile = "{pack}/small_apache/rec_mobilefacenet_foamliu.onnx"\n'
        f'[pose]\nkind = "3ddfa"\nfile = "{models}/pose/3ddfa_v2_mb05_120x120.onnx"\n'
        f'aux = "{models}/pose/3ddfa_v2_param_mean_std.npz"\n'
    )
    return file


@pytest.fixture(scope="module")
def real(assets: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A table of videos and photographs, the networks file, and a folder for runs."""
    folder = tmp_path_factory.mktemp("real")
    rows = [(name, assets / "videos" / v, assets / "images" / p) for name, (v, p) in PHOTOGRAPHED.items()]
    for place in FILMED:
        video = assets / "videos" / place
        name = video.stem.split("_")[0].lower()
        photo = folder / f"{name}.png"
        write_png(photo, read_clip(video, ["linspace2"]).frames["linspace2"].pixels[0])
        rows.append((name, video, photo))
    # the left panel of 516 px is the reference itself; the right one was generated
    panels = read_clip(assets / "videos" / "aniportrait" / "lyl.mp4", ["linspace32"]).frames["linspace32"].pixels
    write_mp4(folder / "lyl.mp4", panels[:, :, 516:], 8)
    rows.append(("lyl", folder / "lyl.mp4", assets / "images" / "aniportrait" / "lyl.png"))
    table = folder / "videos.csv"
    with table.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["identity", "video", "reference"])
        writer.writerows(rows)
    return table, networks(assets, folder), folder / "runs"


@pytest.mark.slow
def test_the_right_person_scores_above_every_other(assets: Path, real: tuple[Path, Path, Path]) -> None:
    table, file, out = real
    done = CliRunner().invoke(
        app,
        [
            "score",
            "--videos",
            str(table),
            "--protocol",
            "standard",
            "--networks",
            str(file),
            "--out",
            str(out),
            "--json",
        ],
    )
    assert done.exit_code == 0, done.output
    run = find_runs(out)[0]
    cases, generations = run.cases(), run.generations()
    extractor = Extractor(with_networks(get_protocol("standard"), file))
    people = {c.identity_id: extractor.reference(read_image(Path(c.references[0].path))) for c in cases.values()}
    assert len(people) == 13
    lost: dict[str, list[str]] = {"arc": [], "cur": []}
    for score in run.scores().values():
        slot = {"facesim_arc": "arc", "facesim_cur": "cur"}.get(score.metric)
        if slot is None:
            continue
        name = cases[generations[score.generation].case_id].identity_id
        track = FaceTrack.load(run.track(score.track))
        values = {
            who: facesim(person.embeddings[slot][0], track.embeddings[slot]).value for who, person in people.items()
        }
        assert score.value == pytest.approx(values[name], abs=1e-5)
        if max(values, key=values.__getitem__) != name:
            lost[slot].append(name)
    # Measured: foamliu's encoder 13 of 13; y1's 12 of 13. The one it loses is a generated video whose face is another
    # person's once turned (.12 against its own first frame), which is what the benchmark is there to see.
    assert lost == {"arc": ["faceobj"], "cur": []}


@pytest.mark.slow
def test_a_table_and_per_frame_values_come_out(real: tuple[Path, Path, Path]) -> None:
    _, __, out = real
    done = CliRunner().invoke(app, ["report", "--out", str(out), "--no-html"])
    assert done.exit_code == 0, done.output
    assert "given" in done.stdout
    frames = next(out.glob("*/report/frames.csv")).read_text()
    assert "facesim_arc" in frames.splitlines()[0]
    assert len(frames.splitlines()) > 13 * 16
