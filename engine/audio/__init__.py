"""Pure audio arithmetic: no I/O, no trio."""
