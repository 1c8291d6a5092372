from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ffbench.image import read_image, write_png
from ffbench.protocols import get_protocol
from ffbench.records import Case, Generation, Reference
from ffbench.store import Run, run_folder
from ffbench.suites import load_suite, suite_of_videos
from ffbench.suites.cases import Suite
from ffbench.suites.photos import photo_identities
from ffbench.validate import Finding, validate
from tests.ffbench.paths import photo, video

BASIC = get_protocol("basic")


@pytest.fixture(autouse=True)
def _quiet(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FFBENCH_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    # another thread beside ONNX Runtime costs more than it gives on two cores
    torch.set_num_threads(1)


@pytest.fixture
def faces() -> list[np.ndarray]:
    return [read_image(Path(person.references[0].path)) for person in photo_identities()]


def found(findings: list[Finding], severity: str = "error") -> list[tuple[str, str]]:
    """File name and fault of the findings of a severity."""
    return [(Path(one.where).name, one.what) for one in findings if one.severity == severity]


def test_the_embedded_suite_has_no_errors() -> None:
    findings = validate(load_suite("photos"), protocol=BASIC)
    assert found(findings) == []
    assert [one.where for one in findings] == ["prompts"]
    assert "20 of 20 prompts are longer than CLIP's 77 tokens, dramatic-window has 145" in findings[0].what


def test_every_bad_photograph_is_named(tmp_path: Path, faces: list[np.ndarray]) -> None:
    write_png(tmp_path / "good.png", faces[6])
    write_png(tmp_path / "two.png", np.concatenate([faces[6], faces[2]], axis=1))
    write_png(tmp_path / "small.png", np.asarray(Image.fromarray(faces[6]).resize((128, 128))))
    photo(tmp_path / "plain.png", 9)
    write_png(tmp_path / "dot.png", np.zeros((1, 1, 3), np.uint8))
    (tmp_path / "broken.png").write_bytes((tmp_path / "good.png").read_bytes()[:900])
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "other.png").write_bytes((tmp_path / "good.png").read_bytes())
    (tmp_path / "prompts.txt").write_text("a person walks")
    findings = validate(load_suite(tmp_path), protocol=BASIC)
    errors = dict(found(findings))
    assert set(errors) == {"plain.png", "dot.png", "broken.png", "empty.jpg", "good, other"}
    assert errors["plain.png"] == "holds no face (tried full, pad25)"
    assert "cannot be read" in errors["broken.png"]
    assert errors["good, other"] == "these identities have the same photograph"
    warnings = dict(found(findings, "warning"))
    assert set(warnings) == {"two.png", "small.png"}
    assert warnings["two.png"] == "holds 2 faces; the largest is measured"
    assert "px wide, below 80" in warnings["small.png"]
    assert all(one.fix for one in findings)


def test_a_rotated_photograph_is_looked_at_upright(tmp_path: Path, faces: list[np.ndarray]) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(np.ascontiguousarray(faces[6][::-1, ::-1])).save(tmp_path / "turned.png", exif=exif)
    (tmp_path / "prompts.txt").write_text("a person walks")
    assert validate(load_suite(tmp_path), protocol=BASIC) == []


def test_a_photograph_that_changed_or_went(tmp_path: Path, faces: list[np.ndarray]) -> None:
    write_png(tmp_path / "a.png", faces[6])
    write_png(tmp_path / "b.png", faces[2])
    (tmp_path / "prompts.txt").write_text("a person walks")
    suite = load_suite(tmp_path)
    write_png(tmp_path / "a.png", faces[3])
    (tmp_path / "b.png").unlink()
    errors = dict(found(validate(suite, protocol=BASIC)))
    assert "has changed since" in errors["a.png"]
    assert "cannot be read" in errors["b.png"]


def test_a_case_without_a_photograph() -> None:
    case = Case("s", "1", "c", "i", (), "p", "a person walks")
    assert found(validate(Suite("s", "1", "", (case,)), protocol=BASIC)) == [("c", "the case has no photograph")]


def test_without_the_detectors_weights_basic_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FFBENCH_WEIGHTS", str(tmp_path / "none"))
    photo(tmp_path / "faces" / "plain.png")
    (tmp_path / "faces" / "prompts.txt").write_text("a person walks")
    findings = validate(load_suite(tmp_path / "faces"), protocol=get_protocol("standard"))
    assert found(findings) == [("plain.png", "holds no face (tried full, pad25)")]
    (warning,) = [one for one in findings if one.severity == "warning"]
    assert "basic's detector" in warning.what
    assert "ffbench weights pull" in warning.fix


def videos_suite(folder: Path, face: np.ndarray) -> Suite:
    (folder / "faces").mkdir()
    write_png(folder / "faces" / "ann.png", face)
    write_png(folder / "faces" / "bob.png", np.ascontiguousarray(face[:, ::-1]))
    return suite_of_videos(folder / "videos", folder / "faces", None)


def test_broken_double_and_missing_videos(tmp_path: Path, faces: list[np.ndarray]) -> None:
    folder = tmp_path / "videos"
    for number, name in enumerate(("ann-1", "ann-2", "ann-4", "ann-5", "bob-1", "bob-2")):
        video(folder / f"{name}.mp4", 10 * number, frames=20)
    (folder / "ann-2.mp4").write_bytes((folder / "ann-1.mp4").read_bytes())
    (folder / "bob-2.mp4").write_bytes((folder / "ann-4.mp4").read_bytes())
    (folder / "ann-3.mp4").write_bytes(b"")
    data = (folder / "ann-5.mp4").read_bytes()
    (folder / "ann-5.mp4").write_bytes(data[: len(data) // 2])
    suite = videos_suite(tmp_path, faces[6])
    (folder / "bob-1.mp4").unlink()
    findings = validate(suite, protocol=BASIC)
    errors = dict(found(findings))
    assert set(errors) == {"ann-3.mp4", "ann-5.mp4", "bob-1.mp4", "bob-2.mp4"}
    assert "broken" in errors["ann-3.mp4"]
    assert "broken" in errors["ann-5.mp4"]
    assert errors["bob-1.mp4"] == "the video is missing"
    assert errors["bob-2.mp4"] == "2 videos have the same content"
    warnings = [what for _, what in found(findings, "warning")]
    assert warnings == ["7 cases have no prompt: text metrics will have no value", "2 videos have the same content"]


def test_cases_without_a_video(tmp_path: Path, faces: list[np.ndarray]) -> None:
    video(tmp_path / "videos" / "ann.mp4")
    video(tmp_path / "videos" / "bob.mp4", 50)
    suite = videos_suite(tmp_path, faces[6])
    one = dict(list(suite.given.items())[:1])
    findings = validate(dataclasses.replace(suite, given=one), protocol=BASIC)
    assert [what for _, what in found(findings)] == ["1 cases have no video: bob"]


@pytest.fixture
def run(tmp_path: Path, faces: list[np.ndarray]) -> tuple[Suite, Run]:
    """A suite of one person with five prompts, and a run of it: fine, copied, failed, broken, and one lacking."""
    folder = tmp_path / "people"
    folder.mkdir()
    write_png(folder / "ann.png", faces[6])
    (folder / "prompts.csv").write_text("prompt_id,prompt\n" + "".join(f"p{i},text {i}\n" for i in range(5)))
    suite = load_suite(folder)
    made = run_folder(tmp_path / "runs", suite.name, suite.version, "m")
    records = []
    for number, case in enumerate(sorted(suite.cases, key=lambda case: case.case_id)[:4]):
        blank = Generation(case.case_id, suite.name, suite.version, "m", "1", {}, number, 0, "failed", error="why")
        if number != 2:
            path = video(made.new_video(blank.key), 0 if number < 2 else 90, frames=12)
            sha256 = Reference(str(path), _sha(path)).sha256
            blank = dataclasses.replace(blank, status="ok", error="", video=f"videos/{path.name}", video_sha256=sha256)
        records.append(blank)
    broken = made.video(records[3])
    broken.write_bytes(broken.read_bytes()[:400])
    with made.lock():
        made.append_generations(records)
    return suite, made


def _sha(path: Path) -> str:
    from ffbench.download import sha256_of

    return sha256_of(path)


def test_a_run_is_held_against_its_suite(run: tuple[Suite, Run]) -> None:
    suite, made = run
    findings = validate(suite, protocol=BASIC, runs=[made])
    warnings = [what for _, what in found(findings, "warning")]
    assert "lacks 1 of 5 cases, such as ann-p4" in warnings
    assert any("1 of 4 videos were not made" in what and "why" in what for what in warnings)
    assert any("2 videos are copies of another" in what for what in warnings)
    ((name, what),) = found(findings)
    assert name.endswith(".mp4")
    assert "broken" in what


def test_a_video_that_changed_and_one_that_went(run: tuple[Suite, Run]) -> None:
    suite, made = run
    first, second, *_ = made.generations().values()
    video(made.video(first), 200, frames=12)
    made.video(second).unlink()
    errors = [what for _, what in found(validate(suite, protocol=BASIC, runs=[made]))]
    assert "the video has changed since it was made" in errors
    assert "the video is missing" in errors


def test_a_run_of_another_suite_or_of_other_cases(run: tuple[Suite, Run]) -> None:
    suite, made = run
    other = dataclasses.replace(suite, version="other")
    assert "holds 4 videos of people@" in found(validate(other, protocol=BASIC, runs=[made]))[0][1]
    less = dataclasses.replace(suite, cases=tuple(case for case in suite.cases if case.case_id != "ann-p0"))
    errors = [what for _, what in found(validate(less, protocol=BASIC, runs=[made]))]
    assert "holds 1 cases that the suite lacks, such as ann-p0" in errors
