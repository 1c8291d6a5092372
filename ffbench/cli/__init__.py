"""The command line: parse, one call, print."""

from ffbench.cli.commands import app, main

__all__ = ["app", "main"]
