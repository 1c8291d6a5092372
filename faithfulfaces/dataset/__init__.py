"""From raw videos to training samples (paper, Section 3.4 and Fig. 4; docs/dataset.md)."""
