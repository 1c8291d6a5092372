"""Concat-ID: the reference is one more latent frame, beside the video and without its own text."""
