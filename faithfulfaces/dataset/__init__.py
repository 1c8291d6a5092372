"""The dataset pipeline of Section 3.4: raw clips in, training samples out (`docs/dataset.md`)."""
