"""Control: the reference photograph as a frozen video."""
