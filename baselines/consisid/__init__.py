"""ConsisID on CogVideoX-5B, through diffusers' own pipeline."""
