"""A Phantom of the mini world's size, trained on its base: what `ffbench generate -m phantom` takes on its suites."""
