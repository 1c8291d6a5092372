from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ffbench.extract.track import FaceTrack


def make_track() -> FaceTrack:
    rng = np.random.default_rng(0)

    def rows(*shape: int) -> Any:
        values = rng.normal(size=(3, *shape)).astype(np.float32)
        values[1] = np.nan
        return values

    return FaceTrack(
        number=np.array([0, 5, 9]),
        time=np.array([0.0, 0.2, 0.36]),
        box=rows(4),
        points=rows(5, 2),
        det_score=rows(),
        num_faces=np.array([1, 0, 2]),
        step=("320", "", "pad25"),
        angles=rows(3),
        embeddings={"arc": rows(8), "cur": rows(16)},
        features={"fid_inception": rows(2048)},
        clip_number=np.array([0, 9]),
        clip=rng.normal(size=(2, 4)).astype(np.float32),
        size=(640, 480),
        networks={"arc": "arcface-onnx:a.onnx@0123456789ab"},
        missing={"facenet": "ärger: ffbench weights pull facenet-vggface2"},
    )


def test_a_saved_track_comes_back_equal(tmp_path: Path) -> None:
    track = make_track()
    track.save(tmp_path / "deep" / "a.npz")
    back = FaceTrack.load(tmp_path / "deep" / "a.npz")
    for field in dataclasses.fields(FaceTrack):
        before, after = getattr(track, field.name), getattr(back, field.name)
        if field.name in ("embeddings", "features"):
            assert before.keys() == after.keys()
            for slot in before:
                np.testing.assert_array_equal(before[slot], after[slot])
        elif isinstance(before, np.ndarray):
            assert before.dtype == after.dtype
            np.testing.assert_array_equal(before, after)
        else:
            assert before == after
    np.testing.assert_array_equal(back.found, [True, False, True])
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a.npz"]


def test_a_track_without_networks_and_frames(tmp_path: Path) -> None:
    full = make_track()
    none = {
        field.name: getattr(full, field.name)[:0]
        for field in dataclasses.fields(FaceTrack)
        if isinstance(getattr(full, field.name), np.ndarray | tuple) and field.name != "size"
    }
    empty = dataclasses.replace(full, **none, embeddings={}, features={}, networks={}, missing={})
    empty.save(tmp_path / "a.npz")
    assert len(FaceTrack.load(tmp_path / "a.npz").number) == 0


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    if rng.random() < 0.5:
        return data[: rng.integers(0, len(data))]
    at = int(rng.integers(0, len(data) // 2))  # the members' own bytes; checksums guard them
    return data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]


def test_a_damaged_file_is_a_value_error_or_still_right(tmp_path: Path) -> None:
    path, track, rng = tmp_path / "a.npz", make_track(), np.random.default_rng(1)
    track.save(path)
    data, refused = path.read_bytes(), 0
    for _ in range(200):
        path.write_bytes(damaged(data, rng))
        try:
            back = FaceTrack.load(path)
        except ValueError as error:
            refused += 1
            assert "a.npz is no readable FaceTrack" in str(error)
        else:  # a flipped bit in a date or an attribute of the archive
            np.testing.assert_array_equal(back.box, track.box)
            np.testing.assert_array_equal(back.features["fid_inception"], track.features["fid_inception"])
    assert refused > 150


def rewrite(path: Path, **changes: Any) -> None:
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files} | changes
    stream = io.BytesIO()
    np.savez(stream, **{name: value for name, value in arrays.items() if value is not None})
    path.write_bytes(stream.getvalue())


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"box": None}, "box"),
        ({"meta": None}, "meta"),
        ({"box": np.zeros((2, 4), np.float32)}, "box is float32"),
        ({"time": np.zeros(3, np.float32)}, "time is float32"),
        ({"embedding.arc": np.zeros((2, 8), np.float32)}, "embedding.arc"),
        ({"clip": np.zeros((3, 4), np.float32)}, "clip is"),
        ({"surprise": np.zeros((3, 4), np.float32)}, "surprise"),
        ({"box": np.array([None] * 3)}, "allow_pickle"),
    ],
)
def test_a_file_of_another_form_is_refused(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    path = tmp_path / "a.npz"
    make_track().save(path)
    rewrite(path, **changes)
    with pytest.raises(ValueError, match=reason):
        FaceTrack.load(path)


@pytest.mark.parametrize(("change", "reason"), [({"version": 0}, "version 0"), ({"step": ["320"]}, "1 steps")])
def test_meta_of_another_form_is_refused(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    path = tmp_path / "a.npz"
    make_track().save(path)
    with np.load(path) as file:
        meta = json.loads(str(file["meta"])) | change
    rewrite(path, meta=np.array(json.dumps(meta)))
    with pytest.raises(ValueError, match=reason):
        FaceTrack.load(path)


def test_an_absent_file_is_no_track(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no readable"):
        FaceTrack.load(tmp_path / "none.npz")
