"""Control: the sway of another identity's photograph."""
