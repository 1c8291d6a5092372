"""The labelled set on disk: the same values back, no pickles, and clear words for damage."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest

from ffbench.errors import UserError
from ffbench.truth.labelled import Labelled, TruthSet


def made(seed: int = 0) -> TruthSet:
    rng = np.random.default_rng(seed)

    def rows(n: int, captions: np.ndarray) -> Labelled:
        return Labelled(
            rng.integers(0, 9, n), rng.integers(0, 256, (n, 3, 8, 8, 3), np.uint8), captions,
            *(rng.normal(size=(n, 3, *shape)).astype(np.float32) for shape in ((3,), (4,), (5, 2), ())),
        )  # fmt: skip

    loose, clips = rows(4, np.full((4, 3), "one caption")), rows(2, np.array(["a", "bc"]))
    return TruthSet(loose, clips, rng.integers(0, 256, (2, 12, 12, 3), np.uint8), 8.0)


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    before = made()
    path = tmp_path / "truth.npz"
    path.write_bytes(before.to_bytes())
    after = TruthSet.load(path)
    for part in ("loose", "clips"):
        for one in dataclasses.fields(Labelled):
            a, b = getattr(getattr(before, part), one.name), getattr(getattr(after, part), one.name)
            assert a.dtype == b.dtype
            assert np.array_equal(a, b), one.name
    assert np.array_equal(before.portraits, after.portraits)
    assert after.fps == 8
    with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
        assert all(file[name].dtype != object for name in file.files)


def test_the_same_set_gives_the_same_bytes() -> None:
    assert made().to_bytes() == made().to_bytes()


@pytest.mark.parametrize("damage", ["absent", "cut", "text", "part", "picture"])
def test_damage_is_told_with_the_way_out(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "truth.npz"
    whole = made().to_bytes()
    if damage in ("cut", "text"):
        path.write_bytes(whole[: len(whole) // 2] if damage == "cut" else b"no archive at all")
    elif damage != "absent":
        with np.load(io.BytesIO(whole)) as file:
            arrays = {name: file[name] for name in file.files}
        if damage == "part":
            del arrays["clips.seen"]
        else:
            arrays["loose.pixels"] = arrays["loose.pixels"][:40]
        np.savez_compressed(path, **arrays)
    with pytest.raises(UserError, match="cannot be read") as caught:
        TruthSet.load(path)
    assert "faithfulfaces mini build" in caught.value.fix
