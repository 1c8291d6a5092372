"""Benchmark for identity-preserving text-to-video generation. Importing it is cheap and imports no torch."""

__version__ = "0.1.0"
