"""Tools of structured concurrency that know nothing of phones."""
