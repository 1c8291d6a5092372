"""What the methods on Wan 2.1 share: loading, prompts, the video autoencoder, the sampling loop. No method itself."""
