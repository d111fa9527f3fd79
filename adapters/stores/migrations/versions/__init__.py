"""One file for each step. Once published a step is never changed."""
