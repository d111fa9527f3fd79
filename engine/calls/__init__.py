"""One call from admission to release, and the registry of all of them."""
