"""VACE on a tiny real base: every tensor against the described mathematics, every misfit refused in two lines."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanVACEPipeline
from facenet_pytorch import MTCNN
from PIL import Image
from safetensors.torch import load_file, save_file

from baselines.vace.adapter import Vace
from baselines.wan import loading
from ffbench.cards import card_gaps
from ffbench.contract import RefusedError, Request, Runtime
from ffbench.errors import UserError
from ffbench.methods import card, find
from ffbench.records import Case, Reference
from ffbench.suites import Suite
from tests.baselines import tiny_wan
from tests.faithfulfaces import tiny_vace

RUNTIME = Runtime("cpu", "")
SIZE = {"width": 32, "height": 16, "num_frames": 5, "steps": 3, "dtype": "float32"}


class RenamedCodec(AutoencoderKLWan):
    """A codec of another class and module than diffusers', as a world of one's own has it."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vace") / "base"
    pipeline().save_pretrained(folder)
    return folder


def pipeline() -> WanVACEPipeline:
    made = tiny_vace.pipeline()
    tiny_wan.loud(made.transformer)
    return made


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Suite:
    folder = tmp_path_factory.mktemp("photos")
    references = []
    for name, photo in {"ann": tiny_vace.portrait(), "bob": tiny_vace.landscape()}.items():
        photo.save(folder / f"{name}.png")
        sha256 = hashlib.sha256((folder / f"{name}.png").read_bytes()).hexdigest()
        references.append(Reference(str(folder / f"{name}.png"), sha256))
    prompts = ["a person boxes", "a person turns the head"]
    cases = [
        Case("mine", "1", f"ann-p{i}", "ann", (references[0],), f"p{i}", prompt) for i, prompt in enumerate(prompts)
    ]
    cases.append(Case("mine", "1", "both-p0", "both", tuple(references), "p0", prompts[0]))
    return Suite("mine", "1", "for tests", tuple(cases))


def loaded(base: Path, **values: Any) -> Vace:
    method = Vace({**find("vace").settings, **SIZE, "base": str(base), **values})
    method.load(RUNTIME)
    return method


def frames(method: Vace, case: Case, seed: int = 5) -> np.ndarray:
    (output,) = method.generate([Request(case, seed, "")])
    assert output.frames is not None and output.fps == 16.0
    return output.frames


def test_the_card_is_complete_and_says_what_vace_was_published_with() -> None:
    own = card("vace")
    assert card_gaps(own) == []
    size = ("width", "height", "num_frames", "fps", "steps", "guidance", "shift", "dtype")
    assert tuple(own.settings[key] for key in size) == (832, 480, 81, 16.0, 50, 5.0, 16.0, "bfloat16")
    assert find("vace@1.3b").settings == {**own.settings, "base": "Wan-AI/Wan2.1-VACE-1.3B-diffusers"}


def white_canvas(path: str, width: int, height: int) -> torch.Tensor:
    """Reference in -1..1, scaled to fit by bilinear weights, centred on white [3,H,W]."""
    picture = Image.open(path)
    # diffusers' own step before: multiples of 8 a side
    picture = picture.resize((picture.width // 8 * 8, picture.height // 8 * 8), Image.Resampling.LANCZOS)
    image = torch.tensor(np.asarray(picture) / 127.5 - 1, dtype=torch.float32).permute(2, 0, 1)
    scale = min(height / image.shape[1], width / image.shape[2])
    h, w = int(image.shape[1] * scale), int(image.shape[2] * scale)
    canvas = torch.ones(3, height, width)
    top, left = (height - h) // 2, (width - w) // 2
    canvas[:, top : top + h, left : left + w] = F.interpolate(image[None], (h, w), mode="bilinear")[0]
    return canvas


def restated(case: Case, seed: int, levels: str) -> np.ndarray:
    """The method as its description has it, on the networks alone, guided away from "a head"."""
    pipe = pipeline()
    vae, text, network = pipe.vae, pipe.text_encoder, pipe.transformer
    mean = torch.tensor(vae.config.latents_mean).view(1, 16, 1, 1, 1)
    std = torch.tensor(vae.config.latents_std).view(1, 16, 1, 1, 1)

    def encoded(video: torch.Tensor) -> torch.Tensor:
        return (vae.encode(video).latent_dist.mode() - mean) / std

    def embedded(prompt: str) -> torch.Tensor:
        ids = torch.tensor([[*(tiny_vace.WORDS.index(w) if w in tiny_vace.WORDS else 2 for w in prompt.split()), 1]])
        hidden = text(ids).last_hidden_state
        return F.pad(hidden, (0, 0, 0, 512 - hidden.shape[1]))

    grey = encoded(torch.zeros(1, 3, 5, 16, 32))
    context, mask = torch.cat([grey, grey], 1), torch.ones(1, 64, 2, 2, 4)
    for reference in reversed(case.references):
        latent = encoded(white_canvas(reference.path, 32, 16)[None, :, None])
        context = torch.cat([torch.cat([latent, torch.zeros_like(latent)], 1), context], 2)
        mask = torch.cat([torch.zeros(1, 64, 1, 2, 4), mask], 2)
    control = torch.cat([context, mask], 1)
    count = len(case.references)
    x = torch.randn((1, 16, count + 2, 2, 4), generator=torch.Generator().manual_seed(seed))
    solver = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=16.0)
    solver.set_timesteps(3, sigmas={"wan": np.array([0.999, 0.666, 0.333]), "diffusers": None}[levels])
    cond, uncond = embedded(case.prompt), embedded("a head")
    for t in solver.timesteps:
        v = [network(x, t[None], e, control_hidden_states=control, return_dict=False)[0] for e in (cond, uncond)]
        x = solver.step(v[1] + 5.0 * (v[0] - v[1]), t, x, return_dict=False)[0]
    video = vae.decode(x[:, :, count:] * std + mean).sample[0].clamp(-1, 1)
    return ((video / 2 + 0.5) * 255).round().byte().permute(1, 2, 3, 0).numpy()


@pytest.mark.parametrize("levels", ["wan", "diffusers"])
@pytest.mark.parametrize("index", [0, 1, 2])
@torch.no_grad()
def test_the_video_is_what_the_description_says(base: Path, suite: Suite, index: int, levels: str) -> None:
    made = frames(loaded(base, levels=levels, negative_prompt="a head"), suite.cases[index])
    expected = restated(suite.cases[index], 5, levels)
    assert made.shape == (5, 16, 32, 3) and np.ptp(made) > 20
    assert np.abs(made.astype(int) - expected).max() <= 1
    if levels == "wan":
        ann, bob = suite.cases[2].references
        for references in ((bob,), (bob, ann), (ann, ann)):
            other = replace(suite.cases[index], references=references)
            assert tiny_wan.differ(restated(other, 5, levels), expected), "the test would miss a mistake"


def test_generate_makes_a_video_of_each_case(base: Path, suite: Suite, tmp_path: Path) -> None:
    ann, bob = suite.cases[2].references
    assert tiny_wan.generated("vace", tmp_path, ann, {"base": base}, bob).settings["shift"] == 16.0


def test_a_prompt_is_encoded_once(base: Path, suite: Suite) -> None:
    method = loaded(base)
    first = frames(method, suite.cases[0])
    assert method._prompts.runs == 2
    assert np.array_equal(frames(method, suite.cases[0]), first)
    frames(method, suite.cases[2])
    assert method._prompts.runs == 2, "the third case has the first one's prompt"
    frames(method, suite.cases[1])
    assert method._prompts.runs == 3
    assert not np.array_equal(frames(method, suite.cases[0], seed=6), first)


def test_parts_that_do_not_fit_together_take_turns(base: Path, suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    together = frames(loaded(base), suite.cases[0])
    monkeypatch.setenv("FFBENCH_OFFLOAD", "always")
    apart = loaded(base)
    assert hasattr(apart._pipe.transformer, "_hf_hook") and np.array_equal(frames(apart, suite.cases[0]), together)


def test_the_face_alone_is_the_largest_box_half_as_large_again(base: Path, suite: Suite, tmp_path: Path) -> None:
    method = loaded(base, reference="face")
    case = suite.cases[0]
    with Image.open(case.references[0].path) as photograph:
        boxes, _ = MTCNN(min_face_size=32, keep_all=True).detect(photograph)
        left, top, right, bottom = max(boxes, key=lambda box: (box[2] - box[0]) * (box[3] - box[1]))
        width, height = right - left, bottom - top
        edges = [round(left - width / 4), round(top - height / 4), round(right + width / 4), round(bottom + height / 4)]
        edges = [max(edges[0], 0), max(edges[1], 0), min(edges[2], photograph.width), min(edges[3], photograph.height)]
        photograph.crop(edges).save(tmp_path / "face.png")
    cut = Case("mine", "1", "x", "x", (Reference(str(tmp_path / "face.png"), "0" * 64),), "p0", case.prompt)
    made = frames(method, case)
    assert np.array_equal(made, frames(loaded(base), cut)) and tiny_wan.differ(made, frames(loaded(base), case))
    with pytest.raises(RefusedError, match="no face"):
        frames(method, replace(case, references=suite.cases[2].references[1:]))


@torch.no_grad()
def test_without_the_control_branch_it_is_plain_text_to_video(base: Path, suite: Suite) -> None:
    method = loaded(base, conditioning_scale=0.0)
    two = [frames(method, suite.cases[index]) for index in (0, 2)]
    other = frames(loaded(base), suite.cases[0])
    assert not np.array_equal(two[0], other)
    case = suite.cases[0]
    stranger = replace(case, references=suite.cases[2].references[1:])
    assert np.array_equal(frames(method, stranger), two[0]), "with scale 0 the reference changes nothing"


def test_a_codec_of_another_class_works_if_its_library_is_trusted(
    base: Path, suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "base"
    shutil.copytree(base, folder)
    edit(folder / "model_index.json", vae=[__name__, "RenamedCodec"])
    with pytest.raises(UserError, match="RenamedCodec") as caught:
        loaded(folder)
    assert "only classes of diffusers" in caught.value.fix
    monkeypatch.setattr(loading, "LIBRARIES", (*loading.LIBRARIES, __name__.partition(".")[0]))
    method = loaded(folder)
    assert type(method._pipe.vae).__name__ == "RenamedCodec"
    assert np.array_equal(frames(method, suite.cases[0]), frames(loaded(base), suite.cases[0]))


def edit(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"base": ""}, "setting base is empty"),
        ({"base": "Wan-AI/Wan2.1-VACE-14B-diffusers"}, "the base Wan-AI/Wan2.1-VACE-14B-diffusers is not on this mach"),
        ({"dtype": "int8"}, "no dtype 'int8'"),
        ({"levels": "karras"}, "no levels 'karras'"),
        ({"reference": "hand"}, "no reference 'hand'"),
        ({"num_frames": 80}, r"num_frames = 80 is not 4 k \+ 1"),
        ({"width": 40}, "width = 40 is no multiple of 16"),
        ({"height": 8}, "height = 8 is no multiple of 16"),
        ({"shift": 0.0}, "shift = 0.0 is not above 0"),
        ({"steps": 0}, "steps = 0 is below 1"),
    ],
)
def test_a_setting_that_does_not_fit_is_named(base: Path, values: dict[str, Any], match: str) -> None:
    with pytest.raises(UserError, match=match) as caught:
        loaded(**{"base": base, **values})
    assert next(iter(values)) in caught.value.fix
    assert len(str(caught.value).splitlines()) == 2


def test_a_base_that_does_not_fit_is_refused(base: Path, tmp_path: Path) -> None:
    def broken(name: str) -> Path:
        shutil.copytree(base, tmp_path / name)
        return tmp_path / name

    def refused(folder: Path, match: str) -> None:
        with pytest.raises(UserError, match=match) as caught:
            loaded(folder)
        assert len(str(caught.value).splitlines()) == 2

    edit((folder := broken("class")) / "transformer/config.json", _class_name="WanTransformer3DModel")
    refused(folder, "_class_name = 'WanTransformer3DModel', this method needs 'WanVACETransformer3DModel'")
    for part in ("transformer", "vae", "text_encoder"):
        shutil.rmtree((folder := broken(f"no-{part}")) / part)
        refused(folder, part)
    shutil.rmtree((folder := broken("no-tokenizer")) / "tokenizer")
    refused(folder, "tokenizer")
    for part, name in {"transformer": "diffusion_pytorch_model", "text_encoder": "model"}.items():
        weights = (folder := broken(f"gap-{part}")) / part / f"{name}.safetensors"
        tensors = load_file(weights)
        first = min(tensors)
        save_file({key: tensor for key, tensor in tensors.items() if key != first}, weights, {"format": "pt"})
        refused(folder, f"lacks {first}")
    (folder := broken("cut")).joinpath("vae/diffusion_pytorch_model.safetensors").write_bytes(b"\x08")
    refused(folder, "vae cannot be loaded")
    edit((folder := broken("stranger")) / "model_index.json", vae=["subprocess", "Popen"])
    refused(folder, "vae is subprocess.Popen")
