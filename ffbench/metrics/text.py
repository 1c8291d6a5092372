"""How well the frames of a video agree with its prompt, in the space of a CLIP model."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from ffbench.metrics import Measured, unit_rows, unscored

CLIP_SCORE_VERSION = 1
CLIP_SCORE_LONG_VERSION = 1

SCALE = 100.0
"""CLIP's trained logit scale: the value is what `logits_per_image` holds."""


def clip_score(images: ArrayLike, text: ArrayLike) -> Measured:
    """CLIPScore: mean over frames of 100 x cosine(image, prompt), as `logits_per_image`; negative values are kept.

    Args:
        images: [T,D] unit image embeddings.
        text: [D] unit text embedding of the whole prompt, as far as the encoder's context reaches.

    Returns:
        A value in -100..100.

    Raises:
        ValueError: for other shapes, missing rows or vectors that are not of unit length.
    """
    return clip_score_long(images, np.asarray(text)[None])


def clip_score_long(images: ArrayLike, sentences: ArrayLike) -> Measured:
    """CLIPScore of a prompt longer than the context: mean over frames of the mean over the prompt's parts.

    Args:
        images: [T,D] unit image embeddings.
        sentences: [S,D] unit text embeddings, one a part of the prompt that fits the context whole; equal weights.

    Returns:
        A value in -100..100; `per_frame` holds the mean over the parts.

    Raises:
        ValueError: for other shapes, missing rows or vectors that are not of unit length.
    """
    text, text_present = unit_rows(sentences, "text")
    if not len(text):
        return unscored("the prompt has no text")
    frames, present = unit_rows(images, "images", text.shape[1] if np.size(images) else None)
    if not len(frames):
        return unscored("no frame was sampled")
    if not present.all() or not text_present.all():
        raise ValueError("images and text: every row is needed, some are NaN")
    per_frame = SCALE * (frames @ text.T).mean(axis=1)
    return Measured(float(per_frame.mean()), "", len(per_frame), tuple(per_frame.tolist()))
