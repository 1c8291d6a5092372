"""The true turning head of a rendered person."""
