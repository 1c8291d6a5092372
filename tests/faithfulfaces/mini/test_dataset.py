from __future__ import annotations

import numpy as np
import PIL.Image
import torch
from diffusers import WanVACEPipeline

from faithfulfaces.mini import words
from faithfulfaces.mini.codec import fit
from faithfulfaces.mini.dataset import BOX, CROP, CROPS, canvas_of, clips_of, crop_of
from faithfulfaces.mini.footage import FRAMES, Footage


def test_one_clip_a_person_the_portrait_is_the_reference(clips: Footage) -> None:
    codec = fit(torch.from_numpy(clips.pixels), z_dim=16)
    tokenizer = words.make_tokenizer(words.vocabulary(300))
    made = clips_of(clips, codec, tokenizer, words.make_encoder(len(tokenizer), width=64).eval())
    assert made.identities == [str(seed) for seed in clips.seeds]
    assert made.blank is not None and made.blank.shape == (16, 5, 8, 8)
    for i in range(6):
        assert all(made.crop(i, k).rgb.shape == (CROP, CROP, 3) for k in range(CROPS))
        assert np.array_equal(made.crop(i, 0).euler, clips.portrait_angles[i, 0])
        shown = {tuple(angles) for angles in clips.angles[i, clips.shown[i]].tolist()}
        assert all(tuple(made.crop(i, k).euler.tolist()) in shown for k in range(1, CROPS))
        x = torch.from_numpy(clips.pixels[i : i + 1]).permute(0, 4, 1, 2, 3).float() / 127.5 - 1
        torch.testing.assert_close(made.cached(i).latents, codec.encode(x).latent_dist.mode()[0])
        canvas = canvas_of(crop_of(clips.portraits[i, 0], clips.portrait_box[i, 0])).permute(2, 0, 1)[None, :, None]
        reference = codec.encode(canvas.float() / 127.5 - 1).latent_dist.mode()[0]
        torch.testing.assert_close(made.cached(i).reference, reference)


def test_the_canvas_is_what_the_pipeline_makes_of_a_reference(clips: Footage) -> None:
    crop = crop_of(clips.portraits[2, 0], clips.portrait_box[2, 0])
    pipe = WanVACEPipeline.__new__(WanVACEPipeline)
    from diffusers.video_processor import VideoProcessor

    # the processor alone: preprocessing reads nothing else of the pipeline
    pipe.video_processor = VideoProcessor(vae_scale_factor=1)
    _, _, references = WanVACEPipeline.preprocess_conditions(
        pipe, reference_images=PIL.Image.fromarray(crop), height=64, width=64, num_frames=FRAMES, dtype=torch.float32
    )
    wanted = (references[0][0].permute(1, 2, 0) + 1) * 127.5
    assert (canvas_of(crop).float() - wanted).abs().max() <= 0.51


def test_crops_show_the_enlarged_box(clips: Footage) -> None:
    box = clips.portrait_box[0, 0]
    crop = crop_of(clips.portraits[0, 0], box)
    assert crop.shape[0] <= round(float(BOX * (box[3] - box[1]))) + 1
    assert np.array_equal(crop_of(clips.portraits[0, 0], np.full(4, np.nan)), clips.portraits[0, 0])
