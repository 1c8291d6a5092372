from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import PIL.Image
import pytest
import torch

from ffbench.errors import UserError
from ffbench.extract.clip import ClipModel

TINY = {
    "embed_dim": 16,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
LONG = "A man turns his head slowly to the left. " * 20


def randomise(net: Any) -> Any:
    """open_clip starts embeddings near zero, where all texts look alike."""
    for parameter in net.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    return net.eval()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    (folder / "ffbench-tiny.json").write_text(json.dumps(TINY))
    (folder / "ffbench-hub.json").write_text(json.dumps(TINY | {"text_cfg": {"hf_model_name": "some/model"}}))
    open_clip.add_model_config(folder)
    torch.manual_seed(0)
    torch.save(randomise(open_clip.CLIP(**open_clip.get_model_config("ffbench-tiny"))).state_dict(), folder / "tiny.pt")
    return folder / "tiny.pt"


@pytest.fixture(scope="module")
def model(tiny: Path) -> ClipModel:
    return ClipModel(tiny, "56" * 32, "ffbench-tiny")


@pytest.fixture(scope="module")
def oracle(tiny: Path) -> Any:
    net = open_clip.CLIP(**open_clip.get_model_config("ffbench-tiny"))
    net.load_state_dict(torch.load(tiny, weights_only=True))
    return net.eval()


def frames(count: int, height: int, width: int) -> Any:
    noise = np.random.default_rng(0).integers(0, 256, (count, 6, 8, 3), np.uint8)
    return np.stack([np.asarray(PIL.Image.fromarray(image).resize((width, height))) for image in noise])


@pytest.mark.parametrize(("height", "width"), [(48, 80), (80, 49), (32, 32), (9, 31)])
def test_images_are_openais_preprocessing_and_open_clip(model: ClipModel, oracle: Any, height: int, width: int) -> None:
    """The preprocessing written out: bicubic on the short side, centre crop, the published mean and deviation."""
    pixels, rows = frames(3, height, width), []
    for frame in pixels:
        short = min(height, width)
        size = (32, int(32 * height / short)) if width <= height else (int(32 * width / short), 32)
        image = PIL.Image.fromarray(frame).resize(size, PIL.Image.Resampling.BICUBIC)
        left, top = round((size[0] - 32) / 2), round((size[1] - 32) / 2)
        x = np.asarray(image.crop((left, top, left + 32, top + 32)), np.float32) / 255
        rows.append((x - (0.48145466, 0.4578275, 0.40821073)) / (0.26862954, 0.26130258, 0.27577711))
    x = torch.from_numpy(np.stack(rows).transpose(0, 3, 1, 2)).float()
    with torch.no_grad():
        expected = oracle.encode_image(x, normalize=True).numpy()
    got = model.images(pixels)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, atol=2e-6)
    assert np.abs(expected[0] - expected[1]).max() > 1e-3


def test_bgr_shows_red_as_blue(model: ClipModel) -> None:
    red = np.zeros((1, 40, 40, 3), np.uint8)
    red[..., 0] = 255
    blue = red[..., ::-1]
    np.testing.assert_array_equal(model.images(red, "bgr"), model.images(blue))
    assert np.abs(model.images(red) - model.images(blue)).max() > 1e-3


def test_texts_are_open_clip(model: ClipModel, oracle: Any) -> None:
    prompts = ["a man in a gym", "A woman – “boxing” \n in the rain 🥊", ""]
    got = model.texts(prompts)
    with torch.no_grad():
        expected = oracle.encode_text(open_clip.tokenize(prompts), normalize=True).numpy()
    np.testing.assert_allclose(got.embeddings, expected, atol=2e-6)
    assert got.num_tokens.tolist()[::2] == [7, 2]
    assert not got.truncated.any()


def test_a_cut_prompt_keeps_its_end_of_text(model: ClipModel, oracle: Any) -> None:
    """Against the transformer run by hand: pooled at the end-of-text token that stands last of 77."""
    tokens = [49406, *open_clip.SimpleTokenizer().encode(LONG)]
    assert len(tokens) > 77
    kept = torch.tensor([[*tokens[:76], 49407]])
    lost = torch.tensor([tokens[:77]])
    with torch.no_grad():
        expected, wrong = (oracle.encode_text(t, normalize=True).numpy() for t in (kept, lost))
    got = model.texts([LONG])
    np.testing.assert_allclose(got.embeddings, expected, atol=2e-6)
    assert np.abs(got.embeddings - wrong).max() > 1e-3
    assert got.num_tokens.tolist() == [len(tokens) + 1]
    assert got.truncated.tolist() == [True]


def test_truncation_is_huggingfaces() -> None:
    """ConsisID tokenises with transformers: the ids of a cut prompt are equal."""
    from transformers import CLIPTokenizer

    ours = open_clip.SimpleTokenizer()
    vocabulary = dict(ours.encoder)
    vocabulary["<|startoftext|>"] = vocabulary.pop("<start_of_text>")
    vocabulary["<|endoftext|>"] = vocabulary.pop("<end_of_text>")
    merges = [pair for pair, _ in sorted(ours.bpe_ranks.items(), key=lambda item: item[1])]
    theirs = CLIPTokenizer(vocab=vocabulary, merges=merges)
    for prompt in (LONG, "A woman boxing in the rain, smiling."):
        ids = theirs(prompt, truncation=True, max_length=77)["input_ids"]
        assert open_clip.tokenize(prompt)[0, : len(ids)].tolist() == ids
        assert ids[-1] == 49407


def test_long_texts_are_sentences_whole(model: ClipModel) -> None:
    prompt = "A man boxes in a gym! He turns, sweating.  Then he smiles;\nthe camera follows"
    parts = ["A man boxes in a gym!", "He turns, sweating.", "Then he smiles;", "the camera follows"]
    np.testing.assert_array_equal(model.long_texts(prompt), model.texts(parts).embeddings)
    np.testing.assert_array_equal(model.long_texts("中文。再来"), model.texts(["中文。", "再来"]).embeddings)


@pytest.mark.parametrize("prompt", ["word " * 300, "x" * 3000, "🥊" * 400, "", " \n"])
def test_long_texts_lose_nothing(model: ClipModel, prompt: str) -> None:
    parts: list[str] = []
    texts = model.texts

    def spy(prompts: Any) -> Any:
        parts.extend(prompts)
        return texts(prompts)

    model.texts = spy  # type: ignore[method-assign]
    try:
        rows = model.long_texts(prompt)
    finally:
        del model.texts
    assert rows.shape == (len(parts), 16)
    assert len(parts) >= 1
    assert not texts(parts).truncated.any()
    assert "".join("".join(parts).split()) == "".join(prompt.split())
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-5)


def test_wrong_pixels_and_no_rows(model: ClipModel) -> None:
    for wrong in (np.zeros((1, 8, 8, 3), np.float32), np.zeros((8, 8, 3), np.uint8), np.zeros((1, 3, 8, 8), np.uint8)):
        with pytest.raises(ValueError, match=r"CLIP takes uint8 \[T,H,W,3\] RGB, not"):
            model.images(wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="colour is rgb or bgr"):
        model.images(np.zeros((1, 8, 8, 3), np.uint8), "grb")  # type: ignore[arg-type]
    assert model.images(np.zeros((0, 8, 8, 3), np.uint8)).shape == (0, 16)
    assert model.texts([]).embeddings.shape == (0, 16)


@pytest.mark.parametrize("name", ["no-such", "hf-hub:some/model", "local-dir:/tmp", "ffbench-hub", "ViT-B-16-SigLIP"])
def test_architectures_that_do_not_fit(tiny: Path, name: str) -> None:
    with pytest.raises(UserError, match=name):
        ClipModel(tiny, "0" * 64, name)


def test_weights_that_do_not_fit(tiny: Path) -> None:
    with pytest.raises(UserError, match=r"tiny\.pt does not hold CLIP ViT-B-32-quickgelu"):
        ClipModel(tiny, "0" * 64)


@pytest.mark.slow
def test_the_real_architecture_is_open_clips(tmp_path: Path) -> None:
    logging.getLogger().addHandler(logging.NullHandler())  # open_clip would configure the root logger
    torch.manual_seed(0)
    net, _, preprocess = open_clip.create_model_and_transforms("ViT-B-32-quickgelu")
    torch.save(net.state_dict(), tmp_path / "clip.pt")
    pixels, prompts = frames(2, 120, 208), ["a man in a gym", LONG]
    with torch.no_grad():
        net.eval()
        images = net.encode_image(torch.stack([preprocess(PIL.Image.fromarray(p)) for p in pixels]), normalize=True)
        texts = net.encode_text(open_clip.get_tokenizer("ViT-B-32-quickgelu")(prompts), normalize=True)
    model = ClipModel(tmp_path / "clip.pt", "0" * 64)
    np.testing.assert_allclose(model.images(pixels), images.numpy(), atol=2e-6)
    np.testing.assert_allclose(model.texts(prompts).embeddings, texts.numpy(), atol=2e-6)
