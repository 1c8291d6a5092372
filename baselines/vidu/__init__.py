"""Vidu, by its HTTP interface."""
