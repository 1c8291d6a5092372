"""Which people the labelled set holds: decided by pose labels and order, never by a network."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from faithfulfaces.mini.footage import Footage
from faithfulfaces.mini.truthset import clip_block, truth_set, write_truth
from faithfulfaces.synthetic.people import SPLITS, split_of
from ffbench.truth.labelled import FILE, TruthSet


def footage(first: int, people: int, photos: int) -> Footage:
    rng = np.random.default_rng(first)

    def reals(*shape: int) -> np.ndarray:
        return rng.normal(size=(people, *shape)).astype(np.float32)

    return Footage(
        np.arange(first, first + people), rng.integers(0, 256, (people, 3, 8, 8, 3), np.uint8),
        np.full((people,) if photos else (people, 3), "a caption"), reals(3, 3), reals(3, 4), reals(3, 5, 2), reals(3),
        rng.integers(0, 256, (people, photos, 12, 12, 3), np.uint8), reals(photos, 3), reals(photos, 4),
    )  # fmt: skip


def test_loose_people_are_those_who_turn_most_often_and_clips_the_first() -> None:
    blocks = [footage(0, 4, 0), footage(4, 4, 0)]
    for block in blocks:
        block.angles[:] = 0
    blocks[0].angles[2, :2, 1] = -60
    blocks[1].angles[1, :3, 1] = 90
    blocks[1].angles[3, 0, 1] = 46
    blocks[0].angles[0, 0, 1] = 44
    clips = footage(20, 3, 1)
    made = truth_set(blocks, clips, people=3, count=2)
    assert made.loose.seeds.tolist() == [2, 5, 7]
    assert np.array_equal(made.loose.pixels[1], blocks[1].pixels[1])
    assert made.clips.seeds.tolist() == [20, 21]
    assert np.array_equal(made.portraits, clips.portraits[:2, 0])
    assert truth_set(blocks, clips, people=100).loose.seeds.tolist() == list(range(8))


def test_nobody_is_in_both_halves() -> None:
    with pytest.raises(ValueError, match="person 3 is in the loose frames"):
        truth_set([footage(0, 4, 0)], footage(3, 2, 1))


@pytest.mark.parametrize(("people", "count", "block"), [(150, 24, 7), (48, 24, 2), (49, 24, 3), (1, 24, 1)])
def test_the_block_of_clips_is_the_first_of_other_people(people: int, count: int, block: int) -> None:
    first = SPLITS["test"].start
    assert clip_block([footage(first, people, 0)], count) == block


def test_written_as_ffbench_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "truth.npz"
    loose, clips = footage(0, 4, 0), footage(9, 2, 1)
    write_truth(path, [loose], clips)
    read = TruthSet.load(path)
    for one in dataclasses.fields(read.loose):
        assert np.array_equal(getattr(read.loose, one.name), getattr(loose, one.name))
    assert [p.name for p in path.parent.iterdir()] == ["truth.npz"]


def test_the_embedded_set_holds_people_whom_no_network_was_trained_on() -> None:
    made = TruthSet.load()
    seeds = [*made.loose.seeds.tolist(), *made.clips.seeds.tolist()]
    assert len(set(seeds)) == len(seeds)
    assert {split_of(seed) for seed in seeds} == {"test"}
    assert FILE.stat().st_size <= 4 << 20
