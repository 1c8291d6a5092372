"""How good the instruments are, where the truth is known."""
