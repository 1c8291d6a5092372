"""The mini world's networks: footage, codec, text encoder, generator and measuring networks, and how they are made."""
