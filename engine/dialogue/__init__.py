"""Pure conversation logic: no I/O, no trio."""
