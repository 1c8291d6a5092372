from __future__ import annotations

import io
import json
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save, save_file

from faithfulfaces.config import Data
from faithfulfaces.data import Cached, Clips, InMemoryClips, Loader, PairSampler, VideoSampler, accumulation
from faithfulfaces.shards import BLANK, Sample, ShardClips, write_shard
from ffbench.errors import UserError

SIZE = 8


def jpeg(colour: tuple[int, int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (20, 20), colour).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def sample(index: int, crops: int = 3, identity: str | None = None, *, cached: bool = True) -> Sample:
    tensors = {
        "latents": torch.full((16, 2, 2, 2), float(index)),
        "reference": torch.full((16, 1, 2, 2), -float(index)),
        "text": torch.full((index % 3 + 1, 4), 1.0),
    }
    return Sample(
        key=f"clip{index:04d}",
        identity=identity or f"person{index}",
        prompt="a head turns – naïve",
        crops=[jpeg((20 * index, 60 * k, 100)) for k in range(crops)],
        euler=[(float(k), float(index), -1.5) for k in range(crops)],
        reference=1,
        files={"cache.safetensors": save(tensors)} if cached else {},
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for shard in range(2):
        write_shard(tmp_path / f"{shard:05d}.tar", [sample(shard * 3 + i) for i in range(3)])
    save_file({"blank": torch.full((16, 2, 2, 2), 0.5)}, tmp_path / BLANK)
    return tmp_path


def in_memory(people: int, clips_each: int = 1, crops: int = 3) -> InMemoryClips:
    names = [f"p{i // clips_each}" for i in range(people * clips_each)]
    rgb = np.zeros((len(names), crops, SIZE, SIZE, 3), np.uint8)
    rgb += np.arange(len(names), dtype=np.uint8)[:, None, None, None, None]
    euler = np.zeros((len(names), crops, 3), np.float32) + np.arange(crops, dtype=np.float32)[None, :, None]
    return InMemoryClips(names, rgb, euler)


def test_shards_give_back_what_was_written(folder: Path) -> None:
    clips = ShardClips(folder, SIZE)
    assert clips.identities == [f"person{i}" for i in range(6)]
    assert clips.num_crops == [3] * 6
    assert clips.references == [1] * 6
    crop = clips.crop(4, 2)
    assert crop.rgb.shape == (SIZE, SIZE, 3)
    np.testing.assert_allclose(crop.rgb.mean((0, 1)), (80, 120, 100), atol=3)
    np.testing.assert_array_equal(crop.euler, (2, 4, -1.5))
    cached = clips.cached(5)
    assert float(cached.latents.mean()) == 5
    assert float(cached.reference.mean()) == -5
    assert clips.blank is not None
    assert float(clips.blank.mean()) == 0.5


def test_a_shard_is_webdataset_and_its_bytes_repeat(folder: Path) -> None:
    again = folder / "again.tar"
    write_shard(again, [sample(i) for i in range(3)])
    assert again.read_bytes() == (folder / "00000.tar").read_bytes()
    with tarfile.open(again) as tar:
        names = tar.getnames()
    # members of a sample stand together and share what is before the first dot
    assert [n.partition(".")[0] for n in names] == sorted(n.partition(".")[0] for n in names)
    assert names[:3] == ["clip0000.json", "clip0000.crop000.jpg", "clip0000.crop001.jpg"]


def rewritten(path: Path, drop: str = "", replace: dict[str, bytes] | None = None) -> None:
    with tarfile.open(path) as tar:
        members = {m.name: tar.extractfile(m).read() for m in tar}  # type: ignore[union-attr]
    members |= replace or {}
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            if name != drop:
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


def test_a_missing_crop_is_named_with_shard_and_sample(folder: Path) -> None:
    rewritten(folder / "00001.tar", drop="clip0004.crop001.jpg")
    with pytest.raises(UserError, match=r"shard 00001.tar, sample clip0004: member clip0004.crop001.jpg is missing"):
        ShardClips(folder, SIZE)


@pytest.mark.parametrize(
    "about",
    [
        b"{",
        b"[]",
        b'{"version": 1}',
        b'{"version": 9, "identity": "x", "prompt": "", "reference": 0, "crops": []}',
        b'{"version": 1, "identity": "x", "prompt": "", "reference": 0, "crops": []}',
        b'{"version": 1, "identity": "x", "prompt": "", "reference": 0, "crops": [{"name": "a", "euler": [1, 2]}]}',
        b'{"version": 1, "identity": "x", "reference": 0, "crops": [{"name": "a", "euler": [1, NaN, 2]}]}',
        b'{"version": 1, "identity": 3, "prompt": "", "reference": 0, "crops": [{"name": "a", "euler": [1, 2, 3]}]}',
        b'{"version": 1, "identity": "x", "prompt": "", "reference": 0, "crops": [{"name": "a", "euler": ["", 2, 3]}]}',
    ],
)
def test_damaged_descriptions_are_named(folder: Path, about: bytes) -> None:
    rewritten(folder / "00000.tar", replace={"clip0001.json": about})
    with pytest.raises(UserError, match=r"shard 00000.tar, sample clip0001"):
        ShardClips(folder, SIZE)


def test_damaged_images_and_caches_are_named_when_read(folder: Path) -> None:
    damaged = {"clip0000.crop000.jpg": b"no image", "clip0000.cache.safetensors": b"no tensors"}
    rewritten(folder / "00000.tar", replace=damaged, drop="clip0001.cache.safetensors")
    clips = ShardClips(folder, SIZE)
    with pytest.raises(UserError, match=r"00000.tar, sample clip0000: crop 0 is no readable image"):
        clips.crop(0, 0)
    with pytest.raises(UserError, match=r"clip0000: cache.safetensors"):
        clips.cached(0)
    with pytest.raises(UserError, match=r"clip0001: it has no cache.safetensors"):
        clips.cached(1)


def test_a_half_tar_and_an_empty_folder_are_named(folder: Path, tmp_path: Path) -> None:
    whole = (folder / "00000.tar").read_bytes()
    (folder / "00000.tar").write_bytes(whole[:700])
    with pytest.raises(UserError, match=r"shard 00000\.tar"):
        ShardClips(folder, SIZE)
    with pytest.raises(UserError, match="no shards"):
        ShardClips(tmp_path / "nothing", SIZE)


def test_keys_and_angles_are_checked_when_written(tmp_path: Path) -> None:
    bad = sample(1)
    with pytest.raises(ValueError, match="dot"):
        write_shard(tmp_path / "x.tar", [Sample(key="a.b", identity="x", prompt="", crops=[], euler=[])])
    with pytest.raises(ValueError, match="angles"):
        write_shard(tmp_path / "x.tar", [Sample(key="a", identity="x", prompt="", crops=bad.crops, euler=[])])
    assert not (tmp_path / "x.tar").exists()


def test_a_batch_holds_each_person_once_and_two_crops_of_one_clip() -> None:
    sampler = PairSampler(in_memory(10, clips_each=2), 4, seed=0)
    assert sampler.batches_per_epoch == 2
    for index in range(20):
        draws = sampler.at(index)
        assert len({draw.label for draw in draws}) == 4
        assert all(draw.first != draw.second for draw in draws)
        assert all(draw.clip // 2 == int(sampler.clips.identities[draw.clip][1:]) for draw in draws)
    first_epoch = [draw.label for index in range(2) for draw in sampler.at(index)]
    assert len(set(first_epoch)) == 8
    clips = {draw.clip for index in range(40) for draw in sampler.at(index)}
    assert len(clips) == 20, "every clip of a person comes up"


def test_too_few_people_are_refused_with_both_numbers() -> None:
    with pytest.raises(UserError, match="pair_batch is 5, but only 4 identities"):
        PairSampler(in_memory(4), 5, seed=0)
    with pytest.raises(UserError, match="only 0 identities"):
        PairSampler(in_memory(4, crops=1), 2, seed=0)


def test_pairs_with_the_reference_hold_it_and_each_other_crop_as_often() -> None:
    clips = in_memory(4, crops=4)
    clips.references = [0, 1, 2, 3]
    drawn = [draw for i in range(150) for draw in PairSampler(clips, 4, seed=0, with_reference=True).at(i)]
    assert all(draw.first == clips.references[draw.clip] for draw in drawn)
    counts = Counter((draw.clip, draw.second) for draw in drawn)
    assert len(counts) == 12 and not any(second == clips.references[clip] for clip, second in counts)
    # 50 expected of each: 25 or 75 lie more than four deviations away
    assert min(counts.values()) > 25 and max(counts.values()) < 75


def test_pairs_hold_both_crops_row_by_row() -> None:
    sampler = PairSampler(in_memory(6), 4, seed=3)
    draws = sampler.at(0)
    pairs = sampler.collate(draws, [sampler.read(draw) for draw in draws])
    assert pairs.first.shape == (4, 3, SIZE, SIZE)
    assert pairs.first.dtype == torch.uint8
    for row, draw in enumerate(draws):
        assert int(pairs.first[row].float().mean()) == draw.clip == int(pairs.second[row].float().mean())
        assert pairs.first_euler[row].tolist() == [draw.first] * 3
        assert pairs.second_euler[row].tolist() == [draw.second] * 3


def test_videos_bring_reference_crop_latents_and_padded_text(folder: Path) -> None:
    sampler = VideoSampler(ShardClips(folder, SIZE), 3, seed=0, text_tokens=5)
    rows = sampler.at(0)
    videos = sampler.collate(rows, [sampler.read(row) for row in rows])
    assert videos.latents.shape == (3, 16, 2, 2, 2)
    assert videos.reference.shape == (3, 16, 1, 2, 2)
    assert [int(x) for x in videos.latents.mean((1, 2, 3, 4))] == rows
    assert videos.euler[:, 0].tolist() == [1, 1, 1], "of the reference crop"
    assert [int(t.sum()) // 4 for t in videos.text] == [row % 3 + 1 for row in rows]
    assert videos.text.shape == (3, 5, 4)


def test_videos_need_a_cache_and_enough_clips() -> None:
    with pytest.raises(UserError, match=r"blank\.safetensors"):
        VideoSampler(in_memory(4), 2, seed=0, text_tokens=5)
    with pytest.raises(UserError, match="video_batch is 9, but there are only 4"):
        VideoSampler(in_memory(4), 9, seed=0, text_tokens=5)


def loader(clips: Clips, rank: int = 0, world: int = 1, batch: int = 4, seed: int = 0) -> Loader[object]:
    return Loader(PairSampler(clips, batch, seed), rank, world, workers=2, ahead=2)


def taken(source: Loader[object], count: int) -> list[list[int]]:
    return [next(source).identities.tolist() for _ in range(count)]  # type: ignore[attr-defined]


def test_ranks_cut_the_batch_that_one_process_sees() -> None:
    clips = in_memory(12)
    alone, both = loader(clips), [loader(clips, rank, 2) for rank in range(2)]
    for whole, *halves in zip(taken(alone, 7), *(taken(b, 7) for b in both), strict=True):
        assert whole == halves[0] + halves[1]


def test_a_loader_goes_on_where_its_state_was_taken() -> None:
    clips = in_memory(12)
    source = loader(clips)
    taken(source, 5)
    state = json.loads(json.dumps(source.state_dict()))
    rest = taken(source, 5)
    resumed = loader(clips)
    taken(resumed, 1)
    resumed.load_state_dict(state)
    assert taken(resumed, 5) == rest
    for closed in (source, resumed):
        closed.close()


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"world": 2}, "data-parallel degree 1, this run has 2"),
        ({"batch": 6}, "batch 4, this run has 6"),
        ({"seed": 9}, "seed 0, this run has 9"),
    ],
)
def test_a_state_of_another_run_is_refused_with_both_numbers(other: dict[str, int], words: str) -> None:
    state = loader(in_memory(12)).state_dict()
    with pytest.raises(UserError, match=words):
        loader(in_memory(12), **other).load_state_dict(state)
    with pytest.raises(UserError, match="version 0, this run has 1"):
        loader(in_memory(12)).load_state_dict(state | {"version": 0})


def test_a_damaged_sample_stops_the_loader_with_its_name(folder: Path) -> None:
    rewritten(folder / "00001.tar", replace={f"clip0005.crop00{k}.jpg": b"x" for k in range(3)})
    source = loader(ShardClips(folder, SIZE), batch=6)
    with pytest.raises(UserError, match="sample clip0005"):
        next(source)
    source.close()


def test_batches_must_divide() -> None:
    with pytest.raises(UserError, match="a batch of 4 does not divide over 3"):
        loader(in_memory(12), 0, 3)
    assert accumulation(Data(video_batch=32), 8) == 4
    with pytest.raises(UserError, match=r"Data.video_batch 32 is no multiple of 64 \(64 processes"):
        accumulation(Data(video_batch=32), 64)


def test_in_memory_arrays_are_checked_and_cached_is_given_back() -> None:
    with pytest.raises(ValueError, match=r"\[N,V,H,W,3\]"):
        InMemoryClips(["a"], np.zeros((1, 2, 4, 4, 3), np.uint8), np.zeros((1, 2), np.float32))
    cached = Cached(torch.zeros(1), torch.zeros(1), torch.zeros(1))
    rgb, euler = np.zeros((1, 2, 4, 4, 3), np.uint8), np.zeros((1, 2, 3), np.float32)
    assert InMemoryClips(["a"], rgb, euler, [cached]).cached(0) is cached
