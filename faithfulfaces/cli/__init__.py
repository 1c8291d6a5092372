"""The command line: parse, one call, print."""

from faithfulfaces.cli.commands import app, main

__all__ = ["app", "main"]
