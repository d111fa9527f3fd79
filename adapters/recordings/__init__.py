"""Where recordings of calls are kept."""
