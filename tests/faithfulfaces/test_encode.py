from __future__ import annotations

import dataclasses
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import WanVACEPipeline
from PIL import Image
from safetensors.torch import load_file
from typer.testing import CliRunner

from faithfulfaces import encode as encoding
from faithfulfaces import recipes
from faithfulfaces.backbone import load_vace
from faithfulfaces.config import Train
from faithfulfaces.context import vace_context
from faithfulfaces.data import Videos, VideoSampler
from faithfulfaces.encode import CACHE, SETTINGS, Encoded, encode
from faithfulfaces.pipeline import NEGATIVE_PROMPT
from faithfulfaces.recipes import debug
from faithfulfaces.shards import BLANK, Sample, ShardClips, read_shard, write_shard
from ffbench.errors import UserError
from ffbench.video import write_mp4
from tests.faithfulfaces import tiny_vace

WIDTH, HEIGHT, FRAMES = 32, 16, 5
TOKENS = 12


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_vace.write(tmp_path_factory.mktemp("base") / "vace")


@pytest.fixture(scope="module")
def pipeline(base: Path) -> WanVACEPipeline:
    return load_vace(base, torch.float32)


def config() -> Train:
    """The debug recipe at the size of these videos, on the tiny base."""
    data = dataclasses.replace(
        debug().data, width=WIDTH, height=HEIGHT, num_frames=FRAMES, text_tokens=TOKENS, video_batch=2, pair_batch=2
    )
    return dataclasses.replace(debug(), data=data)


def video(seed: int, size: tuple[int, int] = (WIDTH, HEIGHT), frames: int = FRAMES) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (frames, 2, 4, 3), np.uint8)
    return np.stack([np.asarray(Image.fromarray(f).resize(size)) for f in coarse])


def mp4(folder: Path, frames: np.ndarray) -> bytes:
    write_mp4(folder / "made.mp4", frames, 16)
    return (folder / "made.mp4").read_bytes()


def jpeg(seed: int, size: tuple[int, int] = (21, 30)) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 3, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize(size).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def raw(index: int, film: bytes, **changes: object) -> Sample:
    sample = Sample(
        key=f"clip{index:04d}",
        identity=f"person{index}",
        prompt="a person turns the head" if index % 2 else "a person boxes",
        crops=[jpeg(10 * index + k) for k in range(3)],
        euler=[(float(k), float(index), -1.5) for k in range(3)],
        reference=1,
        files={"mp4": film, "note.txt": b"kept"},
    )
    return dataclasses.replace(sample, **changes)


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    folder = tmp_path / "raw"
    folder.mkdir()
    for shard in range(3):
        samples = [raw(i, mp4(tmp_path, video(i))) for i in (2 * shard, 2 * shard + 1)]
        write_shard(folder / f"{shard:05d}.tar", samples)
    return folder


def decoded(film: bytes, folder: Path) -> list[Image.Image]:
    """Frames by another reader than the house's."""
    import av

    (folder / "read.mp4").write_bytes(film)
    with av.open(str(folder / "read.mp4")) as container:
        return [frame.to_image() for frame in container.decode(video=0)]


def test_a_batch_of_encoded_clips_is_what_the_pipeline_would_compute(
    shards: Path, base: Path, pipeline: WanVACEPipeline, tmp_path: Path
) -> None:
    assert encode(config(), shards, base, tmp_path / "out") == Encoded(3, 6, 0, 0)
    clips = ShardClips(tmp_path / "out", 16)
    sampler = VideoSampler(clips, 2, seed=0, text_tokens=TOKENS)
    rows = sampler.at(0)
    videos: Videos = sampler.collate(rows, [sampler.read(row) for row in rows])
    samples = [sample for path in sorted(shards.glob("*.tar")) for sample in read_shard(path)]
    assert clips.blank is not None
    for place, row in enumerate(rows):
        sample = samples[row]
        crop = Image.open(io.BytesIO(sample.crops[1])).convert("RGB")
        grey, mask, references = pipeline.preprocess_conditions(
            None, None, crop, 1, HEIGHT, WIDTH, FRAMES, torch.float32, torch.device("cpu")
        )
        with torch.no_grad():
            latents = pipeline.prepare_video_latents(grey, mask, references)
            control = torch.cat([latents, pipeline.prepare_masks(mask, references)], dim=1)
            frames = pipeline.video_processor.preprocess_video(decoded(sample.files["mp4"], tmp_path), HEIGHT, WIDTH)
            # a mask of zeros keeps the whole video in the inactive half
            film = pipeline.prepare_video_latents(frames, torch.zeros_like(frames), [[]])[:, :16]
            text, _ = pipeline.encode_prompt(
                sample.prompt, do_classifier_free_guidance=False, max_sequence_length=TOKENS
            )
        reference = videos.reference[place : place + 1]
        assert torch.equal(vace_context(reference, clips.blank), control)
        assert torch.equal(videos.latents[place : place + 1], film)
        assert torch.equal(videos.text[place : place + 1], text)
        assert int(text[0].any(1).sum()) < TOKENS, "the prompt was padded, or this shows nothing"
    assert not torch.equal(videos.latents[0], videos.latents[1])


def test_the_loss_on_encoded_clips_trains_the_base_they_were_made_for(shards: Path, base: Path, tmp_path: Path) -> None:
    from faithfulfaces.parallel import World
    from faithfulfaces.trainer import Trainer

    encode(config(), shards, base, tmp_path / "out")
    on_base = dataclasses.replace(config(), base=dataclasses.replace(debug().base, folder=str(base), arch={}), steps=2)
    trainer = Trainer(
        on_base, ShardClips(tmp_path / "out", 16), World(0, 1, torch.device("cpu"), None), tmp_path / "run"
    )
    terms = [trainer.train_step() for _ in range(2)]
    for loader in trainer._loaders().values():
        loader.close()
    assert all(torch.isfinite(t["loss_fm"]) and torch.isfinite(t["loss_pia"]) for t in terms)


def test_text_is_stored_without_padding_and_the_negative_prompt_once(
    shards: Path, base: Path, pipeline: WanVACEPipeline, tmp_path: Path
) -> None:
    encode(config(), shards, base, tmp_path / "out")
    cached = ShardClips(tmp_path / "out", 16).cached(0)
    assert len(cached.text) == len(pipeline.tokenizer("a person boxes").input_ids)
    common = load_file(tmp_path / "out" / BLANK)
    with torch.no_grad():
        want, _ = pipeline.encode_prompt(NEGATIVE_PROMPT, None, False, max_sequence_length=TOKENS)
    assert torch.equal(common["negative"], want[0, : len(common["negative"])])
    assert not want[0, len(common["negative"]) :].any()


def test_everything_but_the_video_comes_along(shards: Path, base: Path, tmp_path: Path) -> None:
    encode(config(), shards, base, tmp_path / "out")
    for path in sorted(shards.glob("*.tar")):
        for before, after in zip(read_shard(path), read_shard(tmp_path / "out" / path.name), strict=True):
            assert after.files.keys() == {"note.txt", CACHE}
            assert after.files["note.txt"] == b"kept"
            assert dataclasses.replace(after, files=before.files) == before


def test_only_what_is_missing_is_encoded_again(
    shards: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    encode(config(), shards, base, out)
    first = {path.name: path.read_bytes() for path in out.iterdir()}
    (out / "00001.tar").unlink()
    assert encode(config(), shards, base, out) == Encoded(1, 2, 0, 2)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == first
    # nothing is loaded where nothing is to do
    monkeypatch.setattr(encoding, "load_encoders", None)
    assert encode(config(), shards, base, out) == Encoded(0, 0, 0, 3)


KILLED = """
import dataclasses, os, signal
from pathlib import Path
import torch
torch.set_num_threads(1)
from faithfulfaces import encode as e
from faithfulfaces.recipes import debug
data = dataclasses.replace(debug().data, width={width}, height={height}, num_frames={frames}, text_tokens={tokens})
class Dying(e.Encoder):
    seen = 0
    def sample(self, raw):
        Dying.seen += 1
        if Dying.seen == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().sample(raw)
e.Encoder = Dying
e.encode(dataclasses.replace(debug(), data=data), Path({shards!r}), Path({base!r}), Path({out!r}))
"""


@pytest.mark.slow
def test_a_killed_run_loses_the_shard_it_was_at(shards: Path, base: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    numbers = {"width": WIDTH, "height": HEIGHT, "frames": FRAMES, "tokens": TOKENS}
    script = KILLED.format(shards=str(shards), base=str(base), out=str(out), **numbers)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert [path.name for path in sorted(out.glob("*.tar"))] == ["00000.tar"]
    assert len(ShardClips(out, 16).identities) == 2
    assert encode(config(), shards, base, out) == Encoded(2, 4, 0, 1)
    encode(config(), shards, base, tmp_path / "whole")
    for path in (tmp_path / "whole").glob("*.tar"):
        assert (out / path.name).read_bytes() == path.read_bytes()


def test_processes_of_torchrun_share_the_shards(
    shards: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, names in enumerate((["00000.tar", "00002.tar"], ["00001.tar"])):
        monkeypatch.setenv("RANK", str(rank))
        out = tmp_path / str(rank)
        assert encode(config(), shards, base, out).shards == len(names)
        assert [path.name for path in sorted(out.glob("*.tar"))] == names


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"files": {}}, "it has no mp4"),
        ({"files": {"mp4": b"junk"}}, "its video: this is no video"),
        ({"files": "small"}, "its video is 16x16x5, the recipe's is 32x16x5"),
        ({"files": "short"}, "its video is 32x16x4, the recipe's is 32x16x5"),
        ({"crops": [jpeg(0), b"junk", jpeg(1)]}, "its reference, crop 1, is no readable image"),
        ({"crops": [jpeg(0), jpeg(0, (7, 30)), jpeg(1)]}, "its reference, crop 1, is 7x30 px"),
    ],
)
def test_a_clip_that_cannot_be_encoded_is_left_out_and_named(
    base: Path, tmp_path: Path, change: dict[str, object], reason: str
) -> None:
    films = {"small": video(0, (16, 16)), "short": video(0, frames=4)}
    if isinstance(film := change.get("files"), str):
        change = {"files": {"mp4": mp4(tmp_path, films[film])}}
    good = raw(0, mp4(tmp_path, video(0)))
    (tmp_path / "raw").mkdir()
    write_shard(tmp_path / "raw" / "00000.tar", [raw(1, good.files["mp4"], **change), good])
    assert encode(config(), tmp_path / "raw", base, tmp_path / "out") == Encoded(1, 1, 1, 0)
    assert ShardClips(tmp_path / "out", 16).identities == ["person0"]
    (line,) = (tmp_path / "out" / "00000.failed.jsonl").read_text("utf-8").splitlines()
    failure = json.loads(line)
    assert failure["sample"] == "clip0001"
    assert failure["reason"].startswith(reason)


def test_a_longer_video_gives_its_first_frames(base: Path, pipeline: WanVACEPipeline, tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    frames = video(3, frames=9)
    write_shard(tmp_path / "raw" / "0.tar", [raw(0, mp4(tmp_path, frames))])
    encode(config(), tmp_path / "raw", base, tmp_path / "out")
    (sample,) = read_shard(tmp_path / "raw" / "0.tar")
    first = decoded(sample.files["mp4"], tmp_path)[:FRAMES]
    pixels = pipeline.video_processor.preprocess_video(first, HEIGHT, WIDTH)
    with torch.no_grad():
        want = pipeline.prepare_video_latents(pixels, torch.zeros_like(pixels), [[]])[0, :16]
    assert torch.equal(ShardClips(tmp_path / "out", 16).cached(0).latents, want)


def test_one_folder_holds_one_encoding(shards: Path, base: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    encode(config(), shards, base, out)
    wide = dataclasses.replace(config(), data=dataclasses.replace(config().data, width=48))
    with pytest.raises(UserError, match="was encoded with width 32, this call has 48"):
        encode(wide, shards, base, out)
    other = tiny_vace.write(tmp_path / "other", seed=1)
    with pytest.raises(UserError, match="was encoded with vae "):
        encode(config(), shards, other, out)
    (out / SETTINGS).write_text("{", "utf-8")
    with pytest.raises(UserError, match=r"encode\.json is damaged"):
        encode(config(), shards, base, out)


def test_bad_folders_are_named_and_leave_nothing(shards: Path, base: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no shards"):
        encode(config(), tmp_path / "absent", base, tmp_path / "out")
    with pytest.raises(UserError, match="is the folder of the shards themselves"):
        encode(config(), shards, base, shards)
    with pytest.raises(UserError, match="there is no base folder"):
        encode(config(), shards, tmp_path / "absent", tmp_path / "out")
    # a base that is mended afterwards is not refused as another one
    assert encode(config(), shards, base, tmp_path / "out").clips == 6


def test_a_cut_shard_is_named(shards: Path, base: Path, tmp_path: Path) -> None:
    path = shards / "00001.tar"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"shard 00001\.tar"):
        encode(config(), shards, base, tmp_path / "out")


def test_a_sample_without_prompt_is_named(shards: Path, base: Path, tmp_path: Path) -> None:
    with tarfile.open(shards / "00009.tar", "w") as tar:
        about = json.dumps(
            {"version": 1, "identity": "x", "reference": 0, "crops": [{"name": "c.jpg", "euler": [0, 0, 0]}]}
        ).encode()
        for name, content in (("a.json", about), ("a.c.jpg", jpeg(0))):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    with pytest.raises(UserError, match=r"shard 00009\.tar, sample a: its json is damaged"):
        encode(config(), shards, base, tmp_path / "out")


@pytest.fixture
def own_recipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setitem(recipes.RECIPES, "small", config)
    yield "small"


def test_the_command_line(shards: Path, base: Path, tmp_path: Path, own_recipe: str) -> None:
    from faithfulfaces.cli import app

    out = tmp_path / "out"
    arguments = ["--shards", str(shards), "--base", str(base), "--out", str(out), "--recipe", own_recipe]
    done = CliRunner().invoke(app, ["encode", *arguments])
    assert done.exit_code == 0, done.output
    assert "encoded 6 clips in 3 shards; 0 shards were there already" in done.stderr
    assert done.stdout == ""
    assert len(ShardClips(out, 16).identities) == 6


def test_the_command_fails_where_no_clip_could_be_encoded(base: Path, tmp_path: Path, own_recipe: str) -> None:
    from faithfulfaces.cli import app

    (tmp_path / "raw").mkdir()
    write_shard(tmp_path / "raw" / "00000.tar", [raw(0, b"junk")])
    folders = ["--shards", str(tmp_path / "raw"), "--base", str(base), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, ["encode", *folders, "--recipe", own_recipe])
    assert done.exit_code == 1
    assert "encoded 0 clips in 1 shards, 1 left out" in done.stderr
