"""Control: a 2.5-D camera sway of the reference photograph."""
