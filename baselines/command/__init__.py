"""Any tool that a command line can start."""
