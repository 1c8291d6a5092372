"""HunyuanCustom, by its authors' own script in its own environment."""
