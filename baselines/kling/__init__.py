"""Kling, by its HTTP interface."""
