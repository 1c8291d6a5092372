"""The whole pipeline on a tiny real VACE: the step-0 identity, the ablations, and its files."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UniPCMultistepScheduler, WanVACEPipeline
from PIL import Image
from safetensors.torch import load_file, save_file

from faithfulfaces.config import Train
from faithfulfaces.data import stack
from faithfulfaces.faces import FaceReader, open_faces
from faithfulfaces.learner import Learner
from faithfulfaces.model import CARD, CONFIG, LORA, WEIGHTS, ModelConfig, load_model, save_model
from faithfulfaces.pipeline import FaithfulFacesPipeline, Sampling, local_folder, sampling_of, without_euler
from faithfulfaces.shards import Sample, ShardClips, write_shard
from ffbench.errors import UserError
from tests.faithfulfaces import tiny_vace
from tests.faithfulfaces.tiny_vace import SMALL
from tests.loopback import answering

PROMPT = "a person boxes"


@pytest.fixture(scope="module")
def faces() -> FaceReader:
    return open_faces(tiny_vace.CONFIG.faces)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_vace.write(tmp_path_factory.mktemp("base"))


def build(faces: FaceReader, *, trained: bool, config: ModelConfig = tiny_vace.CONFIG) -> FaithfulFacesPipeline:
    vace = tiny_vace.pipeline()
    vace.set_progress_bar_config(disable=True)
    return FaithfulFacesPipeline(vace, config, tiny_vace.parts(config, trained=trained), faces)


@pytest.fixture(scope="module")
def trained(faces: FaceReader) -> FaithfulFacesPipeline:
    return build(faces, trained=True)


def run(pipe: FaithfulFacesPipeline, **options: Any) -> np.ndarray:
    return pipe(tiny_vace.portrait(), PROMPT, options.pop("seed", 7), **{**SMALL, **options})


# --- what it makes


@pytest.mark.parametrize("injection", ["add", "token", "modulation"])
def test_before_training_the_output_is_the_base_pipelines_to_the_last_bit(faces: FaceReader, injection: Any) -> None:
    ours = build(faces, trained=False, config=replace(tiny_vace.CONFIG, injection=injection))
    plain = tiny_vace.pipeline()
    plain.set_progress_bar_config(disable=True)
    plain.scheduler = UniPCMultistepScheduler.from_config(plain.scheduler.config, flow_shift=16.0)
    crop = faces.read(np.asarray(tiny_vace.portrait())).crop
    options = {"width": 32, "height": 16, "num_frames": 5, "num_inference_steps": 2, "guidance_scale": 5.0}
    video = plain(
        prompt=PROMPT,
        negative_prompt=Sampling().negative_prompt,
        reference_images=Image.fromarray(crop),
        generator=torch.Generator().manual_seed(7),
        output_type="np",
        **options,
    ).frames[0]
    assert np.ptp(video) > 0.1
    assert np.array_equal(run(ours), (video * 255).round().astype(np.uint8))
    latents = [
        pipe(
            prompt=PROMPT, reference_images=Image.fromarray(crop), generator=torch.Generator().manual_seed(7),
            output_type="latent", **options,
        ).frames
        for pipe in (plain, ours.vace)
    ]  # fmt: skip
    assert torch.equal(*latents)


def test_frames_are_uint8_and_follow_from_the_seed(trained: FaithfulFacesPipeline) -> None:
    first = run(trained)
    assert first.dtype == np.uint8 and first.shape == (5, 16, 32, 3)
    assert np.array_equal(run(trained), first)
    assert not np.array_equal(run(trained, seed=8), first)
    assert np.array_equal(trained(np.asarray(tiny_vace.portrait()), PROMPT, 7, **SMALL), first)


def test_each_ablation_changes_the_video(trained: FaithfulFacesPipeline) -> None:
    kinds: list[dict[str, Any]] = [
        {}, {"aligner": False}, {"euler": False}, {"euler_noise_degrees": 20.0}, {"scale": 3.0}, {"flow_shift": 3.0},
        {"guidance": 1.0}, {"negative_prompt": "a head"}, {"steps": 3}, {"text_tokens": 9},
    ]  # fmt: skip
    videos = [run(trained, **kind).tobytes() for kind in kinds]
    assert len(set(videos)) == len(kinds)
    assert run(trained, scale=0.0).tobytes() == run(trained, aligner=False).tobytes()


def test_what_is_given_goes_before_what_the_checkpoint_wants(faces: FaceReader) -> None:
    pipe = build(faces, trained=False, config=replace(tiny_vace.CONFIG, sampling={**SMALL, "seed_free": 1}))
    with pytest.raises(UserError, match="unknown sampling option 'seed_free'"):
        pipe(tiny_vace.portrait(), PROMPT)
    config = replace(tiny_vace.CONFIG, sampling={**SMALL, "guidance": 3.0})
    assert sampling_of(config, {}) == Sampling(**SMALL, guidance=3.0)
    assert sampling_of(config, {"steps": 7, "guidance": 1.0}) == Sampling(**{**SMALL, "steps": 7}, guidance=1.0)


def test_the_prior_stays_in_both_branches_of_guidance(trained: FaithfulFacesPipeline) -> None:
    seen = []
    embed = trained.vace.transformer.patch_embedding
    before = embed.register_forward_hook(lambda _, __, out: seen.append(out.clone()))
    with trained.prior.attached(trained.vace.transformer, torch.ones(1, 8) * torch.arange(8)):
        handle = embed.register_forward_hook(lambda _, __, out: seen.append(out.clone()))
        trained.vace(prompt=PROMPT, height=16, width=32, num_frames=5, num_inference_steps=1)
        handle.remove()
    before.remove()
    # plain and with the prior, for the prompt and for the negative prompt
    assert len(seen) == 4
    for plain, with_prior in ((seen[0], seen[1]), (seen[2], seen[3])):
        assert (with_prior - plain).abs().max() > 0.1


def test_euler_noise_is_bounded_seeded_and_of_three_angles(trained: FaithfulFacesPipeline) -> None:
    face = trained.faces.read(np.asarray(tiny_vace.portrait()))
    seen: list[torch.Tensor] = []
    handle = trained.aligner.euler.register_forward_hook(lambda _, args, __: seen.append(args[0][0].clone()))
    for seed in range(40):
        trained.representation(face, seed, Sampling(euler_noise_degrees=10.0))
    trained.representation(face, 0, Sampling(euler_noise_degrees=10.0))
    handle.remove()
    off = torch.stack(seen) - torch.from_numpy(face.euler)
    assert torch.equal(off[0], off[-1])
    assert off.abs().max() <= 10.0 and off.amin(0).max() < -8.0 and off.amax(0).min() > 8.0
    assert not torch.allclose(off[:, 0], off[:, 1])


def test_without_euler_is_the_aligner_that_has_none() -> None:
    parts = tiny_vace.parts(tiny_vace.CONFIG, trained=True)
    bare = without_euler(parts.aligner)
    crops = torch.randn(2, 3, 32, 32)
    tokens = parts.aligner.tokenizer(crops).flatten(2).transpose(1, 2) + parts.aligner.positions_LD
    w = (tokens @ parts.aligner.dictionary_CD.T).amax(1)
    torch.testing.assert_close(bare(crops).s_BD, w @ parts.aligner.dictionary_CD)
    assert bare.dictionary_CD.data_ptr() == parts.aligner.dictionary_CD.data_ptr()
    assert parts.aligner.euler is not None


def test_values_that_are_not_finite_are_no_video(faces: FaceReader) -> None:
    pipe = build(faces, trained=True)
    pipe.vace.vae.decoder.conv_out.bias.data.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="not finite"):
        run(pipe)


# --- bad input


def test_a_reference_without_a_face_is_the_users_to_mend(trained: FaithfulFacesPipeline) -> None:
    with pytest.raises(UserError, match="holds no face"):
        trained(tiny_vace.landscape(), PROMPT, **SMALL)
    with pytest.raises(UserError, match="float64"):
        trained(np.zeros((8, 8, 3)), PROMPT, **SMALL)


@pytest.mark.parametrize(
    "wrong",
    [{"width": 833}, {"height": 0}, {"num_frames": 80}, {"steps": 0}, {"euler_noise_degrees": -1.0}, {"flow_shift": 0}],
)
def test_an_option_out_of_range_is_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(wrong))):
        Sampling(**wrong)


def test_parts_of_another_base_are_refused(faces: FaceReader) -> None:
    vace = tiny_vace.pipeline()
    vace.transformer = tiny_vace.transformer(width=4)
    parts = tiny_vace.parts(tiny_vace.CONFIG, trained=False)
    with pytest.raises(UserError, match="width 24, this base has 48"):
        FaithfulFacesPipeline(vace, tiny_vace.CONFIG, parts, faces)


# --- files


def test_saved_and_loaded_it_makes_the_same_video(trained: FaithfulFacesPipeline, base: Path, tmp_path: Path) -> None:
    trained.save_pretrained(tmp_path / "saved")
    assert {path.name for path in (tmp_path / "saved").iterdir()} == {CONFIG, WEIGHTS, LORA, CARD}
    back = FaithfulFacesPipeline.from_pretrained(tmp_path / "saved", base=base, dtype=torch.float32)
    back.vace.set_progress_bar_config(disable=True)
    assert back.config == trained.config
    assert np.array_equal(run(back), run(trained))
    card = (tmp_path / "saved" / CARD).read_text("utf-8")
    assert "base_model: tiny/vace" in card and "16 elements of 8" in card and "rank 4, alpha 4" in card
    # diffusers alone can use the LoRA
    plain = WanVACEPipeline.from_pretrained(base)
    plain.load_lora_weights(tmp_path / "saved")
    assert any("lora_B" in name for name, _ in plain.transformer.named_parameters())


def test_bfloat16_runs_and_keeps_the_float32_list(trained: FaithfulFacesPipeline, base: Path, tmp_path: Path) -> None:
    trained.save_pretrained(tmp_path)
    pipe = FaithfulFacesPipeline.from_pretrained(tmp_path, base=base)
    pipe.vace.set_progress_bar_config(disable=True)
    kinds = {name: p.dtype for name, p in pipe.vace.transformer.named_parameters()}
    assert kinds["blocks.0.attn1.to_q.base_layer.weight"] == torch.bfloat16
    assert kinds["blocks.0.attn1.to_q.lora_A.default.weight"] == torch.bfloat16
    assert kinds["scale_shift_table"] == torch.float32
    assert pipe.aligner.dictionary_CD.dtype == torch.float32
    assert run(pipe).shape == (5, 16, 32, 3)


def test_an_aligner_alone_is_saved_without_lora(faces: FaceReader, tmp_path: Path) -> None:
    parts = tiny_vace.parts(tiny_vace.CONFIG, trained=True)
    pipe = FaithfulFacesPipeline(tiny_vace.pipeline(), tiny_vace.CONFIG, parts._replace(lora=None), faces)
    (tmp_path / LORA).write_bytes(b"of an older save")
    pipe.save_pretrained(tmp_path)
    assert load_model(tmp_path)[1].lora is None


def test_damaged_checkpoints_are_named(tmp_path: Path) -> None:
    config = tiny_vace.CONFIG
    save_model(tmp_path, config, tiny_vace.parts(config, trained=False))
    good, text = load_file(tmp_path / WEIGHTS), (tmp_path / CONFIG).read_text("utf-8")

    def refused(match: str) -> None:
        with pytest.raises(UserError, match=match):
            load_model(tmp_path)

    save_file({**good, "aligner.extra": torch.zeros(1)}, tmp_path / WEIGHTS)
    refused("unknown aligner.extra")
    save_file({k: v for k, v in good.items() if k != "prior.norm.weight"}, tmp_path / WEIGHTS)
    refused("prior.norm.weight is missing")
    save_file({k: v for k, v in good.items() if "projection" not in k}, tmp_path / WEIGHTS)
    refused("prior.projection.weight is missing")
    save_file(good, tmp_path / WEIGHTS)
    data = json.loads(text)
    for change, match in (
        ({"speed": 1}, "unknown field 'speed'"),
        ({"format": 2}, "its format is not 1"),
        ({"aligner": {**data["aligner"], "elements": 17}}, "dictionary_CD is missing or of another shape"),
        ({"aligner": {**data["aligner"], "elements": 0}}, "Aligner.elements must be at least 1"),
        ({"faces": {"eyes": 2}}, "unknown field Faces.eyes"),
    ):
        (tmp_path / CONFIG).write_text(json.dumps({**data, **change}), "utf-8")
        refused(match)
    (tmp_path / CONFIG).unlink()
    refused(CONFIG)
    with pytest.raises(UserError, match="no FaithfulFaces checkpoint folder"):
        load_model(tmp_path / "absent")


def test_a_name_that_is_no_folder_and_no_repository_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("absent", "/absent/folder", "a/b/c", "./absent"):
        with pytest.raises(UserError, match="is no folder"):
            local_folder(name, "base")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="did not come from the Hub"):
        local_folder("nobody/nothing", "base")


# --- the hub


class Hub(BaseHTTPRequestHandler):
    """As much of the Hugging Face Hub as uploads and downloads of small files meet."""

    files: dict[str, bytes]
    created: list[dict[str, Any]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/api/repos/create":
            self.created.append(json.loads(body))
            self.answer({"url": f"http://{self.headers['Host']}/me/model"})
        elif "/preupload/" in self.path:
            names = [file["path"] for file in json.loads(body)["files"]]
            self.answer({"files": [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]})
        elif "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self.answer({"commitUrl": f"http://{self.headers['Host']}/me/model/commit/1", "commitOid": "1" * 40})
        else:
            self.answer({})

    def do_GET(self) -> None:
        name = self.path.partition(f"/resolve/{'1' * 40}/")[2]
        if name:
            self.send(self.files[name], {"ETag": f'"{name}"', "X-Repo-Commit": "1" * 40})
        elif "/tree/" in self.path:
            files = self.files.items()
            self.answer([{"type": "file", "path": name, "size": len(data), "oid": "0" * 40} for name, data in files])
        else:
            self.answer({"id": "me/model", "sha": "1" * 40, "siblings": [{"rfilename": name} for name in self.files]})

    do_HEAD = do_GET

    def answer(self, value: Any) -> None:
        self.send(json.dumps(value).encode(), {"Content-Type": "application/json"})

    def send(self, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(200)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[tuple[str, type[Hub]]]:
    kind = type("OneHub", (Hub,), {"files": {}, "created": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), kind) as server, answering(server):
        yield f"http://127.0.0.1:{server.server_port}", kind


def test_push_to_hub_uploads_the_four_files(
    trained: FaithfulFacesPipeline, hub: tuple[str, type[Hub]], tmp_path: Path
) -> None:
    endpoint, server = hub
    files = server.files
    address = trained.push_to_hub("me/model", token="hf_x", endpoint=endpoint)
    assert address == f"{endpoint}/me/model/commit/1"
    (created,) = server.created
    # the hub's own client said `private` until it learned of other audiences
    assert created["name"] == "model" and (created.get("private") or created.get("visibility") == "private")
    assert files.keys() == {CONFIG, WEIGHTS, LORA, CARD}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    config, parts = load_model(tmp_path)
    assert config == trained.config
    assert torch.equal(parts.aligner.dictionary_CD, trained.aligner.dictionary_CD)


def test_from_the_hub_come_tensors_and_text_alone(
    hub: tuple[str, type[Hub]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint, server = hub
    wanted = ["config.json", "vae/model.safetensors", "tokenizer/spiece.model", "README.md"]
    for name in [*wanted, "vae/model.bin", "weights.pt", "weights.ckpt", "run.py", "tensors.npz", "vae/model.pkl"]:
        server.files[name] = name.encode()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", endpoint)
    template = f"{endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    folder = local_folder("me/model", "checkpoint")
    assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()) == sorted(wanted)
    assert (folder / "vae/model.safetensors").read_bytes() == b"vae/model.safetensors"


# --- the same S as in training


def test_s_is_what_the_trainer_computes_of_the_same_crop(trained: FaithfulFacesPipeline, tmp_path: Path) -> None:
    """A crop through a shard, the trainer's reader and its aligner, and the same crop through the pipeline."""
    face = trained.faces.read(np.asarray(tiny_vace.portrait()))
    stream = io.BytesIO()
    Image.fromarray(face.crop).save(stream, "JPEG", quality=95)
    angles = (float(face.euler[0]), float(face.euler[1]), float(face.euler[2]))
    sample = Sample(key="k", identity="ann", prompt="a prompt", crops=[stream.getvalue()] * 2, euler=[angles] * 2)
    write_shard(tmp_path / "a.tar", [sample])
    config = Train(name="x", aligner=tiny_vace.CONFIG.aligner)
    learner = Learner(config)
    learner.aligner.load_state_dict(trained.aligner.state_dict())
    crops, euler = stack([ShardClips(tmp_path, config.aligner.image_size).crop(0, 0)])
    jpeg = face._replace(crop=np.asarray(Image.open(stream)))
    assert torch.equal(trained.representation(jpeg, 0, Sampling()), learner.align(crops, euler).s_BD)
