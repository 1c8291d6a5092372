"""Measuring networks: the only folder that runs them. One decode, one detection, one crop per frame."""
