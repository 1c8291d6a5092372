"""The optional stages: text overlays by rapidocr, ratings by a head on CLIP's embeddings."""

import dataclasses
import json
import sys
from pathlib import Path

import cv2
import numpy as np
import open_clip
import pytest
import torch

from faithfulfaces.dataset.aesthetic import Aesthetic
from faithfulfaces.dataset.clip import Analyst
from faithfulfaces.dataset.folder import Folder
from faithfulfaces.dataset.instruments import open_instruments
from faithfulfaces.dataset.overlay import TextFinder
from faithfulfaces.dataset.quality import looked
from faithfulfaces.dataset.records import ClipRecord
from faithfulfaces.dataset.settings import Networks, Quality, Settings, load
from faithfulfaces.dataset.sources import Source
from ffbench.errors import UserError
from ffbench.extract.clip import ClipModel
from tests.faithfulfaces.dataset import red

pytest.importorskip("scenedetect")
TINY = {
    "embed_dim": 8,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


def scene(words: str, frames: int = 12) -> np.ndarray:
    """A bright band of sky above dark ground, and a caption near the bottom in every frame."""
    picture = np.full((480, 832, 3), (60, 70, 50), np.uint8)
    picture[:200] = (150, 180, 210)
    cv2.putText(picture, words, (120, 440), cv2.FONT_HERSHEY_SIMPLEX, 2, (255, 255, 255), 5, cv2.LINE_AA)
    return np.stack([picture] * frames)


def test_text_is_found_where_it_is() -> None:
    pytest.importorskip("rapidocr")
    finder = TextFinder()
    assert finder.share(scene("")) == 0
    (width, height), _ = cv2.getTextSize("SUBSCRIBE NOW", cv2.FONT_HERSHEY_SIMPLEX, 2, 5)
    drawn = width * height / (480 * 832)
    covered = finder.share(scene("SUBSCRIBE NOW"))
    assert drawn * 0.8 < covered < drawn * 2
    # in half of the frames, half as much
    some = np.concatenate([scene("SUBSCRIBE NOW", 4), scene("", 4)])
    assert finder.share(some) == pytest.approx(covered / 2, rel=0.05)


def test_a_clip_with_text_is_refused(tmp_path: Path) -> None:
    """Before anybody looks for faces, of which there are none."""
    pytest.importorskip("rapidocr")
    base = red.settings(tmp_path)
    video = dataclasses.replace(base.video, width=832, height=480, frames=12)
    settings = dataclasses.replace(base, video=video, quality=Quality(text=0.02))
    plain, titled = (record(settings, tmp_path, f"film{len(words)}", scene(words)) for words in ("", "SUBSCRIBE NOW"))
    assert (plain.reason, plain.checks) == ("no-face", {"text": 0.0})
    assert (titled.verdict, titled.reason) == ("rejected", "text")
    assert titled.checks["text"] > 0.02
    assert titled.detail.endswith("at most 0.02 is asked for")


def record(settings: Settings, folder: Path, name: str, pixels: np.ndarray) -> ClipRecord:
    path = folder / f"{name}.mp4"
    red.write_mp4(path, pixels, red.FPS)
    analyst = Analyst(settings, open_instruments(settings, "cpu"), Folder(folder / "out"))
    (clip,) = analyst.outcome(Source(path.name, path)).clips
    return clip


def test_without_rapidocr_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rapidocr", None)
    settings = dataclasses.replace(red.settings(tmp_path), quality=Quality(text=0.05))
    with pytest.raises(UserError, match="needs rapidocr, which is not installed"):
        open_instruments(settings, "cpu")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP of the real kind, small, and a head for it."""
    folder = tmp_path_factory.mktemp("clip")
    (folder / "e1-tiny.json").write_text(json.dumps(TINY))
    open_clip.add_model_config(folder)
    torch.manual_seed(0)
    torch.save(open_clip.CLIP(**open_clip.get_model_config("e1-tiny")).state_dict(), folder / "clip.pt")
    torch.save(torch.nn.Linear(8, 1).state_dict(), folder / "head.pt")
    torch.save(torch.nn.Linear(9, 1).state_dict(), folder / "wide.pt")
    return folder


def test_the_rating_is_the_linear_layer_of_the_embedding(weights: Path) -> None:
    clip = ClipModel(weights / "clip.pt", "0" * 64, "e1-tiny")
    frames = np.random.default_rng(1).integers(0, 256, (20, 40, 60, 3), np.uint8)
    layer = torch.nn.Linear(8, 1)
    layer.load_state_dict(torch.load(weights / "head.pt", weights_only=True))
    with torch.no_grad():
        expected = layer(torch.from_numpy(clip.images(frames[looked(20)]))).mean().item()
    assert Aesthetic(clip, weights / "head.pt").score(frames) == pytest.approx(expected, abs=1e-6)
    with pytest.raises(UserError, match=r"needs weight \(1, 8\) and bias"):
        Aesthetic(clip, weights / "wide.pt")


def test_a_clip_that_is_liked_too_little_is_refused(weights: Path, tmp_path: Path) -> None:
    base = red.settings(tmp_path)
    networks = dataclasses.replace(
        base.networks,
        aesthetic_clip=str(weights / "clip.pt"),
        aesthetic_model="e1-tiny",
        aesthetic_head=str(weights / "head.pt"),
    )
    settings = dataclasses.replace(base, networks=networks, quality=Quality(aesthetic=9.9))
    refused = record(settings, tmp_path, "film", red.pixels(red.TURN))
    assert (refused.reason, set(refused.checks)) == ("aesthetic", {"aesthetic"})
    assert refused.detail.endswith("at least 9.9 is asked for")


def test_weights_of_the_rating_are_asked_for(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"quality.aesthetic needs weights"):
        Settings(quality=Quality(aesthetic=5.0))
    base = red.settings(tmp_path)
    networks = dataclasses.replace(base.networks, aesthetic_clip="/nowhere/clip.pt", aesthetic_head="/nowhere/head.pt")
    settings = dataclasses.replace(base, networks=networks, quality=Quality(aesthetic=5.0))
    with pytest.raises(UserError, match=r"no file /nowhere/clip\.pt"):
        open_instruments(settings, "cpu")


@pytest.mark.parametrize(
    ("field", "value"),
    [("subject.threshold", "nan"), ("subject.threshold", "-1"), ("subject.threshold", "5000.0"),
     ("subject.min_presence", "1.5"), ("quality.text", "2.0"), ("people.same", "40.0"), ("samples.jpeg", "0"),
     ("video.fps", "-16.0"), ("video.max_seconds", "0.0"), ("networks.box", "0.0")],
)  # fmt: skip
def test_values_of_no_sense_are_named(tmp_path: Path, field: str, value: str) -> None:
    section, name = field.split(".")
    path = tmp_path / "s.toml"
    path.write_text(f"[{section}]\n{name} = {value}\n")
    with pytest.raises(UserError, match=f"settings: {field} must "):
        load(path)


def test_every_range_is_of_a_field() -> None:
    from faithfulfaces.dataset.settings import POSITIVE, RANGES

    known = {f"{s.name}.{f.name}" for s in dataclasses.fields(Settings) for f in dataclasses.fields(s.default_factory)}
    assert set(RANGES) <= known
    assert {name.split(".")[1] for name in known} >= POSITIVE
    assert Networks().ladder == ("fit640",)
