"""Stand-In: video tokens also look at the keys and values of a reference that never looks at them."""
