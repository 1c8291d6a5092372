"""VACE: reference-to-video through diffusers' own pipeline."""
