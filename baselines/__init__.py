"""Method adapters, one folder each: `adapter.py` and `card.toml`."""
