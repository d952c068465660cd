"""Jobs to run and to learn from."""
