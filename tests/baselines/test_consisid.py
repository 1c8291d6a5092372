"""ConsisID on tiny networks of the real classes: the adapter makes what diffusers' own pipeline makes."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import ConsisIDPipeline
from PIL import Image

from baselines.consisid import adapter, faces
from baselines.consisid.adapter import ConsisID
from ffbench.cards import card_gaps
from ffbench.contract import RefusedError, Request, Runtime
from ffbench.errors import UserError
from ffbench.methods import card
from ffbench.records import Case, Reference
from ffbench.worker import serve
from tests.baselines.tiny_consisid import whole

SMALL = {"width": 16, "height": 16, "num_frames": 9, "steps": 2, "dtype": "float32"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("consisid")
    whole().save_pretrained(path)
    return path


class PixelFaces:
    """In place of the four face networks: features of the right kinds made from the pixels; black is nobody."""

    def __init__(self) -> None:
        self.reads = 0

    def read(self, path: str) -> faces.Identity:
        self.reads += 1
        picture = Image.open(path).convert("RGB")
        mean = torch.from_numpy(np.asarray(picture, np.float32).mean((0, 1))) / 255
        if not mean.any():
            raise RefusedError("nobody")
        points = np.array([[2, 2], [9, 2], [5, 5], [3, 8], [8, 8]]) + float(mean[0])
        layers = [mean.repeat(2).expand(1, 7, 6), mean.flip(0).repeat(2).expand(1, 7, 6)]
        return faces.Identity(mean[None], layers, picture, points)


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> PixelFaces:
    reader = PixelFaces()
    monkeypatch.setattr(adapter, "verify", lambda *_: None)
    monkeypatch.setattr(faces, "open_faces", lambda *_: reader)
    return reader


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("photographs")
    colours = {"ann": (200, 120, 90), "bob": (30, 60, 220), "nobody": (0, 0, 0)}
    for name, colour in colours.items():
        Image.new("RGB", (12, 12), colour).save(root / f"{name}.png")
    return {name: str(root / f"{name}.png") for name in colours}


def settings(folder: Path, **values: object) -> dict:
    return {**card("consisid").settings, **SMALL, "base": str(folder), **values}


def request(photographs: Mapping[str, str], name: str, prompt: str = "a person boxes", seed: int = 0) -> Request:
    digit = str(sorted(photographs).index(name))
    return Request(Case("s", "1", name, name, (Reference(photographs[name], digit * 64),), "p", prompt), seed, "")


def load(folder: Path, **values: object) -> ConsisID:
    method = ConsisID(settings(folder, **values))
    method.load(Runtime("cpu", ""))
    return method


def frames(method: ConsisID, *requests: Request, shape: tuple[int, int, int] = (9, 16, 16)) -> list[np.ndarray]:
    made = [output.frames for output in method.generate(requests)]
    assert all(video is not None and video.dtype == np.uint8 and video.shape == (*shape, 3) for video in made)
    return made  # type: ignore[return-value]


def alike(one: np.ndarray, other: np.ndarray) -> bool:
    """Equal but for a value in a thousand that rounds the other way: sums depend on where memory is aligned."""
    off = np.abs(one.astype(int) - other)
    return bool(off.max() <= 1 and (off > 0).mean() <= 1e-3)


def test_the_card_is_complete_and_its_defaults_are_the_pipelines() -> None:
    assert card_gaps(card("consisid")) == []
    own = card("consisid").settings
    names = {"width": "width", "height": "height", "num_frames": "num_frames", "num_inference_steps": "steps"}
    names |= {"guidance_scale": "guidance", "use_dynamic_cfg": "dynamic_guidance"}
    theirs = inspect.signature(ConsisIDPipeline.__call__).parameters
    assert {name: theirs[name].default for name in names} == {name: own[setting] for name, setting in names.items()}
    assert (own["fps"], own["negative_prompt"], own["dtype"]) == (8.0, "", "bfloat16")


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"guidance": 1.0},
        {"dynamic_guidance": True, "negative_prompt": "blurred"},
        {"width": 32, "num_frames": 17, "steps": 3},
        {"dtype": "bfloat16"},
    ],
)
def test_the_adapter_makes_what_the_whole_pipeline_makes(
    folder: Path, photographs: dict[str, str], reader: PixelFaces, values: dict
) -> None:
    wanted = {**SMALL, "guidance": 6.0, "dynamic_guidance": False, "negative_prompt": "", **values}
    pipe = whole().to(getattr(torch, wanted["dtype"]))
    pipe.set_progress_bar_config(disable=True)
    identity = reader.read(photographs["ann"])
    expected = pipe(
        identity.image,
        "a person boxes",
        wanted["negative_prompt"],
        height=16,
        width=wanted["width"],
        num_frames=wanted["num_frames"],
        num_inference_steps=wanted["steps"],
        guidance_scale=wanted["guidance"],
        use_dynamic_cfg=wanted["dynamic_guidance"],
        generator=torch.Generator().manual_seed(0),
        id_vit_hidden=identity.id_vit_hidden,
        id_cond=identity.id_cond,
        kps_cond=identity.points,
    ).frames[0]
    method = load(folder, **values)
    (made,) = frames(method, request(photographs, "ann"), shape=(wanted["num_frames"], 16, wanted["width"]))
    assert alike(made, np.stack([np.asarray(frame) for frame in expected]))
    assert made.std() > 1


def test_of_several_references_the_first_counts(folder: Path, photographs: dict[str, str], reader: PixelFaces) -> None:
    method, ann = load(folder), request(photographs, "ann")
    two = replace(
        ann, case=replace(ann.case, references=(*ann.case.references, Reference(photographs["bob"], "9" * 64)))
    )
    assert alike(*frames(method, ann, two))


def test_values_that_are_not_finite_are_no_video(folder: Path, photographs: dict[str, str], reader: PixelFaces) -> None:
    method = load(folder)
    method._pipe.vae.decoder.conv_out.conv.bias.data.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="try dtype bfloat16"):
        frames(method, request(photographs, "ann"))


def test_face_picture_prompt_seed_and_guidance_each_change_the_video(
    folder: Path, photographs: dict[str, str], reader: PixelFaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = load(folder)
    ann = request(photographs, "ann")
    first, again, bob, dances, seed = frames(
        method,
        ann,
        ann,
        request(photographs, "bob"),
        request(photographs, "ann", "a person dances"),
        request(photographs, "ann", seed=1),
    )
    assert np.array_equal(first, again)
    whole_face = reader.read(photographs["ann"])
    parts = {
        "id_cond": -whole_face.id_cond,
        "id_vit_hidden": [-layer for layer in whole_face.id_vit_hidden],
        "image": Image.new("RGB", (12, 12), (9, 200, 9)),
        "points": whole_face.points + 2,
    }
    changed = []
    for name, value in parts.items():
        monkeypatch.setattr(reader, "read", lambda _, name=name, value=value: whole_face._replace(**{name: value}))
        changed += frames(load(folder), ann)
    monkeypatch.setattr(reader, "read", lambda _: whole_face)
    lower = frames(load(folder, guidance=2.0), ann)
    kinds = ["first", "bob", "dances", "seed", *parts, "lower"]
    videos = dict(zip(kinds, [first, bob, dances, seed, *changed, *lower], strict=True))
    same = [(a, b) for a in kinds for b in kinds if a < b and np.array_equal(videos[a], videos[b])]
    assert same == []


def test_prompts_and_faces_are_read_once(folder: Path, photographs: dict[str, str], reader: PixelFaces) -> None:
    method = load(folder)
    runs = []
    method._prompts.encoder.register_forward_hook(lambda *_: runs.append(1))
    encoded: list[int] = []
    method._pipe.vae.encoder.register_forward_hook(lambda *_: encoded.append(1))
    wanted = [(name, prompt) for name in ("ann", "bob") for prompt in ("a person boxes", "a person dances")]
    for name, prompt in wanted * 2:
        frames(method, request(photographs, name, prompt))
    assert (len(runs), reader.reads) == (3, 2), "two prompts and the negative one; two people"
    assert len(encoded) == 3, "two people's pictures; their points fall on the same pixels"


def test_through_the_worker_a_reference_without_a_face_is_refused(
    folder: Path, photographs: dict[str, str], reader: PixelFaces, tmp_path: Path
) -> None:
    target = {"target": "baselines.consisid.adapter:ConsisID", "settings": settings(folder)}
    lines = [{"load": {**target, "runtime": asdict(Runtime("cpu", ""))}}]
    for index, name in enumerate(["nobody", "ann"]):
        scratch = tmp_path / name
        scratch.mkdir()
        case = request(photographs, name).case
        lines.append({"batch": [{"index": index, "case": asdict(case), "seed": 3, "folder": str(scratch)}]})
    answers: list[Mapping] = []
    serve([json.dumps(line).encode() for line in lines], answers.append)
    assert "diffusers" in answers[0]["ready"]["packages"]
    assert [(answer["index"], answer["status"]) for answer in answers[1:]] == [(0, "refused"), (1, "ok")]
    assert answers[2]["shape"] == [9, 16, 16, 3] and answers[2]["fps"] == 8.0


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"base": "absent"}, "the base absent is not on this machine"),
        ({"base": ""}, "the setting base is empty"),
        ({"num_frames": 5}, r"num_frames = 5 is not 8 k \+ 1"),
        ({"width": 700}, "width = 700 is no multiple of 16"),
        ({"dtype": "int8"}, "no dtype 'int8'"),
    ],
)
def test_what_is_wrong_names_its_setting(folder: Path, values: dict, match: str, reader: PixelFaces) -> None:
    with pytest.raises(UserError, match=match) as caught:
        load(folder, **values)
    assert len(str(caught.value).splitlines()) == 2 and next(iter(values)) in str(caught.value)


def test_parts_that_do_not_fit_together_take_turns(
    folder: Path, photographs: dict[str, str], reader: PixelFaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = frames(load(folder), request(photographs, "ann"))[0]
    monkeypatch.setenv("FFBENCH_OFFLOAD", "always")
    apart = load(folder)
    assert hasattr(apart._pipe.transformer, "_hf_hook")
    assert alike(frames(apart, request(photographs, "ann"))[0], together)


def test_an_input_embedding_that_is_not_the_stored_one_is_refused(
    folder: Path, reader: PixelFaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    from baselines.wan import text
    from baselines.wan.loading import load_part

    def untied(*args: object) -> object:
        encoder = load_part(*args)  # type: ignore[arg-type]
        # what transformers 5.0 to 5.2 leave behind
        encoder.encoder.embed_tokens = torch.nn.Embedding(*encoder.shared.weight.shape)
        return encoder

    monkeypatch.setattr(text, "load_part", untied)
    with pytest.raises(UserError, match="input embedding is not the stored one") as caught:
        load(folder)
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize("part", ["transformer", "vae"])
def test_another_model_is_refused(folder: Path, tmp_path: Path, part: str, reader: PixelFaces) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    config = copy / part / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "_class_name": "CogVideoXTransformer3DModel"}))
    with pytest.raises(UserError, match="this method needs"):
        load(copy)
