"""SkyReels-A2: references as the first latent frames, and CLIP tokens of each."""
