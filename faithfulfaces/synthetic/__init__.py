"""Rendered people: parametric heads with exact pose, landmarks and identity (`docs/mini.md`)."""
