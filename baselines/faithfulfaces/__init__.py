"""The reference model of the paper, through its own pipeline."""
